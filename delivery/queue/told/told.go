// Package told is what the queue tells: what happened to recipients, and where
// reports go.
package told

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// EventKind says what happened to a recipient.
type EventKind uint8

// What can happen to a recipient. The first three are the end of an attempt.
const (
	Delivered    EventKind = iota // the next hop took the message
	Deferred                      // not now
	Bounced                       // failed for good, or bounced by an operator
	Expired                       // its time ran out; comes instead of Deferred and Bounced
	DoubleBounce                  // a message without a sender failed: comes after Bounced or Expired
	Held                          // by an operator, or because its envelope can't be read
	Released                      // by an operator
	Dropped                       // by an operator: destroyed, maybe a while after it was Trashed
	Trashed                       // by an operator: dropped, and still to be had back
	Undropped                     // by an operator: back from there
)

// Event is what happened to a recipient.
type Event struct {
	Kind     EventKind
	ID       mail.ID
	From, To mail.Address
	Tried    bool          // an attempt ended; false: the operator's word or the clock's
	Outcome  mail.Outcome  // of the last attempt
	Attempt  int           // its number, from 1; 0 when there was none
	Delay    time.Duration // since the message arrived
	Next     time.Time     // Deferred: of the next attempt
	Reason   string        // the operator's, or the rule's
}

// Mailboxes say where reports go that have no sender to go to.
type Mailboxes struct {
	// Postmaster is behind <postmaster>: a report for postmaster at the
	// relay's own host name goes there, too. Zero: it goes where its domain's
	// mail goes.
	Postmaster mail.Address
	// DoubleBounces sends the postmaster reports that can't be delivered.
	DoubleBounces bool
}
