package sched

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
)

// slab hands out numbered records. Number 0 is never given, so that it can
// mean "none". Records never move.
type slab[T any] struct {
	chunks [][]T
	used   uint32 // numbers given so far, the free ones among them
	free   []uint32
	live   int
}

func (s *slab[T]) at(n uint32) *T { return &s.chunks[n>>chunkBits][n&(chunkSize-1)] }

// take gives a zeroed record.
func (s *slab[T]) take() (uint32, *T) {
	s.live++
	if last := len(s.free) - 1; last >= 0 {
		n := s.free[last]
		s.free = s.free[:last]
		return n, s.at(n)
	}
	s.used++
	if int(s.used>>chunkBits) >= len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, chunkSize))
	}
	return s.used, s.at(s.used)
}

// release zeroes a record. A slab that became empty after it was large gives
// its memory back.
func (s *slab[T]) release(n uint32) {
	var zero T
	*s.at(n) = zero
	s.live--
	if s.live == 0 && len(s.chunks) > 16 {
		*s = slab[T]{}
		return
	}
	s.free = append(s.free, n)
}
