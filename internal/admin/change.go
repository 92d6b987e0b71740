package admin

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/jobs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// changing is a change of the queue of several nodes.
type changing struct {
	q      *queueService
	action Action
	in     *adminv1.Change
	sel    *Selector
	how    how
	counts map[string]int64 // what nodes found, this one under ""; nil where no number is expected
}

// how is what some verbs need to know besides.
type how struct {
	now bool
	to  string
	at  *timestamppb.Timestamp
}

// run changes the queue of this node and of peers. Where a number is expected
// all count first, and each is then held to its own count.
func (c *changing) run(ctx context.Context, peers []Peer) (*adminv1.ChangeResult, error) {
	if c.in.Expect == nil || len(peers) == 0 {
		return c.each(ctx, peers, c.in.GetDryRun())
	}
	c.counts = map[string]int64{}
	counted, err := c.each(ctx, peers, true)
	if err != nil {
		return nil, err
	}
	if total := counted.GetRecipients(); total != c.in.GetExpect() {
		return nil, &ExpectError{Want: c.in.GetExpect(), Got: total}
	}
	if c.in.GetDryRun() {
		return counted, nil
	}
	asked := peers[:0:0]
	for _, p := range peers {
		if _, ok := c.counts[p.Name]; ok { // who has not counted is left alone
			asked = append(asked, p)
		}
	}
	out, err := c.each(ctx, asked, false)
	if err != nil {
		return nil, err
	}
	out.MissingNodes = fleet.Sorted(append(out.GetMissingNodes(), counted.GetMissingNodes()...))
	return out, nil
}

// each changes or counts here, and then at all others at the same time.
func (c *changing) each(ctx context.Context, peers []Peer, dry bool) (*adminv1.ChangeResult, error) {
	out, err := c.here(ctx, len(peers) > 0, dry)
	if err != nil {
		return nil, err
	}
	wait := changeWait
	if dry {
		wait = askWait
	}
	answers := fleet.Ask(ctx, peers, wait, func(ctx context.Context, p Peer) (*adminv1.ChangeResult, error) {
		return callVerb(ctx, p.Conn, c, c.part(p.Name, dry))
	})
	for _, a := range answers {
		switch n, counted := c.counts[a.Peer.Name]; {
		case a.Err == nil:
			c.count(a.Peer.Name, a.Got.GetRecipients(), dry)
			addChange(out, a.Got)
		case counted && isExpect(a.Err):
			out.Recipients += n // it changed since it was counted: nothing was done there
			out.Failed += n
		default:
			out.MissingNodes = append(out.MissingNodes, a.Peer.Name)
		}
	}
	out.MissingNodes = fleet.Sorted(out.GetMissingNodes())
	return out, nil
}

// part is what a node is asked to do.
func (c *changing) part(node string, dry bool) *adminv1.Change {
	in := proto.CloneOf(c.in)
	in.Local, in.DryRun, in.Expect = true, dry, nil
	if n, ok := c.counts[node]; ok && !dry {
		in.Expect = &n
	}
	return in
}

func (c *changing) count(node string, n int64, dry bool) {
	if dry && c.counts != nil {
		c.counts[node] = n
	}
}

// here does this node's part.
func (c *changing) here(ctx context.Context, others, dry bool) (*adminv1.ChangeResult, error) {
	ch := &Change{Action: c.action, Selector: c.sel, DryRun: dry, Expect: c.in.Expect, Reason: c.in.GetReason(), Now: c.how.now, To: c.how.to}
	if c.how.at != nil {
		ch.At = c.how.at.AsTime()
	}
	if others || c.counts != nil {
		ch.Expect = c.part("", dry).Expect
	}
	ch.Progress = jobs.Progress(ctx)
	done, err := c.q.queue.Change(ctx, ch)
	var expect *ExpectError
	if errors.As(err, &expect) && c.counts != nil {
		total := c.in.GetExpect()
		return nil, &ExpectError{Want: total, Got: total - expect.Want + expect.Got}
	}
	if err != nil {
		return nil, err
	}
	out := &adminv1.ChangeResult{
		Messages: done.Messages, Recipients: done.Recipients, Bytes: done.Bytes,
		Oldest: timeOut(done.Oldest), Failed: done.Failed, Note: done.Note,
	}
	if done.Kept > 0 {
		out.Kept = durationpb.New(done.Kept)
	}
	for _, id := range done.Samples {
		out.Samples = append(out.Samples, id.String())
	}
	c.count("", out.GetRecipients(), dry)
	return out, nil
}

// addChange adds what another node did.
func addChange(to, more *adminv1.ChangeResult) {
	to.Messages += more.GetMessages()
	to.Recipients += more.GetRecipients()
	to.Bytes += more.GetBytes()
	to.Failed += more.GetFailed()
	if to.GetNote() == "" {
		to.Note = more.GetNote()
	}
	if more.GetKept().AsDuration() < to.GetKept().AsDuration() { // the promise is that of the least
		to.Kept = more.GetKept()
	}
	if t := more.GetOldest(); t != nil && (to.GetOldest() == nil || t.AsTime().Before(to.GetOldest().AsTime())) {
		to.Oldest = t
	}
	for _, id := range more.GetSamples() {
		if len(to.Samples) < MaxSamples {
			to.Samples = append(to.Samples, id)
		}
	}
}

// callVerb asks another node for its part of a change.
func callVerb(ctx context.Context, conn grpc.ClientConnInterface, do *changing, ch *adminv1.Change) (*adminv1.ChangeResult, error) {
	c := adminv1.NewQueueServiceClient(conn)
	switch do.action {
	case Retry:
		res, err := c.Retry(ctx, &adminv1.RetryRequest{Change: ch})
		return res.GetResult(), err
	case Hold:
		res, err := c.Hold(ctx, &adminv1.HoldRequest{Change: ch})
		return res.GetResult(), err
	case Release:
		res, err := c.Release(ctx, &adminv1.ReleaseRequest{Change: ch})
		return res.GetResult(), err
	case Drop:
		res, err := c.Drop(ctx, &adminv1.DropRequest{Change: ch, Now: do.how.now})
		return res.GetResult(), err
	case Bounce:
		res, err := c.Bounce(ctx, &adminv1.BounceRequest{Change: ch})
		return res.GetResult(), err
	case Undrop:
		res, err := c.Undrop(ctx, &adminv1.UndropRequest{Change: ch})
		return res.GetResult(), err
	case Reroute:
		res, err := c.Reroute(ctx, &adminv1.RerouteRequest{Change: ch, To: do.how.to})
		return res.GetResult(), err
	case Expire:
		res, err := c.Expire(ctx, &adminv1.ExpireRequest{Change: ch, At: do.how.at})
		return res.GetResult(), err
	}
	return nil, fmt.Errorf("admin: unknown action %v", do.action)
}
