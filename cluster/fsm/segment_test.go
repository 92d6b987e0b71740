package fsm

import (
	"slices"
	"testing"
)

func TestOpenIsRefused(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	w.open(5, "a", "b")
	change := func(f func(*SegmentOp)) SegmentOps {
		o := w.openOp(6, "a", "b")
		f(&o)
		return ops(o)
	}
	w.refused(ops(w.openOp(5, "a", "b")), StaleID)
	w.refused(ops(w.openOp(4, "a", "b")), StaleID)
	w.refused(change(func(o *SegmentOp) { o.By = 99 }), OldSession)
	w.refused(change(func(o *SegmentOp) { o.By = w.session("b") }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.ID = MakeSegmentID(w.session("b"), 9) }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.ID &^= 1 << 63 }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.ID &^= MaxSegmentN }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.Members = o.Members[1:] }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.Members = nil }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.Members[1] = o.Members[0] }), Malformed)
	w.refused(change(func(o *SegmentOp) { o.Members[1].Store = store(9) }), UnknownNode)
	w.refused(change(func(o *SegmentOp) { o.Members[1].Node = "x" }), UnknownNode)
	w.must(NodeChange{Node: "b", Verb: NodeDrain})
	w.refused(ops(w.openOp(6, "a", "b")), NodeNotAlive)
	w.must(ops(w.openOp(1, "b", "a"))) // who drains needs room for its reports
}

func TestAGoneSegmentStaysGone(t *testing.T) {
	w := newWorld(t, "a", "b")
	late := ops(w.openOp(1, "a", "b"))
	id := w.open(1, "a", "b")
	w.refused(ops(w.op(OpGone, id)), WrongState)
	w.must(w.seal(id, 3))
	r := w.must(ops(w.op(OpGone, id)))
	if r.Ops[0].Epoch != 0 || !slices.Equal(r.Segments, []SegmentID{id}) {
		t.Errorf("outcome %+v", r)
	}
	w.refused(late, StaleID)
	w.refused(ops(w.op(OpGone, id)), UnknownSegment)
	if w.s.Len() != 0 || w.s.Holds("a") != 0 || w.s.Holds("b") != 0 {
		t.Error("something is left of it")
	}
}

func TestSeal(t *testing.T) {
	w := newWorld(t, "a", "b")
	id := w.open(1, "a", "b")
	again := w.seal(id, 9)
	wrong := w.seal(id, 9)
	wrong.Ops[0].By = w.session("b")
	w.refused(wrong, OldSession)
	w.must(again)
	w.refused(again, WrongEpoch)
	w.refused(w.seal(id, 9), WrongState)
	if g := w.segment(id); !g.EndSet || g.End != 9 || g.State != Sealed {
		t.Errorf("sealed: %+v", g)
	}
}

func TestTakeover(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b", "c")
	w.renew("a", 1)
	late := w.reassign(id, "b")
	sealLate := w.seal(id, 5)
	w.renew("a", 2)
	w.refused(ops(late), RenewedSince)
	o := w.reassign(id, "b")
	o.Silent++
	w.refused(ops(o), OldSession)
	o = w.reassign(id, "a")
	w.refused(ops(o), WrongState)
	o = w.reassign(id, "b")
	o.Member = Ref{Node: "d", Store: store(1)}
	w.refused(ops(o), NotMember)
	w.must(w.about(OpStale, id, "c"))
	w.refused(ops(w.reassign(id, "c")), NotMember)
	w.must(ops(w.reassign(id, "b")))
	w.want(id, Recovering, "b", "[a b c]", "[c]")
	w.refused(sealLate, WrongEpoch)
	w.refused(w.recovered(id, 4, "b"), Malformed)
	w.refused(w.recovered(id, 4, "c", "c"), Malformed)
	o = w.recovered(id, 4).Ops[0]
	o.Stale = []Ref{{Node: "d", Store: store(1)}}
	w.refused(ops(o), NotMember)
	o = w.recovered(id, 4).Ops[0]
	o.By = w.session("a")
	w.refused(ops(o), OldSession)
	w.refused(w.about(OpStale, id, "a"), WrongState)
	w.must(w.recovered(id, 4, "a"))
	w.want(id, Sealed, "b", "[a b c]", "[a]")
	w.refused(w.recovered(id, 4, "a"), WrongState)

	// A second takeover must find the same end. The owner's word does not
	// count while it is recovering: nobody delivers.
	w.must(ops(w.reassign(id, "c")))
	w.refused(w.recovered(id, 5), EndDiffers)
	o = w.reassign(id, "b")
	o.Silent, o.Renewed = 0, 0
	w.must(ops(o))
	w.must(w.recovered(id, 4, "a", "c"))
	o = w.reassign(id, "a")
	w.refused(ops(o), NotMember)
	o.Unclean = true
	w.must(ops(o))
	w.want(id, Recovering, "a", "[a b c]", "[a c]")
	w.must(w.recovered(id, 4, "b", "c"))
	w.want(id, Sealed, "a", "[a b c]", "[b c]")
	if g := w.segment(id); g.End != 4 {
		t.Errorf("the end is %d", g.End)
	}
}

func TestMembers(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	id := w.open(1, "a", "b")
	w.refused(w.about(OpAddMember, id, "c"), WrongState)
	w.refused(w.about(OpRemoveMember, id, "b"), WrongState)
	w.refused(w.about(OpTransfer, id, "b"), WrongState)
	w.must(w.seal(id, 1))
	w.refused(w.about(OpAddMember, id, "b"), AlreadyMember)
	w.refused(w.about(OpRemoveMember, id, "b"), TooFewCopies)
	w.refused(w.about(OpRemoveMember, id, "a"), WrongState)
	w.must(w.about(OpAddMember, id, "c"))
	w.want(id, Sealed, "a", "[a b c]", "[c]")
	w.refused(w.about(OpRemoveMember, id, "b"), TooFewCopies)
	w.refused(w.about(OpTransfer, id, "c"), NotMember)
	w.must(w.about(OpFresh, id, "c"))
	w.refused(w.about(OpFresh, id, "c"), WrongState)
	w.refused(w.about(OpStale, id, "a"), WrongState)
	w.must(w.about(OpRemoveMember, id, "b"))
	w.want(id, Sealed, "a", "[a c]", "[]")
	w.refused(w.about(OpRemoveMember, id, "b"), NotMember)
	w.refused(w.about(OpStale, id, "b"), NotMember)
	o := w.about(OpTransfer, id, "c")
	w.must(o)
	w.want(id, Sealed, "c", "[a c]", "[]")
	w.refused(w.about(OpTransfer, id, "c"), WrongState)
	o.Ops[0].Epoch++
	w.refused(o, OldSession) // the old owner's word
	if w.s.Holds("b") != 0 || w.s.Holds("c") != 1 {
		t.Error("the lists of holders are wrong")
	}
}

func TestABatchIsDoneOneByOne(t *testing.T) {
	w := newWorld(t, "a", "b")
	id := w.open(1, "a", "b")
	seal := w.seal(id, 2).Ops[0]
	stale := w.about(OpStale, id, "b").Ops[0]
	stale.Epoch++
	r := w.apply(ops(w.openOp(3, "a"), seal, w.openOp(2, "a"), stale, SegmentOp{Kind: 200, ID: id}))
	want := []OpResult{{Code: OK, Epoch: 1<<32 | 1}, {Code: OK, Epoch: 1<<32 | 2}, {Code: StaleID, Epoch: 0}, {Code: OK, Epoch: 1<<32 | 3}, {Code: Malformed, Epoch: 1<<32 | 3}}
	if r.Code != OK || !slices.Equal(r.Ops, want) {
		t.Errorf("outcomes %+v", r.Ops)
	}
	if !slices.Equal(r.Segments, []SegmentID{id, MakeSegmentID(w.session("a"), 3)}) {
		t.Errorf("touched %v", r.Segments)
	}
}

func TestReadersKeepWhatTheyRead(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	id := w.open(1, "a", "b", "c")
	w.must(w.seal(id, 1))
	w.must(w.about(OpStale, id, "c"))
	kept := w.segment(id)
	w.must(w.about(OpAddMember, id, "d"))
	w.must(w.about(OpFresh, id, "d"))
	w.must(w.about(OpRemoveMember, id, "c"))
	w.must(w.about(OpStale, id, "b"))
	if names(kept.Members) != "[a b c]" || names(kept.Stale) != "[c]" {
		t.Errorf("a record that was read changed to %s, stale %s", names(kept.Members), names(kept.Stale))
	}
}

func TestOpenIsBounded(t *testing.T) {
	w := newWorld(t, "a", "b")
	var batch SegmentOps
	for n := uint32(1); n <= MaxOpen; n++ {
		batch.Ops = append(batch.Ops, w.openOp(n, "a"))
	}
	w.must(batch)
	w.refused(ops(w.openOp(MaxOpen+1, "a")), LimitReached)
	w.must(w.seal(MakeSegmentID(w.session("a"), 1), 0))
	w.open(MaxOpen+1, "a")
	batch.Ops = append(batch.Ops, batch.Ops[0])
	w.refused(batch, Malformed)
	r := w.must(Register{Node: "a", Store: store(1), Nonce: [16]byte{9}, Info: info("boota")})
	if len(r.Segments) != MaxOpen {
		t.Errorf("%d segments are recovered", len(r.Segments))
	}
}

func TestMembersAreBounded(t *testing.T) {
	list := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}
	w := newWorld(t, list...)
	w.refused(ops(w.openOp(1, list...)), LimitReached)
	id := w.open(1, list[:MaxMembers]...)
	w.must(w.seal(id, 1))
	w.refused(w.about(OpAddMember, id, "i"), LimitReached)
	lost := MakeSegmentID(w.session("a"), 9)
	w.must(GenerationBump{Generation: 2})
	for _, n := range []string{"a", "i"} {
		w.register(n, 1, 1)
	}
	adopt := SegmentOp{Kind: OpAdopt, ID: lost, By: w.session("i"), EndSet: true, End: 6}
	for _, n := range list {
		adopt.Members = append(adopt.Members, w.ref(n))
	}
	w.refused(ops(adopt), LimitReached)
	adopt.Members = adopt.Members[:MaxMembers]
	w.refused(ops(adopt), LimitReached)
	adopt.By = w.session("a")
	r := w.must(ops(adopt))
	if g := w.segment(lost); !g.EndSet || g.End != 6 || g.Epoch != 2<<32|1 || r.Ops[0].Epoch != g.Epoch {
		t.Errorf("adopted: %+v", g)
	}
	adopt.By = w.session("i")
	w.refused(ops(adopt), LimitReached)
	adopt.ID, adopt.Members = lost+1, []Ref{w.ref("a")}
	w.must(ops(adopt))
	adopt.By = w.session("a")
	w.refused(ops(adopt), AlreadyMember)
	w.register("b", 1, 1)
	before := w.segment(lost + 1).Epoch
	adopt.By = w.session("b")
	w.must(ops(adopt))
	if g := w.segment(lost + 1); g.Epoch != before+1 {
		t.Errorf("joined under epoch %v after %v", g.Epoch, before)
	}
}

func TestWhoDrainsTakesNothing(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	id := w.open(1, "a", "b", "c")
	w.must(w.seal(id, 1))
	w.must(NodeChange{Node: "b", Verb: NodeDrain})
	w.refused(w.about(OpTransfer, id, "b"), NodeNotAlive)
	o := w.reassign(id, "b")
	o.By = w.session("a")
	w.refused(ops(o), Malformed)
	o.By = 0
	w.must(ops(o)) // the last resort: it has a copy, and it lives
	w.must(NodeChange{Node: "d", Verb: NodeDrain})
	w.must(NodeChange{Node: "d", Verb: NodeDrained, By: w.session("d")})
	w.refused(ops(w.openOp(1, "d")), NodeNotAlive)
}

func TestOnlyTheNodeItselfHasAnInventory(t *testing.T) {
	w := newWorld(t, "a", "b")
	lost := MakeSegmentID(w.session("a"), 9)
	w.must(NodeChange{Node: "b", Verb: NodeDrain})
	w.must(NodeChange{Node: "b", Verb: NodeDrained, By: w.session("b")})
	w.must(GenerationBump{Generation: 2})
	w.register("a", 1, 1)
	w.register("b", 1, 1)
	w.refused(NodeChange{Node: "a", Verb: NodeInventoried, By: w.session("b")}, OldSession)
	w.must(ops(SegmentOp{Kind: OpAdopt, ID: lost, By: w.session("b")}))
	w.refused(NodeChange{Node: "b", Verb: NodeRemove}, StillHolds)
}
