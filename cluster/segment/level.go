package segment

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// applied takes over what the control plane says now. Before the own Register
// and the floor are applied it is only written down: what it says may be older
// than what this node did before its restart.
func (m *Machine) applied(ev *Applied) {
	if ev.Index < m.index {
		return // a level that comes late says nothing new
	}
	m.index, m.forgetful = ev.Index, ev.Forgetful
	changed := m.settings != ev.Settings
	m.settings = ev.Settings
	for i := range ev.Nodes {
		changed = m.nodeLevel(&ev.Nodes[i]) || changed
	}
	var fresh []*seg
	for i := range ev.Segments {
		if s := m.record(&ev.Segments[i]); s != nil {
			fresh = append(fresh, s)
		}
	}
	fresh = append(fresh, m.vanished(ev)...)
	m.writtenOff(ev)
	if changed || ev.Full {
		m.countCopies()
	}
	if m.active {
		for _, s := range fresh {
			m.level(s)
		}
	}
	m.activate()
	if changed && m.active {
		for _, s := range m.list {
			m.touch(s)
		}
	}
}

// record writes a record down. All are kept, for a node may be asked to hold a
// copy of any segment: their slices are shared with whoever told them.
func (m *Machine) record(rec *fsm.Segment) *seg {
	s := m.ensure(rec.ID)
	if s.known && rec.Epoch <= s.rec.Epoch {
		return nil
	}
	if s.known && s.rec.EndSet && (!rec.EndSet || rec.End != s.rec.End) {
		m.fatal(s.id, "the end of a segment has changed")
	}
	if !rec.IsMember(rec.Owner) {
		m.fatal(s.id, "the owner of a segment is not a member")
	}
	s.rec, s.known, s.off = *rec, true, false
	return s
}

// vanished finds the segments whose record is gone.
func (m *Machine) vanished(ev *Applied) []*seg {
	var gone []*seg
	if !ev.Full {
		for _, id := range ev.Gone {
			if s := m.segs[id]; s != nil && s.known {
				s.known = false
				gone = append(gone, s)
			}
		}
		return gone
	}
	there := make(map[fsm.SegmentID]bool, len(ev.Segments))
	for i := range ev.Segments {
		there[ev.Segments[i].ID] = true
	}
	for _, s := range m.list {
		if s.known && !there[s.id] {
			s.known = false
			gone = append(gone, s)
		}
	}
	return gone
}

// writtenOff notes which segments have no record because they were written
// off: what is here of them is not finished.
func (m *Machine) writtenOff(ev *Applied) {
	if ev.Full {
		for _, s := range m.list {
			s.off = false
		}
	}
	for at, list := range [][]fsm.SegmentID{ev.Gone, ev.WrittenOff} {
		for _, id := range list {
			if s := m.segs[id]; s != nil {
				s.off = at == 1
			}
		}
	}
}

// nodeLevel takes over a node's record and says whether anything but its lease
// has changed.
func (m *Machine) nodeLevel(rec *fsm.Node) bool {
	n := m.nodes[rec.Name]
	isNew := n == nil
	if isNew {
		n = &node{renewedAt: m.now}
		m.nodes[rec.Name] = n
	}
	changed := isNew || n.Store != rec.Store || n.State != rec.State || n.Lost != rec.Lost
	if isNew || n.Lease.Renewed != rec.Lease.Renewed {
		n.renewedAt, m.lastRenew = m.now, m.now
	}
	n.Node = *rec
	if rec.Name != m.cfg.Self.Node {
		return changed
	}
	switch {
	case m.session != 0 && rec.Lease.Session > m.session,
		m.active && rec.Lease.Session != m.session:
		m.fatal(0, "another process has registered as this node, or the generation has changed")
	case m.active && (rec.Store != m.cfg.Self.Store || rec.State == fsm.Removed || rec.Lost):
		m.fatal(0, "this node was removed, or its store declared lost")
	}
	m.renewed(rec)
	return changed
}

// activate starts the work once the own Register and the floor are applied.
func (m *Machine) activate() {
	n := m.nodes[m.cfg.Self.Node]
	if m.active || n == nil {
		return
	}
	registered := m.session != 0 && n.Lease.Session == m.session && n.Store == m.cfg.Self.Store
	if m.session != 0 && n.Lease.Session > m.session {
		m.fatal(0, "another process has registered as this node")
		return
	}
	if !(registered && m.index >= m.cfg.Floor) && !m.without(RegisterFirst) {
		return
	}
	m.active = true
	for _, s := range slices.Clone(m.list) {
		m.level(s)
		m.touch(s)
	}
}

// level does what follows from a record that differs from the one seen before.
func (m *Machine) level(s *seg) {
	if !s.known {
		m.endJob(s, 0)
		s.rcv = nil
		m.ceaseOwning(s)
		m.evaluate(s)
		return
	}
	if s.rec.Epoch == s.seen {
		return
	}
	prev := s.seen
	if prev == 0 && s.from != nil {
		prev = s.from.Epoch
	}
	self := m.cfg.Self
	continuous := s.rec.Epoch == prev+1 || s.rec.Epoch == prev || prev == 0 && !s.held
	switch {
	case s.rec.Owner != self || !continuous && !s.mine:
		s.handed = true
	case continuous && s.seenState == fsm.Sealed && s.rec.State == fsm.Sealed:
		s.handed = false // a Transfer: the owner before had stopped and told all
	}
	if s.seen == 0 && s.from != nil {
		m.firstLevel(s)
	}
	s.seen, s.seenState = s.rec.Epoch, s.rec.State
	s.prop, s.rcv = proposal{}, nil
	m.endJob(s, 0)
	if s.rec.IsMember(self) {
		if !s.held && s.rec.State == fsm.Recovering && s.id.Session().Generation() < m.session.Generation() {
			// The record was brought back by somebody whose header names this
			// node; what is not here any more, or never was, says nothing.
			s.suspect = true
		}
		rec := s.rec
		m.act(Action{Kind: ActSetSegment, Segment: s.id, Epoch: s.rec.Epoch, Record: &rec})
		s.held, s.confirmed, s.copyAt = true, 0, 0
	}
	s.closed = false
	if s.copyAt != 0 {
		s.copyAt = m.now
	}
	if s.rec.EndSet && s.last > s.rec.End {
		s.last, s.durable = s.rec.End, min(s.durable, s.rec.End)
	}
	if s.rec.Owner == self {
		m.ownLevel(s, continuous)
	} else {
		m.ceaseOwning(s)
		m.foreignLevel(s)
	}
	m.evaluate(s)
}

// firstLevel compares what the disk had at the start with the record.
func (m *Machine) firstLevel(s *seg) {
	switch {
	case !s.rec.IsMember(m.cfg.Self):
		// It may be a copy that the process before confirmed, and an AddMember
		// that relies on it may still commit.
		s.confirmed = s.rec.Epoch
	case s.rec.State == fsm.Sealed && s.rec.Owner == m.cfg.Self:
		s.unsure = true
		if s.durable < s.rec.End {
			m.alarm(s, "this node owns a segment and has not all of it")
			s.suspect = true
		}
	}
}

// ownLevel brings the owner's view of a segment up to its record.
func (m *Machine) ownLevel(s *seg, continuous bool) {
	was := s.mine
	s.mine = true
	m.buildMembers(s, was)
	if s.quiet == transferring {
		s.quiet = quiet // that Transfer can commit no more
	}
	if s.rec.State == fsm.Open {
		if !was && s.id.Session() == m.session {
			m.begin(s)
		}
		for _, b := range s.members {
			b.sent, b.retryAt, b.gap = b.acked, m.now, b.acked // at the new epoch
		}
		return
	}
	switch {
	case s.own.on:
		m.closeOwn(s, continuous)
	case s.own.late && s.rec.State != fsm.Sealed:
		m.lose(s)
	}
	if s.rec.State == fsm.Recovering {
		if s.owned {
			s.owned, s.res.paused, s.quiet = false, false, notQuiet
			m.act(Action{Kind: ActDisown, Segment: s.id})
		}
		return
	}
	if !s.owned {
		s.owned = true
		m.act(Action{Kind: ActOwn, Segment: s.id, Epoch: s.rec.Epoch, Seq: s.rec.End, Takeover: s.handed})
	}
	s.handed = false
	s.empty = s.empty || s.rec.End == 0
}

// buildMembers matches the owner's view of the members with the record.
func (m *Machine) buildMembers(s *seg, was bool) {
	old := s.members
	s.members = nil
	for _, r := range s.rec.Members {
		if r == m.cfg.Self {
			continue
		}
		var b *member
		for _, o := range old {
			if was && o.ref == r {
				b = o
			}
		}
		if b == nil {
			b = &member{ref: r}
			if !s.rec.IsStale(r) {
				b.stream, b.rsent, b.racked = true, s.res.last, s.res.last
			}
		}
		b.peer = m.peer(r)
		b.pending = false
		if stale := s.rec.IsStale(r); stale {
			b.stream = false
		} else if b.stale {
			b.stream, b.lost = true, false
		}
		b.stale = s.rec.IsStale(r)
		b.unsure = !b.stale && (b.unsure || s.unsure)
		s.members = append(s.members, b)
	}
	s.unsure = false
	m.countResults(s)
}

// ceaseOwning ends what this node did as owner.
func (m *Machine) ceaseOwning(s *seg) {
	if s.own.on || s.own.late {
		m.lose(s)
		m.endOwn(s)
	}
	if s.owned {
		s.owned = false
		m.act(Action{Kind: ActDisown, Segment: s.id})
	}
	if s.id == m.move.Segment {
		m.endMove("another node took it over, or it is done with")
	}
	s.mine, s.members, s.empty, s.quiet = false, nil, false, notQuiet
	s.res = results{last: s.res.last, durable: s.res.last, acked: s.res.last}
}

// tendGone deletes what is here of a segment that has no record, or brings the
// record back: a disk that was given up for lost has turned up.
func (m *Machine) tendGone(s *seg) time.Duration {
	if s.off && s.held {
		if !s.adopted {
			m.ops = append(m.ops, fsm.SegmentOp{Kind: fsm.OpAdopt, ID: s.id, By: m.session})
		}
		return time.Second
	}
	if m.adopting(s) || !m.forgetful {
		return time.Second
	}
	if s.held {
		m.act(Action{Kind: ActForget, Segment: s.id, Seq: m.index})
	}
	m.drop(s)
	return 0
}

// peer returns what is known of another process of a member.
func (m *Machine) peer(r fsm.Ref) *peer {
	p := m.peers[r]
	if p == nil {
		p = &peer{ref: r, downSince: m.now}
		m.peers[r] = p
		m.peerList = append(m.peerList, p)
	}
	return p
}

// peerUp notes that another process can be reached.
func (m *Machine) peerUp(ev *PeerUp) {
	p := m.peer(ev.Peer)
	if p.up {
		m.peerDown(ev.Peer) // the stream was replaced
	}
	p.session, p.troubled, p.up = ev.Session, false, true // it says so again if it is
	if m.troubled {
		m.send(p, Item{Kind: ItemTrouble, Arg: 1})
	}
	if !m.active {
		return
	}
	for _, s := range m.list {
		if s.mine {
			m.resume(s, p)
		} else if s.known && s.rec.Owner == p.ref {
			m.tellDamage(s)
		}
	}
}

// resume goes on with a member that can be reached again, from what it is
// known to have.
func (m *Machine) resume(s *seg, p *peer) {
	for _, b := range s.members {
		if b.ref != p.ref {
			continue
		}
		b.peer, b.retryAt, b.sent, b.rsent = p, 0, b.acked, b.racked
		m.sendAppends(s, b)
		m.sendResults(s, b)
		m.touch(s)
	}
}

// peerDown notes that it cannot.
func (m *Machine) peerDown(r fsm.Ref) {
	p := m.peers[r]
	if p == nil || !p.up {
		return
	}
	p.up, p.downSince = false, m.now
	m.forgetPeers()
	for _, s := range m.list {
		if s.job != nil && s.job.to == r {
			m.endJob(s, JobPause)
		}
		if s.sync.from == r {
			s.sync = syncing{}
		}
		if s.mine && s.rec.IsMember(r) {
			m.touch(s)
		}
	}
}

// forgetPeers drops stores that are no node's any more, so that the peers stay
// as many as the nodes.
func (m *Machine) forgetPeers() {
	m.peerList = slices.DeleteFunc(m.peerList, func(p *peer) bool {
		n := m.nodes[p.ref.Node]
		if p.up || n != nil && n.Store == p.ref.Store {
			return false
		}
		delete(m.peers, p.ref)
		return true
	})
}

// trouble tells everybody whether this node takes new copies.
func (m *Machine) trouble(on bool) {
	if on == m.troubled {
		return
	}
	m.troubled = on
	arg := uint64(0)
	if on {
		arg = 1
	}
	for _, p := range m.peerList {
		m.send(p, Item{Kind: ItemTrouble, Arg: arg})
	}
}
