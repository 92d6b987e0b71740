package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// store is the disk of one node, under one StoreID: a journal, of which a
// crash leaves what was synced and a random head of the rest.
type store struct {
	w       *world
	id      [16]byte
	mem     image    // what the process reads
	disk    image    // what is synced
	pending []change // in mem, not in disk
	syncing int      // of pending: how many the running sync covers
	wait    []waiter // told when the disk has so many changes
	done    uint64   // changes synced since the process's start
	made    uint64   // changes made since the process's start
	lost    bool     // this disk is gone for good
	process uint64
	slow    time.Duration // longest extra delay of a sync
	// touched is called with the segment (0: all) whose content on the disk
	// has changed, so that what follows from it is checked.
	touched func(seg uint64)
}

// change is one entry of the journal. It is applied to memory at once and to
// the disk when it is synced.
type change struct {
	seg uint64
	do  func(*image)
}

type waiter struct {
	at uint64
	fn func()
}

// image is the content of a store.
type image struct {
	segs  map[uint64]*held
	floor uint64 // Raft index behind the last step that forgot something
}

// held is a segment in a store.
type held struct {
	rec0    fsm.Segment // what the control plane said last: the header
	last    uint64      // highest seq ever appended
	end     uint64
	endSet  bool
	recs    map[uint64]record // by seq: live records
	results map[uint64]result // by seq of the message's commit
}

// record is one record of a message. Its message is there when all of its
// records are; commit is the last of them.
type record struct {
	seq    uint64
	msg    int
	first  uint64
	commit bool
}

// result is what became of a message: only its rank counts here.
type result struct {
	final bool
	tries int
}

func (r result) beats(o result) bool {
	if r.final != o.final {
		return r.final
	}
	return r.tries > o.tries
}

func newStore(w *world, id [16]byte) *store {
	return &store{w: w, id: id, mem: newImage(), disk: newImage()}
}

func newImage() image { return image{segs: map[uint64]*held{}} }

func (im image) clone() image {
	out := image{segs: make(map[uint64]*held, len(im.segs)), floor: im.floor}
	for id, h := range im.segs {
		c := *h
		c.recs, c.results = maps.Clone(h.recs), maps.Clone(h.results)
		out.segs[id] = &c
	}
	return out
}

// seg gives the segment, made if need be.
func (im image) seg(id uint64) *held {
	h := im.segs[id]
	if h == nil {
		h = &held{recs: map[uint64]record{}, results: map[uint64]result{}}
		im.segs[id] = h
	}
	return h
}

// truncate drops what is above the end.
func (h *held) truncate(end uint64) {
	h.end, h.endSet = end, true
	for seq := range h.recs {
		if seq > end {
			delete(h.recs, seq)
		}
	}
	for seq := range h.results {
		if seq > end {
			delete(h.results, seq)
		}
	}
}

// whole answers the seqs of the commits of messages that are all there and not
// above the end, in order.
func (h *held) whole() []uint64 {
	var out []uint64
	for seq, r := range h.recs {
		if !r.commit || h.endSet && seq > h.end {
			continue
		}
		ok := true
		for s := r.first; s < seq; s++ {
			if _, there := h.recs[s]; !there {
				ok = false
			}
		}
		if ok {
			out = append(out, seq)
		}
	}
	slices.Sort(out)
	return out
}

// unite takes the better result of a message. A final one finishes it.
func (h *held) unite(commit uint64, r result) {
	if old, ok := h.results[commit]; ok && !r.beats(old) || h.endSet && commit > h.end {
		return
	}
	h.results[commit] = r
	if rec, ok := h.recs[commit]; ok && r.final {
		for s := rec.first; s <= commit; s++ {
			delete(h.recs, s)
		}
	}
}

// holds is whether a message is there, or its final result.
func (im image) holds(m *message) bool {
	h := im.segs[m.seg]
	if h == nil || h.endSet && m.commit > h.end {
		return false
	}
	for s := m.first; s <= m.commit; s++ {
		if _, ok := h.recs[s]; !ok {
			return h.results[m.commit].final
		}
	}
	return true
}

// make does a change in memory; the disk has it with the next sync.
func (s *store) make(seg uint64, do func(*image)) uint64 {
	c := change{seg, do}
	do(&s.mem)
	s.pending = append(s.pending, c)
	s.made++
	s.sync()
	return s.made
}

// whenDurable calls fn when the disk has the first n changes.
func (s *store) whenDurable(n uint64, fn func()) {
	if s.done >= n {
		process := s.process
		s.w.after(0, "durable", func() {
			if s.process == process {
				fn()
			}
		})
		return
	}
	s.wait = append(s.wait, waiter{n, fn})
}

// sync starts one, unless one runs: group commit.
func (s *store) sync() {
	if s.syncing > 0 || len(s.pending) == 0 {
		return
	}
	s.syncing = len(s.pending)
	process := s.process
	d := s.w.between(100*time.Microsecond, 2*time.Millisecond)
	if s.slow > 0 {
		d += s.w.between(0, s.slow)
	} else if s.w.chance(5) {
		d *= 200
	}
	s.w.after(d, "fdatasync", func() {
		if s.process == process && !s.lost {
			s.synced()
		}
	})
}

func (s *store) synced() {
	n := s.syncing
	s.syncing = 0
	s.harden(n)
	var due []waiter
	rest := s.wait[:0]
	for _, w := range s.wait {
		if w.at <= s.done {
			due = append(due, w)
		} else {
			rest = append(rest, w)
		}
	}
	s.wait = rest
	process := s.process
	for _, w := range due {
		if s.process == process {
			w.fn()
		}
	}
	if s.process == process {
		s.sync()
	}
}

// harden brings the oldest n pending changes to the disk.
func (s *store) harden(n int) {
	for _, c := range s.pending[:n] {
		c.do(&s.disk)
		s.touched(c.seg)
	}
	s.pending = slices.Clone(s.pending[n:])
	s.done += uint64(n)
}

// crash ends the process that used the store. Of what was not synced a head
// survives: all of it where only the process died.
func (s *store) crash(power bool) {
	if power && len(s.pending) > 0 {
		s.harden(s.w.rng.IntN(len(s.pending) + 1))
	} else {
		s.harden(len(s.pending))
	}
	s.process++
	s.pending, s.syncing, s.wait, s.done, s.made = nil, 0, nil, 0, 0
	s.mem = s.disk.clone()
}
