package queue

import (
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
	"github.com/clrelay/clrelay/spool"
)

// hop says where mail for a domain goes: to where an operator sends it, if he
// does, or by the routes.
func (r *Runner) hop(via, domain string) (mail.NextHop, *mail.Reply) {
	if via == "" {
		return r.o.Router.Route(domain)
	}
	return r.o.Router.Via(via, domain)
}

// lane is the key of hop.
func (r *Runner) lane(via, domain string) string {
	hop, reply := r.hop(via, domain)
	if reply != nil {
		return unroutable
	}
	return hop.Key
}

// obey lets a recipient that comes from the spool go by an operator's orders.
func (r *Runner) obey(rc *sched.Recipient, o *spool.Orders, domain string) {
	if o.Route != "" {
		rc.Lane = r.lane(o.Route, domain)
	}
	if o.EndMS != 0 {
		rc.End = r.clock.toSched(time.UnixMilli(o.EndMS))
	}
}

// domainKey gives a domain a number that is the same for all its forms. The
// queue knows no more of a domain than that: what it rules out need not be
// read.
func domainKey(domain string) uint16 {
	if strings.HasPrefix(domain, "[") || !isASCII(domain) {
		if n, err := names.Normalize(domain); err == nil {
			domain = n
		}
	}
	domain = strings.TrimSuffix(domain, ".")
	h := uint32(2166136261) // FNV-1a
	for i := range len(domain) {
		c := domain[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint32(c)) * 16777619
	}
	return uint16(h ^ h>>16)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// word gives the results that an operator's word means to recipients as the
// spool has them.
func (r *Runner) word(j *job, st []spool.RecipientState, t *ticket) []spool.Result {
	now := r.clock.wall()
	var rs []spool.Result
	for _, it := range j.Items {
		s := &st[it.Recipient]
		res := spool.Result{Recipient: int(it.Recipient), Attempts: it.Attempts, Reply: s.Reply, Remote: s.Remote, At: now}
		orders := s.Orders
		switch j.Op {
		case sched.Hold:
			res.State = mail.StateHeld
		case sched.Release:
			res.State = mail.StateActive
		case sched.Drop:
			res.State = mail.StateDropped
		case sched.Bounce:
			res.State, res.Remote = mail.StateFailed, ""
			res.Reply = *mail.NewReply(554, "5.0.0", "returned by the postmaster")
			if t.reason != "" {
				res.Reply.Text += ": " + t.reason
			}
		case sched.Trash:
			res.State, res.Next, res.Orders = mail.StateTrashed, t.until, &orders
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
			orders.Route = t.route
		case sched.Expire:
			res.State, res.Next, res.Orders = s.State, s.Next, &orders
			orders.EndMS = t.until.UnixMilli()
		}
		rs = append(rs, res)
	}
	return rs
}

// followed is what a recorded word means to the scheduler.
func (r *Runner) followed(op sched.Op, rs *spool.Result, domain string) sched.Result {
	res := sched.Result{State: rs.State}
	if !rs.Next.IsZero() {
		res.Next = r.clock.toSched(rs.Next)
	}
	switch op {
	case sched.Reroute:
		res.Lane = r.lane(rs.Orders.Route, domain)
	case sched.Expire:
		res.End = r.clock.toSched(time.UnixMilli(rs.Orders.EndMS))
		now := r.clock.sched()
		switch {
		case rs.State == mail.StateDeferred && res.Next.After(now):
			res.Same = true
		case rs.State != mail.StateDeferred && rs.State != mail.StateActive:
		case res.End.After(now):
			res.State, res.Next = mail.StateActive, time.Time{}
		default: // its end has come, and it is not to be tried before
			res.State, res.Same, res.Next = mail.StateDeferred, true, now.Add(time.Second)
		}
	}
	return res
}

// purge ends recipients whose time in the trash is over.
func (r *Runner) purge(j *job, ev *event) {
	ev.Results = make([]sched.Result, len(j.Items))
	m := j.Items[0].Ref
	env, _, err := r.stored(j)
	if isFinished(err) {
		for i := range ev.Results {
			ev.Results[i].State = mail.StateDropped
		}
		return
	}
	if err != nil { // what can't be read can be destroyed
		env = nameless(m)
	}
	now := r.clock.wall()
	var rs []spool.Result
	for i, it := range j.Items {
		rs = append(rs, spool.Result{Recipient: int(it.Recipient), State: mail.StateDropped, Attempts: it.Attempts, At: now})
		ev.Results[i].State = mail.StateDropped
	}
	r.settleWith(r.sp.SettleDurable, m, rs)
	for i := range rs {
		e := r.event(m, env, rs[i].Recipient)
		e.Kind, e.Attempt, e.Reason = Dropped, int(rs[i].Attempts), "its time in the trash is over"
		r.o.Observer.Recipient(&e)
	}
}

// nameless is the envelope of a message whose own can't be read.
func nameless(m *spool.Message) *mail.Envelope {
	return &mail.Envelope{ID: m.ID(), Recipients: make([]mail.Recipient, m.Recipients())}
}
