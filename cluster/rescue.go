package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// ErrNoSegment says that there is no record of a segment.
var ErrNoSegment = errors.New("no such segment in the cluster's records")

// ErrUnaware says that this node has heard nothing of the cluster yet.
var ErrUnaware = errors.New("cluster: this node has applied nothing of the cluster's log yet")

// Backup is the control plane as one node has applied it.
type Backup struct {
	Node       string // whose it is
	Generation uint32
	Term       uint64
	Index      uint64
	Leader     string // empty: none is known
	Quorum     bool
	Nodes      []string // that belong to the cluster
	Segments   int
	State      []byte // as package rescue keeps it
}

// Backup gives the control plane as of one entry of the log. It needs no
// leader: without a quorum others may know more.
func (n *Node) Backup() (Backup, error) {
	o := n.Overview()
	b := Backup{Node: n.o.Name, Term: o.Term, Leader: o.Leader, Quorum: o.Quorum}
	n.view.Read(func(s *fsm.State) {
		b.Generation, b.Index, b.Segments = s.Generation(), s.Applied(), s.Len()
		for _, rec := range s.Nodes() {
			if rec.State != fsm.Removed {
				b.Nodes = append(b.Nodes, rec.Name)
			}
		}
		if len(b.Nodes) > 0 {
			b.State = s.Snapshot()
		}
	})
	if b.State == nil {
		return Backup{}, ErrUnaware
	}
	return b, nil
}

// Lost gives the segments of which no store is left that data is trusted to,
// sorted.
func (n *Node) Lost() (lost []fsm.Segment) {
	n.view.Read(func(s *fsm.State) { lost = s.Lost() })
	return lost
}

// Segment gives a segment's record.
func (n *Node) Segment(id fsm.SegmentID) (g fsm.Segment, err error) {
	ok := false
	n.view.Read(func(s *fsm.State) { g, ok = s.Segment(id) })
	if !ok {
		err = fmt.Errorf("%w: %v", ErrNoSegment, id)
	}
	return g, err
}

// WriteOff gives segments up that no store is left of. With an error that is a
// *RefusedError nothing was proposed. It waits until every lease has run out
// under which somebody might still deliver from one, so that none does when
// the segment turns up again. The codes say what became of each.
func (n *Node) WriteOff(ctx context.Context, list []fsm.Segment, reason string) ([]fsm.Code, error) {
	index, wait, err := n.mayWriteOff(list)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if err := n.pause(ctx, wait); err != nil {
		return nil, err
	}
	var codes []fsm.Code
	for part := range slices.Chunk(list, fsm.MaxOps) {
		var c fsm.SegmentOps
		for _, g := range part {
			c.Ops = append(c.Ops, fsm.SegmentOp{Kind: fsm.OpWriteOff, ID: g.ID, Epoch: g.Epoch, Renewed: index})
		}
		ctx, cancel := context.WithTimeout(ctx, proposeWait)
		res, err := n.control.propose(ctx, c)
		cancel()
		if err := outcome(res, err); err != nil {
			return codes, err
		}
		for i, op := range res.Ops {
			codes = append(codes, op.Code)
			if op.Code == fsm.OK {
				n.o.Log.Warn("a segment was written off", "segment", part[i].ID.String(), "stores", fmt.Sprint(part[i].Members), "end", part[i].End, "reason", reason)
			}
		}
	}
	return codes, nil
}

// MayWriteOff tells why WriteOff would refuse; nil: it would not.
func (n *Node) MayWriteOff(list []fsm.Segment) error {
	_, _, err := n.mayWriteOff(list)
	return err
}

// mayWriteOff looks before anything is proposed. No lease under which one of
// the segments may be delivered from was renewed after the index that it
// returns, and none of them lasts longer than wait.
func (n *Node) mayWriteOff(list []fsm.Segment) (index uint64, wait time.Duration, err error) {
	n.view.Read(func(s *fsm.State) {
		index, wait = s.Applied(), s.Settings().G
		switch {
		case s.Level() < fsm.WriteOffLevel:
			err = &RefusedError{fsm.LevelTooLow, "a node of the cluster runs a version of clrelay that does not know how"}
		case s.InventoryMissing():
			err = &RefusedError{fsm.InventoryMissing, "a node has not told yet what its disk holds; one that is gone for good has to be removed first"}
		}
		for _, g := range list {
			lease, _ := s.LeaseOf(g.Owner)
			wait = max(wait, lease.G)
			if left := slices.DeleteFunc(slices.Clone(g.Members), func(r fsm.Ref) bool { return !s.Current(r) }); len(left) > 0 && err == nil {
				err = &RefusedError{fsm.CopyLeft, fmt.Sprintf("%v may have a copy of %v; what is gone for good has to be removed first: clrelay node remove %s --force",
					strings.Trim(fmt.Sprint(left), "[]"), g.ID, left[0].Node)}
			}
		}
	})
	return index, wait, err
}
