// Package operate answers what the admin API asks of a queue.
package operate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/mail"
)

// Operator answers the admin API from the queue.
type Operator struct {
	Node  string
	Queue *queue.Runner
	Trash func() time.Duration // how long what is dropped is kept; 0: not at all
	Level func() uint32        // of the cluster; nil on a single machine
}

// Summary counts what is queued.
func (o *Operator) Summary(context.Context) (admin.Summary, error) {
	c := o.Queue.Counts()
	return admin.Summary{
		Messages: int64(c.Messages),
		Active:   int64(c.Active), Deferred: int64(c.Deferred), Held: int64(c.Held), Trashed: int64(c.Trashed),
		Oldest: c.Oldest,
	}, nil
}

// List lists what a selector picks.
func (o *Operator) List(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	if !sel.MatchNode(o.Node) {
		return nil
	}
	return o.Queue.List(ctx, sel, o.entries(visit))
}

// Scan is List without the last reply.
func (o *Operator) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	if !sel.MatchNode(o.Node) {
		return nil
	}
	return o.Queue.Scan(ctx, sel, o.entries(visit))
}

// entries makes entries of the queue's rows.
func (o *Operator) entries(visit func(*admin.Entry) error) func(*queue.Row) error {
	var e admin.Entry
	return func(r *queue.Row) error {
		e = admin.Entry{
			ID: r.ID, Node: o.Node, From: r.From, To: r.To, State: r.State, Size: r.Size,
			Arrived: r.Arrived, Attempts: r.Attempts, Next: r.Next, LastReply: r.LastReply,
			Lane: r.Lane, Rule: r.Orders.Rule, Route: r.Orders.Route,
		}
		if r.Client != nil {
			e.Client = *r.Client
		}
		if r.Orders.EndMS != 0 {
			e.Expires = time.UnixMilli(r.Orders.EndMS)
		}
		return visit(&e)
	}
}

// Change carries out a verb.
func (o *Operator) Change(ctx context.Context, c *admin.Change) (admin.Changed, error) {
	op, err := operation(c.Action)
	if err != nil {
		return admin.Changed{}, err
	}
	ch := queue.Change{Op: op, Selector: c.Selector, DryRun: c.DryRun, Expect: c.Expect, Reason: c.Reason, Route: c.To, Until: c.At, Progress: c.Progress}
	kept, note := time.Duration(0), ""
	if op == sched.Drop && !c.Now {
		if kept, note = o.keeps(); kept > 0 {
			ch.Op, ch.Until = sched.Trash, time.Now().Add(kept)
		}
	}
	if !c.Selector.MatchNode(o.Node) {
		ch.Selector = nothing{}
	}
	done, err := o.Queue.Change(ctx, ch)
	var expect *queue.ExpectError
	switch {
	case errors.As(err, &expect):
		err = &admin.ExpectError{Want: expect.Want, Got: expect.Got}
	case errors.Is(err, queue.ErrStopping):
		err = fmt.Errorf("%w: the relay is stopping", admin.ErrUnavailable)
	}
	return admin.Changed{
		Messages: done.Messages, Recipients: done.Recipients, Bytes: done.Bytes,
		Oldest: done.Oldest, Samples: done.Samples, Failed: done.Failed, Kept: kept, Note: note,
	}, err
}

// keeps tells how long what is dropped can be brought back, and if not at all,
// why that is not as configured.
func (o *Operator) keeps() (time.Duration, string) {
	kept := o.Trash()
	if kept > 0 && o.Level != nil {
		if l := o.Level(); l < fsm.OperatorLevel {
			return 0, fmt.Sprintf("it is destroyed at once: the trash needs feature level %d, and the cluster is at %d until all nodes are upgraded", fsm.OperatorLevel, l)
		}
	}
	return kept, ""
}

// nothing picks no recipient: the selector names other nodes.
type nothing struct{}

func (nothing) MatchMessage(mail.ID, time.Time, int64) bool               { return false }
func (nothing) MatchRecipient(mail.State, uint32, string) bool            { return false }
func (nothing) Needs() (envelope, reply bool)                             { return false, false }
func (nothing) MatchStored(*mail.Envelope, int, *mail.Reply, string) bool { return false }

func operation(a admin.Action) (queue.Op, error) {
	switch a {
	case admin.Retry:
		return sched.Retry, nil
	case admin.Hold:
		return sched.Hold, nil
	case admin.Release:
		return sched.Release, nil
	case admin.Drop:
		return sched.Drop, nil
	case admin.Bounce:
		return sched.Bounce, nil
	case admin.Undrop:
		return sched.Undrop, nil
	case admin.Reroute:
		return sched.Reroute, nil
	case admin.Expire:
		return sched.Expire, nil
	}
	var none queue.Op
	return none, fmt.Errorf("operate: unknown action %v", a)
}

// Show tells what is known of a message.
func (o *Operator) Show(_ context.Context, id mail.ID) (*admin.Message, error) {
	d, ok, err := o.Queue.Show(id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, admin.ErrNotFound
	}
	m := &admin.Message{Node: o.Node, Envelope: d.Envelope, Size: d.Size}
	for _, s := range d.Recipients {
		m.Recipients = append(m.Recipients, admin.Recipient{
			State: s.State, Attempts: s.Attempts, Next: s.Next, Last: s.At, LastReply: s.Reply, Remote: s.Remote,
		})
	}
	return m, nil
}
