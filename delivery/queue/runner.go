package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/clock"
	"github.com/clrelay/clrelay/delivery/queue/keys"
	"github.com/clrelay/clrelay/delivery/queue/later"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/word"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

type (
	action = sched.Action[*spool.Message]
	item   = sched.Item[*spool.Message]
	event  = sched.Event[*spool.Message]
)

// ErrStopping says that the Runner is being shut down.
var ErrStopping = errors.New("queue: stopping")

// freshMax bounds how many envelopes are kept of messages that came while
// their destination was busy, to spare reading them back.
const freshMax = 4096

// unroutable is the lane of recipients that have no next hop. It is no lane
// that a Router gives: their Key has a colon.
const unroutable = "unroutable"

// Runner delivers what a spool holds.
type Runner struct {
	o      Options
	sp     *spool.Spool
	ctx    context.Context // of all jobs
	cancel context.CancelFunc
	clock  clock.Clock
	events sync.Pool // of *intake
	boxes  atomic.Pointer[Mailboxes]
	rules  atomic.Pointer[[]Rule] // nil: there are none
	late   later.Notices

	mu       sync.Mutex
	s        *sched.Scheduler[*spool.Message]
	timer    *time.Timer
	armed    time.Time // when the timer fires; zero: it does not
	cancels  map[sched.JobID]context.CancelFunc
	fresh    map[*spool.Message]*mail.Envelope
	tickets  map[uint64]*word.Ticket // of operators' commands under way
	lastTag  uint64
	jobs     int // running
	stopping bool
	drained  chan struct{} // closed when stopping and jobs is 0
}

// intake is what Enqueue needs for a moment.
type intake struct {
	ev    event
	rcpts []sched.Recipient
}

// job is an action that starts one, with what it runs with.
type job struct {
	action
	ctx context.Context
	env *mail.Envelope // nil: not at hand
}

// New makes a Runner that waits for Start.
func New(o Options) *Runner {
	o = o.withDefaults()
	r := &Runner{
		o: o, clock: clock.New(),
		s:       sched.New[*spool.Message](o.Schedule, rand.New(o.Rand)),
		cancels: map[sched.JobID]context.CancelFunc{},
		fresh:   map[*spool.Message]*mail.Envelope{},
		tickets: map[uint64]*word.Ticket{},
		drained: make(chan struct{}),
	}
	r.late.Alive, r.late.Tell = r.owned, r.tellLate
	r.boxes.Store(&o.Mailboxes)
	r.events.New = func() any { return &intake{} }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.timer = time.AfterFunc(time.Hour, func() { r.step(&event{Kind: sched.Tick}, nil) })
	r.timer.Stop()
	return r
}

// Start takes over what of the spool's is this node's to deliver, and begins.
// An error is that of spool.Each.
func (r *Runner) Start(sp *spool.Spool) error {
	r.sp = sp
	if err := sp.Each(r.Resume); err != nil {
		return fmt.Errorf("queue: loading: %w", err)
	}
	r.step(&event{Kind: sched.Run}, nil)
	return nil
}

// Enqueue takes a message that the spool has just made durable; it is the
// spool's Options.Accepted. env may be kept and must not be changed any more.
func (r *Runner) Enqueue(m *spool.Message, env *mail.Envelope) {
	in := r.events.Get().(*intake)
	in.fill(r, m, env)
	if later.Held(env, r.clock.Wall()) {
		r.tellHeld(m, env)
		env = nil // it is read again in time
	}
	in.ev.Recipients = in.rcpts
	r.step(&in.ev, env)
	in.ev.Ref = nil
	r.events.Put(in)
}

// Resume takes a message that the spool has had for longer, with its
// recipients where they stand; env is read during the call alone.
func (r *Runner) Resume(m *spool.Message, env *mail.Envelope, st []spool.RecipientState) {
	in := r.events.Get().(*intake)
	in.fill(r, m, env)
	kept := in.rcpts[:0]
	for i := range in.rcpts {
		rc := in.rcpts[i]
		if rc.State = st[i].State; rc.State.Final() {
			continue
		}
		rc.Attempts, rc.Next = st[i].Attempts, time.Time{}
		if o := &st[i].Orders; *o != (spool.Orders{}) {
			r.obey(&rc, o, env)
		}
		if !st[i].Next.IsZero() {
			rc.Next = r.clock.ToSched(st[i].Next)
		}
		kept = append(kept, rc)
	}
	in.ev.Recipients = kept
	r.step(&in.ev, nil)
	in.ev.Ref = nil
	r.events.Put(in)
}

// fill makes the event that adds a message, all of its recipients active.
func (in *intake) fill(r *Runner, m *spool.Message, env *mail.Envelope) {
	begins := later.Begins(m.Arrived(), env)
	in.ev = event{Kind: sched.Add, Ref: m, Arrived: r.clock.ToSched(begins), Sender: keys.Sender(env.From), Class: r.o.Class(env.Client.Sender)}
	in.rcpts = in.rcpts[:0]
	terms := later.TermsOf(m.Arrived(), env, r.expire, r.clock.ToSched)
	var domain, key string
	var number uint16
	for i := range env.Recipients {
		if d := env.Recipients[i].Addr.Domain; i == 0 || d != domain {
			domain, key, number = d, r.lane("", env, d), keys.Domain(d)
		}
		in.rcpts = append(in.rcpts, terms.Recipient(sched.Recipient{Index: uint32(i), Lane: key, Domain: number}))
	}
	if !env.By.At.IsZero() {
		r.late.Add(m, env, begins.Add(r.expire()))
	}
}

// Configure sets another schedule and other limits, for what happens from now
// on.
func (r *Runner) Configure(c sched.Config, m Mailboxes) {
	r.boxes.Store(&m)
	r.mu.Lock()
	r.s.Configure(c)
	r.mu.Unlock()
	r.step(&event{Kind: sched.Tick}, nil)
}

// LimitsChanged lets deliveries that wait for a limit ask again now.
func (r *Runner) LimitsChanged() { r.step(&event{Kind: sched.Relax}, nil) }

// Shutdown starts nothing more, waits for what runs until ctx ends, then
// aborts it: what has not sent its final dot stays queued as it was, and of
// what has, the next start knows that it may be delivered. The error is that
// of ctx.
func (r *Runner) Shutdown(ctx context.Context) error {
	r.step(&event{Kind: sched.Pause}, nil)
	r.mu.Lock()
	if !r.stopping {
		r.stopping = true
		r.timer.Stop()
		if r.jobs == 0 {
			close(r.drained)
		}
	}
	r.mu.Unlock()
	defer r.late.Stop()
	defer r.cancel()
	select {
	case <-r.drained:
		return nil
	case <-ctx.Done():
	}
	r.cancel()
	<-r.drained
	return ctx.Err()
}

// step gives the scheduler an event and starts the jobs that follow. env is
// that of an added message, to be given to its first delivery.
func (r *Runner) step(ev *event, env *mail.Envelope) {
	var buf [4]job
	for _, j := range r.stepped(ev, env, buf[:0]) {
		go r.work(j)
	}
}

// work does a job, and one of those that follow from its end, and so on: a
// goroutine whose stack has grown to the depth of a delivery is worth keeping.
func (r *Runner) work(j job) {
	for {
		ev := r.do(j)
		var buf [4]job
		next := r.stepped(&ev, nil, buf[:0])
		if len(next) == 0 {
			return
		}
		j = next[0]
		for _, n := range next[1:] {
			go r.work(n)
		}
	}
}

// stepped gives the scheduler an event and appends the jobs that follow.
func (r *Runner) stepped(ev *event, env *mail.Envelope, jobs []job) []job {
	now := r.clock.Sched()
	var cancels []context.CancelFunc
	r.mu.Lock()
	if ev.Kind == sched.Finished {
		if cancel := r.cancels[ev.Job]; cancel != nil {
			delete(r.cancels, ev.Job)
			cancels = append(cancels, cancel) // frees what the context holds
		}
		r.jobs--
	}
	atHand := false
	for _, a := range r.s.Step(now, ev) {
		switch a.Kind {
		case sched.Cancel:
			cancels = append(cancels, r.cancels[a.Job])
			continue
		case sched.Answer, sched.Overtaken:
			r.tickets[a.Tag].Answer(&a)
			r.forget(a.Tag, r.tickets[a.Tag])
			continue
		}
		j := job{action: a, ctx: r.ctx}
		if a.Kind == sched.Operate && ev.Kind == sched.Finished {
			r.tickets[a.Tag].Answer(&a)
		}
		if a.Kind == sched.Deliver {
			j.ctx, j.env = r.begin(&a, ev, env)
			atHand = atHand || j.env != nil
		}
		r.jobs++
		jobs = append(jobs, j)
	}
	if env != nil && !atHand {
		r.keepFresh(ev.Ref, env)
	}
	if r.stopping && r.jobs == 0 {
		select {
		case <-r.drained:
		default:
			close(r.drained)
		}
	}
	r.arm(now, ev.Kind == sched.Tick)
	r.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
	return jobs
}

// begin gives a delivery its context and its envelope, where it is at hand.
// r.mu is held.
func (r *Runner) begin(a *action, ev *event, env *mail.Envelope) (context.Context, *mail.Envelope) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.cancels[a.Job] = cancel
	m := a.Items[0].Ref
	if ev.Kind == sched.Add && ev.Ref == m {
		return ctx, env
	}
	env = r.fresh[m]
	if env != nil {
		delete(r.fresh, m)
	}
	return ctx, env
}

// keepFresh keeps an envelope until its message's turn comes. r.mu is held.
func (r *Runner) keepFresh(m *spool.Message, env *mail.Envelope) {
	if len(r.fresh) >= freshMax {
		clear(r.fresh) // older ones are read back: cheaper than knowing which are gone
	}
	r.fresh[m] = env
}

// arm sees that the timer fires when the scheduler wants to be woken. r.mu is
// held.
func (r *Runner) arm(now time.Time, fired bool) {
	if fired {
		r.armed = time.Time{}
	}
	at, ok := r.s.Wake()
	if !ok || r.stopping || !r.armed.IsZero() && !at.Before(r.armed) {
		return
	}
	r.armed = at
	r.timer.Reset(at.Sub(now))
}

// do carries out a job and gives the event that ends it.
func (r *Runner) do(j job) event {
	ev := event{Kind: sched.Finished, Job: j.Job}
	switch j.Kind {
	case sched.Deliver:
		r.deliver(&j, &ev)
	case sched.Postpone:
		r.postpone(&j, &ev)
	case sched.GiveUp:
		r.giveUp(&j, &ev)
	case sched.Warn:
		r.warn(&j)
	case sched.Operate:
		r.operate(&j, &ev)
	case sched.Purge:
		r.purge(&j, &ev)
	}
	return ev
}
