package state

import (
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Bounds of a segment. It may outgrow segmentBytes by the messages that were
// arriving when it reached it, because all records of a message are in one.
const (
	segmentMessages = 16 << 10
	segmentBytes    = 256 << 20
)

// Segment is the unit of ownership: a run of messages with one owner and one
// set of members.
type Segment struct {
	ID, Epoch uint64
	State     record.SegmentState
	Last      uint64 // the highest sequence number given
	Arriving  int    // messages that have chunks and no commit yet

	count     int        // messages ever
	bytes     int64      // octets ever
	msgs      []*Message // unfinished, rising by their first chunk
	header    wal.Pos    // of the newest header record; 0: none
	headerLen int64
}

// Full tells whether the segment should take no new messages.
func (g *Segment) Full() bool { return g.count >= segmentMessages || g.bytes >= segmentBytes }

// Empty tells whether the segment has no unfinished message.
func (g *Segment) Empty() bool { return len(g.msgs) == 0 }

func (g *Segment) search(first uint32) (int, bool) {
	// The newest ones are the most wanted.
	if n := len(g.msgs); n == 0 || g.msgs[n-1].first < first {
		return n, false
	}
	return slices.BinarySearchFunc(g.msgs, first, func(m *Message, first uint32) int {
		return int(int64(m.first) - int64(first))
	})
}

func (g *Segment) find(first uint64) *Message {
	if i, ok := g.search(uint32(first)); ok && first>>32 == 0 {
		return g.msgs[i]
	}
	return nil
}

func (g *Segment) insert(m *Message) {
	i, _ := g.search(m.first)
	g.msgs = slices.Insert(g.msgs, i, m)
}

func (g *Segment) remove(m *Message) {
	if i, ok := g.search(m.first); ok {
		g.msgs = slices.Delete(g.msgs, i, i+1)
	}
}
