package segment

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// quietState is how far the end of delivery from a segment has come.
type quietState uint8

const (
	notQuiet     quietState = iota
	quiescing               // no new attempts; those under way are waited for
	quiet                   // none is under way, and none begins
	transferring            // a Transfer was proposed: nothing is delivered any more
)

// tendSealed looks after an owned SEALED segment.
func (m *Machine) tendSealed(s *seg) time.Duration {
	m.releaseLate(s)
	m.tendResults(s)
	for _, b := range s.members {
		if b.pending {
			m.propose(s, fsm.SegmentOp{Kind: fsm.OpFresh, Member: b.ref})
		}
	}
	if m.finished(s) {
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpGone})
	} else {
		m.tendHandOver(s)
		m.tendJob(s)
		m.tendMembers(s)
	}
	switch {
	case s.res.last > s.res.acked || s.own.late || s.quiet != notQuiet:
		return TickEvery
	case s.job != nil || s.prop.kind != 0:
		return 5 * TickEvery
	}
	return 0
}

// finished says whether nothing of the segment is needed any more: every
// message has its final results, on all fresh members, and what this node
// does not have is not merely damaged.
func (m *Machine) finished(s *seg) bool {
	if !s.empty || !m.forgetful || s.res.acked < s.res.last || s.own.late || s.quiet == transferring {
		return false
	}
	if !s.suspect {
		return true
	}
	for _, b := range s.members {
		if !b.stale {
			return false // it may have what is missing here
		}
	}
	return true
}

// tendMembers removes members that are too many.
func (m *Machine) tendMembers(s *seg) {
	wanted := max(m.copies, m.settings.Copies)
	if s.id == m.move.Segment {
		wanted++ // the node it moves to; its new owner removes one
	}
	var out *member
	rank := 0
	for _, b := range s.members {
		if b.pending {
			continue
		}
		r := 0
		switch {
		case !m.takesPart(b.ref):
			r = 5
		case !m.healthy(b.ref):
			r = 4
		case len(s.rec.Members) <= wanted:
		case b.stale || !b.peer.up:
			r = 3
		case m.sharesZone(b.ref, s.rec.Members):
			r = 2
		default:
			r = 1
		}
		if r > rank {
			out, rank = b, r
		}
	}
	if out != nil && m.healthyFresh(s, out.ref) >= m.copies && m.freshWithout(s, out.ref) >= m.copies {
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpRemoveMember, Member: out.ref})
	}
}

// healthyFresh counts the fresh members that count as copies, but for one.
func (m *Machine) healthyFresh(s *seg, but fsm.Ref) int {
	n := 0
	for _, r := range s.rec.Members {
		if r != but && !s.rec.IsStale(r) && m.healthy(r) {
			n++
		}
	}
	return n
}

// freshWithout counts fresh members on stores that are there, but for one; the
// control plane asks for no more.
func (m *Machine) freshWithout(s *seg, but fsm.Ref) int {
	n := 0
	for _, r := range s.rec.Members {
		x := m.nodes[r.Node]
		if r != but && !s.rec.IsStale(r) && x != nil && x.Store == r.Store && x.State != fsm.Removed && !x.Lost {
			n++
		}
	}
	return n
}

// tendHandOver gives the segment to another member, while this node drains or
// to move backlog. It needs a lease: an older process of this node, on another machine, may
// deliver until this one gets its first.
func (m *Machine) tendHandOver(s *seg) {
	to := m.heir(s)
	switch {
	case s.quiet == transferring:
		if s.heir != (fsm.Ref{}) && m.mayHandOver() {
			m.propose(s, fsm.SegmentOp{Kind: fsm.OpTransfer, Member: s.heir})
		}
	case to == nil:
		m.resumeDelivery(s)
	case s.quiet == notQuiet:
		if !s.res.paused {
			m.act(Action{Kind: ActPause, Segment: s.id})
		}
		s.quiet, s.hush = quiescing, m.token()
		m.act(Action{Kind: ActQuiesce, Segment: s.id, Token: s.hush})
	case s.quiet == quiet && s.res.acked == s.res.last && m.agreed(s) && !s.own.late && m.mayHandOver():
		// Not the heir alone, all fresh members have the results: the heir
		// does not know what the others lack.
		s.quiet, s.heir = transferring, to.ref
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpTransfer, Member: to.ref})
	}
}

// agreed says whether this process can vouch for all fresh members.
func (m *Machine) agreed(s *seg) bool {
	return !slices.ContainsFunc(s.members, func(b *member) bool { return b.unsure && !b.stale })
}

func (m *Machine) mayHandOver() bool { return m.Holds(m.now) || m.without(LeaseToDeliver) }

func (m *Machine) resumeDelivery(s *seg) {
	if s.quiet == notQuiet {
		return
	}
	s.quiet = notQuiet
	if !s.res.paused {
		m.act(Action{Kind: ActResume, Segment: s.id})
	}
}

// heir finds the member that is to own the segment: any, while this node
// drains, else the one that it moves to.
func (m *Machine) heir(s *seg) *member {
	var best *member
	stays := m.takesPart(m.cfg.Self)
	for _, b := range s.members {
		if b.stale || b.lost || !b.peer.up || !m.takesPart(b.ref) || stays && (s.id != m.move.Segment || b.ref != m.move.To) {
			continue
		}
		if best == nil || m.rng.IntN(2) == 0 {
			best = b
		}
	}
	return best
}

// adopting says whether a segment without a record is to be brought back: the
// cluster has begun a new generation and this node has not yet told all.
func (m *Machine) adopting(s *seg) bool {
	n := m.nodes[m.cfg.Self.Node]
	return n != nil && !n.Inventoried && s.held && s.from != nil && !s.adopted && s.id.Session().Generation() < m.session.Generation() &&
		!(s.known && s.rec.IsMember(m.cfg.Self))
}

// tendNode proposes what the node itself has come to: that it has told all it
// holds, that it is drained.
func (m *Machine) tendNode() {
	n := m.nodes[m.cfg.Self.Node]
	if n == nil || m.session == 0 || m.now < m.nodeAfter || n.Inventoried && n.State != fsm.Draining {
		return
	}
	m.nodeAfter = m.now + ProposeEvery
	if !n.Inventoried {
		told := 0
		for _, s := range m.list {
			if !m.adopting(s) {
				continue
			}
			if told++; told > fsm.MaxOps {
				break
			}
			m.ops = append(m.ops, fsm.SegmentOp{
				Kind: fsm.OpAdopt, ID: s.id, By: m.session,
				Members: s.from.Members, End: s.from.End, EndSet: s.from.EndSet,
			})
		}
		if told == 0 {
			m.act(Action{Kind: ActProposeNode, Verb: fsm.NodeInventoried, Session: m.session})
		}
		return
	}
	for _, s := range m.list {
		if s.held && !(s.off && s.adopted) || s.known && s.rec.IsMember(m.cfg.Self) {
			return
		}
	}
	m.act(Action{Kind: ActProposeNode, Verb: fsm.NodeDrained, Session: m.session})
}
