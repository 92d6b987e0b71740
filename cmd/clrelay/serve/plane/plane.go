// Package plane answers the admin API about the control plane of the cluster,
// for the day on which it has lost too much.
package plane

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/rescue"
	"github.com/clrelay/clrelay/proto/control"
)

// Control answers for the control plane of the cluster. Early is what an
// operator hears before the node takes part, Refusal makes errors of the cluster
// those of the admin API.
type Control struct {
	Node    *cluster.Node
	Early   error
	Refusal func(err error, what string) error
}

// Backup is of rescue.Plane.
func (c *Control) Backup(context.Context) (rescue.Backup, error) {
	if !c.Node.Started() {
		return rescue.Backup{}, c.Early
	}
	b, err := c.Node.Backup()
	if err != nil {
		return rescue.Backup{}, c.Refusal(err, "")
	}
	return rescue.Backup{
		Node: b.Node, Generation: b.Generation, Term: b.Term, Index: b.Index, Leader: b.Leader, Quorum: b.Quorum,
		Nodes: b.Nodes, Segments: b.Segments, State: b.State,
	}, nil
}

// WriteOff is of rescue.Plane.
func (c *Control) WriteOff(ctx context.Context, w rescue.WriteOff) ([]rescue.Segment, error) {
	if !c.Node.Started() {
		return nil, c.Early
	}
	list, err := c.meant(w)
	if err != nil {
		return nil, err
	}
	if w.Expect != nil && *w.Expect != int64(len(list)) {
		return nil, admin.RefusedError(fmt.Sprintf("expected %d segments, found %d: nothing was changed", *w.Expect, len(list)))
	}
	out := make([]rescue.Segment, 0, len(list))
	for _, g := range list {
		x := rescue.Segment{ID: g.ID.String(), Owner: g.Owner.Node, End: g.End, EndSet: g.EndSet}
		for _, m := range g.Members {
			x.Members = append(x.Members, m.String())
		}
		out = append(out, x)
	}
	if w.DryRun {
		return out, c.Refusal(c.Node.MayWriteOff(list), "nothing can be written off")
	}
	done, err := c.Node.WriteOff(ctx, list, w.Reason)
	if err != nil {
		return nil, c.Refusal(err, "the write-off did not succeed")
	}
	for i, code := range done {
		if code != fsm.OK {
			out[i].Refused = code.String()
		}
	}
	return out, nil
}

// meant finds the segments.
func (c *Control) meant(w rescue.WriteOff) ([]fsm.Segment, error) {
	if w.Lost {
		return c.Node.Lost(), nil
	}
	var list []fsm.Segment
	seen := map[fsm.SegmentID]bool{}
	for _, name := range w.Segments {
		id, ok := control.ParseSegmentID(name)
		if !ok {
			return nil, status.Error(codes.NotFound, fmt.Sprintf("%q is no name of a segment, such as 1.5-9", name))
		}
		g, err := c.Node.Segment(id)
		if errors.Is(err, cluster.ErrNoSegment) {
			return nil, status.Error(codes.NotFound, err.Error())
		}
		if !seen[id] {
			seen[id] = true
			list = append(list, g)
		}
	}
	return list, nil
}
