package serve

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

// controlPlane answers for the control plane of the cluster.
type controlPlane struct{ node *cluster.Node }

func (c *controlPlane) Backup(context.Context) (rescue.Backup, error) {
	if !c.node.Started() {
		return rescue.Backup{}, errEarly
	}
	b, err := c.node.Backup()
	if err != nil {
		return rescue.Backup{}, refusal(err, "")
	}
	return rescue.Backup{
		Node: b.Node, Generation: b.Generation, Term: b.Term, Index: b.Index, Leader: b.Leader, Quorum: b.Quorum,
		Nodes: b.Nodes, Segments: b.Segments, State: b.State,
	}, nil
}

func (c *controlPlane) WriteOff(ctx context.Context, w rescue.WriteOff) ([]rescue.Segment, error) {
	if !c.node.Started() {
		return nil, errEarly
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
		return out, refusal(c.node.MayWriteOff(list), "nothing can be written off")
	}
	done, err := c.node.WriteOff(ctx, list, w.Reason)
	if err != nil {
		return nil, refusal(err, "the write-off did not succeed")
	}
	for i, code := range done {
		if code != fsm.OK {
			out[i].Refused = code.String()
		}
	}
	return out, nil
}

// meant finds the segments.
func (c *controlPlane) meant(w rescue.WriteOff) ([]fsm.Segment, error) {
	if w.Lost {
		return c.node.Lost(), nil
	}
	var list []fsm.Segment
	seen := map[fsm.SegmentID]bool{}
	for _, name := range w.Segments {
		id, ok := control.ParseSegmentID(name)
		if !ok {
			return nil, status.Error(codes.NotFound, fmt.Sprintf("%q is no name of a segment, such as 1.5-9", name))
		}
		g, err := c.node.Segment(id)
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
