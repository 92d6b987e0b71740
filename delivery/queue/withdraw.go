package queue

import (
	"context"
	"fmt"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/walk"
	"github.com/clrelay/clrelay/spool"
)

// Withdraw takes the messages of a segment out of the queue, because another
// node delivers them from now on. Deliveries under way are aborted before
// their final dot; for those behind it Withdraw waits until ctx ends, and then
// leaves them to end by themselves. Nothing is recorded and nothing is
// reported: the messages are as queued as before, elsewhere. The error is that
// of ctx.
func (r *Runner) Withdraw(ctx context.Context, segment uint64) error {
	tag, t, err := r.ticket(&Change{Op: sched.Withdraw})
	if err != nil {
		return err
	}
	defer func() {
		r.mu.Lock()
		t.Left = true
		r.forget(tag, t)
		r.mu.Unlock()
	}()
	r.mu.Lock()
	cur := r.s.Open()
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.s.Close(cur)
		r.mu.Unlock()
	}()
	var batch []event
	for more := true; more; {
		batch = batch[:0]
		r.mu.Lock()
		more = r.s.Next(cur, walk.Batch, func(v *sched.View[*spool.Message]) {
			if v.Ref.Header(0).Segment == segment {
				batch = append(batch, event{Kind: sched.Command, Op: sched.Withdraw, Msg: v.Msg, Ref: v.Ref, Tag: tag})
				delete(r.fresh, v.Ref)
			}
		})
		r.mu.Unlock()
		for i := range batch {
			r.step(&batch[i], nil)
		}
	}
	if err := r.settled(ctx, t, 0); err != nil {
		return fmt.Errorf("queue: withdrawing segment %d: %w", segment, err)
	}
	return nil
}
