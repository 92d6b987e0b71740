package state

import (
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Bounds of compaction.
const (
	// compactBelow is the ratio of live octets, in percent, below which a
	// file is compacted: the log takes at most about twice what is live.
	compactBelow = 50
	// compactBehind is how many files a file must lie behind the newest to be
	// compacted: mail that is about to be delivered is not worth moving.
	compactBehind = 2
)

// Item is a record as compaction meets it.
type Item struct {
	Pos    wal.Pos
	Header wal.Header
	Data   []byte // nil for a chunk
}

// Reclaimable tells whether, since the last call of Compacting, a file has
// become empty or much has ceased to be live.
func (s *State) Reclaimable(much int64) bool { return s.books.Changed(much) }

// Compacting begins a new account for Reclaimable.
func (s *State) Compacting() { s.books.Look() }

// HasFile notes that there is a log file with that number.
func (s *State) HasFile(number uint32) { s.books.Page(number) }

// LiveBytes is about how many octets of all files are needed.
func (s *State) LiveBytes() int64 { return s.books.Live() }

// Disposable tells whether nothing in a file is needed, and whether so little
// is that it is worth moving. head is the number of the newest file.
func (s *State) Disposable(f wal.FileInfo, fileSize int64, head uint32) (empty, move bool) {
	p := s.books.Page(f.Number)
	if !f.Sealed || f.Damaged || p.Pending > 0 {
		return false, false
	}
	little := f.Number+compactBehind <= head && p.Live()*100 < fileSize*compactBelow
	return !p.Needed(), little || s.books.IsStale(f.Number)
}

// Freed notes that a file is gone, durably.
func (s *State) Freed(number uint32) {
	s.books.Freed(number)
	s.tombs.Bury()
}

// Stale notes that a file stays, for it is damaged, and holds older copies of
// records that were moved.
func (s *State) Stale(number uint32) { s.books.Stale(number) }

// Moved notes that all that was needed in a file lies elsewhere now, and tells
// how many records are missing there, although they should have been in it.
func (s *State) Moved(number uint32) int { return s.books.Copied(number) }

// Owner gives the function that notes a record's new place, or nil if the
// record is needed no more. It is not for chunks.
func (s *State) Owner(it Item) func(wal.Pos) {
	g := s.segments[it.Header.Segment]
	switch kind := uint8(it.Header.Kind); kind {
	case record.KindSegment:
		if g != nil && g.header == it.Pos {
			return func(pos wal.Pos) { s.HeaderAt(g, pos, g.headerLen) }
		}
	case record.KindCommit:
		if m := s.committed(it); m != nil {
			return func(pos wal.Pos) { s.books.Moved(it.Pos.File(), pos.File(), m.commitSize()); m.commit = pos }
		}
	case record.KindAttempt:
		return s.attemptOwner(g, it)
	case record.KindForget:
		return s.tombs.Owner(it.Pos)
	case record.KindResult, record.KindAbort:
		if Replicated(it.Header.Segment) && (g == nil || it.Pos <= s.tombs.Gone(g.ID)) {
			return nil // the tomb kills what it killed
		}
		victim, finishes, err := record.Victim(kind, it.Data)
		if err == nil && finishes {
			if victim == it.Pos.File() || !s.books.Exists(victim) {
				return nil
			}
			return func(pos wal.Pos) { s.books.Kill(pos.File(), victim) }
		}
		return s.resultOwner(g, it)
	}
	return nil
}

func (s *State) committed(it Item) *Message {
	var c record.Commit
	if _, err := record.SkimCommit(it.Data, &c); err != nil {
		return nil
	}
	// Not by ID: a message that was moved to another segment is in both.
	if m := s.At(it.Header.Segment, c.First); m != nil && m.commit == it.Pos {
		return m
	}
	return nil
}

func (s *State) attemptOwner(g *Segment, it Item) func(wal.Pos) {
	if g == nil {
		return nil
	}
	return s.starts.Owner(g.find(it.Header.Seq), it.Pos)
}

func (s *State) resultOwner(g *Segment, it Item) func(wal.Pos) {
	if g == nil {
		return nil
	}
	m := g.find(it.Header.Seq)
	if m == nil {
		return nil
	}
	here := func(r record.Rcpt) bool { return wal.Pos(r.At()) == it.Pos }
	if !slices.ContainsFunc(m.rcpts(), here) {
		return nil
	}
	return func(pos wal.Pos) {
		rcpts := m.rcpts()
		for i := range rcpts {
			if here(rcpts[i]) {
				s.books.Moved(it.Pos.File(), pos.File(), rcpts[i].Bytes())
				rcpts[i].Put(uint64(pos))
			}
		}
	}
}

// Further gives the places of all chunks of a segment's messages but the
// first ones.
func (s *State) Further(segment uint64) map[wal.Pos]bool {
	out := map[wal.Pos]bool{}
	if g := s.segments[segment]; g != nil {
		for _, m := range g.msgs {
			for i, c := range m.chunks() {
				if i > 0 {
					out[c.Pos] = true
				}
			}
		}
	}
	return out
}

// FirstChunk tells whether a chunk is the first one of a message, and needed.
func (s *State) FirstChunk(it Item) bool {
	g := s.segments[it.Header.Segment]
	if g == nil {
		return false
	}
	m := g.find(it.Header.Seq)
	return m != nil && m.chunk == it.Pos
}

// ChunkOwner is Owner for a chunk, whose header names its message by the first
// chunk and its place in it by index.
func (s *State) ChunkOwner(it Item, first uint64, index int) func(wal.Pos) {
	g := s.segments[it.Header.Segment]
	if g == nil {
		return nil
	}
	m := g.find(first)
	if m == nil || index >= len(m.chunks()) || m.chunks()[index].Pos != it.Pos {
		return nil
	}
	return func(pos wal.Pos) {
		s.books.Moved(it.Pos.File(), pos.File(), wal.RecordSize(int(it.Header.Len)))
		m.moveChunk(index, pos)
	}
}
