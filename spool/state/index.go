package state

import (
	"encoding/binary"

	"github.com/clrelay/clrelay/internal/mail"
)

// indexShards is how many tables the index is cut into, so that growing one
// of them never keeps anybody waiting for long.
const indexShards = 256

// index finds messages by ID. The chains run through the messages themselves:
// 8 to 16 octets a message, where a map of IDs takes about 40.
type index struct {
	shards [indexShards]shard
	n      int
}

type shard struct {
	buckets []*Message // a power of two of them, or none
	n       int
}

// hash relies on the 80 random bits of an ID, which are its last ones.
func hash(id *mail.ID) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

func (x *index) find(id mail.ID) *Message {
	h := hash(&id)
	s := &x.shards[h%indexShards]
	if s.n == 0 {
		return nil
	}
	m := *s.bucket(h)
	for m != nil && m.id != id {
		m = m.next
	}
	return m
}

func (x *index) insert(m *Message) {
	h := hash(&m.id)
	s := &x.shards[h%indexShards]
	if s.n == len(s.buckets) {
		s.grow()
	}
	s.push(m, h)
	s.n++
	x.n++
}

func (x *index) remove(m *Message) {
	h := hash(&m.id)
	s := &x.shards[h%indexShards]
	for at := s.bucket(h); *at != nil; at = &(*at).next {
		if *at == m {
			*at, m.next = m.next, nil
			s.n--
			x.n--
			return
		}
	}
}

func (s *shard) bucket(h uint64) **Message {
	return &s.buckets[h/indexShards&uint64(len(s.buckets)-1)]
}

func (s *shard) push(m *Message, h uint64) {
	b := s.bucket(h)
	m.next, *b = *b, m
}

func (s *shard) grow() {
	old := s.buckets
	s.buckets = make([]*Message, max(8, 2*len(old)))
	for _, m := range old {
		for m != nil {
			next := m.next
			s.push(m, hash(&m.id))
			m = next
		}
	}
}
