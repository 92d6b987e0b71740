package segment_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// backlog is what waits in a node's segments.
func (b *box) backlog() (own []balance.Backlog, all uint64) {
	for _, id := range b.segments() {
		g, ok := b.w.state.Segment(id)
		if !ok || g.Owner != b.ref {
			continue
		}
		n := uint64(0)
		for q, msg := range b.store[id].msgs {
			if b.w.said[msg] == "250" && !b.store[id].done[q] && (!g.EndSet || q <= g.End) {
				n++
			}
		}
		if n > 0 {
			own, all = append(own, balance.Backlog{Segment: id, Messages: n}), all+n
		}
	}
	return own, all
}

// weigh lets time pass, with the loads told twice a second.
func (w *world) weigh(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.run(500 * time.Millisecond)
		var all []balance.Load
		for _, b := range w.nodes {
			if b.up {
				_, n := b.backlog()
				all = append(all, balance.Load{Node: b.ref, Queued: n})
			}
		}
		for i, b := range w.nodes {
			own, _ := b.backlog()
			var others []balance.Load
			for _, l := range all {
				if l.Node != w.nodes[i].ref {
					others = append(others, l)
				}
			}
			b.step(&segment.Loads{Own: own, Others: others})
		}
	}
}

// loaded is a cluster of which each node has so many messages, and a floor that
// they are above.
func loaded(t *testing.T, zones map[string]string, each int) *world {
	w := &world{balance: balance.Config{Floor: 10}, zones: zones}
	w.begin(t, "a", "b", "c")
	for _, b := range w.nodes {
		for i := range each {
			b.send(fmt.Sprint(b.name, i))
		}
	}
	return w
}

// settled delivers all and checks that each message arrives once.
func (w *world) settled(each int) {
	w.t.Helper()
	w.run(10 * time.Second)
	for _, b := range w.nodes {
		b.deliver()
	}
	for _, name := range []string{"a", "b", "c"} {
		for i := range each {
			w.want(fmt.Sprint(name, i), "250", 1)
		}
	}
}

// alive counts the fresh members that live.
func (w *world) alive(g fsm.Segment) (n int) {
	for _, r := range g.Members {
		if w.node(r.Node).up && !g.IsStale(r) {
			n++
		}
	}
	return n
}

func (w *world) join(name string) *box {
	d := w.add(name)
	d.boot()
	return d
}

// A node that joins gets a fair part of what waits, and the copies are as many
// as before, in different zones.
func TestBacklogMovesToAJoinedNode(t *testing.T) {
	w := loaded(t, map[string]string{"a": "x", "b": "y", "c": "y", "d": "x"}, 80)
	w.weigh(20 * time.Second)
	for _, b := range w.nodes {
		if len(b.moved) > 0 {
			t.Errorf("%s moves %v, and nobody has less", b.name, b.moved)
		}
	}
	d := w.join("d")
	w.weigh(time.Minute)
	if _, n := d.backlog(); n < 40 || n > 90 {
		t.Errorf("the new node has %d of %d", n, 3*80)
	}
	for _, b := range w.nodes {
		w.t.Logf("%s: moved %v, stayed %v", b.name, b.moved, b.stayed)
	}
	for _, g := range w.state.Segments() {
		if g.State == fsm.Sealed && (len(g.Members) != 2 || len(g.Stale) != 0 || w.zones[g.Members[0].Node] == w.zones[g.Members[1].Node]) {
			t.Errorf("members of a segment that moved: %+v", g)
		}
	}
	w.settled(80)
}

// So does a node that was drained and is back.
func TestBacklogMovesBack(t *testing.T) {
	w := loaded(t, nil, 60)
	c := w.node("c")
	w.commit(fsm.NodeChange{Node: "c", Verb: fsm.NodeDrain})
	w.weigh(30 * time.Second)
	if n, _ := w.state.Node("c"); n.State != fsm.Drained {
		t.Fatalf("c is %v", n.State)
	}
	w.commit(fsm.NodeChange{Node: "c", Verb: fsm.NodeResume})
	w.weigh(time.Minute)
	if _, n := c.backlog(); n < 20 || n > 100 {
		t.Errorf("it has %d of %d", n, 3*60)
	}
	w.settled(60)
}

// Whatever stops a move, the segment stays whole with its owner, which goes on
// delivering from it.
func TestMoveIsStopped(t *testing.T) {
	for _, c := range []struct {
		name string
		when func(it segment.Item) bool // the last that is sent to the new node
		stop func(w *world, d *box)
	}{
		{"the new node dies as it is announced", func(it segment.Item) bool { return it.Kind == segment.ItemSync }, func(_ *world, d *box) { d.crash() }},
		{"the new node dies as it has the messages", func(it segment.Item) bool { return it.Kind == segment.ItemCopy }, func(_ *world, d *box) { d.crash() }},
		{"the new node is drained", func(it segment.Item) bool { return it.Kind == segment.ItemInventory }, func(w *world, _ *box) {
			w.commit(fsm.NodeChange{Node: "d", Verb: fsm.NodeDrain})
		}},
		{"the new node is full", func(it segment.Item) bool { return it.Kind == segment.ItemInventory }, func(_ *world, d *box) { d.step(&segment.Trouble{On: true}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := loaded(t, nil, 80)
			d := w.join("d")
			met := false
			w.drop = func(_, to *box, it segment.Item) bool {
				met = met || to == d && c.when(it)
				return met && to == d && it.Kind != segment.ItemAppend
			}
			for i := 0; i < 240 && !met; i++ {
				w.weigh(500 * time.Millisecond)
			}
			c.stop(w, d)
			w.drop = nil
			w.weigh(3 * time.Second)
			stayed := 0
			for _, b := range w.nodes {
				stayed += len(b.stayed)
				for _, g := range w.ownedBy(b.name) {
					if b.up && b.paused[g.ID] {
						t.Errorf("%s does not deliver from %v", b.name, g)
					}
					if there := w.alive(g); b.up && there < 2 {
						t.Errorf("%d live members of %v", there, g)
					}
				}
			}
			if !met || stayed == 0 {
				t.Errorf("nothing was stopped: %v %d", met, stayed)
			}
			w.settled(80)
		})
	}
}

// A Transfer whose outcome nobody knows is waited for, and nothing is
// delivered meanwhile: it may commit late, even if the heir is gone by then.
func TestMoveWithATransferThatCommitsLate(t *testing.T) {
	w := loaded(t, nil, 80)
	d := w.join("d")
	var late []fsm.SegmentOp
	w.noCmd = func(o fsm.SegmentOp) bool {
		if o.Kind == fsm.OpTransfer {
			late = append(late, o)
		}
		return o.Kind == fsm.OpTransfer || o.Kind == fsm.OpRemoveMember
	}
	for i := 0; i < 120 && len(late) == 0; i++ {
		w.weigh(500 * time.Millisecond)
	}
	if len(late) == 0 {
		t.Fatal("no Transfer")
	}
	g, _ := w.state.Segment(late[0].ID)
	owner := w.node(g.Owner.Node)
	d.crash()
	w.weigh(2 * time.Second)
	if owner.m.Delivers(w.now, g.ID) {
		t.Error("it delivers though the Transfer may commit")
	}
	w.noCmd = nil
	w.commit(fsm.SegmentOps{Ops: late[:1]})
	w.weigh(20 * time.Second)
	if g, ok := w.state.Segment(g.ID); !ok || g.Owner == d.ref || g.State != fsm.Sealed {
		t.Errorf("nobody has taken it over from the dead: %+v", g)
	}
	w.settled(80)
}

// A process that ends with a move under way leaves a member too many at worst.
func TestMoveIsForgotten(t *testing.T) {
	w := loaded(t, nil, 80)
	d := w.join("d")
	w.noCmd = func(o fsm.SegmentOp) bool { return o.Kind == fsm.OpTransfer }
	added := func() (out []fsm.Segment) {
		for _, g := range w.state.Segments() {
			if g.State == fsm.Sealed && len(g.Members) == 3 && g.IsFresh(d.ref) {
				out = append(out, g)
			}
		}
		return out
	}
	for i := 0; i < 120 && len(added()) == 0; i++ {
		w.weigh(500 * time.Millisecond)
	}
	if len(added()) == 0 {
		t.Fatal("no segment has a member too many")
	}
	owner := w.node(added()[0].Owner.Node)
	owner.crash()
	owner.boot()
	w.leads(owner)
	w.noCmd = nil
	w.run(30 * time.Second)
	for _, g := range w.state.Segments() {
		if len(g.Members) != 2 || len(g.Stale) != 0 {
			t.Errorf("%+v", g)
		}
	}
	w.settled(80)
}
