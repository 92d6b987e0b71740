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
	record.View
	Last     uint64 // the highest sequence number given
	Arriving int    // messages of the spool's own segments that have no commit yet
	Owned    bool   // its messages are the queue's, and in the index
	// Waiting are the messages that this node has committed and the other
	// members have not confirmed, by their first chunk.
	Waiting map[uint64]*Message
	// Partials are the messages that other nodes are sending, by their first
	// chunk.
	Partials map[uint64]*Partial

	told      uint64     // Last as the newest header has it
	since     uint32     // the first file that may hold what is above told
	from      uint32     // the first file that may hold anything of it
	count     int        // messages ever
	bytes     int64      // octets ever
	msgs      []*Message // unfinished, rising by their first chunk
	header    wal.Pos    // of the newest header record; 0: none
	behind    bool       // the newest header record does not say View yet
	headerLen int64
}

// Replicated tells whether a segment was opened through Raft. The others are
// a single machine's: opened by its spool, and never any other node's.
func Replicated(id uint64) bool { return id>>63 != 0 }

// Full tells whether the segment should take no new messages.
func (g *Segment) Full() bool { return g.count >= segmentMessages || g.bytes >= segmentBytes }

// Open tells whether new messages may go there, from this node.
func (g *Segment) Open() bool { return g.Owned && !g.EndSet && g.State == record.SegmentOpen }

// Held tells whether the segment is replicated and no longer this node's.
func (g *Segment) Held() bool { return Replicated(g.ID) && !g.Owned }

// Reaches tells whether a number is not above the segment's end.
func (g *Segment) Reaches(seq uint64) bool { return !g.EndSet || seq <= g.End }

// Own tells whether the segment is an open one of that owner.
func (g *Segment) Own(self record.Member) bool {
	return g.State == record.SegmentOpen && !g.EndSet && g.Owner == self
}

// Wait notes that a message is committed here and not yet elsewhere.
func (g *Segment) Wait(m *Message) {
	if g.Waiting == nil {
		g.Waiting = map[uint64]*Message{}
	}
	g.Waiting[m.First()] = m
}

// Waited takes a message off those that wait; false says that it has been
// adopted, or forgotten, before.
func (g *Segment) Waited(m *Message) bool {
	ok := g.Waiting[m.First()] == m
	if ok {
		delete(g.Waiting, m.First())
	}
	return ok
}

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

// Find gives the unfinished message with that first chunk, or nil.
func (g *Segment) Find(first uint64) *Message { return g.find(first) }

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
