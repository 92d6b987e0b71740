package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/spool/record"
)

// Held is what a node has of a replicated segment.
type Held struct {
	record.View
	Last       uint64 // everything up to it was appended here, once
	Unfinished int    // messages
	Bytes      int64  // of all messages ever entered
	Full       bool   // it should take no new messages
	Owned      bool
}

// Held lists the replicated segments, rising by ID.
func (s *State) Held() []Held {
	var out []Held
	for _, id := range slices.Sorted(maps.Keys(s.segments)) {
		if g := s.segments[id]; Replicated(id) {
			out = append(out, Held{View: g.View, Last: g.Last, Unfinished: len(g.msgs), Bytes: g.bytes, Full: g.Full(), Owned: g.Owned})
		}
	}
	return out
}

// Shared gives a replicated segment.
func (s *State) Shared(segment uint64) (*Segment, error) {
	if g := s.segments[segment]; g != nil && Replicated(segment) {
		return g, nil
	}
	return nil, fmt.Errorf("spool: segment %d: %w", segment, record.ErrNoSegment)
}

// At gives the unfinished message with that first chunk, or nil.
func (s *State) At(segment, first uint64) *Message {
	if g := s.segments[segment]; g != nil {
		return g.find(first)
	}
	return nil
}

// Set takes over what Raft says, if it is newer than what is known; a segment
// not known yet begins with it, in log file head at the earliest. What lies
// above End is void from now on; voided tells how many messages were. The
// header record has to be written if told, and nothing else makes that hold
// after a restart.
func (s *State) Set(v record.View, head uint32) (g *Segment, told bool, voided int, err error) {
	g = s.segments[v.ID]
	switch {
	case !Replicated(v.ID):
		return nil, false, 0, fmt.Errorf("segment %d is a local one: %w", v.ID, record.ErrRefused)
	case g == nil:
		g = &Segment{View: v, from: head, behind: true}
		s.segments[v.ID] = g
		return g, true, 0, nil
	case v.Epoch < g.Epoch || v.Epoch == g.Epoch && !g.behind && g.EndSet == v.EndSet && g.State == v.State:
		return g, false, 0, nil
	case g.EndSet && v.EndSet && g.End != v.End:
		return g, false, 0, fmt.Errorf("segment %d ends at %d, not at %d: %w", v.ID, g.End, v.End, record.ErrRefused)
	case g.EndSet:
		v.End, v.EndSet = g.End, true
	}
	g.View, g.behind = v, true
	if !g.EndSet {
		return g, true, 0, nil
	}
	s.dropPartials(g)
	for _, m := range slices.Clone(g.msgs) {
		if m.commitSeq() > g.End {
			s.remove(m)
			voided++
		}
	}
	return g, true, voided, nil
}

// Header is the payload of the segment's header record.
func (g *Segment) Header() *record.Segment {
	return &record.Segment{State: g.State, Owner: g.Owner, Members: g.Members, LastSeq: g.Last, End: g.End, EndSet: g.EndSet}
}

// Untold gives the segments whose Last is more than their header says, and
// might not be known to a restart once a file is gone.
func (s *State) Untold(file uint32) []*Segment {
	var out []*Segment
	for _, g := range s.segments {
		if Replicated(g.ID) && g.since != 0 && g.since <= file {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *Segment) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Own makes a segment this node's and gives its messages, in their order.
// unsure counts the recipients that may have been delivered to: those with an
// attempt that has no result, and, if all, whoever's time has come.
func (s *State) Own(g *Segment, all bool, now time.Time) (msgs []*Message, unsure int) {
	if g.Owned {
		return nil, 0
	}
	g.Owned = true
	sec := record.Seconds(now.UnixMilli())
	for _, m := range g.msgs {
		s.index.Insert(m)
		for i, r := range m.rcpts() {
			if s.starts.Tried(m, i) || all && r.Due(sec) {
				unsure++
			}
		}
	}
	return slices.Clone(g.msgs), unsure
}

// Disown ends that and tells how many messages were given away.
func (s *State) Disown(g *Segment) int {
	if !g.Owned {
		return 0
	}
	g.Owned = false
	for _, m := range g.msgs {
		s.starts.EndAll(m)
		s.index.Remove(m)
	}
	return len(g.msgs)
}

// Inventory lists what is unfinished of a segment, without results; msgs are
// the messages listed first, in the same order.
func (s *State) Inventory(g *Segment) (inv record.Inventory, msgs []*Message) {
	inv = record.Inventory{Segment: g.ID, Last: g.Last, Upto: record.AllFirsts, Live: make([]record.LiveMessage, 0, len(g.msgs)+len(g.Waiting))}
	if g.EndSet {
		inv.Last = min(inv.Last, g.End)
	}
	for _, m := range g.msgs {
		inv.Live = append(inv.Live, record.LiveMessage{First: uint64(m.first), Commit: m.commitSeq()})
	}
	for _, first := range slices.Sorted(maps.Keys(g.Waiting)) {
		if commit := g.Waiting[first].commitSeq(); commit <= inv.Last {
			inv.Live = append(inv.Live, record.LiveMessage{First: first, Commit: commit})
		}
	}
	return inv, slices.Clone(g.msgs)
}

// Adopt enters a message of which another node knows something while it still
// waits here for its copies: it was taken over meanwhile, and what is said of
// it must not be lost. Its records stay pending, too. nil: there is none, or it
// is above the segment's end.
func (s *State) Adopt(g *Segment, first uint64) *Message {
	m := g.Waiting[first]
	if m == nil || !g.Reaches(m.commitSeq()) {
		return nil
	}
	delete(g.Waiting, first)
	if m.more != nil {
		m.more.chunks = slices.Clone(m.more.chunks) // whoever waits has them, too
	}
	s.Enter(m)
	if g.Owned {
		s.adopted++
	}
	return m
}

// Adopted counts the messages that Adopt has made this node's.
func (s *State) Adopted() uint64 { return s.adopted }

// Owned tells whether a message is this node's.
func (s *State) Owned(m *Message) bool { return m.seg.Owned }

// Touched tells whether any recipient has a result.
func (m *Message) Touched() bool {
	return slices.ContainsFunc(m.rcpts(), func(r record.Rcpt) bool { return r.At() != 0 })
}

// Unite makes the record that brings a message up to results that come from
// elsewhere, in the form they have in this log; nil when they say nothing
// new. finished says that the message is known to be finished, whatever the
// results.
func (s *State) Unite(m *Message, settled []record.Settled, finished bool) *record.Result {
	if m.finished() {
		return nil
	}
	rcpts := m.rcpts()
	rec := &record.Result{ID: m.id}
	left := m.left()
	for i := range settled {
		o := &settled[i]
		if int64(o.Recipient) >= int64(len(rcpts)) || slices.ContainsFunc(rec.Settled, func(p record.Settled) bool { return p.Recipient == o.Recipient }) {
			continue
		}
		old := &rcpts[o.Recipient]
		was, now := old.State, *old
		if !now.Merge(o) {
			continue
		}
		if now.State.Final() && !was.Final() {
			left--
		}
		rec.Settled = append(rec.Settled, *o)
	}
	if left == 0 || finished {
		rec.Finished, rec.Victim = true, m.commit.File()
	}
	if len(rec.Settled) == 0 && !rec.Finished {
		return nil
	}
	return rec
}

// Absent gives the messages that an inventory has finished and this store has
// not; those that still wait for copies are adopted for it.
func (s *State) Absent(g *Segment, inv *record.Inventory) []*Message {
	if inv.Suspect {
		return nil
	}
	live := make(map[uint64]bool, len(inv.Live))
	for i := range inv.Live {
		live[inv.Live[i].First] = true
	}
	absent := func(m *Message) bool {
		first := m.First()
		return !live[first] && inv.From <= first && first <= inv.Upto && m.commitSeq() <= inv.Last
	}
	for first, m := range g.Waiting {
		if absent(m) {
			s.Adopt(g, first)
		}
	}
	var out []*Message
	for _, m := range g.msgs {
		if absent(m) {
			out = append(out, m)
		}
	}
	return out
}

// Lacks tells whether a message that lives elsewhere is not here, or not
// whole. suspect says that this store may have lost what it once had.
func (s *State) Lacks(g *Segment, l *record.LiveMessage, suspect bool) bool {
	if g.EndSet && l.Commit > g.End {
		return false
	}
	m := g.find(l.First)
	if m == nil {
		_, waits := g.Waiting[l.First]
		return !waits && (suspect || l.Commit > g.Last)
	}
	return slices.ContainsFunc(m.chunks(), func(c Chunk) bool { return c.Pos == 0 })
}
