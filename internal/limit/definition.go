package limit

import (
	"net/netip"
	"slices"
	"time"
)

// Side says where in the life of a message a limit is asked about.
type Side uint8

// The sides.
const (
	Deliver Side = iota // the message waits in the queue
	Receive             // the client is told to come back later
)

// Field is something that a limit can count by.
type Field uint8

// The fields.
const (
	Sender          Field = iota // the envelope sender's address
	SenderDomain                 // its domain
	User                         // who has authenticated
	Group                        // the entry of the setting senders that the client is in
	Client                       // the client's network: an IPv4 address, an IPv6 /64
	RecipientDomain              // of the recipient's address
	Site                         // whoever runs the mail hosts of the recipient's domain
	Source                       // the own address that the message leaves from
	Route                        // the entry of the setting routes
	Fields                       // how many there are
)

// Unit is what is counted.
type Unit uint8

// The units.
const (
	Messages Unit = iota
	Recipients
	Octets
)

// Rate is so much in so much time; the zero value is no limit.
type Rate struct {
	N   int64
	Per time.Duration
}

// Partition says what a node does that is cut off from the others.
type Partition uint8

// What a node that is cut off may use.
const (
	Floor Partition = iota // a small part that is kept for it
	Stop                   // nothing
	Full                   // all that it had, at the cost of the limit
)

// Definition is one limit. Name, and at least one of Rate, Connections, Budget
// and Suspended, are there.
type Definition struct {
	Name  string // unique
	Side  Side
	Match [Fields][]string // values that it is for, as Subject has them; "*.example.org" for all below a domain, networks for Client. Empty: all
	Per   []Field          // each value of these is counted by itself; empty: all together
	Count Unit             // what Rate and Budget count

	Rate        Rate
	Burst       int64 // how many at once after a pause, at least 1 where there is a Rate
	Connections int   // at a time; 0: no limit
	Budget      Rate  // Per is an hour or a day, which begin by UTC

	OnPartition Partition

	Suspended bool      // nothing at all
	Reason    string    // why it is there, for those who ask
	Author    string    // who set it: empty for the configuration, an operator's name, "shaping"
	Until     time.Time // when it ends by itself; zero: never
}

// AboutSender tells whether it looks at who sends: where it refuses one, others
// may still go on to the same place.
func (d *Definition) AboutSender() bool {
	for _, f := range []Field{Sender, SenderDomain, User, Group, Client} {
		if len(d.Match[f]) > 0 || slices.Contains(d.Per, f) {
			return true
		}
	}
	return false
}

// AboutDomain tells whether it looks at the recipient's domain: where it refuses
// one, mail to others may still go on to the same place.
func (d *Definition) AboutDomain() bool {
	return len(d.Match[RecipientDomain]) > 0 || slices.Contains(d.Per, RecipientDomain)
}

// Subject is what a connection, a message or an attempt is, as far as limits
// look at it. Names are lower-case, domains A-labels; empty is unknown, and
// then no limit applies that matches or counts by it.
type Subject struct {
	Sender       string // "<>" is the null reverse-path
	SenderDomain string
	User         string
	Group        string
	Client       netip.Addr
	Domain       string
	Site         string
	Source       string
	Route        string
}

// Kind says which part of a Definition it is about.
type Kind uint8

// The kinds.
const (
	KindRate Kind = iota
	KindConnections
	KindBudget
	KindSuspended
)

// Amount is what is to be sent or taken.
type Amount struct {
	Messages, Recipients int
	Octets               int64
}

// Denied says why something may not be done now.
type Denied struct {
	Limit  string // the Definition's name
	Key    string // what it counts by here, in words: "site=google.com"; empty: all together
	Kind   Kind
	Wait   time.Duration // how long until it makes sense to ask again, an estimate, from a millisecond to a minute
	Left   time.Duration // how long it takes if nothing changes: until a budget begins anew, or a suspension ends
	Reason string        // the Definition's
	Sender bool          // it looks at who sends: the Definition's AboutSender
	Domain bool          // and at the recipient's domain: AboutDomain
}
