package fsm

import (
	"bytes"
	"testing"
)

// at raises the world's level, which all programs know.
func (w *world) at(level uint32) *world {
	w.s.level = level
	return w
}

// writeOff is the operation as an operator's node makes it who has waited
// since the last entry.
func (w *world) writeOff(id SegmentID) SegmentOps {
	g, _ := w.s.Segment(id)
	return ops(SegmentOp{Kind: OpWriteOff, ID: id, Epoch: g.Epoch, Renewed: w.index})
}

// forget makes a store one that cannot speak for anything, in each of the ways.
func (w *world) forget(name, way string) {
	w.t.Helper()
	n, _ := w.s.Node(name)
	switch way {
	case "replaced":
		w.s.nodes[name].Info.Features = KnownLevel
		w.must(Register{Node: name, Store: store(9), Nonce: [16]byte{99}, Info: w.s.nodes[name].Info})
	case "lost":
		w.must(NodeChange{Node: name, Verb: NodeLost, Store: n.Store, Renewed: w.index})
	case "removed":
		w.must(NodeChange{Node: name, Verb: NodeRemove, Force: true, Renewed: w.index})
	}
}

// A record goes only when no member's store is left, and only as it was seen.
func TestWriteOff(t *testing.T) {
	for _, way := range []string{"replaced", "lost", "removed"} {
		w := newWorld(t, "a", "b", "c", "d")
		id := w.open(1, "a", "b")
		w.renew("a", 1)
		w.refused(w.writeOff(id), LevelTooLow)
		w.at(WriteOffLevel)
		w.refused(w.writeOff(id), CopyLeft)
		w.forget("a", way)
		w.refused(w.writeOff(id), CopyLeft) // b's is there
		w.forget("b", "lost")
		if lost := w.s.Lost(); len(lost) != 1 || lost[0].ID != id {
			t.Errorf("%s: lost are %v", way, lost)
		}
		for code, change := range map[Code]func(*SegmentOp){
			WrongEpoch:     func(o *SegmentOp) { o.Epoch-- },
			UnknownSegment: func(o *SegmentOp) { o.ID++ },
			Malformed:      func(o *SegmentOp) { o.By = w.session("c") },
			RenewedSince:   func(o *SegmentOp) { o.Renewed = 1 },
		} {
			o := w.writeOff(id).Ops[0]
			change(&o)
			w.refused(ops(o), code)
		}
		off := w.writeOff(id)
		w.must(off)
		w.refused(off, UnknownSegment)
		if w.s.Len() != 0 || w.s.Holds("a") != 0 || len(w.s.Lost()) != 0 || !w.s.WrittenOff(id) {
			t.Errorf("%s: something is left of it", way)
		}
		again := New()
		if err := again.Restore(w.s.Snapshot()); err != nil || !bytes.Equal(again.Snapshot(), w.s.Snapshot()) || !again.WrittenOff(id) {
			t.Errorf("%s: a snapshot does not know it: %v", way, err)
		}
	}
}

// After a new generation a node that has not told all may have a copy.
func TestWriteOffWaitsForInventories(t *testing.T) {
	w := newWorld(t, "a", "b", "c").at(WriteOffLevel)
	id := w.open(1, "a", "b")
	w.must(GenerationBump{Generation: 2})
	w.forget("a", "removed")
	w.forget("b", "removed")
	w.refused(w.writeOff(id), InventoryMissing)
	w.s.nodes["c"].Info.Features = KnownLevel
	w.must(Register{Node: "c", Store: store(1), Nonce: [16]byte{5}, Info: w.s.nodes["c"].Info})
	w.must(NodeChange{Node: "c", Verb: NodeInventoried, By: w.session("c")})
	w.must(w.writeOff(id))
	// One that was left out comes back, tells what it holds, and has it again.
	w.must(Register{Node: "b", Store: store(1), Nonce: [16]byte{6}, Info: w.s.nodes["c"].Info})
	w.must(ops(SegmentOp{Kind: OpAdopt, ID: id, By: w.session("b"), Members: []Ref{w.ref("b")}}))
	w.want(id, Recovering, "b", "[a b]", "[]")
}

// The disk of a member that turns up brings the record back as it was; one
// that was no member may hold anything.
func TestAWrittenOffSegmentComesBack(t *testing.T) {
	w := newWorld(t, "a", "b", "c").at(WriteOffLevel)
	id := w.open(1, "a", "b", "c")
	w.must(w.seal(id, 7))
	w.must(w.about(OpStale, id, "b"))
	for _, n := range []string{"a", "b", "c"} {
		w.forget(n, "replaced")
	}
	was := w.segment(id)
	w.must(w.writeOff(id))
	adopt := func(node string) SegmentOps {
		return ops(SegmentOp{Kind: OpAdopt, ID: id, By: w.session(node), Members: []Ref{w.ref("a")}, End: 3, EndSet: true})
	}
	w.refused(adopt("a"), WrongState) // with its new disk
	w.must(Register{Node: "b", Store: store(1), Nonce: [16]byte{50}, Info: w.s.nodes["b"].Info})
	delete(w.s.nodes, "c") // forgotten meanwhile
	w.must(adopt("b"))
	w.want(id, Recovering, "b", "[a b]", "[b]")
	if g := w.segment(id); g.Epoch <= was.Epoch+1 || g.End != 7 || !g.EndSet || w.s.WrittenOff(id) {
		t.Errorf("it came back as %+v", g)
	}
	w.refused(adopt("b"), WrongState)
	done := w.recovered(id, 7)
	done.Ops[0].Stale = []Ref{{Node: "a", Store: store(1)}}
	w.must(done)
}
