// Package limits tells the limits what a delivery is about, and the scheduler
// what they said.
package limits

import (
	"errors"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// Subject gives what limits look at in a delivery of a message to a domain.
func Subject(env *mail.Envelope, domain string, hop *mail.NextHop) limit.Subject {
	s := limit.Subject{
		Sender: "<>", Group: env.Client.Sender, Client: env.Client.Addr, Route: hop.Route, Domain: normal(domain),
	}
	if !env.From.IsNull() {
		s.Sender, s.SenderDomain = strings.ToLower(env.From.String()), normal(env.From.Domain)
	}
	return s
}

// normal gives the form of a domain that limits know.
func normal(domain string) string {
	plain := true
	for i := range len(domain) {
		c := domain[i]
		plain = plain && c < 0x80 && (c < 'A' || c > 'Z') && c != '['
	}
	if plain {
		return strings.TrimSuffix(domain, ".")
	}
	if n, err := names.Normalize(domain); err == nil {
		return n
	}
	return strings.ToLower(domain)
}

// Of gives the limit that an outcome is about, nil when it is none.
func Of(r *mail.Reply) *allow.Denied {
	var d *allow.Denied
	if r.Cause != nil && errors.As(r.Cause, &d) {
		return d
	}
	return nil
}

// Denied tells the scheduler what a limit said at now.
func Denied(d *allow.Denied, now time.Time) *sched.Denied {
	return &sched.Denied{
		Key: d.Where(), Ask: now.Add(d.Wait), Until: now.Add(max(d.Wait, d.Left)), Why: d.Reply(),
		Sender: d.Sender, Slots: d.Kind == limit.KindConnections && !d.Cut,
	}
}
