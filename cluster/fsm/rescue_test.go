package fsm

import (
	"math"
	"testing"
)

// A node that a new generation began without may come back with the disk it
// has; one that was removed in an orderly way may not.
func TestANodeLeftOutComesBack(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b")
	lost := MakeSegmentID(w.session("a"), 7)
	w.must(GenerationBump{Generation: 5})
	for _, n := range []string{"a", "c"} {
		w.must(NodeChange{Node: n, Verb: NodeRemove, Force: true, Renewed: math.MaxUint64})
	}
	if w.s.Copies() != 1 {
		t.Errorf("%d copies with one node", w.s.Copies())
	}
	w.register("b", 1, 1)
	w.must(NodeChange{Node: "b", Verb: NodeInventoried, By: w.session("b")})
	lease, _ := w.s.LeaseOf(w.ref("a"))
	w.must(ops(SegmentOp{Kind: OpReassign, ID: id, Epoch: w.segment(id).Epoch, Member: w.ref("b"), Silent: lease.Session, Renewed: lease.Renewed}))
	rec := w.op(OpRecovered, id)
	rec.End, rec.Stale = 3, []Ref{w.ref("a")}
	w.must(ops(rec))
	if w.s.InventoryMissing() {
		t.Error("the inventory of a node that was left out is missing")
	}

	w.register("a", 1, 1)
	if n, _ := w.s.Node("a"); n.State != Alive || n.Inventoried {
		t.Errorf("it came back as %+v", n)
	}
	if !w.s.InventoryMissing() {
		t.Error("it has told nothing, and no inventory is missing")
	}
	w.must(ops(SegmentOp{Kind: OpAdopt, ID: lost, By: w.session("a"), Members: []Ref{w.ref("a"), w.ref("b")}}))
	w.want(lost, Recovering, "a", "[b a]", "[]")
	w.must(NodeChange{Node: "a", Verb: NodeInventoried, By: w.session("a")})
	w.must(NodeChange{Node: "a", Verb: NodeRemove, Force: true, Renewed: w.index})
	w.refused(Register{Node: "a", Store: store(1), Nonce: [16]byte{77}, Info: info("a")}, NodeNotAlive)
}
