package drive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Bounds of bringing a member up to date.
const (
	fetchBatch = 64               // messages asked for at a time
	fetchWait  = 10 * time.Second // without a message the peer is given up
	maxMerging = 64               // inventories on their way in at a time
	serveMax   = 4                // requests for messages that are answered at a time
	pace       = 5 * time.Millisecond
)

// upkeep is an inventory that comes in, and the fetch that may follow it.
type upkeep struct {
	segment fsm.SegmentID
	epoch   fsm.Epoch
	peer    fsm.Ref
	token   uint64

	missing []uint64        // after the merge
	came    chan struct{}   // has room for one: a message is complete, or cannot be had
	open    map[uint64]bool // asked for and not complete
	failed  map[uint64]bool // the peer has them not
}

// syncKey names a sync: tokens are the asker's.
type syncKey struct {
	segment fsm.SegmentID
	peer    fsm.Ref
	token   uint64
}

// syncs brings members up to date: inventories out and in, messages asked for
// and served.
type syncs struct {
	d     *desk
	serve chan struct{} // has a place for each request being served
	all   map[syncKey]*upkeep
}

func (s *syncs) init(d *desk) {
	s.d, s.all, s.serve = d, map[syncKey]*upkeep{}, make(chan struct{}, serveMax)
}

// do carries out a job, on the desk's goroutine or on one of its own.
func (s *syncs) do(j *job) {
	switch j.kind {
	case jobSendInventory:
		own := *j // the desk's list is used again
		s.d.group.Go(func() { s.sendInventory(own) })
	case jobServe:
		own := *j
		s.d.group.Go(func() { s.answer(own) })
	case jobMerge:
		s.merge(j)
	case jobFetch:
		s.fetch(j)
	case jobPut:
		s.put(j)
	}
}

// sendInventory tells a peer what is here of a segment.
func (s *syncs) sendInventory(j job) {
	inv, err := s.d.sp.Inventory(uint64(j.segment))
	if err != nil {
		s.d.log.Warn("making an inventory", "segment", j.segment.String(), "error", err)
		return
	}
	pieces := inv.Pieces()
	for i, p := range pieces {
		seq := uint64(i)
		if i == len(pieces)-1 {
			seq |= segment.LastPiece
		}
		it := replica.Item{Kind: segment.ItemInventory, Segment: uint64(j.segment), Epoch: uint64(j.epoch), Seq: seq, Arg: j.token, Data: [][]byte{p}}
		if s.send(j.peer, it) != nil {
			return // the core starts over when the peer is back
		}
	}
}

// send sends an item, waiting while the link's window is full.
func (s *syncs) send(to fsm.Ref, it replica.Item) error {
	for {
		err := s.d.e.net.Send(to.Node, it)
		if !errors.Is(err, replica.ErrFull) {
			return err
		}
		t := time.NewTimer(pace)
		select {
		case <-t.C:
		case <-s.d.ctx.Done():
			t.Stop()
			return s.d.ctx.Err()
		}
	}
}

// merge takes a piece of an inventory, and with the last one tells the core.
func (s *syncs) merge(j *job) {
	defer j.batch.release()
	key := syncKey{j.segment, j.peer, j.token}
	y := s.all[key]
	if y == nil {
		if len(s.all) >= maxMerging {
			s.d.log.Warn("too many inventories at a time", "segment", j.segment.String(), "from", j.peer.Node)
			return
		}
		y = &upkeep{segment: j.segment, epoch: j.epoch, peer: j.peer, token: j.token}
		s.all[key] = y
	}
	if j.item.Seq&^segment.LastPiece == 0 {
		y.missing = nil // a second inventory starts over
	}
	c, err := s.united(y, j)
	if err != nil {
		s.d.log.Error("merging an inventory", "segment", j.segment.String(), "from", j.peer.Node, "error", err)
		delete(s.all, key)
		return
	}
	if j.item.Seq&segment.LastPiece == 0 {
		return
	}
	missing := len(y.missing)
	if missing == 0 {
		delete(s.all, key)
		if j.complete {
			// Refused while the end is not known: then nothing comes from
			// elsewhere that was not appended here, and no note is needed.
			done, err := s.d.sp.Complete(uint64(j.segment), j.seq)
			if err != nil && !errors.Is(err, spool.ErrRefused) {
				s.d.log.Error("completing a copy", "segment", j.segment.String(), "from", j.peer.Node, "error", err)
				return
			}
			if err == nil {
				c = done
			}
		}
	}
	s.d.durable(wait{c: c, ev: &segment.Merged{Segment: j.segment, From: j.peer, Token: j.token, Missing: missing}})
}

// united merges one piece.
func (s *syncs) united(y *upkeep, j *job) (*wal.Commit, error) {
	inv, err := record.ParseInventory(slices.Concat(j.item.Data...))
	if err != nil {
		return nil, err
	}
	if inv.Segment != uint64(j.segment) {
		return nil, fmt.Errorf("drive: the inventory is of segment %d", inv.Segment)
	}
	inv.Last = min(inv.Last, j.seq)
	inv.Live = slices.DeleteFunc(inv.Live, func(l spool.LiveMessage) bool { return l.Commit > j.seq })
	missing, c, err := s.d.sp.Merge(uint64(j.segment), inv, j.complete)
	for _, first := range missing {
		if n := len(y.missing); n == 0 || y.missing[n-1] != first {
			y.missing = append(y.missing, first)
		}
	}
	return c, err
}

// fetch asks for what the merge found missing.
func (s *syncs) fetch(j *job) {
	key := syncKey{j.segment, j.peer, j.token}
	y := s.all[key]
	if y == nil {
		s.d.e.Step(&segment.Fetched{Segment: j.segment, From: j.peer, Token: j.token})
		return
	}
	y.epoch, y.came = j.epoch, make(chan struct{}, 1)
	y.open, y.failed = map[uint64]bool{}, map[uint64]bool{}
	s.d.group.Go(func() {
		left := s.fetchAll(y)
		s.d.put(job{kind: jobFetched, segment: y.segment, peer: y.peer, token: y.token, seq: uint64(left)})
	})
}

// fetchAll asks for a few messages at a time; it gives the number of those
// that did not come.
func (s *syncs) fetchAll(y *upkeep) int {
	for rest := y.missing; len(rest) > 0; {
		n := min(fetchBatch, len(rest))
		ask := make([]byte, 0, 8*n)
		s.d.mu.Lock()
		for _, first := range rest[:n] {
			ask = binary.BigEndian.AppendUint64(ask, first)
			y.open[first] = true
		}
		s.d.mu.Unlock()
		it := replica.Item{Kind: segment.ItemFetch, Segment: uint64(y.segment), Epoch: uint64(y.epoch), Arg: y.token, Data: [][]byte{ask}}
		if s.send(y.peer, it) != nil || !s.arrived(y) {
			return len(rest) + len(y.failed)
		}
		rest = rest[n:]
	}
	return len(y.failed)
}

// arrived waits until nothing asked for is open.
func (s *syncs) arrived(y *upkeep) bool {
	t := time.NewTimer(fetchWait)
	defer t.Stop()
	for {
		s.d.mu.Lock()
		open := len(y.open)
		s.d.mu.Unlock()
		if open == 0 {
			return true
		}
		select {
		case <-y.came:
			t.Reset(fetchWait)
		case <-t.C:
			return false
		case <-s.d.ctx.Done():
			return false
		}
	}
}

// fetched ends a fetch; what came of it is in the log, and waited for.
func (s *syncs) fetched(j *job) {
	delete(s.all, syncKey{j.segment, j.peer, j.token})
	s.d.durable(wait{ev: &segment.Fetched{Segment: j.segment, From: j.peer, Token: j.token, Missing: int(j.seq)}})
}

// forget drops what was to come from a peer.
func (s *syncs) forget(peer fsm.Ref) {
	for key := range s.all {
		if key.peer != peer {
			continue
		}
		s.d.mu.Lock()
		for first := range s.all[key].open { // whoever waits for them hears that they do not come
			s.all[key].failed[first] = true
		}
		clear(s.all[key].open)
		s.d.mu.Unlock()
		if s.all[key].came != nil {
			kick(s.all[key].came)
		}
		delete(s.all, key)
	}
}

// An ItemCopy bears one record of a message that was asked for; Seq is the
// message's first chunk. One without data says that the message is not there.
// The commit record is the last.

// put keeps a record that was asked for.
func (s *syncs) put(j *job) {
	y := s.all[syncKey{j.segment, j.peer, j.token}]
	first := j.item.Seq
	s.d.mu.Lock()
	wanted := y != nil && y.open[first]
	s.d.mu.Unlock()
	if !wanted {
		j.batch.release()
		return
	}
	done, ok := true, false
	if len(j.item.Data) > 0 {
		c, err := copyIn(j.item)
		if err == nil {
			var commit *wal.Commit
			commit, err = s.d.sp.Put(uint64(j.segment), uint64(j.epoch), []spool.Copy{c})
			if err == nil {
				s.d.durable(wait{c: commit, batch: j.batch})
			}
		}
		ok, done = err == nil, err != nil || c.Kind == record.KindCommit
		if err != nil {
			s.d.log.Warn("keeping a copy", "segment", j.segment.String(), "from", j.peer.Node, "error", err)
		}
	}
	if !ok {
		j.batch.release()
	}
	if !done {
		return
	}
	s.d.mu.Lock()
	delete(y.open, first)
	if !ok {
		y.failed[first] = true
	}
	s.d.mu.Unlock()
	kick(y.came)
}

// answer sends messages that a peer asks for.
func (s *syncs) answer(j job) {
	defer j.batch.release()
	select {
	case s.serve <- struct{}{}:
	case <-s.d.ctx.Done():
		return
	}
	defer func() { <-s.serve }()
	var firsts []uint64
	for _, p := range j.item.Data {
		for ; len(p) >= 8 && len(firsts) < fetchBatch; p = p[8:] {
			firsts = append(firsts, binary.BigEndian.Uint64(p))
		}
	}
	token := j.item.Arg
	for _, first := range firsts {
		it := replica.Item{Kind: segment.ItemCopy, Segment: uint64(j.segment), Epoch: uint64(j.epoch), Seq: first, Arg: token}
		err := s.d.sp.Read(uint64(j.segment), first, func(c spool.Copy) error {
			it.Data = copyOut(c.Kind, c.Seq, c.Data)
			return s.send(j.peer, it)
		})
		if err != nil {
			it.Data = nil
			if s.send(j.peer, it) != nil {
				return
			}
		}
	}
}
