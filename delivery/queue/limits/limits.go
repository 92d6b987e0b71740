// Package limits tells the limits what a delivery is about, and the scheduler
// what they said.
package limits

import (
	"errors"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
)

// Subject gives what limits look at in a delivery of a message to a domain.
func Subject(env *mail.Envelope, domain string, hop *mail.NextHop) limit.Subject {
	s := subject.Of(env)
	s.Route, s.Domain = hop.Route, subject.Domain(domain)
	return s
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
