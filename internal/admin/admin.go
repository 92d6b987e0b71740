// Package admin serves the operator's API of one node: gRPC on a unix socket
// in data_dir, as proto/admin/v1 describes it.
//
// It knows the protocol, who may call what, and how errors travel; it knows
// nothing of how mail is queued or kept. What it shows and changes it asks for
// through the small interfaces of this file, which cmd fills in. Every method
// is closed until the table in access.go opens it, and then to the roles that
// package roles names. On the socket a peer is root or the user the relay runs
// as, by the kernel's word, and nobody else. What changes something is in the
// audit log before it is done; a viewer's answers have their addresses masked.
//
// Each request runs on a goroutine of its own; the interfaces are called from
// many at once. A panic in a request ends that request with INTERNAL. What an
// operator changes is logged with who and why.
package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Queue is what the queue lets an operator see and do.
type Queue interface {
	// Summary counts what is queued.
	Summary(ctx context.Context) (Summary, error)
	// List calls visit for each recipient that sel picks, in the order of
	// arrival, until visit returns an error, which it returns. The Entry
	// belongs to List and is valid during the call alone.
	List(ctx context.Context, sel *Selector, visit func(*Entry) error) error
	// Scan is List without LastReply, which takes half the time.
	Scan(ctx context.Context, sel *Selector, visit func(*Entry) error) error
	// Change does what c says and returns when that is on stable storage. A
	// count that differs from c.Expect changes nothing and is a *ExpectError.
	Change(ctx context.Context, c *Change) (Changed, error)
}

// Messages shows single messages.
type Messages interface {
	// Show tells what is known of a message. One that is not in the queue is
	// ErrNotFound.
	Show(ctx context.Context, id mail.ID) (*Message, error)
}

// Selector picks recipients in the queue.
type Selector = picks.Selector

// NewSelector reads a selector from the API. An ID that does not parse is
// ErrNotFound: there cannot be such a message.
func NewSelector(in *adminv1.Selector) (*Selector, error) {
	s, err := picks.New(in)
	var bad picks.Invalid
	switch {
	case errors.As(err, &bad):
		return nil, InvalidError(bad)
	case errors.Is(err, picks.ErrID):
		return nil, fmt.Errorf("%w: %s", ErrNotFound, strings.TrimPrefix(err.Error(), picks.ErrID.Error()+": "))
	}
	return s, err
}

// Node tells how the node does.
type Node interface {
	Status(ctx context.Context) Status
}

// ErrNotFound says that a message is not in the queue.
var ErrNotFound = errors.New("admin: no such message in the queue")

// ErrUnavailable is wrapped by an error that a later try may not meet, such
// as that of a node that is stopping.
var ErrUnavailable = errors.New("admin: not available now")

// ExpectError says that a change would have met another number of recipients
// than the operator expected.
type ExpectError struct{ Want, Got int64 }

// Error tells both numbers.
func (e *ExpectError) Error() string {
	return fmt.Sprintf("expected %d recipients, found %d: nothing was changed", e.Want, e.Got)
}

// Summary counts what is queued.
type Summary struct {
	Messages               int64
	Active, Deferred, Held int64
	Trashed                int64     // not among the others
	Oldest                 time.Time // arrival of the oldest message, zero when there is none
}

// Entry is one recipient in the queue.
type Entry = picks.Entry

// Action is what an operator does with recipients.
type Action uint8

// The actions, as admin.v1.QueueService describes them.
const (
	Retry Action = iota + 1
	Hold
	Release
	Drop
	Bounce
	Undrop
	Reroute
	Expire
)

// String gives the verb of the command line.
func (a Action) String() string {
	switch a {
	case Retry:
		return "retry"
	case Hold:
		return "hold"
	case Release:
		return "release"
	case Drop:
		return "drop"
	case Bounce:
		return "bounce"
	case Undrop:
		return "undrop"
	case Reroute:
		return "reroute"
	case Expire:
		return "expire"
	}
	return "unknown"
}

// Applies tells whether the action would change a recipient in that state.
func (a Action) Applies(s mail.State) bool {
	switch a {
	case Retry:
		return s == mail.StateActive || s == mail.StateDeferred
	case Hold:
		return s == mail.StateActive || s == mail.StateDeferred
	case Release:
		return s == mail.StateHeld
	case Undrop:
		return s == mail.StateTrashed
	case Bounce, Reroute, Expire:
		return !s.Final() && s != mail.StateTrashed
	}
	return !s.Final()
}

// Change is an operator's word on what a selector picks.
type Change struct {
	Action   Action
	Selector *Selector
	DryRun   bool
	Expect   *int64 // the number of recipients; nil is any
	Reason   string
	// Progress, where there is one, is to be told now and then, on the same
	// goroutine, how much was picked so far.
	Progress func(messages, recipients, bytes int64)
	Now      bool      // of Drop: without a stay in the trash
	To       string    // of Reroute: mx, HOST or HOST:PORT; empty: by the routes
	At       time.Time // of Expire
}

// Changed says what a change did, or in a dry run would do.
type Changed struct {
	Messages, Recipients int64
	Bytes                int64     // of the messages
	Oldest               time.Time // zero when there is none
	Samples              []mail.ID // up to MaxSamples
	Failed               int64     // recipients that were picked and are as they were

	Kept time.Duration // of Drop: how long it can be taken back; 0: it cannot
	Note string        // what the operator should know of it; mostly empty
}

// MaxSamples is how many IDs a Changed names.
const MaxSamples = 3

// Message is a message without its content.
type Message struct {
	Node       string
	Envelope   *mail.Envelope
	Size       int64
	Recipients []Recipient // in the order of the envelope
}

// Recipient is where one recipient of a message stands.
type Recipient struct {
	State     mail.State
	Attempts  uint32
	Next      time.Time // zero when no attempt is due
	Last      time.Time // end of the last attempt, zero when there was none
	LastReply mail.Reply
	Remote    string // who said it
}

// Status is how a node does.
type Status struct {
	Node, Version string
	Started       time.Time
	Ready         bool
	Draining      bool
	Reason        string // why it is not ready
	SMTP          []string

	ConfigVersion  uint64 // of the cluster, that is in force; 0 while none is
	ConfigRejected uint64 // a newer one that could not be taken over; 0: none
	ConfigError    string // why it could not
}
