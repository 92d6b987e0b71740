package state

import (
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Bounds of what is arriving, which memory keeps: messages of a segment, and
// chunks of a message.
const (
	PartialsMax = 1 << 16
	ChunksMax   = 1 << 20
)

// Partial is a message that comes from another node and has no commit yet.
type Partial struct {
	Chunks []Chunk  // Pos 0: not appended yet
	Seqs   []uint32 // of them
	Done   bool     // its commit is about to be appended
}

func (s *State) dropPartials(g *Segment) {
	for first := range g.Partials {
		s.giveUp(g, first)
	}
}

// Foreign is a result or abort from another node.
type Foreign struct {
	First  uint64
	Result record.Result // Finished alone for an abort
}

// Replace notes that a chunk was written again elsewhere.
func (s *State) Replace(m *Message, i int, c Chunk) {
	if old := m.chunks()[i]; old.Pos != 0 {
		s.books.Drop(old.Pos.File(), wal.RecordSize(int(old.Len)))
	}
	s.books.Add(c.Pos.File(), wal.RecordSize(int(c.Len)))
	if m.more != nil && m.more.chunks != nil {
		m.more.chunks[i].Len = c.Len
	}
	m.moveChunk(i, c.Pos)
}

// giveUp ends an arrival whose message will never come to be.
func (s *State) giveUp(g *Segment, first uint64) {
	if a := g.Partials[first]; a != nil {
		for _, c := range a.Chunks {
			s.Unpend(c.Pos)
		}
		delete(g.Partials, first)
	}
}

// Of gives the message that a result or abort is about, or nil; an abort of
// one that was still arriving ends that, and one that waits for its copies is
// adopted.
func (s *State) Of(segment uint64, f *Foreign) *Message {
	g := s.segments[segment]
	if g == nil {
		return nil
	}
	if f.Result.Finished {
		s.giveUp(g, f.First)
	}
	m := g.find(f.First)
	if w := g.Waiting[f.First]; m == nil && w != nil && (f.Result.ID.IsZero() || f.Result.ID == w.id) {
		m = s.Adopt(g, f.First)
	}
	if m == nil || !f.Result.ID.IsZero() && f.Result.ID != m.id {
		return nil
	}
	return m
}
