package drive

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/wal"
)

// segmentSize is how large an open segment becomes before another takes its
// place, in octets.
const segmentSize = 64 << 20

// errLost ends an append whose outcome nobody knows: the client is told 451.
var errLost = mail.NewReply(451, "4.3.0", "the message could not be copied to another machine in time, try again later")

// outbox is what of an owned segment is on its way to the other members. The
// engine's lock guards it.
type outbox struct {
	bytes   int64      // appended, for the size of the segment
	full    bool       // the core was told
	records []outgoing // by rising seq; those that are not acknowledged
	results []outgoing // likewise; seq is the result's number
	next    uint64     // number of the next result
}

// outgoing is one record. The first record of an append carries its ticket.
type outgoing struct {
	seq  uint64
	kind uint8
	head uint64   // results: the seq of the record's header
	data [][]byte // as the spool has it
	wait *ticket  // of the last record of an append
}

// ticket is an append that somebody waits for.
type ticket struct {
	e       *Engine
	segment fsm.SegmentID
	seq     uint64 // of the last record; of a result its number
	result  bool
	commit  *wal.Commit
	done    chan error // has room for one
}

// Wait is of spool.Ticket.
func (t *ticket) Wait() error {
	if err := t.commit.WaitDurable(); err != nil {
		return err
	}
	if t.result {
		t.e.Step(&segment.ResultsDurable{Segment: t.segment, Last: t.seq})
	} else {
		t.e.Step(&segment.Durable{Segment: t.segment, Seq: t.seq})
	}
	return <-t.done
}

// Pick is of spool.Placement. While no open segment has all its members, as for
// a moment after a node's death, it waits.
func (e *Engine) Pick() (id, epoch uint64, err error) {
	var limit <-chan time.Time
	for {
		id, epoch, err = e.pick()
		if err == nil {
			return id, epoch, nil
		}
		if limit == nil {
			t := time.NewTimer(placeWait)
			defer t.Stop()
			limit = t.C
		}
		again := time.NewTimer(placeEvery)
		select {
		case <-again.C:
		case <-limit:
			again.Stop()
			return 0, 0, err
		case <-e.stopped:
			again.Stop()
			return 0, 0, err
		}
	}
}

const (
	placeWait  = time.Second           // how long a message waits for a segment to go to
	placeEvery = 10 * time.Millisecond // between two looks for one
)

// pick looks for a segment once.
func (e *Engine) pick() (id, epoch uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil || e.closed {
		return 0, 0, errNoPlace
	}
	if g, ep, ok := e.place(e.now()); ok {
		return uint64(g), uint64(ep), nil
	}
	return 0, 0, errNoPlace
}

// place is where a message can go now: an open segment that the desk has told
// the spool of. The core hears Arrived for each that it names otherwise, and
// has to for this one. The lock is held.
func (e *Engine) place(now time.Duration) (fsm.SegmentID, fsm.Epoch, bool) {
	for range pickTries {
		id, epoch, ok := e.m.Pick(now)
		if !ok {
			break
		}
		if e.boxes[id] != nil {
			e.placed = now
			return id, epoch, true
		}
		e.stepLocked(&segment.Arrived{Segment: id})
	}
	return 0, 0, false
}

// pickTries bounds how many open segments are looked at for one that the spool
// has been told of.
const pickTries = 16

// Append is of spool.Placement.
func (e *Engine) Append(recs []wal.Record, c *wal.Commit) spool.Ticket {
	id, last := fsm.SegmentID(recs[0].Segment), recs[len(recs)-1].Seq
	t := &ticket{e: e, segment: id, seq: last, commit: c, done: make(chan error, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.boxes[id]
	if b == nil {
		t.done <- spool.ErrMoved // it was sealed meanwhile
		return t
	}
	for i := range recs {
		b.records = append(b.records, outgoing{seq: recs[i].Seq, kind: uint8(recs[i].Kind), data: slices.Clone(recs[i].Data)})
		for _, p := range recs[i].Data {
			b.bytes += int64(len(p))
		}
	}
	b.records[len(b.records)-1].wait = t
	e.stepLocked(&segment.Appended{Segment: id, First: recs[0].Seq, Last: last})
	if b.bytes >= segmentSize && !b.full {
		b.full = true
		e.stepLocked(&segment.Full{Segment: id})
	}
	return t
}

// Settled is of spool.Placement.
func (e *Engine) Settled(rec wal.Record, c *wal.Commit) spool.Ticket {
	id := fsm.SegmentID(rec.Segment)
	t := &ticket{e: e, segment: id, result: true, commit: c, done: make(chan error, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.boxes[id]
	if b == nil {
		t.done <- spool.ErrNotOwner
		return t
	}
	b.next++
	t.seq = b.next
	o := outgoing{seq: t.seq, kind: uint8(rec.Kind), head: rec.Seq, wait: t}
	for _, p := range rec.Data {
		o.data = append(o.data, slices.Clone(p)) // nobody waits for most results: the buffer is used again
	}
	b.results = append(b.results, o)
	e.stepLocked(&segment.ResultsAppended{Segment: id, First: t.seq, Last: t.seq})
	e.desk.resultAppended(id, t.seq, c)
	return t
}

// Arrived is of spool.Placement.
func (e *Engine) Arrived(id uint64) { e.Step(&segment.Arrived{Segment: fsm.SegmentID(id)}) }

// acked ends the waiting for all up to seq.
func (b *outbox) acked(seq uint64) {
	n := 0
	for ; n < len(b.records) && b.records[n].seq <= seq; n++ {
		b.records[n].end(nil)
	}
	b.records = slices.Delete(b.records, 0, n)
}

// moved ends the waiting for what lies above seq: it is dead.
func (b *outbox) moved(seq uint64) {
	n := len(b.records)
	for ; n > 0 && b.records[n-1].seq > seq; n-- {
		b.records[n-1].end(spool.ErrMoved)
	}
	b.records = slices.Delete(b.records, n, len(b.records))
}

func (b *outbox) lost() {
	for i := range b.records {
		b.records[i].end(errLost)
	}
	b.records = nil
}

func (b *outbox) resultsAcked(seq uint64) {
	n := 0
	for ; n < len(b.results) && b.results[n].seq <= seq; n++ {
		b.results[n].end(nil)
	}
	b.results = slices.Delete(b.results, 0, n)
}

// close ends all waiting when the segment is no longer owned.
func (b *outbox) close() {
	b.lost()
	for i := range b.results {
		b.results[i].end(spool.ErrNotOwner)
	}
	b.results = nil
}

func (o *outgoing) end(err error) {
	if o.wait != nil {
		o.wait.done <- err // has room: it ends once
	}
}

// send sends the records Seq to Arg of the item, one item each. It gives the
// first that did not find room in the link's window; 0: all did.
func (b *outbox) send(net Sender, a *segment.Action) (rest uint64, err error) {
	from, _ := slices.BinarySearchFunc(b.records, a.Item.Seq, bySeq)
	return sendRun(net, a, b.records[from:], func(o *outgoing) uint64 { return o.seq })
}

// sendResults does the same with results.
func (b *outbox) sendResults(net Sender, a *segment.Action) (rest uint64, err error) {
	from, _ := slices.BinarySearchFunc(b.results, a.Item.Seq, bySeq)
	return sendRun(net, a, b.results[from:], func(o *outgoing) uint64 { return o.head })
}

func bySeq(o outgoing, seq uint64) int {
	switch {
	case o.seq < seq:
		return -1
	case o.seq > seq:
		return 1
	}
	return 0
}

// sendMax is about how many octets are handed to a link at once.
const sendMax = 1 << 20

// sendRun sends one item a record, up to the item's Arg. The first part of an
// item's data is the record's head.
func sendRun(net Sender, a *segment.Action, list []outgoing, seq func(*outgoing) uint64) (rest uint64, err error) {
	if len(list) == 0 || list[0].seq > a.Item.Arg {
		return 0, nil // nobody waits for them any more
	}
	// Records leave from the front when all members have them; results may when
	// those have that count.
	if list[0].seq != a.Item.Seq && a.Item.Kind != segment.ItemAppend {
		return 0, fmt.Errorf("drive: record %d of segment %s is no longer in memory: %w", a.Item.Seq, a.Item.Segment, errGone)
	}
	var few [8]replica.Item
	items, size := few[:0], 0
	for i := range list {
		o := &list[i]
		if o.seq > a.Item.Arg {
			break
		}
		it := replica.Item{Kind: a.Item.Kind, Segment: uint64(a.Item.Segment), Epoch: uint64(a.Item.Epoch), Seq: o.seq, Arg: o.seq}
		it.Data = copyOut(o.kind, seq(o), o.data)
		items = append(items, it)
		for _, p := range o.data {
			size += len(p)
		}
		last := i+1 == len(list) || list[i+1].seq > a.Item.Arg
		if size < sendMax && !last {
			continue
		}
		switch err := net.Send(a.Peer.Node, items...); {
		case errors.Is(err, replica.ErrFull):
			return items[0].Seq, nil
		case err != nil:
			return 0, err
		}
		items, size = items[:0], 0
	}
	return 0, nil
}

// errGone says that a record to be sent again is not at hand.
var errGone = errors.New("not at hand")

// isDown says that there is no stream: its end was told, or will be.
func isDown(err error) bool {
	return errors.Is(err, replica.ErrDown) || errors.Is(err, replica.ErrClosed)
}
