// Package turns says whose turn it is among those who wait for the same
// thing: by class of mail, with a part for each, and within a class one after
// another.
package turns

import "math/bits"

// Class is how urgent mail is. The zero value is Normal.
type Class int8

// The classes, most urgent first.
const (
	Transactional Class = iota - 1 // somebody waits for it: a password, a receipt
	Normal
	Bulk // newsletters
)

// Ranks is how many classes there are. A rank is the place of one among them:
// 0 is the most urgent.
const Ranks = 3

// Rank gives the place of a class; what is no class counts as Normal.
func (c Class) Rank() int {
	if c < Transactional || c > Bulk {
		return Normal.Rank()
	}
	return int(c - Transactional)
}

// weights are the turns that the ranks get while all of them wait: urgent mail
// goes first, and none ever stands still.
func weights() [Ranks]int16 { return [Ranks]int16{16, 4, 1} }

// Wheel deals out turns between ranks, smoothly: with all three waiting, of 21
// turns that follow each other 16, 4 and 1 are theirs, spread evenly. A rank
// that has not waited saves nothing up, and is served next when it comes.
type Wheel [Ranks]int16

// Next gives the rank whose turn it is, of those whose bits are set in
// waiting, which is not 0.
func (w *Wheel) Next(waiting uint8) int {
	best, all := -1, int16(0)
	for rank, weight := range weights() {
		if waiting&(1<<rank) == 0 {
			w[rank] = 0
			continue
		}
		w[rank] += weight
		all += weight
		if best < 0 || w[rank] > w[best] {
			best = rank
		}
	}
	w[best] -= all
	return best
}

// FIFO is a queue of record numbers, linked through the records.
type FIFO struct{ head, tail uint32 }

// Link gives where a record notes which one follows it.
type Link func(id uint32) *uint32

// Head is the first of the queue, 0 when it is empty.
func (f *FIFO) Head() uint32 { return f.head }

// Push puts a record at the end.
func (f *FIFO) Push(id uint32, next Link) {
	*next(id) = 0
	if f.tail != 0 {
		*next(f.tail) = id
	} else {
		f.head = id
	}
	f.tail = id
}

// Pop takes the first one, which must be there.
func (f *FIFO) Pop(next Link) uint32 {
	id := f.head
	link := next(id)
	f.head, *link = *link, 0
	if f.head == 0 {
		f.tail = 0
	}
	return id
}

// Buckets is how many a Ring has.
const Buckets = 64 // the bits of Ring.full

// Ring holds records that want a slot. They wait in buckets, and the buckets
// take turns: one sender with mail for thousands of destinations that hang,
// all in one bucket, must not make others wait for all of them.
type Ring struct {
	Held [Buckets]int // slots held by what came from there
	fifo [Buckets]FIFO
	full uint64 // bit i: bucket i is not empty
	turn int    // the bucket to look at first
}

// Pick gives the bucket whose turn it is, when share slots are left: a bucket
// may hold twice what is still free.
func (r *Ring) Pick(share int) (bucket int, ok bool) {
	for todo := r.full; todo != 0 && share > 0; {
		b := (r.turn + bits.TrailingZeros64(bits.RotateLeft64(todo, -r.turn))) % Buckets
		if r.Held[b] < max(1, 2*share) {
			return b, true
		}
		todo &^= 1 << b
	}
	return 0, false
}

// Push puts a record into a bucket, behind the others there.
func (r *Ring) Push(bucket int, id uint32, next Link) {
	r.fifo[bucket].Push(id, next)
	r.full |= 1 << bucket
}

// Pop takes the first record of a bucket that is not empty.
func (r *Ring) Pop(bucket int, next Link) uint32 {
	r.turn = (bucket + 1) % Buckets
	id := r.fifo[bucket].Pop(next)
	if r.fifo[bucket].Head() == 0 {
		r.full &^= 1 << bucket
	}
	return id
}

// Rings are those of one sort of records, one for each rank.
type Rings struct {
	ring  [Ranks]Ring
	full  uint8 // bit i: the ring of rank i is not empty
	wheel Wheel
}

// Empty tells whether nothing waits.
func (r *Rings) Empty() bool { return r.full == 0 }

// Held gives how many slots what came from a bucket of a rank holds.
func (r *Rings) Held(rank, bucket int) *int { return &r.ring[rank].Held[bucket] }

// Push puts a record into a bucket of a rank.
func (r *Rings) Push(rank, bucket int, id uint32, links *[Ranks]Link) {
	r.ring[rank].Push(bucket, id, links[rank])
	r.full |= 1 << rank
}

// Pop takes the record whose turn it is, when there are slots left for its
// rank.
func (r *Rings) Pop(share [Ranks]int, links *[Ranks]Link) (id uint32, rank int, ok bool) {
	mask := r.full
	for mask != 0 {
		rank := r.wheel.Next(mask)
		if b, ok := r.ring[rank].Pick(share[rank]); ok {
			id = r.ring[rank].Pop(b, links[rank])
			if r.ring[rank].full == 0 {
				r.full &^= 1 << rank
			}
			return id, rank, true
		}
		mask &^= 1 << rank
	}
	return 0, 0, false
}
