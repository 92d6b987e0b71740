package state

import (
	"math"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Message is a message of the spool that is not finished yet. It is a handle:
// what it stands for is in the log, and what the spool keeps of it in memory
// is just enough to find it there. There may be millions of them, so every
// octet counts: a message with one recipient and one chunk takes 96, the
// tables that lead to it about 20 more.
//
// The methods of Message may be called at any time from any goroutine.
type Message struct {
	// These never change.
	id  mail.ID
	seg *Segment

	arrived uint32 // Unix time in milliseconds: the lower bits (never changes)
	era     uint16 // and the upper ones (never changes)
	behind  uint16 // sequence number of the commit record, less first; math.MaxUint16: it is in more (never changes)

	next   *Message       // in the same bucket of the index
	more   *parts         // nil with one recipient and one chunk
	commit wal.Pos        // of the commit record; 0 once the message is finished
	chunk  wal.Pos        // of the first chunk; 0 when recovery did not find it
	one    [1]record.Rcpt // the recipient, unless more has them all

	first     uint32 // sequence number of the first chunk (never changes)
	size      uint32 // octets of content (never changes)
	commitLen uint16 // of the commit record on disk, in units of 8 octets, capped (never changes)
	n         uint16 // recipients (never changes)
}

// parts are what a message has more of than one.
type parts struct {
	rcpts  []record.Rcpt // all recipients, or nil when there is just one
	chunks []Chunk       // all chunks, or nil when there is just one
	behind uint32        // see Message
}

// Chunk is where one chunk of a message lies, and how long its record's data
// are.
type Chunk struct {
	Pos wal.Pos // 0: nowhere, it is lost
	Len uint32
}

// Limits of the compact forms above.
const (
	MaxRecipients = math.MaxUint16
	MaxSize       = math.MaxUint32
)

// ID is the message's name.
func (m *Message) ID() mail.ID { return m.id }

// Next is where the index keeps its pointer. It is for the index alone.
func (m *Message) Next() **Message { return &m.next }

// Size is the length of the content in octets.
func (m *Message) Size() int64 { return int64(m.size) }

// First is the sequence number of the first chunk, which names the message in
// its segment.
func (m *Message) First() uint64 { return uint64(m.first) }

// Arrived is when the last octet was taken, in milliseconds.
func (m *Message) Arrived() time.Time { return time.UnixMilli(m.arrivedMS()) }

// Recipients is how many recipients the envelope has.
func (m *Message) Recipients() int { return int(m.n) }

// rcpts gives the states of all recipients, to be read or changed in place.
func (m *Message) rcpts() []record.Rcpt {
	if m.more != nil && m.more.rcpts != nil {
		return m.more.rcpts
	}
	return m.one[:]
}

// left counts the recipients without a final result.
func (m *Message) left() (n int) {
	for i := range m.rcpts() {
		if !m.rcpts()[i].State.Final() {
			n++
		}
	}
	return n
}

// chunks tells where the content lies. What it gives is not to be changed.
func (m *Message) chunks() []Chunk {
	if m.more != nil && m.more.chunks != nil {
		return m.more.chunks
	}
	return []Chunk{{m.chunk, m.size + record.ChunkHeaderLen}}
}

// place notes where the content lies, and makes room for the recipients; it is
// called once.
func (m *Message) place(chunks []Chunk) {
	m.chunk = chunks[0].Pos
	if len(chunks) == 1 && m.n == 1 {
		return
	}
	if len(chunks) > 1 {
		m.rich().chunks = slices.Clip(chunks)
	}
	if more := m.rich(); m.n > 1 && more.rcpts == nil {
		more.rcpts = make([]record.Rcpt, m.n)
	}
}

// holdUntil lets all recipients be held by the sender's word until a time, 0
// for none; any result that there is counts more.
func (m *Message) holdUntil(ms int64) {
	if ms == 0 {
		return
	}
	if m.n > 1 && m.rich().rcpts == nil {
		m.rich().rcpts = make([]record.Rcpt, m.n)
	}
	rcpts := m.rcpts()
	for i := range rcpts {
		rcpts[i].State, rcpts[i].Next = mail.StateHeld, record.Seconds(ms)
	}
}

func (m *Message) rich() *parts {
	if m.more == nil {
		m.more = &parts{}
	}
	return m.more
}

// moveChunk notes that the chunk with that index lies elsewhere now.
func (m *Message) moveChunk(i int, pos wal.Pos) {
	if i == 0 {
		m.chunk = pos
	}
	if m.more != nil && m.more.chunks != nil {
		m.more.chunks[i].Pos = pos
	}
}

func (m *Message) arrivedMS() int64 { return int64(m.era)<<32 | int64(m.arrived) }

// stamp notes when the message came, and the number of its commit record.
func (m *Message) stamp(ms int64, commit uint64) {
	ms = min(max(ms, 0), 1<<48-1)
	m.era, m.arrived = uint16(ms>>32), uint32(ms)
	behind := commit - uint64(m.first)
	m.behind = uint16(min(behind, math.MaxUint16))
	if m.behind == math.MaxUint16 {
		m.rich().behind = uint32(behind)
	}
}

// commitSeq is the sequence number of the commit record, the message's last.
func (m *Message) commitSeq() uint64 {
	if m.behind == math.MaxUint16 {
		return uint64(m.first) + uint64(m.more.behind)
	}
	return uint64(m.first) + uint64(m.behind)
}

func (m *Message) finished() bool { return m.commit == 0 }

func (m *Message) commitSize() int64 { return int64(m.commitLen) * 8 }

// units are multiples of 8 octets.
func units(size int64) uint16 { return uint16(min(size/8, math.MaxUint16)) }
