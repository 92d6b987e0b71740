package sim

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// ambush waits for a proposal of one kind and makes it come at the worst
// moment.
type ambush struct {
	kind fsm.OpKind
	mode ambushMode
}

// ambushMode says what the worst moment is.
type ambushMode int

const (
	heldBack ambushMode = iota // when the proposer is dead and has a successor
	repeated                   // when what it was about has changed
	raced                      // when the member it is about is cut off, just before the proposer dies
)

// lay lays an ambush for the next proposal of some kind.
func (c *cluster) lay() {
	kinds := []fsm.OpKind{fsm.OpFresh, fsm.OpFresh, fsm.OpTransfer, fsm.OpTransfer, fsm.OpStale, fsm.OpRecovered, fsm.OpAddMember, fsm.OpRemoveMember, fsm.OpGone, fsm.OpSeal}
	c.ambush = &ambush{kinds[c.w.rng.IntN(len(kinds))], ambushMode(c.w.rng.IntN(3))}
	if c.o.Ambush != 0 {
		c.ambush = &ambush{c.o.Ambush, heldBack}
	}
	if c.ambush.kind == fsm.OpTransfer {
		c.operator(fsm.NodeChange{Node: c.nodes[c.w.rng.IntN(len(c.nodes))].name, Verb: fsm.NodeDrain})
	}
}

// caught is whether the operations walk into the ambush. Where it is true the
// proposal is not to be made now.
func (c *cluster) caught(n *node, ops []fsm.SegmentOp) bool {
	a := c.ambush
	if a == nil || c.calm {
		return false
	}
	for i := range ops {
		if ops[i].Kind != a.kind {
			continue
		}
		c.ambush = nil
		c.w.logf("ambush %d: %v", a.mode, opsText(ops[i:i+1]))
		switch a.mode {
		case heldBack:
			c.holdBack(n, ops[i])
		case repeated:
			c.repeatLater(n, ops[i])
		case raced:
			c.race(n, ops[i])
		}
		return a.mode != repeated
	}
	return false
}

// inject has an operation arrive at the leader.
func (c *cluster) inject(op fsm.SegmentOp) {
	if l := c.raft.leader; l >= 0 {
		c.raft.proposeHere(l, encode(fsm.SegmentOps{Ops: []fsm.SegmentOp{op}}), nil)
	}
}

// holdBack kills the proposer, starts it again, and lets the proposal of the
// dead process arrive when the new one is at work.
func (c *cluster) holdBack(n *node, op fsm.SegmentOp) {
	w, i := c.w, n.index
	w.after(time.Microsecond, "crash", func() { c.crash(i, w.chance(500)) })
	w.after(w.between(time.Millisecond, 200*time.Millisecond), "restart", func() { c.start(i) })
	c.operator(fsm.NodeChange{Node: n.name, Verb: fsm.NodeResume})
	w.after(w.between(500*time.Millisecond, 7*time.Second), "held back", func() { c.inject(op) })
}

// repeatLater cuts the proposer off from whom the proposal is about, repeats
// it when the outcome of the first one is history, and kills the proposer.
func (c *cluster) repeatLater(n *node, op fsm.SegmentOp) {
	w := c.w
	c.cutOff(n, op.Member.Node, w.between(0, 400*time.Millisecond))
	// The epoch is as it was: what compare-and-swap is for.
	at := w.between(1500*time.Millisecond, 4*time.Second)
	w.after(at, "repeated", func() { c.inject(op) })
	c.dieLater(n, at+w.between(20*time.Millisecond, time.Second))
}

// race cuts the proposer off from whom the proposal is about, lets it commit a
// moment later and kills the proposer.
func (c *cluster) race(n *node, op fsm.SegmentOp) {
	c.cutOff(n, op.Member.Node, 0)
	at := c.w.between(200*time.Millisecond, 490*time.Millisecond)
	c.w.after(at, "raced", func() { c.inject(op) })
	c.dieLater(n, at+c.w.between(5*time.Millisecond, 300*time.Millisecond))
}

// cutOff cuts a node off from another for long enough for a takeover.
func (c *cluster) cutOff(n *node, name string, d time.Duration) {
	for m, x := range c.nodes {
		if i := n.index; x.name == name && m != i {
			c.w.after(d, "cut", func() { c.cut([][2]int{{i, m}, {m, i}}, true) })
			c.w.after(c.w.between(6*time.Second, 14*time.Second), "mend", func() { c.cut([][2]int{{i, m}, {m, i}}, false) })
		}
	}
}

func (c *cluster) dieLater(n *node, d time.Duration) {
	c.w.after(d, "crash", func() {
		if !c.calm {
			c.crash(n.index, c.w.chance(500))
			c.w.after(c.w.between(0, 15*time.Second), "restart", func() { c.start(n.index) })
		}
	})
}
