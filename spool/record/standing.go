package record

import (
	"cmp"
	"math"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Rcpt is where one recipient of a message stands, in the compact form that
// memory keeps.
type Rcpt struct {
	hi, lo   uint32 // the halves of the place of its newest result record; 0: there is none
	Next     uint32 // Unix time in seconds, rounded up; 0: none
	Version  uint32 // of the newest result; 0: there is none
	Attempts uint16
	Share    uint8 // this recipient's part of the result record's size, in units of 8 octets, capped
	State    mail.State
}

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
	Orders   Orders
}

// Outcome is what became of one recipient: delivered, failed or dropped for
// good, or what is to happen next.
type Outcome struct {
	Recipient int // index into the envelope's recipients
	State     mail.State
	Attempts  uint32
	Next      time.Time // of the next attempt; zero: none
	Reply     mail.Reply
	Remote    string
	At        time.Time
	Orders    *Orders // new ones; nil: as before
}

// Public gives what memory knows of a recipient.
func (r *Rcpt) Public() RecipientState {
	st := RecipientState{State: r.State, Attempts: uint32(r.Attempts), Version: r.Version}
	if r.Next != 0 {
		st.Next = time.Unix(int64(r.Next), 0)
	}
	return st
}

// At is the place of the newest result record; 0: there is none.
func (r *Rcpt) At() uint64 { return uint64(r.hi)<<32 | uint64(r.lo) }

// Put sets At.
func (r *Rcpt) Put(p uint64) { r.hi, r.lo = uint32(p>>32), uint32(p) }

// Bytes is what the recipient counts in the books for its result
func (r *Rcpt) Bytes() int64 { return int64(r.Share) * 8 }

// ShareOf gives the part of a result record's size that each of its n
// recipients stands for.
func ShareOf(size int64, n int) uint8 { return uint8(min(size/8/int64(max(n, 1)), math.MaxUint8)) }

// Merge takes a result that is newer, or final where what is known is not;
// whatever order results come in, the same one wins. It tells whether it took
// it.
func (r *Rcpt) Merge(s *Settled) bool {
	var n Rcpt
	if n.Set(s); !n.Supersedes(r) {
		return false
	}
	r.Set(s)
	return true
}

// Set makes it what the result says.
func (r *Rcpt) Set(s *Settled) {
	r.State = s.State
	r.Version = s.Version
	r.Attempts = uint16(min(s.Attempts, math.MaxUint16))
	r.Next = Seconds(s.NextMS)
}

// Supersedes is the order of results: a final one is never undone, delivered
// stands over failed over dropped, and else the newer one counts. Two owners
// may have given the same version: then any order will do that is the same
// everywhere.
func (r *Rcpt) Supersedes(old *Rcpt) bool {
	switch {
	case r.State.Final() && old.State.Final():
		return r.State < old.State
	case r.State.Final() || old.State.Final():
		return r.State.Final()
	}
	return cmp.Or(cmp.Compare(r.Version, old.Version), cmp.Compare(r.State, old.State),
		cmp.Compare(r.Next, old.Next), cmp.Compare(r.Attempts, old.Attempts)) > 0
}

// Due tells whether the time of the next attempt has come.
func (r *Rcpt) Due(now uint32) bool {
	switch r.State {
	case mail.StateActive:
		return true
	case mail.StateDeferred:
		return r.Next <= now
	case mail.StateHeld: // for a time
		return r.Next != 0 && r.Next <= now
	}
	return false
}

// Seconds makes seconds of milliseconds, rounding up, so that what waits until
// then never goes early.
func Seconds(ms int64) uint32 {
	if ms <= 0 {
		return 0
	}
	return uint32(min((ms+999)/1000, math.MaxUint32))
}
