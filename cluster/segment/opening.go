package segment

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// opening is a segment that was proposed and not seen yet.
type opening struct {
	op fsm.SegmentOp
	at time.Duration
}

// keepOpen sees to it that there are enough own OPEN segments for new
// messages, with different members, some ahead of need.
func (m *Machine) keepOpen() {
	me := m.nodes[m.cfg.Self.Node]
	if me == nil || !m.takesPart(m.cfg.Self) || m.session == 0 {
		m.opening = m.opening[:0]
		return
	}
	m.opening = slices.DeleteFunc(m.opening, func(o opening) bool { return o.op.ID.N() <= me.Opened })
	if slices.ContainsFunc(m.opening, func(o opening) bool { return m.now-o.at >= ProposeEvery }) {
		// All of them, in order: the control plane takes rising numbers alone.
		for i := range m.opening {
			m.opening[i].at = m.now
			m.ops = append(m.ops, m.opening[i].op)
		}
	}
	have := len(m.opening)
	uses := map[fsm.Ref]int{}
	for _, s := range m.open {
		if m.usable(s) {
			have++
			countUses(uses, s.rec.Members)
		}
	}
	for i := range m.opening {
		countUses(uses, m.opening[i].op.Members)
	}
	if m.now < m.openAfter || m.opened < me.Opened {
		m.opened = max(m.opened, me.Opened)
		return
	}
	for ; len(m.opening) < MaxOpening && m.opened < fsm.MaxSegmentN; have++ {
		members := m.choose(uses)
		if members == nil || have >= m.cfg.Open && !m.spreads(members, uses, have) {
			return
		}
		m.opened++
		op := fsm.SegmentOp{Kind: fsm.OpOpen, ID: fsm.MakeSegmentID(m.session, m.opened), By: m.session, Members: members}
		m.opening = append(m.opening, opening{op, m.now})
		m.ops = append(m.ops, op)
		countUses(uses, members)
	}
}

// spreads says whether one more segment, with these members, would free new
// messages from hanging on one other node that is in all the segments there
// are.
func (m *Machine) spreads(members []fsm.Ref, uses map[fsm.Ref]int, have int) bool {
	for _, p := range m.peerList {
		if uses[p.ref] == have && !slices.Contains(members, p.ref) {
			return true
		}
	}
	return false
}

func countUses(uses map[fsm.Ref]int, members []fsm.Ref) {
	for _, r := range members {
		uses[r]++
	}
}

// settleOpening forgets an opening whose record is there.
func (m *Machine) settleOpening(id fsm.SegmentID) {
	m.opening = slices.DeleteFunc(m.opening, func(o opening) bool { return o.op.ID == id })
}

// choose finds members for a new segment: this node and others, those in other
// zones and those with fewer open segments of ours first. nil: there are too
// few.
func (m *Machine) choose(uses map[fsm.Ref]int) []fsm.Ref {
	members := []fsm.Ref{m.cfg.Self}
	for len(members) < m.copies {
		best := m.bestPeer(members, uses)
		if best == nil {
			return nil
		}
		members = append(members, best.ref)
	}
	return members
}

// bestPeer finds the best further member beside those given; nil if there is
// none.
func (m *Machine) bestPeer(members []fsm.Ref, uses map[fsm.Ref]int) *peer {
	var best *peer
	var bestCost [3]int
	ties := 0
	for _, p := range m.peerList {
		if !p.up || p.troubled || !m.takesPart(p.ref) || slices.Contains(members, p.ref) || slices.ContainsFunc(members, func(r fsm.Ref) bool { return r.Node == p.ref.Node }) {
			continue
		}
		var cost [3]int
		if m.now < p.avoidUntil {
			cost[0] = 1
		}
		if m.sharesZone(p.ref, members) {
			cost[1] = 1
		}
		cost[2] = uses[p.ref]
		switch c := slices.Compare(cost[:], bestCost[:]); {
		case best == nil || c < 0:
			best, bestCost, ties = p, cost, 1
		case c == 0:
			ties++
			if m.rng.IntN(ties) == 0 {
				best = p
			}
		}
	}
	return best
}

// sharesZone says whether another one of members is in r's zone.
func (m *Machine) sharesZone(r fsm.Ref, members []fsm.Ref) bool {
	z := m.zone(r)
	return z != "" && slices.ContainsFunc(members, func(o fsm.Ref) bool { return o != r && m.zone(o) == z })
}

func (m *Machine) zone(r fsm.Ref) string {
	if n := m.nodes[r.Node]; n != nil {
		return n.Info.Zone
	}
	return ""
}

// refused hears that the control plane took a proposal and said no.
func (m *Machine) refused(ev *Refused) {
	if ev.Op.Kind == fsm.OpOpen {
		if s := m.segs[ev.Op.ID]; s == nil || !s.known {
			m.settleOpening(ev.Op.ID)
			m.openAfter = m.now + ProposeEvery
		}
		return
	}
	if ev.Op.Kind == fsm.OpAdopt {
		if s := m.segs[ev.Op.ID]; s != nil {
			s.adopted = true
			if s.off {
				m.alarm(s, "what is here of a segment that was written off is kept and not delivered: this store was no member of it")
			}
		}
		return
	}
	s := m.segs[ev.Op.ID]
	if s == nil || ev.Op.Epoch != s.rec.Epoch {
		return
	}
	if s.prop.kind == ev.Op.Kind {
		s.prop.at = m.now + 4*ProposeEvery // not the same again at once
	}
	if ev.Op.Kind == fsm.OpAddMember {
		m.endJob(s, CopyGrace)
	}
}
