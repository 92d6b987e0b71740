// Package index finds messages by ID. The chains run through the messages
// themselves: 8 to 16 octets a message, where a map of IDs takes about 40.
// Package state, its only user, guards it.
package index

import (
	"encoding/binary"

	"github.com/clrelay/clrelay/internal/mail"
)

// Node is what can be found: a *T that says its ID, the same one always, and
// keeps a pointer for the index.
type Node[T any] interface {
	*T
	ID() mail.ID
	Next() **T
}

// shards is how many tables the index is cut into, so that growing one of
// them never keeps anybody waiting for long.
const shards = 256

// Index holds each node once; two of them may have the same ID.
type Index[T any, P Node[T]] struct {
	shards [shards]shard[T, P]
	n      int
}

type shard[T any, P Node[T]] struct {
	buckets []*T // a power of two of them, or none
	n       int
}

// New makes an empty index.
func New[T any, P Node[T]]() *Index[T, P] { return &Index[T, P]{} }

// Len counts the nodes.
func (x *Index[T, P]) Len() int { return x.n }

// hash relies on the 80 random bits of an ID, which are its last ones.
func hash(id mail.ID) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// Find gives a node with that ID, or nil.
func (x *Index[T, P]) Find(id mail.ID) *T {
	h := hash(id)
	s := &x.shards[h%shards]
	if s.n == 0 {
		return nil
	}
	m := *s.bucket(h)
	for m != nil && P(m).ID() != id {
		m = *P(m).Next()
	}
	return m
}

// Insert adds a node, which must not be in the index.
func (x *Index[T, P]) Insert(m *T) {
	h := hash(P(m).ID())
	s := &x.shards[h%shards]
	if s.n == len(s.buckets) {
		s.grow()
	}
	s.push(m, h)
	s.n++
	x.n++
}

// Remove takes a node out, if it is in the index.
func (x *Index[T, P]) Remove(m *T) {
	h := hash(P(m).ID())
	s := &x.shards[h%shards]
	if s.n == 0 {
		return
	}
	for at := s.bucket(h); *at != nil; at = P(*at).Next() {
		if *at == m {
			*at, *P(m).Next() = *P(m).Next(), nil
			s.n--
			x.n--
			return
		}
	}
}

func (s *shard[T, P]) bucket(h uint64) **T {
	return &s.buckets[h/shards&uint64(len(s.buckets)-1)]
}

func (s *shard[T, P]) push(m *T, h uint64) {
	b := s.bucket(h)
	*P(m).Next(), *b = *b, m
}

func (s *shard[T, P]) grow() {
	old := s.buckets
	s.buckets = make([]*T, max(8, 2*len(old)))
	for _, m := range old {
		for m != nil {
			next := *P(m).Next()
			s.push(m, hash(P(m).ID()))
			m = next
		}
	}
}
