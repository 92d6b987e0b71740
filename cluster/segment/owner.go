package segment

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// ownOpen is what the owner of an OPEN segment keeps about its appends.
type ownOpen struct {
	on         bool
	acked      uint64 // durable on all members
	released   uint64 // told the driver
	progressAt time.Duration
	sealing    bool // a Seal was proposed: nothing is acknowledged any more
	sealEnd    uint64
	sealEpoch  fsm.Epoch
	sealAt     time.Duration
	gaveUp     bool
	full       bool
	fullAt     time.Duration
	arriving   int
	late       bool // SEALED as proposed; up to sealEnd is told when there is a lease
}

// begin starts an own OPEN segment.
func (m *Machine) begin(s *seg) {
	s.own = ownOpen{on: true, progressAt: m.now}
	s.owned, s.handed = true, false
	m.open = append(m.open, s)
	m.settleOpening(s.id)
}

// appended sends new records of an own segment to its members.
func (m *Machine) appended(ev *Appended) {
	s := m.segs[ev.Segment]
	if s == nil || !s.own.on {
		m.appendedLate(s, ev)
		return
	}
	if ev.First != s.last+1 || ev.Last < ev.First {
		m.fatal(s.id, "records were appended out of order")
		return
	}
	if s.own.acked == s.last {
		s.own.progressAt = m.now
	}
	s.last = ev.Last
	if !s.own.sealing || m.without(SealStopsAcks) {
		for _, b := range s.members {
			if b.sent == ev.First-1 && b.retryAt == 0 {
				m.sendAppends(s, b)
			}
		}
	}
	m.touch(s)
}

// appendedLate answers for records of a segment that was sealed or lost while
// they were under way.
func (m *Machine) appendedLate(s *seg, ev *Appended) {
	if s != nil && s.known && s.rec.EndSet && ev.First > s.rec.End {
		m.act(Action{Kind: ActMoved, Segment: ev.Segment, Epoch: s.rec.Epoch, Seq: s.rec.End})
		return
	}
	m.act(Action{Kind: ActLost, Segment: ev.Segment})
}

// sendAppends sends what the member has not been sent in this stream.
func (m *Machine) sendAppends(s *seg, b *member) {
	if !s.own.on || b.sent >= s.last || b.refused || !b.peer.up {
		return
	}
	m.send(b.peer, Item{Kind: ItemAppend, Segment: s.id, Epoch: s.rec.Epoch, Seq: b.sent + 1, Arg: s.last})
	b.sent = s.last
}

func (m *Machine) ownDurable(ev *Durable) {
	s := m.segs[ev.Segment]
	if s == nil || !s.mine || ev.Seq <= s.durable {
		return
	}
	s.durable = min(ev.Seq, s.last)
	m.advance(s)
}

// advance moves acked to the lowest durable record over all members.
func (m *Machine) advance(s *seg) {
	if !s.own.on {
		return
	}
	acked := s.durable
	if !m.without(WriteAll) {
		for _, b := range s.members {
			acked = min(acked, b.acked)
		}
	}
	if acked > s.own.acked {
		s.own.acked, s.own.progressAt = acked, m.now
		m.release(s)
	}
}

// release tells the driver what may be answered 250.
func (m *Machine) release(s *seg) {
	o := &s.own
	if !o.on || o.sealing && !m.without(SealStopsAcks) || o.gaveUp || o.acked <= o.released || !m.mayAck() {
		return
	}
	o.released = o.acked
	m.act(Action{Kind: ActAcked, Segment: s.id, Epoch: s.rec.Epoch, Seq: o.acked})
}

// memberAcked is a member's word that it has records on its disk.
func (m *Machine) memberAcked(s *seg, b *member, seq uint64) {
	if seq > s.last {
		m.alarm(s, "a member acknowledges what was never sent")
		return
	}
	if seq > b.acked {
		b.acked = seq
		m.advance(s)
	}
}

// memberGap is a member's word that it has records up to seq alone, so that
// what was sent after it was in vain.
func (m *Machine) memberGap(s *seg, b *member, it Item) {
	behind := it.Arg == 1 // with the log of Raft: what it has is not said
	if it.Seq < b.acked && !behind {
		m.alarm(s, "a member has lost records that it had acknowledged")
		b.lost = true
		m.evaluate(s)
		return
	}
	if b.retryAt == 0 {
		b.retryAt = m.now + retryAfter
	}
	b.gap = 0
	if !behind {
		b.gap = it.Seq
	}
	m.touch(s)
}

// tendOpen looks after an own OPEN segment.
func (m *Machine) tendOpen(s *seg) time.Duration {
	o := &s.own
	if !o.on {
		return 0 // opened by an earlier process: Register is about to end it
	}
	for _, b := range s.members {
		if b.retryAt != 0 && m.now >= b.retryAt {
			b.retryAt, b.sent = 0, min(max(b.gap, b.acked), s.last)
			m.sendAppends(s, b)
		}
	}
	m.release(s)
	m.tendResults(s)
	if !o.sealing && m.mustSeal(s) {
		m.startSeal(s)
	}
	if o.sealing {
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpSeal, End: o.sealEnd})
		if !o.gaveUp && m.now-o.sealAt >= GiveUpAfter {
			o.gaveUp = true
			m.lose(s)
		}
		return TickEvery
	}
	if o.acked < s.last || o.released < o.acked || o.full || s.res.last > s.res.acked || m.trouble1(s) {
		return TickEvery
	}
	return 0
}

// trouble1 says whether a member cannot be reached or is not in step.
func (m *Machine) trouble1(s *seg) bool {
	return slices.ContainsFunc(s.members, func(b *member) bool { return !b.peer.up || b.retryAt != 0 || b.refused })
}

// mustSeal says whether the segment can take no more messages. On the way it
// remembers who was in the way.
func (m *Machine) mustSeal(s *seg) bool {
	o := &s.own
	stalled := o.acked < s.last && m.now-o.progressAt >= StallAfter
	for _, b := range s.members {
		switch {
		case b.lost, b.stale, b.noRoom:
			return true
		case b.peer.troubled:
			return true
		case !b.peer.up && m.now-b.peer.downSince >= StallAfter:
			return true
		}
		if stalled && b.acked <= o.acked {
			b.peer.avoidUntil = m.now + avoidFor
		}
		if m.behind(s, b) >= StaleAfter {
			return true
		}
	}
	if stalled {
		return true
	}
	// One with too few copies, of the time before there were more nodes, takes
	// no more; nor does one that somebody is to be freed from.
	draining := len(s.rec.Members) < m.copies
	for _, r := range s.rec.Members {
		draining = draining || !m.takesPart(r)
	}
	if draining && !o.full {
		m.markFull(s)
	}
	if !o.full {
		return false
	}
	wait := FullWait
	if draining {
		wait = DrainWait
	}
	return o.arriving == 0 && o.acked == s.last || m.now-o.fullAt >= wait
}

// startSeal ends the segment at what all members have. From here on nothing in
// it is acknowledged, whatever becomes of the proposal: should another take
// the segment over, it may find a lower end.
func (m *Machine) startSeal(s *seg) {
	o := &s.own
	o.sealing, o.sealEnd, o.sealEpoch, o.sealAt = true, o.acked, s.rec.Epoch, m.now
	if o.released > o.sealEnd {
		m.fatal(s.id, "more was acknowledged than all members have")
	}
}

// closeOwn settles what still waits in a segment that is OPEN no more.
func (m *Machine) closeOwn(s *seg, continuous bool) {
	o := &s.own
	switch {
	case s.rec.State != fsm.Sealed:
		m.lose(s)
	case o.released > s.rec.End:
		m.fatal(s.id, "acknowledged messages are above the end")
	case o.gaveUp:
		// They have been told.
	case o.sealing && s.rec.End == o.sealEnd && continuous && s.rec.Epoch == o.sealEpoch+1:
		m.act(Action{Kind: ActMoved, Segment: s.id, Epoch: s.rec.Epoch, Seq: s.rec.End})
		if o.released < o.sealEnd {
			o.late = true
			m.releaseLate(s)
		}
	default:
		// Above the end nothing can come back, whoever sealed it. At or below
		// it some member may lack what was not acknowledged.
		m.act(Action{Kind: ActMoved, Segment: s.id, Epoch: s.rec.Epoch, Seq: s.rec.End})
		if o.released < s.rec.End {
			m.lose(s)
		}
	}
	m.endOwn(s)
}

// releaseLate tells what a Seal found durable everywhere, and had not been
// told for want of a lease.
func (m *Machine) releaseLate(s *seg) {
	if s.own.late && m.mayAck() {
		s.own.late = false
		m.act(Action{Kind: ActAcked, Segment: s.id, Epoch: s.rec.Epoch, Seq: s.rec.End})
	}
}

// lose has 451 said to whoever waits: also above an end that s.last was cut to.
func (m *Machine) lose(s *seg) {
	m.act(Action{Kind: ActLost, Segment: s.id})
	s.own.late = false
}

func (m *Machine) endOwn(s *seg) {
	late := s.own.late
	s.own = ownOpen{late: late}
	m.open = slices.DeleteFunc(m.open, func(o *seg) bool { return o == s })
}

func (m *Machine) full(id fsm.SegmentID) {
	if s := m.segs[id]; s != nil && s.own.on && !s.own.full {
		m.markFull(s)
		m.touch(s)
	}
}

func (m *Machine) markFull(s *seg) { s.own.full, s.own.fullAt = true, m.now }

func (m *Machine) arrived(id fsm.SegmentID) {
	if s := m.segs[id]; s != nil && s.own.arriving > 0 {
		s.own.arriving--
		if s.own.full {
			m.touch(s)
		}
	}
}

// Pick names an own OPEN segment for a new message, another one each time.
// Arrived must follow, once, when the message will append no more to it.
func (m *Machine) Pick(now time.Duration) (fsm.SegmentID, fsm.Epoch, bool) {
	var slow *seg
	for range m.open {
		m.next++
		s := m.open[m.next%len(m.open)]
		if !m.usable(s) {
			continue
		}
		if s.own.acked < s.last && now-s.own.progressAt > 5*TickEvery {
			if slow == nil {
				slow = s
			}
			continue // whoever it waits for may be about to fail
		}
		s.own.arriving++
		return s.id, s.rec.Epoch, true
	}
	if slow == nil {
		return 0, 0, false
	}
	slow.own.arriving++
	return slow.id, slow.rec.Epoch, true
}

// usable says whether new messages may go to an own OPEN segment.
func (m *Machine) usable(s *seg) bool {
	if !m.active || s.own.sealing || s.own.full || !m.takesPart(m.cfg.Self) {
		return false
	}
	for _, b := range s.members {
		if !b.peer.up || b.peer.troubled || b.refused || b.lost {
			return false
		}
	}
	return true
}
