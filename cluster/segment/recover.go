package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// recovery is a takeover being done by this node: it asks the other members
// what they have, unites the results, gives them back to those that answered,
// and then says through Raft where the segment ends.
type recovery struct {
	phase   recoveryPhase
	since   time.Duration // of the phase
	asked   []asking
	own     uint64 // what this node has
	end     uint64 // as found
	stale   []fsm.Ref
	resends time.Duration
}

type recoveryPhase uint8

const (
	asksMembers recoveryPhase = 1 + iota
	givesBack
	proposes
)

// asking is one member that is asked.
type asking struct {
	to       fsm.Ref
	token    uint64
	answered bool   // it has said what it has; it will take nothing older
	last     uint64 // durable there
	suspect  bool   // damage was found there
	merging  bool   // its inventory is being fetched from, after a merge
	merged   bool   // its inventory is here, durable, nothing missing
	dropped  bool   // it takes no part any more
	back     uint64 // token of the united inventory
	united   bool   // it has that, durable, nothing missing
}

// tendRecovery goes on with a takeover.
func (m *Machine) tendRecovery(s *seg) time.Duration {
	if s.rcv == nil {
		m.startRecovery(s)
	}
	r := s.rcv
	if r.phase == asksMembers {
		m.tendAsking(s)
	}
	if r.phase == givesBack {
		m.tendGivingBack(s)
	}
	if r.phase == proposes {
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpRecovered, End: r.end, Stale: r.stale})
	}
	return TickEvery
}

func (m *Machine) startRecovery(s *seg) {
	r := &recovery{phase: asksMembers, since: m.now, own: s.durable, resends: m.now}
	for _, to := range s.rec.Members {
		if to != m.cfg.Self && m.live(to) {
			r.asked = append(r.asked, asking{to: to, token: m.token()})
		}
	}
	s.rcv = r
}

// tendAsking asks, and ends the phase when all have answered or the time is up.
func (m *Machine) tendAsking(s *seg) {
	r := s.rcv
	again := m.now >= r.resends
	if again {
		r.resends = m.now + ProposeEvery
	}
	wait, over := false, m.now-r.since >= AskFor
	for i := range r.asked {
		a := &r.asked[i]
		if a.merged || a.dropped {
			continue
		}
		up := m.peer(a.to).up
		switch {
		case over && !(a.merging && up):
			// Whoever is late is stale. But as long as messages can still be had from
			// a member that this node lacks, there is nothing to be hurried.
			a.dropped = true
			s.suspect = s.suspect || a.merging
			continue
		case again && !a.answered && up:
			m.send(m.peer(a.to), Item{Kind: ItemAsk, Segment: s.id, Epoch: s.rec.Epoch, Arg: a.token})
		}
		wait = true
	}
	if wait {
		return
	}
	r.end = m.foundEnd(s)
	r.phase, r.since = givesBack, m.now
	for i := range r.asked {
		if a := &r.asked[i]; a.merged {
			a.back = m.token()
			m.act(Action{Kind: ActSendInventory, Peer: a.to, Segment: s.id, Epoch: s.rec.Epoch, Token: a.back})
		}
	}
}

// foundEnd returns where the segment ends as far as is known: where it was said
// to end, or the lowest number up to which this node and those that answered
// have it. A record missing anywhere was never acknowledged; but what is missing
// in a damaged store proves nothing, unless there is no other.
func (m *Machine) foundEnd(s *seg) uint64 {
	if s.rec.EndSet {
		return s.rec.End
	}
	r := s.rcv
	end, found := r.own, !s.suspect
	for i := range r.asked {
		a := &r.asked[i]
		if a.answered && !a.suspect && (!found || a.last < end) {
			end, found = a.last, true
		}
	}
	return end
}

// tendGivingBack waits until those that answered have the united results.
func (m *Machine) tendGivingBack(s *seg) {
	r := s.rcv
	for i := range r.asked {
		a := &r.asked[i]
		if a.merged && !a.united && !a.dropped {
			if m.now-r.since < AskFor && m.peer(a.to).up {
				return
			}
			a.dropped = true
		}
	}
	r.stale = nil
	for _, b := range s.rec.Members {
		if b == m.cfg.Self {
			continue
		}
		fresh := false
		for i := range r.asked {
			if a := &r.asked[i]; a.to == b {
				fresh = a.united && a.last >= r.end
			}
		}
		if m.without(StaleAtRecovery) {
			fresh = !s.rec.IsStale(b)
		}
		if !fresh {
			r.stale = append(r.stale, b)
		}
	}
	r.phase = proposes
}

// asking finds the question to a member by token.
func (r *recovery) asking(from fsm.Ref, token uint64) *asking {
	if r == nil || token == 0 {
		return nil
	}
	for i := range r.asked {
		if a := &r.asked[i]; a.to == from && (a.token == token || a.back == token) {
			return a
		}
	}
	return nil
}

// askAnswered hears what a member has, in a takeover or before it is brought
// up to date.
func (m *Machine) askAnswered(s *seg, p *peer, it Item) {
	if it.Epoch != s.rec.Epoch || !s.mine {
		return
	}
	if a := s.rcv.asking(p.ref, it.Arg); a != nil && s.rcv.phase == asksMembers {
		a.answered, a.last, a.suspect = true, it.Seq&^Doubtful, it.Seq&Doubtful != 0
		return
	}
	m.jobAnswered(s, p, it)
}

// recoveryMerged hears that a member's inventory is merged here.
func (m *Machine) recoveryMerged(s *seg, from fsm.Ref, token uint64, missing int) bool {
	a := s.rcv.asking(from, token)
	if a == nil {
		return false
	}
	if s.rcv.phase != asksMembers || !a.answered || a.dropped {
		return true
	}
	if missing == 0 {
		a.merged, a.merging = true, false
	} else {
		a.merging = true
		m.act(Action{Kind: ActFetch, Peer: from, Segment: s.id, Epoch: s.rec.Epoch, Token: token})
	}
	m.evaluate(s)
	return true
}

// recoveryFetched hears what became of what a member had and this node lacked.
func (m *Machine) recoveryFetched(s *seg, ev *Fetched) bool {
	a := s.rcv.asking(ev.From, ev.Token)
	if a == nil || a.token != ev.Token {
		return false
	}
	if a.merging && ev.Missing == 0 {
		a.merged = true
	} else if a.merging {
		a.dropped, s.suspect = true, true
	}
	a.merging = false
	m.evaluate(s)
	return true
}

// recoveryGiven hears that a member has the united inventory.
func (m *Machine) recoveryGiven(s *seg, p *peer, it Item) bool {
	if s.rcv == nil || s.rec.State != fsm.Recovering {
		return false
	}
	if a := s.rcv.asking(p.ref, it.Arg); a != nil && a.back == it.Arg {
		if it.Seq == 0 {
			a.united = true
		} else {
			a.dropped = true
		}
		m.evaluate(s)
	}
	return true
}
