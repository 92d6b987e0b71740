package sched

import "github.com/clrelay/clrelay/delivery/queue/sched/turns"

// eligible tells whether a lane may start a delivery, but for the slots.
func (s *Scheduler[M]) eligible(l *lane) bool {
	if l.ready == 0 || l.sweep > 0 || l.wait != 0 || l.waiting() == 0 {
		return false
	}
	if l.class == down {
		return !l.probing && s.now >= l.probeAt
	}
	return l.pace.Allows(l.running)
}

// greedy tells whether a lane holds too many slots to be given another: twice
// what is still free. n slow destinations together then leave 1/(2n+1) of the
// slots to newcomers, and a lane that is alone is hardly hindered.
func (s *Scheduler[M]) greedy(l *lane) bool {
	return l.running > 0 && int(l.running) >= 2*(s.cfg.Running-s.running)
}

// offer puts a lane into the rings of its class when it has something to
// start, or parks it when it is greedy, and sees that a lane that is down
// wakes up for its probe.
func (s *Scheduler[M]) offer(id uint32) {
	l := s.lanes.At(id)
	switch {
	case l.parked:
	case s.eligible(l) && s.greedy(l):
		l.parked = true
		s.parked.Push(id, s.parkLink)
	case s.eligible(l):
		for rank := range turns.Ranks {
			s.joinRing(id, l, rank)
		}
	case l.class == down && l.ready > 0 && l.sweep == 0 && l.wait == 0 && l.waiting() != 0 && !l.probing && l.pos == 0:
		s.probes.Push(id)
	}
}

func (s *Scheduler[M]) bucket(sender uint32) int { return int(sender>>classBits) % turns.Buckets }

// joinRing lets a lane wait for a slot for its mail of one rank, if there is
// any. It waits in the bucket of the sender whose turn it is. Where it stood
// when its class was another it is found not to belong once its turn comes: there
// the slots may all be held by those that hang.
func (s *Scheduler[M]) joinRing(id uint32, l *lane, rank int) {
	if sid := l.subs[rank]; sid != 0 && l.queued[l.class]&(1<<rank) == 0 {
		l.queued[l.class] |= 1 << rank
		s.rings[l.class].Push(rank, s.bucket(s.subs.At(sid).sender), id, &s.ringLinks[l.class])
	}
}

func (s *Scheduler[M]) disarmProbe(l *lane) {
	if l.pos == 0 {
		return
	}
	s.probes.Remove(l.pos - 1)
	l.pos = 0
}

// unpark offers some of the greedy lanes again, now that a slot is free.
func (s *Scheduler[M]) unpark() {
	for range unparkMax {
		if s.parked.Head() == 0 {
			return
		}
		id := s.parked.Pop(s.parkLink)
		s.lanes.At(id).parked = false
		s.offer(id)
	}
}

// share is how many more slots a class may hold. Destinations that are down
// get at most a quarter of all, unproven ones at most half: however many of
// them hang, the rest goes on.
func (s *Scheduler[M]) share(c class) int {
	free, quarter := s.cfg.Running-s.running, s.cfg.Running/4
	switch c {
	case down:
		return min(free, max(1, quarter)-s.byClass[down])
	case fresh:
		return min(free, s.cfg.Running-2*quarter-s.byClass[fresh])
	}
	return free
}

// shares divides that by rank: a quarter of all slots is kept free of bulk
// mail, and a sixteenth for transactional mail alone, so that it need not wait
// until others are done.
func (s *Scheduler[M]) shares(c class) [turns.Ranks]int {
	all, bulk := s.share(c), s.byRank[turns.Bulk.Rank()]
	return [turns.Ranks]int{
		all,
		min(all, s.cfg.Running-s.cfg.Running/16-s.byRank[turns.Normal.Rank()]-bulk),
		min(all, s.cfg.Running-s.cfg.Running/4-bulk),
	}
}

// startDeliveries hands free slots to those whose time at a gate has come, and
// then to lanes, in turn.
func (s *Scheduler[M]) startDeliveries() {
	for !s.paused && s.running < s.cfg.Running {
		if s.letIn() {
			continue
		}
		id, ok := s.pick()
		if !ok {
			return
		}
		l := s.lanes.At(id)
		if sid := l.subs[l.wheel.Next(l.waiting())]; s.lineUpFirst(sid) {
			s.deliver(id, sid, 0)
		} else {
			s.offer(id)
		}
	}
}

// pick takes the lane whose turn it is out of its ring.
func (s *Scheduler[M]) pick() (uint32, bool) {
	for range classes {
		c := s.turn
		s.turn = (s.turn + 1) % classes
		for !s.rings[c].Empty() {
			id, rank, ok := s.rings[c].Pop(s.shares(c), &s.ringLinks[c])
			if !ok {
				break
			}
			l := s.lanes.At(id)
			l.queued[c] &^= 1 << rank
			if l.class == c && s.eligible(l) && !s.greedy(l) {
				return id, true
			}
			s.offer(id) // perhaps it is to be woken up later
		}
	}
	return 0, false
}

// deliver starts one transaction of a lane: the first recipient of the sender
// whose turn it is, and others of the same message that wait here too. It asks
// at the gate, if that is not 0.
func (s *Scheduler[M]) deliver(id, sid, gate uint32) {
	l := s.lanes.At(id)
	q := s.subs.At(sid)
	l.subs[q.side()] = q.turns.Next()
	jid, j := s.newJob(Deliver, id)
	j.class, j.rank, j.bucket, j.gate = l.class, uint8(rankOf(q.sender)), uint8(s.bucket(q.sender)), gate
	j.apart = q.limit != ""
	first := q.list.Head()
	steps := 0
	for rid := first; rid != 0 && steps < batchWalk && len(j.items) < s.cfg.Batch; steps++ {
		r := s.rcpts.At(rid)
		if r.state == ready && r.pos == sid {
			s.unready(rid, r)
			s.take(rid, r, jid, j)
		}
		rid = r.sib
	}
	l.running++
	l.probing = l.probing || l.class == down
	s.running++
	s.byClass[j.class]++
	s.byRank[j.rank]++
	*s.rings[j.class].Held(int(j.rank), int(j.bucket))++
	s.emit(jid, j, Action[M]{Lane: l.key, Asks: gate != 0})
	s.offer(id)
}
