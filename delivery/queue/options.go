package queue

import (
	"context"
	"log/slog"
	"math/rand/v2"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/delivery/queue/told"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Router says where mail for a domain goes, and from where by its sender, a
// Client.Sender. The Reply, when there is one, says why it goes nowhere.
type Router interface {
	Route(sender, domain string) (mail.NextHop, *mail.Reply)
	// Via is Route for what an operator sends to another place than the routes.
	Via(to, sender, domain string) (mail.NextHop, *mail.Reply)
}

// Deliverer tries to deliver: one Outcome for each of at.Recipients. A
// canceled ctx ends it soon, unless the final dot has been sent.
type Deliverer interface {
	Deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome
}

// Limits say whether a delivery may begin now. When Admit returns nil, what it
// has granted is in at.Permit.
type Limits interface {
	Admit(ctx context.Context, hop *mail.NextHop, at *delivery.Attempt) *allow.Denied
	// ByDomain tells whether they may look at this domain of recipients, as
	// limits compare it: then those are asked about by themselves.
	ByDomain(domain string) bool
}

// Lease tells whether this node may deliver a message now.
type Lease interface {
	Holds(m *spool.Message) bool
	// Elsewhere hears that the record of a message is damaged here. It tells
	// whether another machine that has a copy is to deliver it.
	Elsewhere(m *spool.Message) bool
}

// Observer is told what happens, for the log and the figures. It is called
// from many goroutines and must not block; what it is given is valid during
// the call alone.
type Observer interface {
	// Recipient tells what happened to a recipient.
	Recipient(e *Event)
	// Reported tells of a report (id) about the message of.
	Reported(id, of mail.ID, kind dsn.Kind)
	// Postponed tells that n waiting recipients of a destination were
	// deferred without a try of their own, because it can't be reached.
	Postponed(lane string, n int, why *mail.Reply)
	// Limited tells that a delivery to a destination was put off by a limit,
	// which may be so many times a second.
	Limited(lane string, why *allow.Denied)
}

// What happened to a recipient, and where reports go.
type (
	EventKind = told.EventKind
	Event     = told.Event
	Mailboxes = told.Mailboxes
)

// What can happen to a recipient.
const Delivered, Deferred, Bounced, Expired, DoubleBounce = told.Delivered, told.Deferred, told.Bounced, told.Expired, told.DoubleBounce
const Held, Released, Dropped, Trashed, Undropped = told.Held, told.Released, told.Dropped, told.Trashed, told.Undropped

// Options say what a Runner works with. Router and Deliverer must be given.
type Options struct {
	Router    Router
	Deliverer Deliverer
	Lease     Lease  // nil: always held
	Limits    Limits // nil: there are none
	// Class says how urgent mail is of clients in the entry of this name of the
	// setting senders; empty: they are in none. nil: all is Normal.
	Class    func(sender string) sched.Class
	Observer Observer // nil: nobody

	Schedule  sched.Config
	Hostname  string // the relay's name in reports
	Mailboxes Mailboxes
	MaxReturn int64 // an original above this size goes back as its header; 1 MiB

	Rand rand.Source  // of the jitter; by default seeded at random
	Log  *slog.Logger // none
}

func (o Options) withDefaults() Options {
	if o.Lease == nil {
		o.Lease = always{}
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Class == nil {
		o.Class = func(string) sched.Class { return turns.Normal }
	}
	if o.MaxReturn == 0 {
		o.MaxReturn = 1 << 20
	}
	if o.Rand == nil {
		o.Rand = rand.NewPCG(rand.Uint64(), rand.Uint64())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// always is the lease of a node that has no others beside it.
type always struct{}

func (always) Holds(*spool.Message) bool     { return true }
func (always) Elsewhere(*spool.Message) bool { return false }

type nobody struct{}

func (nobody) Recipient(*Event)                   {}
func (nobody) Reported(_, _ mail.ID, _ dsn.Kind)  {}
func (nobody) Postponed(string, int, *mail.Reply) {}
func (nobody) Limited(string, *allow.Denied)      {}
