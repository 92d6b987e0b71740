package state

import (
	"cmp"
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

	next   *Message // in the same bucket of the index
	more   *parts   // nil with one recipient and one chunk
	commit wal.Pos  // of the commit record; 0 once the message is finished
	chunk  wal.Pos  // of the first chunk; 0 when recovery did not find it
	one    [1]rcpt  // the recipient, unless more has them all

	first     uint32 // sequence number of the first chunk (never changes)
	size      uint32 // octets of content (never changes)
	commitLen uint16 // of the commit record on disk, in units of 8 octets, capped (never changes)
	n         uint16 // recipients (never changes)
}

// parts are what a message has more of than one.
type parts struct {
	rcpts  []rcpt  // all recipients, or nil when there is just one
	chunks []Chunk // all chunks, or nil when there is just one
	behind uint32  // see Message
}

// Chunk is where one chunk of a message lies, and how long its record's data
// are.
type Chunk struct {
	Pos wal.Pos // 0: nowhere, it is lost
	Len uint32
}

// rcpt is where one recipient stands.
type rcpt struct {
	hi, lo   uint32 // the halves of the wal.Pos of its newest result record; 0: there is none
	next     uint32 // Unix time in seconds, rounded up; 0: none
	version  uint32 // of the newest result; 0: there is none
	attempts uint16
	share    uint8 // this recipient's part of the result record's size, in units of 8 octets, capped
	state    mail.State
}

// Limits of the compact forms above.
const (
	MaxRecipients = math.MaxUint16
	MaxSize       = math.MaxUint32
)

// ID is the message's name.
func (m *Message) ID() mail.ID { return m.id }

// Size is the length of the content in octets.
func (m *Message) Size() int64 { return int64(m.size) }

// First is the sequence number of the first chunk, which names the message in
// its segment.
func (m *Message) First() uint64 { return uint64(m.first) }

// Arrived is when the last octet was taken, in milliseconds.
func (m *Message) Arrived() time.Time { return time.UnixMilli(m.arrivedMS()) }

// Recipients is how many recipients the envelope has.
func (m *Message) Recipients() int { return int(m.n) }

// RecipientState is where one recipient of a message stands. States reads all
// of it from the log; Each gives State, Attempts, Next and Version alone.
type RecipientState struct {
	State    mail.State
	Attempts uint32
	Next     time.Time  // zero: none
	Reply    mail.Reply // of the last attempt
	Remote   string
	At       time.Time // of the result; zero when there is none
	Version  uint32    // 0: no result yet
}

// Result is what became of one recipient: delivered, failed or dropped for
// good, or what is to happen next.
type Result struct {
	Recipient int // index into the envelope's recipients
	State     mail.State
	Attempts  uint32
	Next      time.Time // of the next attempt; zero: none
	Reply     mail.Reply
	Remote    string
	At        time.Time
}

// rcpts gives the states of all recipients, to be read or changed in place.
func (m *Message) rcpts() []rcpt {
	if m.more != nil && m.more.rcpts != nil {
		return m.more.rcpts
	}
	return m.one[:]
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
		more.rcpts = make([]rcpt, m.n)
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

// public gives what memory knows of a recipient.
func (r *rcpt) public() RecipientState {
	st := RecipientState{State: r.state, Attempts: uint32(r.attempts), Version: r.version}
	if r.next != 0 {
		st.Next = time.Unix(int64(r.next), 0)
	}
	return st
}

func (r *rcpt) pos() wal.Pos { return wal.Pos(r.hi)<<32 | wal.Pos(r.lo) }

func (r *rcpt) setPos(p wal.Pos) { r.hi, r.lo = uint32(p>>32), uint32(p) }

// bytes is what the recipient counts in the books for its result record.
func (r *rcpt) bytes() int64 { return int64(r.share) * 8 }

// shareOf gives the part of a result record's size that each of its n
// recipients stands for.
func shareOf(size int64, n int) uint8 { return uint8(min(size/8/int64(max(n, 1)), math.MaxUint8)) }

// units are multiples of 8 octets.
func units(size int64) uint16 { return uint16(min(size/8, math.MaxUint16)) }

// merge takes a result that is newer, or final where what is known is not;
// whatever order results come in, the same one wins. It tells whether it took
// it.
func (r *rcpt) merge(s *record.Settled) bool {
	var n rcpt
	if n.set(s); !n.supersedes(r) {
		return false
	}
	r.set(s)
	return true
}

func (r *rcpt) set(s *record.Settled) {
	r.state = s.State
	r.version = s.Version
	r.attempts = uint16(min(s.Attempts, math.MaxUint16))
	r.next = Seconds(s.NextMS)
}

// supersedes is the order of results: a final one is never undone, delivered
// stands over failed over dropped, and else the newer one counts. Two owners
// may have given the same version: then any order will do that is the same
// everywhere.
func (r *rcpt) supersedes(old *rcpt) bool {
	switch {
	case r.state.Final() && old.state.Final():
		return r.state < old.state
	case r.state.Final() || old.state.Final():
		return r.state.Final()
	}
	return cmp.Or(cmp.Compare(r.version, old.version), cmp.Compare(r.state, old.state),
		cmp.Compare(r.next, old.next), cmp.Compare(r.attempts, old.attempts)) > 0
}

// due tells whether the time of the next attempt has come.
func (r *rcpt) due(now uint32) bool {
	return r.state == mail.StateActive || r.state == mail.StateDeferred && r.next <= now
}

// Seconds makes seconds of milliseconds, rounding up, so that what waits until
// then never goes early.
func Seconds(ms int64) uint32 {
	if ms <= 0 {
		return 0
	}
	return uint32(min((ms+999)/1000, math.MaxUint32))
}
