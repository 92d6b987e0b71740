package queue

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/word"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// hop says where a message goes that is for a domain: to where an operator
// sends it, if he does, or by the routes.
func (r *Runner) hop(via string, env *mail.Envelope, domain string) (mail.NextHop, *mail.Reply) {
	if via == "" {
		return r.o.Router.Route(env.Client.Sender, domain)
	}
	return r.o.Router.Via(via, env.Client.Sender, domain)
}

// lane is the key of hop.
func (r *Runner) lane(via string, env *mail.Envelope, domain string) string {
	hop, reply := r.hop(via, env, domain)
	if reply != nil {
		return unroutable
	}
	return hop.Key
}

// obey lets a recipient that comes from the spool go by an operator's orders.
func (r *Runner) obey(rc *sched.Recipient, o *spool.Orders, env *mail.Envelope) {
	if o.Route != "" {
		rc.Lane = r.lane(o.Route, env, env.Recipients[rc.Index].Addr.Domain)
	}
	if o.EndMS != 0 {
		rc.End = r.clock.ToSched(time.UnixMilli(o.EndMS))
	}
}

// followed is what a recorded word means to the scheduler.
func (r *Runner) followed(op sched.Op, rs *spool.Result, env *mail.Envelope) sched.Result {
	res := sched.Result{State: rs.State}
	if !rs.Next.IsZero() {
		res.Next = r.clock.ToSched(rs.Next)
	}
	switch op {
	case sched.Reroute:
		res.Lane = r.lane(rs.Orders.Route, env, env.Recipients[rs.Recipient].Addr.Domain)
	case sched.Expire:
		res.End = r.clock.ToSched(time.UnixMilli(rs.Orders.EndMS))
		now := r.clock.Sched()
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
		env = word.Nameless(m)
	}
	now := r.clock.Wall()
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
