package serve

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

// operator answers the admin API from the queue.
type operator struct {
	node  string
	queue *queue.Runner
	trash func() time.Duration // how long what is dropped is kept; 0: not at all
	level func() uint32        // of the cluster; nil on a single machine
}

func (o *operator) Summary(context.Context) (admin.Summary, error) {
	c := o.queue.Counts()
	return admin.Summary{
		Messages: int64(c.Messages),
		Active:   int64(c.Active), Deferred: int64(c.Deferred), Held: int64(c.Held), Trashed: int64(c.Trashed),
		Oldest: c.Oldest,
	}, nil
}

func (o *operator) List(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	if !sel.MatchNode(o.node) {
		return nil
	}
	return o.queue.List(ctx, sel, o.entries(visit))
}

func (o *operator) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	if !sel.MatchNode(o.node) {
		return nil
	}
	return o.queue.Scan(ctx, sel, o.entries(visit))
}

// entries makes entries of the queue's rows.
func (o *operator) entries(visit func(*admin.Entry) error) func(*queue.Row) error {
	var e admin.Entry
	return func(r *queue.Row) error {
		e = admin.Entry{
			ID: r.ID, Node: o.node, From: r.From, To: r.To, State: r.State, Size: r.Size,
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

func (o *operator) Change(ctx context.Context, c *admin.Change) (admin.Changed, error) {
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
	if !c.Selector.MatchNode(o.node) {
		ch.Selector = nothing{}
	}
	done, err := o.queue.Change(ctx, ch)
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
func (o *operator) keeps() (time.Duration, string) {
	kept := o.trash()
	if kept > 0 && o.level != nil {
		if l := o.level(); l < fsm.OperatorLevel {
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
	return none, fmt.Errorf("serve: unknown action %v", a)
}

func (o *operator) Show(_ context.Context, id mail.ID) (*admin.Message, error) {
	d, ok, err := o.queue.Show(id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, admin.ErrNotFound
	}
	m := &admin.Message{Node: o.node, Envelope: d.Envelope, Size: d.Size}
	for _, s := range d.Recipients {
		m.Recipients = append(m.Recipients, admin.Recipient{
			State: s.State, Attempts: s.Attempts, Next: s.Next, Last: s.At, LastReply: s.Reply, Remote: s.Remote,
		})
	}
	return m, nil
}
