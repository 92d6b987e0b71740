// Package walk goes over a queue, in the order of arrival, a part at a time, and
// finds the recipients that an operator means. What the scheduler knows rules
// most of them out; only what may match is read from the spool.
package walk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/keys"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Batch is how many messages a walk over the queue takes at a time; the
// scheduler waits for no more than that.
const Batch = 256

// Selector picks recipients. Its methods are pure. What MatchStored is given
// may be nil where Needs says that nothing depends on it. One that also has
// Domains() []string names by it, in the form of package names, the domains of
// which one is that of each recipient that it picks; nil is any.
type Selector interface {
	MatchMessage(id mail.ID, arrived time.Time, size int64) bool
	MatchRecipient(st mail.State, attempts uint32, lane string) bool
	Needs() (envelope, reply bool)
	MatchStored(env *mail.Envelope, rcpt int, last *mail.Reply, rule string) bool
}

// Picked is a message of which a walk picked recipients.
type Picked struct {
	Msg        uint32
	Message    *spool.Message
	Envelope   *mail.Envelope         // nil when it was not needed, or can't be read
	states     []spool.RecipientState // nil when they were not needed, or say no more than rcpts
	Orders     []spool.Orders         // nil: none
	Recipients []sched.RecipientView
}

// Needs says what a walk reads besides what the Selector needs.
type Needs struct{ Envelope, Reply bool }

// Walker walks over a queue.
type Walker struct {
	Mu    *sync.Mutex // guards Sched
	Sched *sched.Scheduler[*spool.Message]
	Spool *spool.Spool
	Log   *slog.Logger
}

// Reply is what was last heard of a recipient, or else why it waits: what its
// destination said to others, or a limit.
func (p *Picked) Reply(v *sched.RecipientView) mail.Reply {
	last := p.own(v)
	if last.Code == 0 && v.Why != nil {
		last = *v.Why
	}
	return last
}

// own is what a Selector goes by: what was said of the recipient itself, or the
// limit that it waits for. What others were told is no reason to give up one that
// was not tried.
func (p *Picked) own(v *sched.RecipientView) (last mail.Reply) {
	if p.states != nil {
		last = p.states[v.Index].Reply
	}
	if last.Code == 0 && v.Limited && v.Why != nil {
		last = *v.Why
	}
	return last
}

// Walk calls visit for each message of which sel picks recipients. An
// envelope that can't be read is as good as none: its message is picked by
// what else is known, so that it can be seen and dropped.
func (r *Walker) Walk(ctx context.Context, sel Selector, reads Needs, visit func(*Picked) error) error {
	r.Mu.Lock()
	cur := r.Sched.Open()
	r.Mu.Unlock()
	defer func() {
		r.Mu.Lock()
		r.Sched.Close(cur)
		r.Mu.Unlock()
	}()
	hint := hinted(sel)
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var batch []Picked
		r.Mu.Lock()
		more = r.Sched.Next(cur, Batch, func(v *sched.View[*spool.Message]) {
			if !sel.MatchMessage(v.Ref.ID(), v.Ref.Arrived(), v.Ref.Size()) {
				return
			}
			p := Picked{Msg: v.Msg, Message: v.Ref}
			for i := range v.Recipients {
				c := &v.Recipients[i]
				if (hint == nil || hint[c.Domain]) && sel.MatchRecipient(c.State, c.Attempts, c.Lane) {
					p.Recipients = append(p.Recipients, *c)
				}
			}
			if len(p.Recipients) > 0 {
				batch = append(batch, p)
			}
		})
		r.Mu.Unlock()
		for i := range batch {
			if !r.match(&batch[i], sel, reads) {
				continue
			}
			if err := visit(&batch[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// hinted gives the numbers of the domains that a selector names; nil: it picks
// any.
func hinted(sel Selector) map[uint16]bool {
	named, ok := sel.(interface{ Domains() []string })
	if !ok {
		return nil
	}
	domains := named.Domains()
	if domains == nil {
		return nil
	}
	out := make(map[uint16]bool, len(domains))
	for _, d := range domains {
		out[keys.Domain(d)] = true
	}
	return out
}

// match reads what is needed of a picked message and leaves those recipients
// that match. It tells whether there are any.
func (r *Walker) match(p *Picked, sel Selector, reads Needs) bool {
	byEnvelope, byReply := sel.Needs()
	if reads.Envelope || byEnvelope {
		env, err := r.Spool.Envelope(p.Message)
		if err != nil {
			if errors.Is(err, spool.ErrFinished) {
				return false
			}
			r.Log.Warn("reading an envelope", "id", p.Message.ID().String(), "error", err)
		} else {
			p.Envelope = env
		}
	}
	tried := func(v sched.RecipientView) bool {
		return v.Attempts > 0 || v.State == mail.StateHeld || v.State == mail.StateTrashed
	}
	if (reads.Reply || byReply) && slices.ContainsFunc(p.Recipients, tried) {
		st, err := r.Spool.States(p.Message)
		if err == nil {
			p.states = st
		} else if !errors.Is(err, spool.ErrFinished) {
			r.Log.Warn("reading states", "id", p.Message.ID().String(), "error", err)
		}
	}
	p.Orders = r.Spool.Orders(p.Message)
	p.Recipients = slices.DeleteFunc(p.Recipients, func(v sched.RecipientView) bool {
		rule, last := "", mail.Reply{}
		if p.Orders != nil {
			rule = p.Orders[v.Index].Rule
		}
		if byReply {
			last = p.own(&v)
		}
		return !sel.MatchStored(p.Envelope, int(v.Index), &last, rule)
	})
	return len(p.Recipients) > 0
}
