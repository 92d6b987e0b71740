// Package word says what an operator's word does to recipients: which results
// are to be recorded.
package word

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Said is an operator's word.
type Said struct {
	Op     sched.Op
	Reason string
	Until  time.Time // of Trash and Expire
	Route  string    // of Reroute
}

// Results gives the results that a word means, now, to recipients as the spool
// has them.
func (t *Said) Results(items []sched.Item[*spool.Message], st []spool.RecipientState, now time.Time) []spool.Result {
	var rs []spool.Result
	for _, it := range items {
		s := &st[it.Recipient]
		res := spool.Result{Recipient: int(it.Recipient), Attempts: it.Attempts, Reply: s.Reply, Remote: s.Remote, At: now}
		orders := s.Orders
		switch t.Op {
		case sched.Hold:
			res.State = mail.StateHeld
		case sched.Release:
			res.State = mail.StateActive
		case sched.Drop:
			res.State = mail.StateDropped
		case sched.Bounce:
			res.State, res.Remote = mail.StateFailed, ""
			res.Reply = *mail.NewReply(554, "5.0.0", "returned by the postmaster")
			if t.Reason != "" {
				res.Reply.Text += ": " + t.Reason
			}
		case sched.Trash:
			res.State, res.Next, res.Orders = mail.StateTrashed, t.Until, &orders
			orders.Back = mail.StateActive
			if s.State == mail.StateHeld {
				orders.Back = mail.StateHeld
			}
		case sched.Undrop:
			res.State = orders.Back
		case sched.Reroute:
			res.State, res.Next = s.State, s.Next
			if s.State == mail.StateDeferred {
				res.State, res.Next = mail.StateActive, time.Time{}
			}
			res.Orders = &orders
			orders.Route = t.Route
		case sched.Expire:
			res.State, res.Next, res.Orders = s.State, s.Next, &orders
			orders.EndMS = t.Until.UnixMilli()
		}
		rs = append(rs, res)
	}
	return rs
}

// Applies tells whether an operator's word says something to recipients in
// that state.
func Applies(op sched.Op, st mail.State) bool {
	switch op {
	case sched.Retry, sched.Hold:
		return st == mail.StateActive || st == mail.StateDeferred
	case sched.Release:
		return st == mail.StateHeld
	case sched.Undrop:
		return st == mail.StateTrashed
	case sched.Bounce, sched.Trash, sched.Reroute, sched.Expire:
		return st != mail.StateTrashed
	}
	return true
}

// Nameless is the envelope of a message whose own can't be read.
func Nameless(m *spool.Message) *mail.Envelope {
	return &mail.Envelope{ID: m.ID(), Recipients: make([]mail.Recipient, m.Recipients())}
}
