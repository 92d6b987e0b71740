package segment

import (
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// loads hears how much mail waits where, and begins or ends a move of backlog.
// A move is a wish and nothing else: all that comes of it, a copy and a
// Transfer, is what a drain does, too. A process that forgets it, by its end,
// leaves at worst a member too many, which tendMembers removes.
func (m *Machine) loads(ev *Loads) {
	var others []balance.Load // that can be given a segment now
	for _, l := range ev.Others {
		p := m.peers[l.Node]
		if m.active && m.takesPart(m.cfg.Self) && p != nil && p.up && !p.troubled && m.now >= p.avoidUntil && m.takesPart(l.Node) && m.live(l.Node) {
			others = append(others, l)
		}
	}
	move, why := m.balance.Look(m.now, ev.Own, others, m.way)
	if why != "" {
		m.endMove(why)
	}
	if move == m.move {
		return
	}
	m.move = move
	m.act(Action{Kind: ActMoving, Segment: move.Segment, Peer: move.To})
	m.full(move.Segment) // an OPEN one is sealed first
	m.touch(m.segs[move.Segment])
}

// way says how a segment can go to a node.
func (m *Machine) way(id fsm.SegmentID, to fsm.Ref) balance.Way {
	s := m.segs[id]
	switch {
	case s == nil || !s.mine || s.empty || s.rec.State == fsm.Recovering || s.rec.State == fsm.Open && !s.own.on:
		return balance.NoWay
	case s.rec.IsFresh(to):
		return balance.ByTransfer
	case len(s.rec.Members) >= fsm.MaxMembers:
		return balance.NoWay
	}
	return balance.ByCopy
}

// endMove ends the move: it is done where the record says so, else the segment
// stays because of why.
func (m *Machine) endMove(why string) {
	s, to := m.segs[m.move.Segment], m.move.To
	m.move = balance.Move{}
	m.balance.Reset()
	m.touch(s)
	m.act(Action{Kind: ActMoving, Segment: s.id, Peer: to, Complete: s.known && s.rec.Owner == to, Why: why})
}
