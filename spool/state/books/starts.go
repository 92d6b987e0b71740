package books

import (
	"slices"

	"github.com/clrelay/clrelay/spool/wal"
)

// Starts are the deliveries under way, as the log knows them, by message:
// recovery counts their recipients as possible duplicates. The record of one
// is live as long as it says something new.
type Starts[M comparable] struct {
	books *Books
	of    map[M][]start
}

type start struct {
	pos   wal.Pos
	size  int64
	rcpts []int // without those that have been settled since
}

// NewStarts makes starts whose records count in b.
func NewStarts[M comparable](b *Books) *Starts[M] {
	return &Starts[M]{books: b, of: map[M][]start{}}
}

// Add enters the start of a delivery to these recipients, whose record lies at
// pos. It keeps rcpts.
func (s *Starts[M]) Add(m M, pos wal.Pos, size int64, rcpts []int) {
	s.books.Add(pos.File(), size)
	s.of[m] = append(s.of[m], start{pos, size, rcpts})
}

// End takes recipients off a message's deliveries.
func (s *Starts[M]) End(m M, ended func(rcpt int) bool) {
	starts := s.of[m]
	if len(starts) == 0 {
		return
	}
	kept := starts[:0]
	for _, a := range starts {
		if a.rcpts = slices.DeleteFunc(a.rcpts, ended); len(a.rcpts) > 0 {
			kept = append(kept, a)
			continue
		}
		s.books.Drop(a.pos.File(), a.size)
	}
	if s.of[m] = kept; len(kept) == 0 {
		delete(s.of, m)
	}
}

// EndAll takes all of them off.
func (s *Starts[M]) EndAll(m M) { s.End(m, func(int) bool { return true }) }

// Tried tells whether a delivery to the recipient is under way.
func (s *Starts[M]) Tried(m M, rcpt int) bool {
	return slices.ContainsFunc(s.of[m], func(a start) bool { return slices.Contains(a.rcpts, rcpt) })
}

// Owner gives the function that notes the new place of the message's record
// at that place, or nil if it is needed no more.
func (s *Starts[M]) Owner(m M, at wal.Pos) func(wal.Pos) {
	starts := s.of[m]
	i := slices.IndexFunc(starts, func(a start) bool { return a.pos == at })
	if i < 0 {
		return nil
	}
	return func(pos wal.Pos) {
		s.books.Moved(at.File(), pos.File(), starts[i].size)
		starts[i].pos = pos
	}
}
