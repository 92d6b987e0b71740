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
	id      mail.ID
	seg     *Segment
	arrived int64 // Unix time in milliseconds

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

// Arrived is when the last octet was taken, in milliseconds.
func (m *Message) Arrived() time.Time { return time.UnixMilli(m.arrived) }

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
	if m.more == nil {
		m.more = &parts{}
	}
	if len(chunks) > 1 {
		m.more.chunks = slices.Clip(chunks)
	}
	if m.n > 1 && m.more.rcpts == nil {
		m.more.rcpts = make([]rcpt, m.n)
	}
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
	if !supersedes(s.State, s.Version, r.state, r.version) {
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
// stands over failed over dropped, and else the newer one counts.
func supersedes(state mail.State, version uint32, old mail.State, oldVersion uint32) bool {
	switch {
	case state.Final() && old.Final():
		return state < old
	case state.Final() || old.Final():
		return state.Final()
	}
	return version > oldVersion
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
