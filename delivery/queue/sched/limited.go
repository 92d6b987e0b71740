package sched

import "github.com/clrelay/clrelay/delivery/queue/sched/gate"

// lineMax is for how long a limit may say to wait so that further mail for a
// domain that it keeps lines up for it without a question: a rate is not to go
// to those who come last. Where the wait is longer there is nothing to be taken
// before others, and each asks: domains are told apart by a small number, which
// two of them may have in common.
const lineMax = 10_000

// expireMax bounds how many of a sender's recipients one refusal gives up.
const expireMax = 1024

// Denied says why a delivery was not made now: a limit.
type Denied = gate.Denied

// letIn starts the delivery of one whose turn at a gate it is; false: nobody
// may ask.
func (s *Scheduler[M]) letIn() bool {
	w, ok := s.gates.Next()
	if !ok {
		return false
	}
	id, sid := w.Who, uint32(0)
	if w.Sub {
		sid = w.Who
		q := s.subs.At(sid)
		id = q.lane
		s.moveSub(sid, q, 0)
		s.lanes.At(id).subs[q.side()] = sid
	} else {
		s.lanes.At(id).wait = 0
	}
	l := s.lanes.At(id)
	if w.Gate == 0 || !s.eligible(l) || s.greedy(l) || s.share(l.class) <= 0 {
		// It waits for something else now, and asks when that has come.
		if w.Gate != 0 {
			s.gates.Ended(w.Gate)
		}
		s.offer(id)
		return true
	}
	if !w.Sub {
		sid = l.subs[l.wheel.Next(l.waiting())]
		if !s.lineUpFirst(sid) {
			s.waitLane(id, l, w.Gate, true)
			s.gates.Ended(w.Gate)
			return true
		}
	}
	s.deliver(id, sid, w.Gate)
	switch {
	case !w.Sub:
		s.waitLane(id, l, w.Gate, false)
	case s.subs.Has(sid) && s.subs.At(sid).list.Head() != 0:
		s.waitSub(sid, w.Gate, false)
	}
	return true
}

// waitLane lets a lane with ready mail wait at a gate.
func (s *Scheduler[M]) waitLane(id uint32, l *lane, at uint32, first bool) {
	if l.ready == 0 {
		return
	}
	rank := 0
	for rank < aside-1 && l.subs[rank] == 0 {
		rank++
	}
	old := l.wait
	l.wait = s.gates.Wait(at, gate.Waiter{Who: id}, rank, first)
	if old != 0 {
		s.gates.Leave(old)
	}
}

// waitSub lets a sender's queue wait at a gate.
func (s *Scheduler[M]) waitSub(sid, at uint32, first bool) {
	q := s.subs.At(sid)
	old := q.wait
	s.moveSub(sid, q, s.gates.Wait(at, gate.Waiter{Who: sid, Sub: true}, rankOf(q.sender), first))
	if old != 0 {
		s.gates.Leave(old)
	}
}

// moveSub takes a sender's queue aside, to a place at a gate, or back.
func (s *Scheduler[M]) moveSub(sid uint32, q *sub, wait uint32) {
	s.leaveTurns(sid, q)
	q.wait = wait
	s.joinTurns(sid, q)
}

// asked takes what an asking delivery was told: it may go on.
func (s *Scheduler[M]) asked(id JobID) {
	jid := uint32(id)
	if !s.jobs.Has(jid) {
		return
	}
	if j := s.jobs.At(jid); jobID(j, jid) == id && j.gate != 0 {
		s.gates.Passed(j.gate)
		j.gate = 0
	}
}

// deny lets wait whom a limit has refused: the lane of a delivery that ended,
// or the sender of its message, which has mail in that lane.
func (s *Scheduler[M]) deny(lid, sender uint32, d *Denied) {
	l := s.lanes.At(lid)
	key := subKey{lane: lid, sender: sender}
	s.giveUpFirst(s.subOf[key])
	sid := s.subOf[key]
	if d.Sender && sid == 0 || l.ready == 0 {
		return
	}
	at := s.gates.Refuse(d, s.now)
	if d.Sender {
		s.waitSub(sid, at, true)
		return
	}
	s.waitLane(lid, l, at, true)
	if d.Slots {
		l.slots = s.gates.Ref(at)
	}
}

// giveUpFirst ends the first recipients of a queue whose time is over.
func (s *Scheduler[M]) giveUpFirst(sid uint32) {
	for n := 0; n < expireMax && sid != 0; n++ {
		q := s.subs.At(sid)
		rid := q.list.Head()
		r := s.rcpts.At(rid)
		if s.endOf(rid, r) > s.now {
			return
		}
		if rid == q.list.Tail() {
			sid = 0 // the queue goes with its last
		}
		s.unready(rid, r)
		s.set(r, expired)
		s.expiries.Append(rid, s.inList)
	}
}

// setApart lets a recipient wait for the limit that has refused it, with the
// others of its sender in its lane that the same limit keeps.
func (s *Scheduler[M]) setApart(rid uint32, r *recipient, d *Denied, j *job) {
	s.giveUpFirst(s.subOf[subKey{r.lane, s.msgs.At(r.msg).sender, d.Key}])
	if s.endOf(rid, r) <= s.now {
		s.set(r, expired)
		s.expiries.Append(rid, s.inList)
		return
	}
	sid, q := s.subFor(r, d.Key)
	s.lines.Join(r.lane, r.domain, d.Key)
	s.cameBack(r, j.seq)
	if j.apart {
		s.insertFirst(rid, r, sid, q)
	} else {
		s.insertLast(rid, r, sid, q)
	}
	at := s.gates.Refuse(d, s.now)
	if j.apart || q.wait == 0 {
		s.waitSub(sid, at, j.apart)
	}
	if d.Slots {
		s.lanes.At(r.lane).slots = s.gates.Ref(at)
	}
	s.joined(r)
}

// lineUp lets a ready recipient wait behind those of its domain that a limit
// keeps, if there are any and it is not for long.
func (s *Scheduler[M]) lineUp(rid uint32, r *recipient) bool {
	limit := s.lines.Of(r.lane, r.domain)
	at, until, ok := s.gates.Find(limit)
	if !ok || until.UnixMilli() > s.now+lineMax {
		return false
	}
	s.unready(rid, r)
	sid, q := s.subFor(r, limit)
	s.lines.Join(r.lane, r.domain, limit)
	s.seq++ // it stands there as if a job had come back
	s.cameBack(r, s.seq)
	s.insertLast(rid, r, sid, q)
	if q.wait == 0 {
		s.waitSub(sid, at, false)
	}
	s.joined(r)
	return true
}

// lineUpFirst does that with the first recipients of a sender's queue. It tells
// whether there are others behind them.
func (s *Scheduler[M]) lineUpFirst(sid uint32) bool {
	q := s.subs.At(sid)
	for len(s.lines) > 0 && q.limit == "" && s.linedUp < tickMax {
		rid := q.list.Head()
		last := rid == q.list.Tail()
		if !s.lineUp(rid, s.rcpts.At(rid)) {
			break
		}
		s.linedUp++
		if last {
			return false
		}
	}
	return true
}

// limited gives what a recipient that is ready waits for, nil when it is no
// limit.
func (s *Scheduler[M]) limited(r *recipient) *Denied {
	l := s.lanes.At(r.lane)
	if l.wait != 0 {
		return s.gates.Said(l.wait)
	}
	if q := s.subs.At(r.pos); q.wait != 0 {
		return s.gates.Said(q.wait)
	}
	return nil
}
