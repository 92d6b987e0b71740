package segment

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment/place"
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

// choose finds members for a new segment; nil: there are too few.
func (m *Machine) choose(uses map[fsm.Ref]int) []fsm.Ref {
	return place.Members(place.Candidate{Ref: m.cfg.Self, Zone: m.zone(m.cfg.Self)}, m.copies, m.candidates(uses), m.rng)
}

// candidates are the nodes that can be given a copy now.
func (m *Machine) candidates(uses map[fsm.Ref]int) (list []place.Candidate) {
	for _, p := range m.peerList {
		if p.up && !p.troubled && m.takesPart(p.ref) {
			list = append(list, place.Candidate{Ref: p.ref, Zone: m.zone(p.ref), Avoided: m.now < p.avoidUntil, Uses: uses[p.ref]})
		}
	}
	return list
}

// another finds the best further member beside those given.
func (m *Machine) another(members []fsm.Ref) (fsm.Ref, bool) {
	var chosen []place.Candidate
	for _, r := range members {
		chosen = append(chosen, place.Candidate{Ref: r, Zone: m.zone(r)})
	}
	best, ok := place.Next(chosen, m.candidates(nil), m.rng)
	return best.Ref, ok
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
	switch {
	case ev.Op.Kind == fsm.OpAddMember:
		m.endJob(s, CopyGrace)
	case ev.Op.Kind == fsm.OpTransfer && s.quiet == transferring:
		// The heir began to drain. As long as that Transfer may commit nothing
		// is delivered; the epoch that this raises ends it.
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpStale, Member: s.heir})
	}
}
