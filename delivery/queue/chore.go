package queue

import (
	"errors"
	"time"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue/later"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/word"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// postpone records that recipients of a destination that can't be reached
// wait, each by its own schedule. No envelope is read for it.
func (r *Runner) postpone(j *job, ev *event) {
	ev.Results = make([]sched.Result, len(j.Items))
	why := mail.Reply{Code: 451, Enhanced: mail.EnhancedCode{4, 4, 1}, Text: "destination can't be reached"}
	if j.Why != nil {
		why = *j.Why
	}
	now := r.clock.Wall()
	var rs []spool.Result
	for i, it := range j.Items {
		ev.Results[i] = sched.Result{State: mail.StateDeferred, Next: r.clock.Sched().Add(it.Delay)}
		rs = append(rs, spool.Result{Recipient: int(it.Recipient), State: mail.StateDeferred, Attempts: it.Attempts + 1, Next: now.Add(it.Delay), Reply: why, At: now})
		if i+1 == len(j.Items) || j.Items[i+1].Ref != it.Ref {
			r.settle(it.Ref, rs)
			rs = rs[:0]
		}
	}
	r.o.Observer.Postponed(j.Lane, len(j.Items), &why)
}

// stored reads what the spool has of a job's message.
func (r *Runner) stored(j *job) (*mail.Envelope, []spool.RecipientState, error) {
	m := j.Items[0].Ref
	env, err := r.sp.Envelope(m)
	if err != nil {
		return nil, nil, err
	}
	st, err := r.sp.States(m)
	return env, st, err
}

// last gives the outcome of a recipient's last attempt.
func last(it *item, st *spool.RecipientState) mail.Outcome {
	o := mail.Outcome{Recipient: int(it.Recipient), Reply: st.Reply, Remote: st.Remote, At: st.At}
	if o.Reply.Code == 0 {
		o.Reply = *mail.NewReply(451, "4.4.7", "delivery time expired")
	}
	return o
}

// giveUp ends recipients whose time is over.
func (r *Runner) giveUp(j *job, ev *event) {
	ev.Results = make([]sched.Result, len(j.Items))
	m := j.Items[0].Ref
	env, st, err := r.stored(j)
	if err != nil {
		r.unreadable(m, j.Items, ev.Results, err)
		return
	}
	var failed []dsn.Recipient
	var rs []spool.Result
	now := r.clock.Wall()
	for i := range j.Items {
		it := &j.Items[i]
		o := last(it, &st[it.Recipient])
		failed = append(failed, dsn.Recipient{Outcome: o, Expired: true})
		rs = append(rs, spool.Result{Recipient: o.Recipient, State: mail.StateFailed, Attempts: it.Attempts, Reply: o.Reply, Remote: o.Remote, At: now})
		ev.Results[i].State = mail.StateFailed
	}
	if err := r.reportFailed(j.ctx, m, env, failed); err != nil {
		for i := range ev.Results {
			ev.Results[i] = sched.Result{State: mail.StateActive, Next: r.clock.Sched().Add(errorWait)}
		}
		return
	}
	r.settle(m, rs)
	for i := range j.Items {
		e := r.event(m, env, int(j.Items[i].Recipient))
		e.Kind, e.Outcome, e.Attempt = Expired, failed[i].Outcome, int(j.Items[i].Attempts)
		r.o.Observer.Recipient(&e)
		if env.From.IsNull() {
			e.Kind = DoubleBounce
			r.o.Observer.Recipient(&e)
		}
	}
}

// warn tells a sender that its message is late.
func (r *Runner) warn(j *job) {
	m := j.Items[0].Ref
	env, st, err := r.stored(j)
	if err != nil {
		return // it ended meanwhile, or the next attempt will find out
	}
	rep := dsn.Report{Kind: dsn.Delayed}
	for i := range j.Items {
		it := &j.Items[i]
		until := later.End(m.Arrived(), env, r.expire())
		if end := st[it.Recipient].Orders.EndMS; end != 0 {
			until = time.UnixMilli(end)
		}
		if s := &st[it.Recipient]; (s.State == mail.StateDeferred || j.Kind != sched.Warn && s.State == mail.StateActive) && dsn.Wanted(env, int(it.Recipient), dsn.Delayed) {
			rep.Recipients = append(rep.Recipients, dsn.Recipient{Outcome: last(it, s), WillRetryUntil: until})
		}
	}
	if len(rep.Recipients) > 0 {
		_ = r.report(j.ctx, m, env, rep) // logged there; a warning is not worth a second try
	}
}

// tellLate tells a sender that the time is over by which it wanted to be told.
func (r *Runner) tellLate(m *spool.Message) {
	j := job{ctx: r.ctx, action: action{Kind: sched.Deliver}}
	for i := range m.Recipients() {
		j.Items = append(j.Items, item{Ref: m, Recipient: uint32(i)})
	}
	r.warn(&j)
}

// owned tells whether a message is still this node's to deliver.
func (r *Runner) owned(m *spool.Message) bool {
	now, _ := r.sp.Find(m.ID())
	return now == m && r.o.Lease.Holds(m)
}

// tellHeld tells that the sender has a message held.
func (r *Runner) tellHeld(m *spool.Message, env *mail.Envelope) {
	for i := range env.Recipients {
		e := r.event(m, env, i)
		e.Kind, e.Reason = Held, later.Reason(env)
		r.o.Observer.Recipient(&e)
	}
}

// operate records an operator's word.
func (r *Runner) operate(j *job, ev *event) {
	ev.Results = make([]sched.Result, len(j.Items))
	t, failed := r.order(j.Tag), len(j.Items)
	defer func() { r.operated(j.Tag, len(j.Items), failed) }()
	m := j.Items[0].Ref
	if j.Op == sched.Withdraw {
		for i := range ev.Results {
			ev.Results[i].State = mail.StateDropped // from here: nothing is recorded
		}
		failed = 0
		return
	}
	env, st, err := r.stored(j)
	var damage *spool.DamageError
	if errors.As(err, &damage) && (j.Op == sched.Drop || j.Op == sched.Trash) {
		// What can't be read can still be dropped.
		env, st, err = word.Nameless(m), make([]spool.RecipientState, m.Recipients()), nil
	}
	if err != nil {
		r.unreadable(m, j.Items, ev.Results, err)
		return
	}
	rs := t.Said.Results(j.Items, st, r.clock.Wall())
	var bounced []dsn.Recipient
	for i := range rs {
		if rs[i].State == mail.StateFailed {
			bounced = append(bounced, dsn.Recipient{Outcome: mail.Outcome{Recipient: rs[i].Recipient, Reply: rs[i].Reply, At: rs[i].At}})
		}
	}
	if err = r.reportFailed(j.ctx, m, env, bounced); err == nil {
		err = r.sp.SettleDurable(m, rs)
	}
	if err != nil && !isFinished(err) {
		r.o.Log.Error("recording an operator's word", "id", m.ID().String(), "error", err)
		for i := range ev.Results {
			ev.Results[i] = r.unchanged(&st[j.Items[i].Recipient])
		}
		return
	}
	failed = 0
	for i := range rs {
		ev.Results[i] = r.followed(j.Op, &rs[i], env)
		r.observeWord(j.Op, m, env, &rs[i], t.Said.Reason)
	}
}

// observeWord tells of an operator's word that was recorded.
func (r *Runner) observeWord(op sched.Op, m *spool.Message, env *mail.Envelope, rs *spool.Result, reason string) {
	kind, ok := map[sched.Op]EventKind{
		sched.Hold: Held, sched.Release: Released, sched.Drop: Dropped, sched.Bounce: Bounced, sched.Trash: Trashed, sched.Undrop: Undropped,
	}[op]
	if !ok {
		return // where and until when it is tried is no event of its own
	}
	e := r.event(m, env, rs.Recipient)
	e.Kind, e.Attempt, e.Reason, e.Outcome = kind, int(rs.Attempts), reason, mail.Outcome{Recipient: rs.Recipient, Reply: rs.Reply, Remote: rs.Remote, At: rs.At}
	r.o.Observer.Recipient(&e)
	if kind == Bounced && env.From.IsNull() {
		e.Kind = DoubleBounce
		r.o.Observer.Recipient(&e)
	}
}

// unchanged is the result of a recipient whose change could not be recorded:
// it goes on as the spool has it.
func (r *Runner) unchanged(st *spool.RecipientState) sched.Result {
	if st.State == mail.StateHeld || st.State == mail.StateTrashed {
		res := sched.Result{State: st.State}
		if !st.Next.IsZero() {
			res.Next = r.clock.ToSched(st.Next)
		}
		return res
	}
	next := r.clock.Sched().Add(errorWait)
	if at := r.clock.ToSched(st.Next); !st.Next.IsZero() && at.After(next) {
		next = at
	}
	return sched.Result{State: mail.StateActive, Next: next}
}
