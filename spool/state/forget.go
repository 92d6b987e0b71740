package state

import (
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state/books"
	"github.com/clrelay/clrelay/spool/wal"
)

// Forget makes the record for forgetting a segment, which need not be known.
// head is the place of the newest record in the log.
func (s *State) Forget(segment, index uint64, head wal.Pos) *record.Forget {
	f := &record.Forget{Index: index, Below: uint64(head), From: head.File()}
	if g := s.segments[segment]; g != nil {
		f.From = g.from
	}
	return f
}

// Forgotten drops whatever there is of a segment; pos is where the record that
// says so lies. It must not be owned.
func (s *State) Forgotten(segment uint64, f *record.Forget, pos wal.Pos, size int64) {
	if g := s.segments[segment]; g != nil {
		for _, m := range slices.Clone(g.msgs) {
			s.remove(m)
		}
		s.dropPartials(g)
		for _, m := range g.Waiting {
			m.commit = 0
		}
		clear(g.Waiting)
		s.Retire(g)
	}
	s.tombs.Add(books.Tomb{Segment: segment, Pos: pos, Size: size, Forget: *f})
}

// Floor is the highest index of a Raft entry that made a segment be
// forgotten.
func (s *State) Floor() uint64 { return s.tombs.Floor() }

func (f *Replay) forget(g *found, pos wal.Pos, data []byte) error {
	r, err := record.ParseForget(data)
	if err != nil {
		return err
	}
	g.gone = max(g.gone, wal.Pos(r.Below))
	f.tombs = append(f.tombs, books.Tomb{Segment: g.seg.ID, Pos: pos, Size: wal.RecordSize(len(data)), Forget: *r})
	return nil
}

// prune drops what was forgotten, and what lies above the segment's end.
func (g *found) prune() {
	seg := g.seg
	if seg.header != 0 && seg.header <= g.gone {
		seg.header, seg.View, seg.told = 0, record.View{ID: seg.ID}, 0
	}
	if g.gone != 0 {
		g.results = slices.DeleteFunc(g.results, func(r foundResult) bool { return wal.Pos(r.At()) <= g.gone })
		g.attempts = slices.DeleteFunc(g.attempts, func(a foundAttempt) bool { return a.pos <= g.gone })
		seg.Last = 0
		g.killers = slices.DeleteFunc(g.killers, func(k foundKiller) bool { return k.pos <= g.gone })
	}
	if g.gone != 0 || seg.EndSet {
		g.chunks = slices.DeleteFunc(g.chunks, func(c foundChunk) bool { return c.pos <= g.gone || seg.EndSet && uint64(c.seq) > seg.End })
		g.msgs = slices.DeleteFunc(g.msgs, func(m *Message) bool {
			return m.commit <= g.gone || seg.EndSet && m.commitSeq() > seg.End
		})
	}
	if g.gone != 0 { // what was forgotten does not count
		for _, c := range g.chunks {
			seg.Last = max(seg.Last, uint64(c.seq))
		}
		for _, m := range g.msgs {
			seg.Last = max(seg.Last, m.commitSeq())
		}
	}
	if seg.EndSet {
		seg.Last = seg.told // what was fetched out of order does not count
	}
	if seg.Last < seg.told {
		seg.Last = seg.told
	} else if seg.Last > seg.told {
		seg.since = 1
	}
}

// alive tells whether there is a segment to speak of.
func (g *found) alive() bool {
	return !Replicated(g.seg.ID) || g.seg.header != 0 || g.gone == 0 && len(g.msgs)+len(g.chunks) > 0
}
