package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// job is one other node being brought up to date by the owner: a stale member,
// a node that is to become one, or a fresh member after the owner's restart.
type job struct {
	to      fsm.Ref
	token   uint64
	kind    jobKind
	phase   jobPhase
	since   time.Duration
	askedAt time.Duration
}

type jobKind uint8

const (
	catchesUp jobKind = 1 + iota // a stale member becomes fresh
	copies                       // a node becomes a member
	agrees                       // an owner that was restarted, and a fresh member, tell each other what they have
)

type jobPhase uint8

const (
	announced jobPhase = 1 + iota // ItemSync is sent
	late                          // its results, which the owner may lack, are on their way
	lateFetch                     // the owner fetches messages
	giving                        // it was sent the owner's inventory, and fetches
	caughtUp                      // it has all of it
)

// syncing is what a node keeps while an owner brings it up to date.
type syncing struct {
	from  fsm.Ref
	token uint64
}

func (m *Machine) startJob(s *seg, to fsm.Ref, kind jobKind) {
	m.jobs++
	s.job = &job{to: to, token: m.token(), kind: kind, phase: announced, since: m.now}
	m.announce(s)
}

func (m *Machine) announce(s *seg) {
	j := s.job
	j.askedAt = m.now
	it := Item{Kind: ItemSync, Segment: s.id, Epoch: s.rec.Epoch, Arg: j.token}
	if j.kind != copies {
		it.Seq = 1
	}
	m.send(m.peer(j.to), it)
}

// endJob ends the job, if any; the next may begin after a pause.
func (m *Machine) endJob(s *seg, pause time.Duration) {
	if s.job == nil {
		return
	}
	for _, b := range s.members {
		if b.ref == s.job.to && b.stale && !b.pending {
			b.stream = false
		}
	}
	m.jobs--
	s.job, s.jobNext = nil, m.now+pause
}

// tendJob goes on with the running job or starts one.
func (m *Machine) tendJob(s *seg) {
	if s.job == nil {
		if m.now < s.jobNext {
			return
		}
		to, kind := m.findJob(s)
		switch {
		case kind == 0:
		case m.jobs < MaxJobs:
			m.startJob(s, to, kind)
		case !s.queued:
			s.queued = true
			m.queue = append(m.queue, s)
		}
		return
	}
	j := s.job
	switch {
	case m.now-j.since >= JobPatience:
		m.endJob(s, JobPause)
	case j.phase == announced && m.now-j.askedAt >= JobPause:
		m.announce(s)
	case j.phase == caughtUp && j.kind == copies:
		m.propose(s, fsm.SegmentOp{Kind: fsm.OpAddMember, Member: j.to})
	case j.phase == caughtUp:
		m.tryFresh(s)
	}
}

// tryFresh proposes that the member is fresh when it has all results that were
// ever said to be on all fresh members, and keeps up. From the first proposal
// on it counts: the proposal may commit any time.
func (m *Machine) tryFresh(s *seg) {
	for _, b := range s.members {
		if b.ref != s.job.to || b.pending || b.racked < s.res.acked || m.age(s, b.racked) >= ResultAge {
			continue
		}
		b.pending = true
		m.countResults(s)
	}
}

// findJob finds the job that is needed most; kind 0: none.
func (m *Machine) findJob(s *seg) (to fsm.Ref, kind jobKind) {
	for _, b := range s.members {
		if !b.stale && b.peer.up && (b.unsure || s.suspect) {
			return b.ref, agrees
		}
	}
	healthy := 0
	if m.healthy(m.cfg.Self) {
		healthy++
	}
	for _, b := range s.members {
		if m.healthy(b.ref) {
			healthy++
		}
		if b.stale && !b.pending && b.peer.up && m.takesPart(b.ref) {
			return b.ref, catchesUp
		}
	}
	switch {
	case len(s.rec.Members) >= fsm.MaxMembers:
		return fsm.Ref{}, 0
	case s.id == m.move.Segment && !s.rec.IsMember(m.move.To):
		return m.move.To, copies
	case healthy >= m.copies:
		return fsm.Ref{}, 0
	}
	if to, ok := m.another(s.rec.Members); ok {
		return to, copies
	}
	return fsm.Ref{}, 0
}

// jobAnswered hears that the node is ready.
func (m *Machine) jobAnswered(s *seg, p *peer, it Item) {
	j := s.job
	if j == nil || j.to != p.ref || j.token != it.Arg || j.phase != announced {
		return
	}
	if j.kind == copies {
		m.give(s)
		return
	}
	j.phase = late
}

// give sends the owner's inventory; the results from here on follow in the
// stream.
func (m *Machine) give(s *seg) {
	j := s.job
	j.phase = giving
	for _, b := range s.members {
		if b.ref == j.to && b.stale {
			b.stream, b.rsent, b.racked = true, s.res.last, s.res.last
		}
	}
	m.act(Action{Kind: ActSendInventory, Peer: j.to, Segment: s.id, Epoch: s.rec.Epoch, Token: j.token})
}

// inventory decides whether a piece of an inventory is wanted.
func (m *Machine) inventory(s *seg, p *peer, it Item, index int) {
	if it.Epoch != s.rec.Epoch || s.rec.State == fsm.Open {
		return
	}
	a := Action{Kind: ActMerge, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, Token: it.Arg, Index: index, Seq: s.rec.End}
	if !s.rec.EndSet {
		a.Seq = s.durable // the end is not above it, for this node answered with it
	}
	switch {
	case s.mine && s.rec.State == fsm.Recovering:
		q := s.rcv.asking(p.ref, it.Arg)
		if q == nil || !q.answered || q.merged || q.dropped || q.token != it.Arg {
			return
		}
		// What a stale member does not have proves nothing.
		a.Seq, a.Complete = m.foundEnd(s), s.rec.IsFresh(p.ref) && !q.suspect
	case s.mine:
		if j := s.job; j == nil || j.to != p.ref || j.token != it.Arg || j.phase != late {
			return
		}
		a.Complete = s.job.kind == agrees // a fresh member lacks nothing but what is finished
	case s.rec.Owner != p.ref:
		return
	case s.sync.token == it.Arg && s.sync.from == p.ref:
		a.Complete = true
	case s.rec.State == fsm.Recovering && s.held && s.rec.IsMember(m.cfg.Self):
		s.sync = syncing{p.ref, it.Arg}
		a.Complete = true
	default:
		return
	}
	s.held = true
	m.act(a)
}

// merged hears that an inventory is merged here.
func (m *Machine) merged(s *seg, ev *Merged) {
	if s.mine {
		j := s.job
		switch {
		case m.recoveryMerged(s, ev.From, ev.Token, ev.Missing):
		case j == nil || j.to != ev.From || j.token != ev.Token || j.phase != late:
		case ev.Missing > 0 && s.suspect:
			j.phase = lateFetch
			m.act(Action{Kind: ActFetch, Peer: j.to, Segment: s.id, Epoch: s.rec.Epoch, Token: j.token})
		default:
			s.suspect = s.suspect && j.kind != agrees // a stale member cannot say what is missing
			m.give(s)
		}
		return
	}
	if s.sync.token != ev.Token || s.sync.from != ev.From {
		return
	}
	if ev.Missing > 0 {
		m.act(Action{Kind: ActFetch, Peer: ev.From, Segment: s.id, Epoch: s.rec.Epoch, Token: ev.Token})
		return
	}
	m.syncDone(s, 0)
}

// fetched hears that messages were fetched, or not.
func (m *Machine) fetched(s *seg, ev *Fetched) {
	if s.mine {
		j := s.job
		switch {
		case m.recoveryFetched(s, ev):
		case j == nil || j.to != ev.From || j.token != ev.Token || j.phase != lateFetch:
		default:
			s.suspect = ev.Missing > 0 || j.kind != agrees
			m.give(s)
		}
		return
	}
	switch {
	case s.sync.token != ev.Token || s.sync.from != ev.From:
	case ev.Missing == 0 && s.rec.State == fsm.Sealed:
		// A result of a message that was on its way here may have come before
		// the message, and have found nothing to say it of.
		m.send(m.peer(ev.From), Item{Kind: ItemMerged, Segment: s.id, Epoch: s.rec.Epoch, Seq: Again, Arg: ev.Token})
	default:
		m.syncDone(s, ev.Missing)
	}
}

// fetching says whether records of a message were asked for.
func (m *Machine) fetching(s *seg, p *peer, it Item) bool {
	if s.mine && s.job != nil && s.job.phase == lateFetch {
		return s.job.to == p.ref && s.job.token == it.Arg
	}
	if s.mine {
		a := s.rcv.asking(p.ref, it.Arg)
		return a != nil && a.merging
	}
	return s.sync.from == p.ref && s.sync.token == it.Arg
}

// syncAsked begins to be brought up to date by the owner.
func (m *Machine) syncAsked(s *seg, p *peer, it Item) {
	if it.Epoch != s.rec.Epoch || s.rec.State != fsm.Sealed || s.rec.Owner != p.ref || s.mine {
		return // it will ask again
	}
	if !s.rec.IsMember(m.cfg.Self) {
		if m.troubled || !m.takesPart(m.cfg.Self) {
			return
		}
		s.copyAt = max(m.now, 1)
		rec := s.rec // the spool takes copies of segments alone that it was told of
		m.act(Action{Kind: ActSetSegment, Segment: s.id, Epoch: s.rec.Epoch, Record: &rec})
	}
	s.sync = syncing{p.ref, it.Arg}
	m.send(p, Item{Kind: ItemAnswer, Segment: s.id, Epoch: it.Epoch, Seq: m.has(s), Arg: it.Arg})
	if it.Seq == 1 {
		m.act(Action{Kind: ActSendInventory, Peer: p.ref, Segment: s.id, Epoch: it.Epoch, Token: it.Arg})
	}
}

// syncDone tells the owner what is still missing here. With nothing missing
// this node has all that counts.
func (m *Machine) syncDone(s *seg, missing int) {
	from, token := m.peer(s.sync.from), s.sync.token
	s.sync = syncing{}
	if missing == 0 && s.rec.EndSet {
		s.last, s.durable = s.rec.End, s.rec.End
		s.suspect = false
		if !s.rec.IsMember(m.cfg.Self) {
			s.confirmed, s.copyAt = s.rec.Epoch, max(m.now, 1)
		}
	}
	m.send(from, Item{Kind: ItemMerged, Segment: s.id, Epoch: s.rec.Epoch, Seq: uint64(missing), Arg: token})
}

// peerMerged hears that a member, or one to be, has the owner's inventory.
func (m *Machine) peerMerged(s *seg, p *peer, it Item) {
	if !s.mine || it.Epoch != s.rec.Epoch || m.recoveryGiven(s, p, it) {
		return
	}
	j := s.job
	if j == nil || j.to != p.ref || j.token != it.Arg || j.phase != giving {
		return
	}
	switch it.Seq {
	case 0:
		j.phase = caughtUp
		if j.kind == agrees {
			m.endJob(s, 0)
			for _, b := range s.members {
				b.unsure = b.unsure && b.ref != p.ref
			}
		}
		m.evaluate(s)
	case Again:
		m.act(Action{Kind: ActSendInventory, Peer: j.to, Segment: s.id, Epoch: s.rec.Epoch, Token: j.token})
	default:
		m.endJob(s, JobPause)
	}
}
