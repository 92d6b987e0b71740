// Package guard is what the SMTP server asks of whoever holds clients to
// measure: by limits, by how they behave, by how much the relay can bear.
package guard

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Guard lets clients in.
type Guard interface {
	// Enter is asked when a client has connected, before anything is said to it.
	// A reply refuses it, and there is no Visit then. end may be called at any
	// time, by any goroutine, to have the session end before its next transaction.
	Enter(c *mail.Client, end func()) (Visit, *mail.Reply)
}

// Visit is a session that was let in. Its methods are called by the session's
// goroutine, one at a time.
type Visit interface {
	// Ask asks whether the client may go on. nil lets pass, a reply of 4yz or 5yz
	// refuses. A question of Mail forgets those of the transaction before.
	Ask(Step, *Question) *mail.Reply
	// Answered is told each reply to a command, and says how long it is to be held
	// back.
	Answered(r *mail.Reply) time.Duration
	// Rested is told when a reply that was to be held back was, and goes out.
	Rested()
	// Leave ends the visit. It is called once.
	Leave()
}

// Step is where in a transaction a question is asked.
type Step uint8

// The steps.
const (
	Mail      Step = iota // at MAIL, when all else is in order
	Recipient             // at RCPT, likewise
	Content               // when the content is complete, before it is stored
)

// Question is what is asked about.
type Question struct {
	From mail.Address
	To   mail.Address // at Recipient
	Size int64        // octets: at Mail as declared, 0 if nothing was; at Content as they came
}

// Nobody is a Guard that lets everybody do everything.
type Nobody struct{}

// Enter lets pass.
func (Nobody) Enter(*mail.Client, func()) (Visit, *mail.Reply) { return open{}, nil }

type open struct{}

func (open) Ask(Step, *Question) *mail.Reply    { return nil }
func (open) Answered(*mail.Reply) time.Duration { return 0 }
func (open) Rested()                            {}
func (open) Leave()                             {}
