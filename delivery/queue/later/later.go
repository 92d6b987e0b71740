// Package later is what senders said of when their mail is to be delivered: not
// before a time (RFC 4865), or by a time (RFC 2852).
package later

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

// Begins is when a message could first be delivered: what is held by its sender
// is neither late nor expires by the time before.
func Begins(arrived time.Time, env *mail.Envelope) time.Time {
	if env.Hold.After(arrived) {
		return env.Hold
	}
	return arrived
}

// Held tells whether its sender has a message held at now.
func Held(env *mail.Envelope, now time.Time) bool { return env.Hold.After(now) }

// Reason says so in words, for the log.
func Reason(env *mail.Envelope) string {
	return "by its sender until " + env.Hold.UTC().Format(time.RFC3339)
}

// End is when a message is given up that may live for so long.
func End(arrived time.Time, env *mail.Envelope, expire time.Duration) time.Time {
	end := Begins(arrived, env).Add(expire)
	if by := env.By; by.Return && by.At.Before(end) {
		return by.At
	}
	return end
}

// Terms are what a recipient of a new message begins with.
type Terms struct {
	State mail.State
	Next  time.Time
	End   time.Time
}

// TermsOf gives those of a message that arrived at arrived. expire is how long
// it may live, and toSched makes the scheduler's time of the wall clock's.
func TermsOf(arrived time.Time, env *mail.Envelope, expire func() time.Duration, toSched func(time.Time) time.Time) Terms {
	var t Terms
	if !env.Hold.IsZero() {
		t.State, t.Next = mail.StateHeld, toSched(env.Hold)
	}
	if env.By.Return {
		if end := End(arrived, env, expire()); end.Equal(env.By.At) {
			t.End = toSched(end)
		}
	}
	return t
}

// Recipient gives a recipient the terms.
func (t *Terms) Recipient(r sched.Recipient) sched.Recipient {
	r.State, r.Next, r.End = t.State, t.Next, t.End
	return r
}
