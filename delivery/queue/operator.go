package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/walk"
	"github.com/clrelay/clrelay/delivery/queue/word"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

const (
	// changeWindow is how many messages a Change works on at a time, so that
	// one fsync records many of them.
	changeWindow = 128
	// changePatience is how long a Change waits for deliveries under way.
	changePatience = 5 * time.Second
	// maxSamples is how many IDs a Changed names.
	maxSamples = 3
)

// Selector picks recipients; see there.
type Selector = walk.Selector

// Counts says how much is queued.
type Counts = sched.Counts

// Counts says how much is queued. It costs nothing.
func (r *Runner) Counts() Counts {
	r.mu.Lock()
	c := r.s.Counts()
	r.mu.Unlock()
	if !c.Oldest.IsZero() {
		c.Oldest = r.clock.ToWall(c.Oldest)
	}
	return c
}

// Lane is what the queue knows of a destination.
type Lane = sched.LaneView

// Destinations shows all that are known, in no order, while the queue stands
// still: some milliseconds for 100,000. The Lane belongs to the call.
func (r *Runner) Destinations(visit func(*Lane)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Destinations(func(l *Lane) {
		if !l.Next.IsZero() {
			l.Next = r.clock.ToWall(l.Next)
		}
		visit(l)
	})
}

// Row is one recipient in the queue.
type Row struct {
	ID        mail.ID
	From, To  mail.Address
	State     mail.State
	Size      int64
	Arrived   time.Time
	Attempts  uint32
	Next      time.Time    // of a deferred one, of one that waits until its destination is tried again, that is held for a time or in the trash; else zero
	LastReply mail.Reply   // zero when there is none
	Limit     *mail.Reply  // which limit it waits for, until Next; nil: none
	Client    *mail.Client // where it came from
	Lane      string       // where it goes next
	Orders    spool.Orders // what an operator said of it
}

// List calls visit for each recipient that sel picks, in the order of arrival,
// until visit returns an error, which it returns. The Row is valid during the
// call alone.
func (r *Runner) List(ctx context.Context, sel Selector, visit func(*Row) error) error {
	return r.list(ctx, sel, walk.Needs{Envelope: true, Reply: true}, visit)
}

// Scan is List without the last reply, for which it need not read from disk.
func (r *Runner) Scan(ctx context.Context, sel Selector, visit func(*Row) error) error {
	return r.list(ctx, sel, walk.Needs{Envelope: true}, visit)
}

func (r *Runner) list(ctx context.Context, sel Selector, reads walk.Needs, visit func(*Row) error) error {
	var row Row
	return r.walker().Walk(ctx, sel, reads, func(p *walk.Picked) error {
		for i := range p.Recipients {
			v := &p.Recipients[i]
			row = Row{ID: p.Message.ID(), State: v.State, Size: p.Message.Size(), Arrived: p.Message.Arrived(), Attempts: v.Attempts, Lane: v.Lane}
			if p.Envelope != nil {
				row.From, row.To, row.Client = p.Envelope.From, p.Envelope.Recipients[v.Index].Addr, &p.Envelope.Client
			}
			if p.Orders != nil {
				row.Orders = p.Orders[v.Index]
			}
			if v.Limited {
				row.Limit = v.Why
			}
			if !v.Next.IsZero() {
				row.Next = r.clock.ToWall(v.Next)
			}
			if reads.Reply {
				row.LastReply = p.Reply(v)
			}
			if err := visit(&row); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Runner) walker() *walk.Walker {
	return &walk.Walker{Mu: &r.mu, Sched: r.s, Spool: r.sp, Log: r.o.Log}
}

func isFinished(err error) bool { return errors.Is(err, spool.ErrFinished) }

// Op is an operator's word.
type Op = sched.Op

// Change is an operator's word on what a Selector picks.
type Change struct {
	Op       Op
	Selector Selector
	DryRun   bool
	Expect   *int64 // the number of recipients; nil is any
	Reason   string
	// Progress is told now and then how much was picked so far; nil is nobody.
	Progress func(messages, recipients, bytes int64)
	Until    time.Time // of Trash: until when it can be taken back; of Expire: when they are given up
	Route    string    // of Reroute: where, as Router.Via takes it; empty: by the routes again
}

// Changed says what a Change did, or in a dry run would do.
type Changed struct {
	Messages, Recipients int64
	Bytes                int64     // of the messages
	Oldest               time.Time // zero when there is none
	Samples              []mail.ID // up to three
	// Failed are recipients that were picked and not changed (none of a Retry): they ended
	// meanwhile, their delivery goes on (the word holds for when it fails), or
	// it could not be recorded.
	Failed int64
}

// ExpectError says that a Change would have met another number of recipients
// than its caller expected; nothing was changed.
type ExpectError struct{ Want, Got int64 }

// Error tells both numbers.
func (e *ExpectError) Error() string {
	return fmt.Sprintf("queue: expected %d recipients, found %d: nothing was changed", e.Want, e.Got)
}

// applicable is a Selector of recipients that a word applies to.
type applicable struct {
	Selector
	op Op
}

func (a applicable) MatchRecipient(st mail.State, attempts uint32, lane string) bool {
	return word.Applies(a.op, st) && a.Selector.MatchRecipient(st, attempts, lane)
}

// Domains passes the hint on.
func (a applicable) Domains() []string {
	if named, ok := a.Selector.(interface{ Domains() []string }); ok {
		return named.Domains()
	}
	return nil
}

// Change carries out an operator's word. It returns when everything is on
// stable storage. The queue works on meanwhile. If ctx ends, what was begun is
// done.
func (r *Runner) Change(ctx context.Context, c Change) (Changed, error) {
	sel := applicable{c.Selector, c.Op}
	var sum Changed
	if c.DryRun || c.Expect != nil {
		if err := r.walker().Walk(ctx, sel, walk.Needs{}, func(p *walk.Picked) error { sum.add(p); return nil }); err != nil {
			return Changed{}, err
		}
		if c.Expect != nil && *c.Expect != sum.Recipients {
			return Changed{}, &ExpectError{*c.Expect, sum.Recipients}
		}
		if c.DryRun {
			return sum, nil
		}
		sum = Changed{}
	}
	tag, t, err := r.ticket(&c)
	if err != nil {
		return Changed{}, err
	}
	err = r.walker().Walk(ctx, sel, walk.Needs{}, func(p *walk.Picked) error {
		sum.add(p)
		ev := event{Kind: sched.Command, Op: c.Op, Msg: p.Msg, Ref: p.Message, Tag: tag}
		for _, v := range p.Recipients {
			ev.Which = append(ev.Which, v.Index)
		}
		slices.Sort(ev.Which)
		r.step(&ev, nil)
		if c.Progress != nil {
			c.Progress(sum.Messages, sum.Recipients, sum.Bytes)
		}
		return r.settled(ctx, t, changeWindow)
	})
	if err == nil {
		waitCtx, cancel := context.WithTimeout(ctx, changePatience)
		defer cancel()
		if err = r.settled(waitCtx, t, 0); ctx.Err() == nil {
			err = nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Left = true
	r.forget(tag, t)
	if c.Op != sched.Retry { // what ended meanwhile needs no further try
		sum.Failed = sum.Recipients - int64(t.Changed)
	}
	return sum, err
}

// ticket begins to follow a command.
func (r *Runner) ticket(c *Change) (uint64, *word.Ticket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping || r.sp == nil {
		return 0, nil, ErrStopping
	}
	r.lastTag++
	t := word.NewTicket(word.Said{Op: c.Op, Reason: c.Reason, Until: c.Until, Route: c.Route})
	r.tickets[r.lastTag] = t
	return r.lastTag, t, nil
}

// add counts a picked message.
func (c *Changed) add(p *walk.Picked) {
	c.Messages++
	c.Recipients += int64(len(p.Recipients))
	c.Bytes += p.Message.Size()
	if at := p.Message.Arrived(); c.Oldest.IsZero() || at.Before(c.Oldest) {
		c.Oldest = at
	}
	if len(c.Samples) < maxSamples {
		c.Samples = append(c.Samples, p.Message.ID())
	}
}

// settled waits until at most n recipients are being recorded; with n = 0 also
// for those whose delivery must end first.
func (r *Runner) settled(ctx context.Context, t *word.Ticket, n int) error {
	for {
		r.mu.Lock()
		ok := t.Working <= n && (n > 0 || t.Waiting == 0)
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-t.Signal:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// operated notes that n recipients were recorded, but for those that failed.
func (r *Runner) operated(tag uint64, n, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tickets[tag]; t != nil {
		t.Working -= n
		t.Changed += n - failed
		t.Wake()
		r.forget(tag, t)
	}
}

// forget drops a ticket that nobody needs any more. r.mu is held.
func (r *Runner) forget(tag uint64, t *word.Ticket) {
	if t != nil && t.Left && t.Working == 0 && t.Waiting == 0 {
		delete(r.tickets, tag)
	}
}

// order gives the ticket of a word that is to be recorded.
func (r *Runner) order(tag uint64) *word.Ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tickets[tag]
}

// expire is the age at which recipients are given up.
func (r *Runner) expire() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.s.Config().Expire
}

// Detail is a queued message without its content.
type Detail struct {
	Envelope   *mail.Envelope
	Size       int64
	Recipients []spool.RecipientState // in the order of the envelope, the final ones too
}

// Show tells what is known of a queued message; ok is false when there is none
// of that ID.
func (r *Runner) Show(id mail.ID) (d Detail, ok bool, err error) {
	m, ok := r.sp.Find(id)
	if !ok {
		return Detail{}, false, nil
	}
	d.Size = m.Size()
	if d.Envelope, err = r.sp.Envelope(m); err == nil {
		d.Recipients, err = r.sp.States(m)
	}
	if isFinished(err) {
		return Detail{}, false, nil
	}
	if err != nil {
		return Detail{}, true, fmt.Errorf("queue: message %s: %w", id, err)
	}
	now := r.clock.Wall()
	for i := range d.Recipients {
		if s := &d.Recipients[i]; s.State == mail.StateDeferred && !s.Next.After(now) {
			s.State, s.Next = mail.StateActive, time.Time{} // due: that is not recorded
		}
	}
	return d, true, nil
}
