package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// received handles the items of one frame. Whatever does not fit is left
// alone: peers may be behind, ahead, or wrong.
func (m *Machine) received(ev *Received) {
	p := m.peers[ev.From]
	if p == nil || !p.up {
		return
	}
	for i := range ev.Items {
		it := ev.Items[i]
		if it.Kind == ItemTrouble {
			p.troubled = it.Arg != 0
			for _, s := range m.open {
				m.touch(s)
			}
			continue
		}
		s := m.segs[it.Segment]
		if !m.active || s == nil || !s.known && !m.without(MemberEpoch) {
			m.early(p, it)
			continue
		}
		switch it.Kind {
		case ItemAppend:
			m.take(s, p, it, i)
		case ItemResults:
			m.takeResults(s, p, it, i)
		case ItemAsk:
			m.asked(s, p, it)
		case ItemSync:
			m.syncAsked(s, p, it)
		case ItemInventory:
			m.inventory(s, p, it, i)
		case ItemFetch:
			if s.held {
				m.act(Action{Kind: ActServe, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, Token: it.Arg, Index: i})
			}
		case ItemCopy:
			if m.fetching(s, p, it) {
				m.act(Action{Kind: ActPut, Peer: p.ref, Segment: s.id, Epoch: s.rec.Epoch, Token: it.Arg, Index: i})
			}
		default:
			m.answered(s, p, it)
		}
	}
}

// early handles what comes about a segment that has no record here: this
// node's log of Raft is behind, or the segment is gone.
func (m *Machine) early(p *peer, it Item) {
	if it.Kind == ItemAppend {
		m.send(p, Item{Kind: ItemGap, Segment: it.Segment, Epoch: it.Epoch, Arg: 1})
	}
}

// answered handles what members say to the owner.
func (m *Machine) answered(s *seg, p *peer, it Item) {
	switch it.Kind {
	case ItemAnswer:
		m.askAnswered(s, p, it)
		return
	case ItemMerged:
		m.peerMerged(s, p, it)
		return
	}
	var b *member
	for _, o := range s.members {
		if o.ref == p.ref {
			b = o
		}
	}
	if b == nil || !s.mine {
		return
	}
	switch it.Kind {
	case ItemAck:
		if s.own.on && (it.Epoch == s.rec.Epoch || m.without(MemberEpoch)) {
			m.memberAcked(s, b, it.Seq)
		}
	case ItemGap:
		if s.own.on && it.Epoch == s.rec.Epoch {
			m.memberGap(s, b, it)
		}
	case ItemRefused:
		if !s.own.on {
			return
		}
		b.refused = true
		if it.Seq == 1 {
			b.noRoom = true
			p.avoidUntil = m.now + avoidFor
		}
		m.evaluate(s)
	case ItemResultsAck:
		if fsm.Session(it.Arg) == m.session {
			m.memberHasResults(s, b, it.Seq)
		}
	case ItemDamaged:
		if s.rec.State == fsm.Sealed && !b.stale && it.Epoch == s.rec.Epoch {
			m.alarm(s, "a member has lost records that it had acknowledged")
			b.lost = true
			m.evaluate(s)
		}
	}
}

// take appends what the owner sent, if this node's own view of the segment is
// the sender's to the epoch: then nobody can have taken it over as far as this
// node has answered for.
func (m *Machine) take(s *seg, p *peer, it Item, index int) {
	self := m.cfg.Self
	if !m.without(MemberEpoch) {
		switch {
		case s.rec.Epoch < it.Epoch:
			m.send(p, Item{Kind: ItemGap, Segment: s.id, Epoch: it.Epoch, Seq: s.last, Arg: 1})
			return
		case s.rec.Epoch > it.Epoch || s.rec.State != fsm.Open || s.rec.Owner != p.ref || !s.rec.IsMember(self):
			m.send(p, Item{Kind: ItemRefused, Segment: s.id, Epoch: s.rec.Epoch})
			return
		}
	}
	if s.mine && !m.without(MemberEpoch) || it.Arg < it.Seq {
		return
	}
	if s.closed {
		m.send(p, Item{Kind: ItemRefused, Segment: s.id, Epoch: s.rec.Epoch, Seq: 1})
		return
	}
	s.takeFrom, s.takeEpoch = p.ref, it.Epoch
	switch {
	case it.Arg <= s.last:
		if it.Arg <= s.durable {
			m.ackTaken(s)
		}
		return
	case it.Seq > s.last+1:
		m.send(p, Item{Kind: ItemGap, Segment: s.id, Epoch: it.Epoch, Seq: s.last})
		return
	}
	m.act(Action{Kind: ActStore, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, First: s.last + 1, Seq: it.Arg, Index: index})
	s.last, s.held = it.Arg, true
}

// taken acknowledges what reached the disk, if it may still be acknowledged.
func (m *Machine) taken(ev *Taken) {
	s := m.segs[ev.Segment]
	if s == nil || s.mine && !m.without(MemberEpoch) || ev.Seq <= s.durable {
		return
	}
	s.durable = min(ev.Seq, s.last)
	current := s.known && s.rec.State == fsm.Open && s.rec.Epoch == s.takeEpoch && s.rec.Owner == s.takeFrom
	if s.takeEpoch != 0 && (current || m.without(MemberEpoch)) {
		m.ackTaken(s)
	}
}

func (m *Machine) ackTaken(s *seg) {
	m.send(m.peers[s.takeFrom], Item{Kind: ItemAck, Segment: s.id, Epoch: s.takeEpoch, Seq: s.durable})
}

// takeFailed tells the owner that there is no room here.
func (m *Machine) takeFailed(ev *TakeFailed) {
	s := m.segs[ev.Segment]
	if s == nil || s.mine || ev.First > s.last {
		return
	}
	s.last, s.closed = max(ev.First, 1)-1, true
	m.send(m.peers[s.takeFrom], Item{Kind: ItemRefused, Segment: s.id, Epoch: s.takeEpoch, Seq: 1})
}

// takeResults keeps results, whoever sends them: they say what has happened,
// and unite in any order.
func (m *Machine) takeResults(s *seg, p *peer, it Item, index int) {
	if s.held && it.Arg >= it.Seq {
		m.act(Action{Kind: ActStoreResults, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, First: it.Seq, Seq: it.Arg, Session: p.session, Index: index})
	}
}

func (m *Machine) takenResults(ev *TakenResults) {
	s, p := m.segs[ev.Segment], m.peers[ev.From]
	if s == nil || p == nil || p.session != ev.Session {
		return
	}
	m.send(p, Item{Kind: ItemResultsAck, Segment: s.id, Epoch: s.rec.Epoch, Seq: ev.Last, Arg: uint64(ev.Session)})
}

// pendingAsk is a question of a new owner that this node has not heard of yet.
type pendingAsk struct {
	from  fsm.Ref
	epoch fsm.Epoch
	token uint64
}

// asked answers a new owner once the own record says that it is one: from then
// on this node takes nothing of older epochs, so what it says stays true.
func (m *Machine) asked(s *seg, p *peer, it Item) {
	switch {
	case it.Epoch > s.rec.Epoch:
		s.ask = pendingAsk{p.ref, it.Epoch, it.Arg}
	case it.Epoch == s.rec.Epoch && s.rec.State == fsm.Recovering && s.rec.Owner == p.ref && s.held:
		m.send(p, Item{Kind: ItemAnswer, Segment: s.id, Epoch: it.Epoch, Seq: m.has(s), Arg: it.Arg})
		m.act(Action{Kind: ActSendInventory, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, Token: it.Arg})
	}
}

// has says what this node has of a segment, and whether it can be sure.
func (m *Machine) has(s *seg) uint64 {
	if s.suspect {
		return s.durable | Doubtful
	}
	return s.durable
}

// foreignLevel does what follows when a record of another's segment changes.
func (m *Machine) foreignLevel(s *seg) {
	s.sync = syncing{}
	if a := s.ask; a.token != 0 && a.epoch <= s.rec.Epoch {
		s.ask = pendingAsk{}
		if p := m.peers[a.from]; p != nil {
			m.asked(s, p, Item{Epoch: a.epoch, Arg: a.token})
		}
	}
	m.tellDamage(s)
}

// tellDamage tells the owner that this node, though held to be fresh, does not
// have all that was acknowledged: its disk went back.
func (m *Machine) tellDamage(s *seg) {
	if !m.damaged(s) {
		return
	}
	m.send(m.peers[s.rec.Owner], Item{Kind: ItemDamaged, Segment: s.id, Epoch: s.rec.Epoch, Seq: s.durable})
}

func (m *Machine) damaged(s *seg) bool {
	return s.known && s.rec.State == fsm.Sealed && s.durable < s.rec.End && s.rec.IsFresh(m.cfg.Self)
}

// tendForeign deletes what is here of a segment that this node is no member of,
// when enough others are. A copy that was confirmed for an AddMember stays
// until the record has moved past the epoch it was confirmed at: the AddMember
// may commit late.
func (m *Machine) tendForeign(s *seg) time.Duration {
	if m.damaged(s) {
		m.tellDamage(s) // until it is no longer held to be fresh
		return time.Second
	}
	if s.rec.IsMember(m.cfg.Self) || !s.held {
		return 0
	}
	// A node that does not take part is not added by anybody.
	if s.confirmed >= s.rec.Epoch && m.takesPart(m.cfg.Self) || s.sync.token != 0 || s.rec.State == fsm.Recovering {
		return time.Second
	}
	if s.copyAt != 0 && m.now-s.copyAt < CopyGrace || !m.forgetful {
		return time.Second
	}
	if m.freshWithout(s, fsm.Ref{}) < m.copies {
		return time.Second
	}
	m.act(Action{Kind: ActForget, Segment: s.id, Seq: m.index})
	s.held, s.last, s.durable, s.confirmed, s.copyAt = false, 0, 0, 0, 0
	return 0
}
