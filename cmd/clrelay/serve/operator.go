package serve

import (
	"context"
	"errors"
	"fmt"

	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/mail"
)

// operator answers the admin API from the queue.
type operator struct {
	node  string
	queue *queue.Runner
}

func (o *operator) Summary(context.Context) (admin.Summary, error) {
	c := o.queue.Counts()
	return admin.Summary{
		Messages: int64(c.Messages),
		Active:   int64(c.Active), Deferred: int64(c.Deferred), Held: int64(c.Held),
		Oldest: c.Oldest,
	}, nil
}

func (o *operator) List(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	return o.queue.List(ctx, sel, o.entries(visit))
}

func (o *operator) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	return o.queue.Scan(ctx, sel, o.entries(visit))
}

// entries makes entries of the queue's rows.
func (o *operator) entries(visit func(*admin.Entry) error) func(*queue.Row) error {
	var e admin.Entry
	return func(r *queue.Row) error {
		e = admin.Entry{
			ID: r.ID, Node: o.node, From: r.From, To: r.To, State: r.State, Size: r.Size,
			Arrived: r.Arrived, Attempts: r.Attempts, Next: r.Next, LastReply: r.LastReply,
		}
		return visit(&e)
	}
}

func (o *operator) Change(ctx context.Context, c *admin.Change) (admin.Changed, error) {
	op, err := operation(c.Action)
	if err != nil {
		return admin.Changed{}, err
	}
	done, err := o.queue.Change(ctx, queue.Change{Op: op, Selector: c.Selector, DryRun: c.DryRun, Expect: c.Expect, Reason: c.Reason, Progress: c.Progress})
	var expect *queue.ExpectError
	switch {
	case errors.As(err, &expect):
		err = &admin.ExpectError{Want: expect.Want, Got: expect.Got}
	case errors.Is(err, queue.ErrStopping):
		err = fmt.Errorf("%w: the relay is stopping", admin.ErrUnavailable)
	}
	return admin.Changed{
		Messages: done.Messages, Recipients: done.Recipients, Bytes: done.Bytes,
		Oldest: done.Oldest, Samples: done.Samples, Failed: done.Failed,
	}, err
}

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
