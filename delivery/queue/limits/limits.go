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

// Parts divides recipients of a message, by their places in items, into those
// that the limits are to be asked about together: each domain that a limit looks
// at by itself, and all others. The lane of an MX has one domain.
func Parts[M comparable](places []int, hop *mail.NextHop, env *mail.Envelope, items []sched.Item[M], by func(domain string) bool) [][]int {
	if hop.Kind == mail.HopMX || len(places) < 2 {
		return [][]int{places}
	}
	var parts [][]int
	part := map[string]int{} // by domain; what no limit looks at has the empty one
	last, key := "", ""
	for i, p := range places {
		if d := env.Recipients[items[p].Recipient].Addr.Domain; i == 0 || d != last {
			last, key = d, subject.Domain(d)
			if !by(key) {
				key = ""
			}
		}
		n, ok := part[key]
		if !ok {
			n = len(parts)
			part[key], parts = n, append(parts, nil)
		}
		parts[n] = append(parts[n], p)
	}
	return parts
}

// ByDomain tells whether what a limit said of a delivery is about its domain
// alone: others go to the same next hop.
func ByDomain(d *allow.Denied, hop *mail.NextHop) bool {
	return d.Domain && hop.Kind != mail.HopMX
}

// Denied tells the scheduler what a limit said at now, nil for nil.
func Denied(d *allow.Denied, now time.Time) *sched.Denied {
	if d == nil {
		return nil
	}
	return &sched.Denied{
		Key: d.Where(), Ask: now.Add(d.Wait), Until: now.Add(max(d.Wait, d.Left)), Why: d.Reply(),
		Sender: d.Sender, Slots: d.Kind == limit.KindConnections && !d.Cut,
	}
}
