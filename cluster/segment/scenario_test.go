package segment_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

func beaconOf(b *box, n uint64) *lead.Beacon {
	return &lead.Beacon{Node: b.name, Session: b.session, Number: n}
}

func TestAcceptAndDeliver(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.node("a")
	for i := range 10 {
		a.send(fmt.Sprint("m", i))
	}
	for i := range 10 {
		w.want(fmt.Sprint("m", i), "250", 0)
	}
	a.deliver()
	for i := range 10 {
		w.want(fmt.Sprint("m", i), "250", 1)
	}
	if got := a.m.Status(); !got.Active || got.OwnedOpen != 4 {
		t.Errorf("status %+v", got)
	}
}

func TestOwnerDies(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	b.send("m1")
	b.send("m2")
	b.deliverOne(b.segments()[0])
	b.crash()
	w.run(7 * time.Second)
	for _, name := range []string{"a", "c"} {
		w.node(name).deliver()
	}
	w.want("m1", "250", 1)
	w.want("m2", "250", 1)
	if g := w.ownedBy("b"); len(g) != 0 {
		t.Errorf("the dead node owns %v", g)
	}
	b.boot()
	w.run(5 * time.Second)
	for _, g := range w.state.Segments() {
		if len(g.Stale) > 0 {
			t.Errorf("stale members after all came back: %+v", g)
		}
	}
}

func TestOwnerAndItsDiskDie(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	b.send("m1")
	b.crash()
	clear(b.store)
	b.ref.Store[1]++
	b.boot()
	w.run(10 * time.Second)
	for _, x := range w.nodes {
		x.deliver()
	}
	w.want("m1", "250", 1)
	w.run(5 * time.Second)
	for _, g := range w.state.Segments() {
		for _, r := range g.Members {
			if !w.state.Current(r) {
				t.Errorf("a lost store is a member: %+v", g)
			}
		}
	}
}

// giveUp has the operator write off every segment that no store is left of.
func (w *world) giveUp() (n int) {
	w.commit(fsm.FeatureRaise{Level: fsm.KnownLevel})
	for _, g := range w.state.Lost() {
		r := w.commit(fsm.SegmentOps{Ops: []fsm.SegmentOp{{Kind: fsm.OpWriteOff, ID: g.ID, Epoch: g.Epoch, Renewed: w.index}}})
		if r.Code != fsm.OK || r.Ops[0].Code != fsm.OK {
			w.t.Errorf("writing off %v: %+v", g, r)
		}
		n++
	}
	return n
}

// Two nodes lose their disks at once. What was only on them is written off; the
// disk of one turns up and its mail is delivered, whatever else has happened.
func TestADiskWrittenOffTurnsUp(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		w := newWorld(t, "a", "b", "c", "d")
		a, b := w.node("a"), w.node("b")
		for i := range 12 {
			a.send(fmt.Sprint("m", i))
		}
		a.deliverOne(a.segments()[0])
		old := a.store
		for _, x := range []*box{a, b} {
			x.crash()
			x.store = map[fsm.SegmentID]*shelf{}
			x.ref.Store[1]++
		}
		w.leads(w.node("c"))
		a.boot()
		b.boot()
		w.run(10 * time.Second)
		lost := len(w.state.Lost())
		if n := w.giveUp(); n == 0 || n != lost || len(w.state.Lost()) != 0 {
			t.Fatalf("%d segments were lost, %d written off", lost, n)
		}
		w.run(10 * time.Second)
		for _, x := range w.nodes {
			x.deliver()
		}
		if n := len(w.got); n == 12 {
			t.Fatal("nothing was lost")
		}
		a.crash()
		a.store, a.ref.Store = old, fsm.StoreID{'a', 1}
		if snapshot { // what the node hears first is a whole state that knows of it
			image := w.state.Snapshot()
			if err := w.state.Restore(image); err != nil {
				t.Fatal(err)
			}
		}
		a.boot()
		w.run(10 * time.Second)
		for _, x := range w.nodes {
			x.deliver()
		}
		for i := range 12 {
			if m := fmt.Sprint("m", i); w.got[m] == 0 {
				t.Errorf("snapshot %v: %s was never delivered", snapshot, m)
			}
		}
		if len(a.alarms)+len(b.alarms) > 0 {
			t.Errorf("alarms: %q %q", a.alarms, b.alarms)
		}
	}
}

// A node that had a copy under way keeps it, and does not vouch for it.
func TestACopyOfNoMemberIsKept(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	a, b, c := w.node("a"), w.node("b"), w.node("c")
	w.noCmd = func(o fsm.SegmentOp) bool { return o.Kind == fsm.OpAddMember }
	for i := range 12 {
		a.send(fmt.Sprint("m", i))
	}
	b.crash()
	b.store = map[fsm.SegmentID]*shelf{}
	b.ref.Store[1]++
	b.boot()
	w.run(5 * time.Second) // a copies what it shared with b
	for _, x := range []*box{a, b} {
		x.crash()
		x.store = map[fsm.SegmentID]*shelf{}
		x.ref.Store[1]++
	}
	w.leads(c)
	a.boot()
	b.boot()
	w.run(10 * time.Second)
	var kept []fsm.SegmentID
	for _, g := range w.state.Lost() {
		if c.store[g.ID] != nil {
			kept = append(kept, g.ID)
		}
	}
	w.giveUp()
	w.run(10 * time.Second)
	if len(kept) == 0 || len(c.alarms) != len(kept) {
		t.Errorf("%d copies under way, alarms %q", len(kept), c.alarms)
	}
	for _, id := range kept {
		if _, ok := w.state.Segment(id); ok || c.store[id] == nil {
			t.Errorf("%v: record %v, kept %v", id, ok, c.store[id] != nil)
		}
	}
}

func TestMemberStalls(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.node("a"), w.node("b")
	b.slow = true
	for i := range 4 {
		a.send(fmt.Sprint("m", i))
	}
	w.run(1200 * time.Millisecond)
	for i := range 4 {
		w.want(fmt.Sprint("m", i), "250", 0)
	}
	for _, g := range w.ownedBy("a") {
		if g.State == fsm.Open && g.IsMember(b.ref) {
			t.Errorf("still open with the slow member: %+v", g)
		}
	}
}

func TestNoQuorumNoAnswer(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	w.leader = nil
	w.run(5 * time.Second)
	if b.m.Holds(w.now) {
		t.Error("a lease without a leader")
	}
	b.send("m1")
	w.want("m1", "", 0)
	w.leads(w.node("c"))
	w.run(2 * time.Second)
	w.want("m1", "250", 0)
	if n := len(w.ownedBy("b")); n != 4 {
		t.Errorf("b owns %d segments: nobody was dead", n)
	}
}

func TestSealWithoutOutcome(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	w.node("a").slow, w.node("c").slow = true, true
	b.send("m1")
	w.noCmd = func(o fsm.SegmentOp) bool { return o.Kind == fsm.OpSeal }
	w.run(5 * time.Second)
	w.node("a").slow, w.node("c").slow = false, false
	for _, x := range []*box{w.node("a"), w.node("c")} {
		for _, id := range x.segments() {
			x.step(&segment.Taken{Segment: id, Seq: x.store[id].last})
		}
	}
	w.want("m1", "", 0) // never acknowledged after the Seal was proposed
	w.run(7 * time.Second)
	w.want("m1", "451", 0)
}

func TestResultsPauseAndStale(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.node("a")
	for i := range 20 {
		a.send(fmt.Sprint("m", i))
	}
	w.drop = func(_, to *box, it segment.Item) bool {
		return to.name == "b" && (it.Kind == segment.ItemResults || it.Kind == segment.ItemSync)
	}
	a.deliver()
	w.run(800 * time.Millisecond)
	paused := 0
	for _, p := range a.paused {
		if p {
			paused++
		}
	}
	if paused == 0 {
		t.Error("nothing is paused")
	}
	w.run(time.Second)
	stale := 0
	for _, g := range w.ownedBy("a") {
		stale += len(g.Stale)
		if a.paused[g.ID] {
			t.Errorf("still paused: %+v", g)
		}
	}
	if stale == 0 {
		t.Error("nobody is stale")
	}
	w.drop = nil
	w.run(3 * time.Second)
	for _, g := range w.state.Segments() {
		if len(g.Stale) > 0 {
			t.Errorf("stale for ever: %+v", g)
		}
	}
}

func TestDrain(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	for i := range 10 {
		b.send(fmt.Sprint("m", i))
		w.node("a").send(fmt.Sprint("n", i))
	}
	w.commit(fsm.NodeChange{Node: "b", Verb: fsm.NodeDrain})
	w.run(10 * time.Second)
	n, _ := w.state.Node("b")
	if n.State != fsm.Drained || len(b.store) != 0 {
		t.Errorf("b is %v, holds %d segments, status %+v", n.State, len(b.store), b.m.Status())
	}
	for _, x := range w.nodes {
		x.deliver()
	}
	for i := range 10 {
		w.want(fmt.Sprint("m", i), "250", 1)
		w.want(fmt.Sprint("n", i), "250", 1)
	}
	w.commit(fsm.NodeChange{Node: "b", Verb: fsm.NodeResume})
	w.run(time.Second)
	if !b.send("again") {
		t.Error("b takes nothing after resume")
	}
}

// What was asked before deliveries went on again says nothing of what is under
// way now: a segment that another node would deliver from meanwhile.
func TestAnEarlierQuietDoesNotCount(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	for i := range 10 {
		b.send(fmt.Sprint("m", i))
	}
	b.busy = true
	drain := func(verb fsm.NodeVerb) {
		w.commit(fsm.NodeChange{Node: "b", Verb: verb})
		w.run(5 * time.Second)
	}
	drain(fsm.NodeDrain)
	early := b.hushed
	drain(fsm.NodeResume)
	b.hushed = nil
	drain(fsm.NodeDrain)
	late := b.hushed
	if len(early) == 0 || len(early) != len(late) {
		t.Fatalf("asked %v, then %v", early, late)
	}
	for i := range early {
		b.step(&early[i])
	}
	w.run(5 * time.Second)
	owned := w.ownedBy("b")
	if len(owned) != len(late) {
		t.Errorf("of %d segments it still owns %d", len(late), len(owned))
	}
	for i := range late {
		if id := late[i].Segment; !b.m.Delivers(w.now, id) {
			t.Errorf("from %v it delivers no more", id)
		}
		b.step(&late[i])
		if id := late[i].Segment; b.m.Delivers(w.now, id) {
			t.Errorf("from %v it delivers, and said that it does not", id)
		}
	}
	w.run(5 * time.Second)
	if owned := w.ownedBy("b"); len(owned) != 0 {
		t.Errorf("it owns %v", owned)
	}
	for _, x := range w.nodes {
		x.deliver()
	}
	for i := range 10 {
		w.want(fmt.Sprint("m", i), "250", 1)
	}
}

func TestReplicatedAnew(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	for i := range 10 {
		w.node("a").send(fmt.Sprint("m", i))
	}
	w.node("b").crash()
	w.run(75 * time.Second)
	for _, g := range w.state.Segments() {
		if g.IsMember(w.node("b").ref) || len(g.Members) != 2 || len(g.Stale) != 0 {
			t.Errorf("not replicated anew: %+v", g)
		}
	}
	for _, x := range w.nodes[:1] {
		x.deliver()
	}
	for i := range 10 {
		w.want(fmt.Sprint("m", i), "250", 1)
	}
	w.node("b").boot()
	w.run(5 * time.Second)
	for id := range w.node("b").store {
		if g, ok := w.state.Segment(id); !ok || !g.IsMember(w.node("b").ref) {
			t.Errorf("b keeps %v, which is not its", id)
		}
	}
}

func TestGone(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.node("a")
	for i := range 8 {
		a.send(fmt.Sprint("m", i))
	}
	for _, g := range w.ownedBy("a") {
		a.step(&segment.Full{Segment: g.ID})
	}
	w.run(time.Second)
	a.deliver()
	w.run(time.Second)
	for _, x := range w.nodes {
		for _, id := range x.segments() {
			if _, ok := w.state.Segment(id); !ok {
				t.Errorf("%s keeps %v, which is gone", x.name, id)
			}
		}
	}
	if n := len(w.ownedBy("a")); n != 4 {
		t.Errorf("a owns %d segments", n)
	}
}

// freshLate has a member's Fresh commit late, with its stream broken in
// between, and a result appended after the proposal. It returns how often the
// driver was told that all fresh members have that result, before they had.
func freshLate(t *testing.T, without segment.Rules) (told int) {
	w := newWorld(t, "a", "b", "c")
	w.without = without
	a, b := w.node("a"), w.node("b")
	a.crash()
	a.boot()
	w.leads(a)
	w.run(8 * time.Second)
	for i := range 40 {
		a.send(fmt.Sprint("m", i))
	}
	w.drop = func(_, to *box, it segment.Item) bool {
		return to == b && (it.Kind == segment.ItemResults || it.Kind == segment.ItemSync)
	}
	for _, id := range a.segments() {
		a.deliverOne(id)
	}
	w.run(2500 * time.Millisecond) // b is stale
	var proposed fsm.SegmentOp
	w.noCmd = func(o fsm.SegmentOp) bool {
		if o.Kind == fsm.OpFresh && o.Member == b.ref {
			proposed = o
			return true
		}
		return false
	}
	w.drop = nil
	for range 200 {
		if w.run(20 * time.Millisecond); proposed.ID != 0 {
			break
		}
	}
	if proposed.ID == 0 {
		t.Fatal("nobody was proposed as fresh")
	}
	w.part(a, b, true)
	before := a.resultsAcked[proposed.ID]
	a.deliverOne(proposed.ID)
	told = int(a.resultsAcked[proposed.ID] - before)
	w.commit(fsm.SegmentOps{Ops: []fsm.SegmentOp{proposed}})
	if g, _ := w.state.Segment(proposed.ID); !g.IsFresh(b.ref) {
		t.Fatalf("the late Fresh did not commit: %+v", g)
	}
	return told
}

func TestFreshCountsFromItsProposal(t *testing.T) {
	if told := freshLate(t, 0); told != 0 {
		t.Errorf("%d results are said to be on all fresh members, one of which has none of them", told)
	}
	if told := freshLate(t, segment.FreshCounts); told != 1 {
		t.Errorf("without the rule %d results are, want 1: the test shows nothing", told)
	}
}

// cutOff has an owner that hears nothing of Raft any more, but whose streams
// work, go on after it was replaced. It returns what its next client hears.
func cutOff(t *testing.T, without segment.Rules) string {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	w.run(6 * time.Second)
	b.crash()
	w.without = without // b's new process alone
	b.boot()
	w.run(8 * time.Second)
	w.without = 0
	if without&segment.MemberEpoch != 0 {
		for _, name := range []string{"a", "c"} { // it is the members' rule
			w.without = segment.MemberEpoch
			w.node(name).crash()
			w.node(name).boot()
		}
		w.leads(w.node("a"))
		w.run(8 * time.Second)
	}
	for i := range 8 { // so that none of the segments is gone by then
		b.send(fmt.Sprint("before", i))
	}
	b.lag, b.mute = true, true
	w.run(7 * time.Second)
	for _, g := range w.ownedBy("b") {
		if g.State == fsm.Open {
			t.Fatalf("still b's: %+v", g)
		}
	}
	b.send("late")
	return w.said["late"]
}

// Either of two rules keeps an owner that was replaced from acknowledging.
// Without both, what it acknowledges is above the end, and lost.
func TestLeaseAndEpochBackEachOther(t *testing.T) {
	for _, c := range []struct {
		without segment.Rules
		said    string
	}{
		{0, ""}, {segment.LeaseToAck, ""}, {segment.MemberEpoch, ""},
		{segment.LeaseToAck | segment.MemberEpoch, "250"},
	} {
		if said := cutOff(t, c.without); said != c.said {
			t.Errorf("without %b the client of a replaced owner heard %q, want %q", c.without, said, c.said)
		}
	}
}

// An owner whose process ends before a fresh member has its last results tells
// them after the restart: else the member would be called fresh for ever, and
// deliver again when it takes over.
func TestResultsReachMembersAfterARestart(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	b := w.node("b")
	for i := range 8 {
		b.send(fmt.Sprint("m", i))
	}
	for _, g := range w.ownedBy("b") {
		b.step(&segment.Full{Segment: g.ID})
	}
	w.run(time.Second)
	w.drop = func(from, _ *box, it segment.Item) bool { return from == b && it.Kind == segment.ItemResults }
	for _, id := range b.segments() {
		b.deliverOne(id)
	}
	b.crash()
	w.drop = nil
	b.boot()
	w.run(3 * time.Second)
	b.crash()
	w.run(8 * time.Second)
	for _, x := range w.nodes {
		x.deliver()
	}
	for i := range 8 {
		w.want(fmt.Sprint("m", i), "250", 1)
	}
}

// A Transfer waits for all fresh members, not for the heir alone.
func TestTransferWaitsForAllFreshMembers(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	s := w.state.Settings()
	s.Version, s.Copies = s.Version+1, 3
	w.commit(fsm.SettingsApply{Settings: s})
	w.run(2 * time.Second)
	b := w.node("b")
	for i := range 8 {
		b.send(fmt.Sprint("m", i))
	}
	w.drop = func(from, to *box, it segment.Item) bool {
		return from == b && to.name == "c" && it.Kind == segment.ItemResults
	}
	lacks := map[fsm.SegmentID]bool{}
	for _, g := range w.ownedBy("b") {
		lacks[g.ID] = g.IsMember(w.node("c").ref)
	}
	for _, id := range b.segments() {
		b.deliverOne(id)
	}
	w.commit(fsm.NodeChange{Node: "b", Verb: fsm.NodeDrain})
	w.run(800 * time.Millisecond)
	for _, g := range w.state.Segments() {
		if g.Owner.Node != "b" && lacks[g.ID] && g.IsFresh(w.node("c").ref) && b.numbers[g.ID] > 0 {
			t.Errorf("handed over while a fresh member lacks results: %+v", g)
		}
	}
	w.drop = nil
	w.run(20 * time.Second)
	if n, _ := w.state.Node("b"); n.State != fsm.Drained {
		t.Errorf("b is %v: %+v", n.State, b.m.Status())
	}
	for _, x := range w.nodes {
		x.deliver()
	}
	for i := range 8 {
		w.want(fmt.Sprint("m", i), "250", 1)
	}
}

// After an outage all open segments of a node have the same other member;
// when a third node is back, one more is opened, so that the death of the one
// does not stop the clients.
func TestOpenSegmentsDoNotHangOnOneNode(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.node("a"), w.node("b"), w.node("c")
	c.crash()
	w.run(5 * time.Second)
	c.boot()
	w.run(5 * time.Second)
	w.part(a, b, true)
	if !a.send("m") {
		t.Error("no segment without the node that is gone")
	}
	w.part(a, b, false)
	w.run(time.Minute)
	if n := a.m.Status().OwnedOpen; n > 8 {
		t.Errorf("%d open segments", n)
	}
}
