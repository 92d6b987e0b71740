package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue/clock"
	"github.com/clrelay/clrelay/delivery/queue/limits"
	"github.com/clrelay/clrelay/delivery/queue/reach"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/whole"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// leaseWait is how long a message without a lease waits until it is asked for
// again; errorWait, one that can't be read for now.
const (
	leaseWait = time.Second
	errorWait = time.Minute
)

// errNoLease aborts a delivery before its final dot.
var errNoLease = errors.New("queue: the lease is gone")

// errInternal is what a Deliverer that breaks its word is taken to have said.
var errInternal = mail.Reply{Code: 451, Enhanced: mail.EnhancedCode{4, 3, 0}, Text: "no result"}

// try is one Deliver job on its way.
type try struct {
	r        *Runner
	m        *spool.Message
	env      *mail.Envelope
	hop      mail.NextHop
	items    []item
	outcomes []mail.Outcome // one for each of items; of those that were not tried, the zero value
	tried    []bool         // it has an outcome that counts
	marked   []bool         // the log says that it may be under way
	results  []sched.Result
	content  whole.Content
	noLease  bool
	asks     sched.JobID   // others wait for what a limit says to this one; 0: nobody
	denied   *allow.Denied // what a limit said, but of a domain
	said     *allow.Denied // the last that was told to the Observer
	now      time.Time     // when the outcomes came, by the wall clock
}

// deliver makes one attempt at one next hop and records what came of it.
func (r *Runner) deliver(j *job, ev *event) {
	t := &try{
		r: r, m: j.Items[0].Ref, env: j.env, items: j.Items,
		outcomes: make([]mail.Outcome, len(j.Items)), tried: make([]bool, len(j.Items)),
		marked: make([]bool, len(j.Items)), results: make([]sched.Result, len(j.Items)),
	}
	ev.Results = t.results
	if t.env == nil {
		env, err := r.sp.Envelope(t.m)
		if err != nil {
			r.unreadable(t.m, t.items, t.results, err)
			return
		}
		t.env = env
	}
	t.content.Content = r.sp.Content(t.m)
	if j.Asks {
		t.asks = j.Job
	}
	if send := t.heldBack(j.Lane, t.route(j.Lane)); len(send) > 0 {
		t.attempts(j.ctx, send)
	}
	t.now = r.clock.Wall()
	t.judge(j.ctx)
	if t.content.Damage.Load() == nil {
		ev.Reach, ev.Why = reach.Of(t.outcomes, t.tried)
	}
	ev.Denied = limits.Denied(t.denied, r.clock.Sched())
	t.reportFailures(j.ctx)
	t.reportSuccess(j.ctx)
	t.record()
	t.observe()
}

// unreadable ends a job whose message's envelope can't be read. Damage will
// not heal: such a message waits for the operator.
func (r *Runner) unreadable(m *spool.Message, items []item, results []sched.Result, err error) {
	var damage *spool.DamageError
	switch {
	case errors.Is(err, spool.ErrFinished):
		for i := range results {
			results[i].State = mail.StateDropped // it is gone already
		}
	case errors.As(err, &damage) && r.o.Lease.Elsewhere(m):
		r.o.Log.Error("an envelope is damaged: another node is to deliver the message", "id", m.ID().String(), "error", err)
		for i := range results {
			results[i] = sched.Result{State: mail.StateActive, Next: r.clock.Sched().Add(errorWait)}
		}
	case errors.As(err, &damage):
		r.o.Log.Error("holding a message whose envelope is damaged", "id", m.ID().String(), "error", err)
		rs := make([]spool.Result, len(items))
		for i, it := range items {
			results[i].State = mail.StateHeld
			rs[i] = spool.Result{Recipient: int(it.Recipient), State: mail.StateHeld, Attempts: it.Attempts, At: r.clock.Wall(),
				Reply: *mail.NewReply(451, "4.3.0", "envelope damaged in the relay's store")}
		}
		r.settle(m, rs)
		for range items {
			r.o.Observer.Recipient(&Event{Kind: Held, ID: m.ID(), Delay: r.clock.Wall().Sub(m.Arrived()), Reason: "envelope damaged"})
		}
	default:
		r.o.Log.Error("reading an envelope", "id", m.ID().String(), "error", err)
		for i := range results {
			results[i] = sched.Result{State: mail.StateActive, Next: r.clock.Sched().Add(errorWait)}
		}
	}
}

// route finds out where the recipients go now. It gives those that belong to
// this lane, as places in items; the others move, or have no next hop.
func (t *try) route(lane string) (send []int) {
	var domain, via, key string
	var hop mail.NextHop
	var reply *mail.Reply
	orders := t.r.sp.Orders(t.m)
	for i, it := range t.items {
		to := ""
		if orders != nil {
			to = orders[it.Recipient].Route
		}
		if d := t.env.Recipients[it.Recipient].Addr.Domain; i == 0 || d != domain || to != via {
			domain, via, key = d, to, unroutable
			if hop, reply = t.r.hop(to, t.env, d); reply == nil {
				key = hop.Key
			}
		}
		switch {
		case key != lane:
			t.results[i] = sched.Result{State: mail.StateActive, Lane: key}
		case reply != nil:
			t.tried[i] = true
			t.outcomes[i] = mail.Outcome{Recipient: int(it.Recipient), Reply: *reply, At: t.r.clock.Wall()}
		default:
			t.hop = hop
			send = append(send, i)
		}
	}
	return send
}

// attempts lets the Deliverer try all, one after the other those that a limit
// is to be asked about by themselves. Where a limit keeps all, or the next hop
// takes nothing, the others stay as they are.
func (t *try) attempts(ctx context.Context, send []int) {
	parts := [][]int{send}
	if t.r.o.Limits != nil {
		parts = limits.Parts(send, &t.hop, t.env, t.items, t.r.o.Limits.ByDomain)
	}
	for _, part := range parts {
		t.attempt(ctx, part)
		if got, _ := reach.Of(t.outcomes, t.tried); t.denied != nil || t.noLease || ctx.Err() != nil || got == sched.Unreachable || got == sched.Overloaded {
			return
		}
	}
}

// attempt lets the Deliverer try.
func (t *try) attempt(ctx context.Context, send []int) {
	if !t.r.o.Lease.Holds(t.m) {
		t.noLease = true
		t.later(send, leaseWait)
		return
	}
	rcpts := make([]int, len(send))
	for i, place := range send {
		rcpts[i] = int(t.items[place].Recipient)
	}
	at := &delivery.Attempt{Envelope: t.env, Recipients: rcpts, Content: &t.content}
	if denied := t.admit(ctx, at); denied != nil {
		for _, i := range send {
			t.keep(i, denied)
		}
		return
	}
	defer at.Permit.Drop()
	mark := t.r.sp.Attempt(t.m, rcpts)
	var final *spool.FinalError
	if errors.As(mark.Err(), &final) {
		// Another node's results came after it was this node's to deliver.
		send = slices.DeleteFunc(send, func(i int) bool {
			done := slices.Contains(final.Recipients, int(t.items[i].Recipient))
			if done {
				t.results[i].State = mail.StateDropped // from here: nothing is recorded
			}
			return done
		})
		if at.Permit.Drop(); len(send) > 0 {
			t.attempt(ctx, send)
		}
		return
	}
	if err := mark.Err(); errors.Is(err, spool.ErrFinished) || errors.Is(err, spool.ErrNotOwner) {
		for _, i := range send {
			t.results[i].State = mail.StateDropped // from here: it is done, or another node's
		}
		return
	}
	at.BeforeDot = func() error {
		// Behind the dot lies the possible duplicate: what is sent must be
		// ours to send, and the next start must be able to know of it.
		if err := mark.Wait(); err != nil {
			return err
		}
		if !t.r.o.Lease.Holds(t.m) {
			t.noLease = true
			return errNoLease
		}
		return nil
	}
	outs := t.r.o.Deliverer.Deliver(ctx, t.hop, at)
	for _, place := range send {
		want := int(t.items[place].Recipient)
		t.tried[place], t.marked[place] = true, true
		t.outcomes[place] = mail.Outcome{Recipient: want, Reply: errInternal, At: t.r.clock.Wall()}
		if i := slices.IndexFunc(outs, func(o mail.Outcome) bool { return o.Recipient == want }); i >= 0 {
			t.outcomes[place] = outs[i]
		}
	}
}

// admit asks the limits whether the attempt may begin.
func (t *try) admit(ctx context.Context, at *delivery.Attempt) *allow.Denied {
	if t.r.o.Limits == nil {
		return nil
	}
	at.Subject = limits.Subject(t.env, t.env.Recipients[at.Recipients[0]].Addr.Domain, &t.hop)
	if denied := t.r.o.Limits.Admit(ctx, &t.hop, at); denied != nil {
		return denied
	}
	if t.asks != 0 {
		t.r.step(&event{Kind: sched.Admitted, Job: t.asks}, nil)
		t.asks = 0
	}
	return nil
}

// keep leaves a recipient as it is, for a limit said so: nothing is recorded.
func (t *try) keep(place int, d *allow.Denied) {
	t.tried[place] = false
	t.results[place] = sched.Result{State: mail.StateActive}
	if limits.ByDomain(d, &t.hop) {
		t.results[place].Denied = limits.Denied(d, t.r.clock.Sched())
	} else {
		t.denied = d
	}
	if t.said != d {
		t.said = d
		t.r.o.Observer.Limited(t.hop.Key, d)
	}
}

// later puts recipients back that were not tried.
func (t *try) later(places []int, wait time.Duration) {
	for _, i := range places {
		t.tried[i] = false
		t.results[i] = sched.Result{State: mail.StateActive, Next: t.r.clock.Sched().Add(wait)}
	}
}

// judge turns outcomes into results.
func (t *try) judge(ctx context.Context) {
	damage := t.content.Damage.Load()
	elsewhere := damage != nil && t.r.o.Lease.Elsewhere(t.m)
	if damage != nil {
		t.r.o.Log.Error("the content of a message is damaged", "id", t.m.ID().String(), "another_node_delivers", elsewhere, "error", damage.Error())
	}
	for i := range t.items {
		if !t.tried[i] {
			continue
		}
		o := &t.outcomes[i]
		switch {
		case o.Reply.Positive():
			t.results[i].State = mail.StateDelivered
		case elsewhere && !o.Reply.Permanent() && !o.Unsure:
			t.later([]int{i}, errorWait)
		case damage != nil && !o.Reply.Permanent():
			o.Reply = *mail.NewReply(554, "5.3.0", "the message is damaged in the relay's store").WithCause(damage)
			t.results[i].State = mail.StateFailed
		case o.Reply.Permanent():
			t.results[i].State = mail.StateFailed
		case o.Unsure && t.r.ctx.Err() != nil:
			// Shutdown did not wait for the answer. Without a result the next
			// start sees a delivery that was begun, and counts it as a
			// possible duplicate; this process's count is read by nobody now.
			t.tried[i], t.marked[i] = false, false
			t.results[i] = sched.Result{State: mail.StateActive}
		case limits.Of(&o.Reply) != nil && !o.Unsure:
			t.keep(i, limits.Of(&o.Reply))
		case ctx.Err() != nil && !o.Unsure:
			t.tried[i] = false
			t.results[i] = sched.Result{State: mail.StateActive}
		case t.noLease && !o.Unsure:
			t.later([]int{i}, leaseWait)
		case t.items[i].Last:
			t.results[i].State = mail.StateFailed
		default:
			t.postpone(i)
		}
	}
}

// postpone lets a recipient wait by its schedule, or as long as the next hop
// asked for.
func (t *try) postpone(i int) {
	t.results[i] = sched.Result{State: mail.StateDeferred, Next: t.r.clock.Sched().Add(clock.Pause(t.items[i].Delay, t.outcomes[i].Wait, t.items[i].Attempts))}
}

// record writes the results into the spool.
func (t *try) record() {
	rs := make([]spool.Result, 0, len(t.items))
	for i, it := range t.items {
		o := &t.outcomes[i]
		res := spool.Result{Recipient: int(it.Recipient), State: t.results[i].State, Attempts: it.Attempts + 1, Reply: o.Reply, Remote: o.Remote, At: t.now}
		switch {
		case !t.tried[i] && !t.marked[i]:
			continue
		case !t.tried[i]:
			// Aborted before the final dot: without a word from us the next
			// start would take it for a possible duplicate.
			res = t.asBefore(it)
		case res.State == mail.StateDeferred:
			res.Next = t.r.clock.ToWall(t.results[i].Next)
		}
		rs = append(rs, res)
	}
	t.r.settle(t.m, rs)
}

// asBefore is the result that says nothing new.
func (t *try) asBefore(it item) spool.Result {
	res := spool.Result{Recipient: int(it.Recipient), State: mail.StateActive, Attempts: it.Attempts, At: t.now}
	if it.Attempts > 0 {
		if st, err := t.r.sp.States(t.m); err == nil { // else its last reply is forgotten: no harm
			res.Reply, res.Remote, res.At = st[it.Recipient].Reply, st[it.Recipient].Remote, st[it.Recipient].At
		}
	}
	return res
}

// settle records results. When the disk is too full even for that it waits
// for room: what the next hop took must not be sent again. Of any other error
// the spool ends the process.
func (r *Runner) settle(m *spool.Message, rs []spool.Result) {
	r.settleWith(r.sp.Settle, m, rs)
}

func (r *Runner) settleWith(write func(*spool.Message, []spool.Result) error, m *spool.Message, rs []spool.Result) {
	if len(rs) == 0 {
		return
	}
	for warned := false; ; warned = true {
		err := write(m, rs)
		if err == nil || errors.Is(err, spool.ErrFinished) || errors.Is(err, spool.ErrNotOwner) {
			return // another node may deliver it again: that was counted when it took over
		}
		if !errors.Is(err, spool.ErrNoSpace) || r.ctx.Err() != nil {
			r.o.Log.Error("recording results", "id", m.ID().String(), "error", err)
			return
		}
		if !warned {
			r.o.Log.Error("recording results: waiting for room on the disk", "id", m.ID().String(), "error", err)
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// observe tells what happened to whom.
func (t *try) observe() {
	for i, it := range t.items {
		if !t.tried[i] {
			continue
		}
		e := t.r.event(t.m, t.env, int(it.Recipient))
		e.Tried, e.Outcome, e.Attempt = true, t.outcomes[i], int(it.Attempts)+1
		switch t.results[i].State {
		case mail.StateDelivered:
			e.Kind = Delivered
		case mail.StateDeferred:
			e.Kind, e.Next = Deferred, t.r.clock.ToWall(t.results[i].Next)
		default:
			e.Kind = Bounced
			if !t.outcomes[i].Reply.Permanent() {
				e.Kind = Expired
			}
		}
		t.r.o.Observer.Recipient(&e)
		if (e.Kind == Bounced || e.Kind == Expired) && t.env.From.IsNull() {
			e.Kind = DoubleBounce
			t.r.o.Observer.Recipient(&e)
		}
	}
}

// event begins an Event.
func (r *Runner) event(m *spool.Message, env *mail.Envelope, rcpt int) Event {
	return Event{ID: m.ID(), From: env.From, To: env.Recipients[rcpt].Addr, Delay: r.clock.Wall().Sub(m.Arrived())}
}

// reportFailures tells the sender of those that failed for good, before that
// is recorded. If the report can't be stored they have not failed yet.
func (t *try) reportFailures(ctx context.Context) {
	var failed []dsn.Recipient
	for i := range t.items {
		if t.tried[i] && t.results[i].State == mail.StateFailed {
			failed = append(failed, dsn.Recipient{Outcome: t.outcomes[i], Expired: !t.outcomes[i].Reply.Permanent()})
		}
	}
	if err := t.r.reportFailed(ctx, t.m, t.env, failed); err != nil {
		for i := range t.items {
			if t.results[i].State == mail.StateFailed {
				t.postpone(i)
			}
		}
	}
}

// reportSuccess tells senders who asked for it. With the results recorded the
// message may be gone, and with it what a report quotes.
func (t *try) reportSuccess(ctx context.Context) {
	var delivered []dsn.Recipient
	kind := dsn.None
	for i := range t.items {
		if t.tried[i] && t.results[i].State == mail.StateDelivered {
			if k := dsn.ForOutcome(t.outcomes[i], t.hop.Kind); k != dsn.None && dsn.Wanted(t.env, t.outcomes[i].Recipient, k) {
				kind = k // the same for all: there is one next hop
				delivered = append(delivered, dsn.Recipient{Outcome: t.outcomes[i]})
			}
		}
	}
	if len(delivered) > 0 {
		_ = t.r.report(ctx, t.m, t.env, dsn.Report{Kind: kind, Recipients: delivered}) // logged there
	}
}
