// Package slab keeps many records of one kind in few pieces of memory, by
// number.
package slab

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
)

// Slab hands out numbered records. Number 0 is never given, so that it can
// mean "none". Records never move. The zero Slab is empty.
type Slab[T any] struct {
	chunks [][]T
	used   uint32 // numbers given so far, the free ones among them
	free   []uint32
	live   int
}

// At gives the record of a number that was given once.
func (s *Slab[T]) At(n uint32) *T { return &s.chunks[n>>chunkBits][n&(chunkSize-1)] }

// Len is how many records are in use.
func (s *Slab[T]) Len() int { return s.live }

// Has tells whether a number was ever given: At may be asked for it.
func (s *Slab[T]) Has(n uint32) bool { return n != 0 && n <= s.used }

// Take gives a zeroed record.
func (s *Slab[T]) Take() (uint32, *T) {
	s.live++
	if last := len(s.free) - 1; last >= 0 {
		n := s.free[last]
		s.free = s.free[:last]
		return n, s.At(n)
	}
	s.used++
	if int(s.used>>chunkBits) >= len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, chunkSize))
	}
	return s.used, s.At(s.used)
}

// Release zeroes a record. A slab that became empty after it was large gives
// its memory back.
func (s *Slab[T]) Release(n uint32) {
	var zero T
	*s.At(n) = zero
	s.live--
	if s.live == 0 && len(s.chunks) > 16 {
		*s = Slab[T]{}
		return
	}
	s.free = append(s.free, n)
}
