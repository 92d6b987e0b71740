// Package allow is how an attempt to deliver asks what it may do: whether a
// message may go out now, and whether another connection may be opened. What
// answers is a Limiter of the caller's.
package allow

import (
	"context"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Limiter says what may be done now. It answers from memory, at once.
type Limiter interface {
	// Reserve asks for one message with so many recipients and octets.
	Reserve(s *limit.Subject, recipients int, octets int64) (Ticket, *Denied)
	// Open asks for one connection. It counts until the Slot is closed.
	// revoke(false), which may come at any time, asks for it back when its
	// transaction is over, revoke(true) at once.
	Open(s *limit.Subject, revoke func(now bool)) (Slot, *Denied)
	// ByDomain tells whether a limit may look at this domain of recipients:
	// then it is to be asked about them by themselves.
	ByDomain(domain string) bool
}

// Ticket is a message that may go out.
type Ticket interface {
	// Use counts it, right before it goes out. More than 0: it has to wait for
	// so long and then ask again.
	Use() (wait time.Duration)
	// Cancel gives up what was not used; to be called always.
	Cancel()
}

// Slot is a connection that counts.
type Slot interface{ Close() }

// Sites says who runs the hosts of a next hop: "google.com" for all domains
// whose mail hosts are Google's. It does not fail; it may take a DNS lookup.
type Sites interface {
	Site(ctx context.Context, hop mail.NextHop) string
}

// Denied says why something may not be done now. It is the cause of the Reply
// of an Outcome whose recipient was not tried.
type Denied struct {
	Limit  string // its name
	Key    string // what it counts by here, in words: "site=google.com"; empty: all together
	Kind   limit.Kind
	Wait   time.Duration // until it makes sense to ask again
	Left   time.Duration // until it surely makes sense, if nothing changes
	Reason string        // why there is such a limit
	Sender bool          // it looks at who sends: others may go on
	Domain bool          // it looks at the recipient's domain: others may go on
	Cut    bool          // no limit: this node was cut off from the others, which may use all of the limit
}

// Error says which limit it is.
func (d *Denied) Error() string {
	if d.Cut {
		return "this node is cut off from the others, and may not use limit " + d.Limit
	}
	what := map[limit.Kind]string{
		limit.KindRate: "rate of limit ", limit.KindConnections: "connections of limit ",
		limit.KindBudget: "budget of limit ", limit.KindSuspended: "suspended by ",
	}[d.Kind] + d.Limit
	if d.Key != "" {
		what += " for " + d.Key
	}
	if d.Reason != "" {
		what += ": " + d.Reason
	}
	return what
}

// Word is the label of the figures.
func (d *Denied) Word() string {
	if d.Cut {
		return "partition"
	}
	return map[limit.Kind]string{
		limit.KindRate: "rate", limit.KindConnections: "connections", limit.KindBudget: "budget", limit.KindSuspended: "suspended",
	}[d.Kind]
}

// OwnLimit marks it for package bounce: no receiver has said this.
func (d *Denied) OwnLimit() {}

// Reply is what a recipient's state says meanwhile.
func (d *Denied) Reply() *mail.Reply {
	return mail.NewReply(451, "4.3.2", d.Error()).WithCause(d)
}

// Where names what is limited: whoever is denied the same waits for the same.
func (d *Denied) Where() string { return fmt.Sprintf("%s %s %d", d.Limit, d.Key, d.Kind) }
