package sim

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// heard is what a node said of its load, and when that came.
type heard struct {
	queued uint64
	at     time.Duration
}

const (
	loadsEvery  = 500 * time.Millisecond
	loadsWithin = 5 * time.Second // what is older is of a node that is gone
)

// loads tells the core how much mail waits where, and the other nodes how much
// waits here. What they say may be lost or late.
func (p *process) loads() {
	p.later(loadsEvery, "loads", p.loads)
	ev := &segment.Loads{}
	queued := uint64(0)
	for _, seg := range slices.Sorted(maps.Keys(p.owned)) {
		if o := p.owned[seg]; o.delivers && len(o.due) > 0 {
			ev.Own = append(ev.Own, balance.Backlog{Segment: fsm.SegmentID(seg), Messages: uint64(len(o.due))})
			queued += uint64(len(o.due))
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(p.heard), func(a, b fsm.Ref) int { return cmp.Compare(a.Node, b.Node) }) {
		if h := p.heard[r]; p.n.now()-h.at < loadsWithin {
			ev.Others = append(ev.Others, balance.Load{Node: r, Queued: h.queued})
		}
	}
	p.step(ev)
	me := p.n.ref
	for i := range p.c.nodes {
		if i == p.n.index {
			continue
		}
		p.c.net.datagram(p.n.index, i, "load", func() {
			p.c.nodes[i].exec("load", func(q *process) {
				maps.DeleteFunc(q.heard, func(r fsm.Ref, _ heard) bool { return r.Node == me.Node })
				q.heard[me] = heard{queued, q.n.now()}
			})
		})
	}
}

// moving counts the moves of backlog, and hurts some.
func (p *process) moving(a *segment.Action) {
	c := p.c
	c.w.logf("%s moves %v to %s: there %v, %q", p.n.name, a.Segment, a.Peer.Node, a.Complete, a.Why)
	switch {
	case a.Complete:
		c.stats.Given++
		return
	case a.Why != "":
		c.stats.Stayed++
		return
	}
	c.stats.Moves++
	n := p.nodeOf(a.Peer)
	if c.w.chance(300) {
		n = p.n.index
	}
	kind := []Fault{Crash, PowerLoss, Pause, Drain, Partition, FullDisk}[c.w.rng.IntN(6)]
	if kind&c.o.Faults == 0 || !c.w.chance(400) {
		return
	}
	c.w.after(c.w.between(0, 1500*time.Millisecond), "trouble with a move", func() {
		if !c.calm {
			c.inflict(kind, n)
		}
	})
}

// hop has the next hop take nothing for a while, so that mail waits.
func (c *cluster) hop() {
	c.away = !c.away && !c.calm
	c.w.logf("the next hop takes nothing: %v", c.away)
	switch {
	case c.away:
		c.w.after(c.w.between(5*time.Second, 25*time.Second), "hop is back", c.hop)
	case !c.calm:
		c.w.after(c.w.between(time.Second, 5*time.Second), "hop is away", c.hop)
	}
}
