package sched

import (
	"math/bits"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// class is what is known of a lane's destination. Each class has its ring of
// lanes that want a slot, and its share of the slots.
type class uint8

const (
	fresh  class = iota // nothing yet
	proven              // it worked
	down                // it could not be reached
	classes
)

// lane holds the recipients of one next hop.
type lane struct {
	key       string
	why       *mail.Reply // what the last failed connection said; nil unless down
	probeAt   int64       // down: not before; empty: idle since
	limit     float32     // concurrency that is allowed
	calm      float32     // up to here limit grows by one a success, then by one a round
	cutSeq    uint32      // jobs up to this one no longer cut limit: their failure is old news
	members   uint32      // recipients that belong here
	ready     uint32      // of them, waiting for a slot
	sweep     uint32      // of them, to be postponed without a try
	running   uint32      // deliveries
	sub       uint32      // the sender's queue whose turn it is
	next      uint32      // link in a ring
	sweepNext uint32      // link in the sweeps
	idlePrev  uint32      // links among the empty lanes
	idleNext  uint32
	pos       uint32 // place in the probe timer, from 1; 0: not there
	fails     uint32 // failed connections in a row
	class     class
	queued    bool // stands in a ring
	sweeping  bool // stands in the sweeps
	probing   bool // a delivery that began while it was down runs
	idle      bool
}

// sub is the ready mail of one sender in one lane. It exists only while there
// is any.
type sub struct {
	list
	lane   uint32
	sender uint32
	next   uint32 // the lane's ring of senders
	prev   uint32
}

func subKey(lane, sender uint32) uint64 { return uint64(lane)<<32 | uint64(sender) }

// laneFor finds or makes the lane of a key and counts one more member.
func (s *Scheduler[M]) laneFor(key string) uint32 {
	id, ok := s.laneOf[key]
	if !ok {
		var l *lane
		id, l = s.lanes.Take()
		key = strings.Clone(key) // it may be a part of something large
		l.key, l.limit, l.calm = key, float32(s.cfg.LaneStart), float32(s.cfg.LaneMax)
		s.laneOf[key] = id
	}
	l := s.lanes.At(id)
	l.members++
	if l.idle {
		s.unlinkIdle(l)
	}
	return id
}

// leaveLane counts one member less. An empty lane is remembered for a while.
func (s *Scheduler[M]) leaveLane(id uint32) {
	l := s.lanes.At(id)
	l.members--
	s.maybeIdle(id, l)
}

func (s *Scheduler[M]) maybeIdle(id uint32, l *lane) {
	if l.members > 0 || l.running > 0 || l.idle {
		return
	}
	l.idle = true
	s.idleLanes++
	l.idlePrev, l.idleNext = s.idle.tail, 0
	if s.idle.tail != 0 {
		s.lanes.At(s.idle.tail).idleNext = id
	} else {
		s.idle.head = id
	}
	s.idle.tail = id
	s.disarmProbe(l)
	// A lane that is down stays so until its probe time; an idle one needs
	// that time only as a bound, which its idle time is as well.
	l.probeAt = max(l.probeAt, s.now)
}

func (s *Scheduler[M]) unlinkIdle(l *lane) {
	if l.idlePrev != 0 {
		s.lanes.At(l.idlePrev).idleNext = l.idleNext
	} else {
		s.idle.head = l.idleNext
	}
	if l.idleNext != 0 {
		s.lanes.At(l.idleNext).idlePrev = l.idlePrev
	} else {
		s.idle.tail = l.idlePrev
	}
	l.idle, l.idlePrev, l.idleNext = false, 0, 0
	s.idleLanes--
}

// forgetIdleLanes drops empty lanes that are too old or too many.
func (s *Scheduler[M]) forgetIdleLanes() {
	for s.idle.head != 0 {
		id := s.idle.head
		l := s.lanes.At(id)
		if l.queued || l.sweeping {
			return
		}
		if s.idleLanes <= s.cfg.LanesIdle && s.now-l.probeAt < s.cfg.LaneIdle.Milliseconds() {
			return
		}
		s.unlinkIdle(l)
		delete(s.laneOf, l.key)
		s.lanes.Release(id)
	}
}

// makeReady puts a recipient behind the others of its sender in its lane.
func (s *Scheduler[M]) makeReady(id uint32, r *recipient) {
	s.set(r, ready)
	sender := s.msgs.At(r.msg).sender
	l := s.lanes.At(r.lane)
	key := subKey(r.lane, sender)
	sid, ok := s.subOf[key]
	if !ok {
		var q *sub
		sid, q = s.subs.Take()
		q.lane, q.sender = r.lane, sender
		s.subOf[key] = sid
		s.joinTurns(l, sid, q)
	}
	s.append(&s.subs.At(sid).list, id)
	l.ready++
	s.offer(r.lane)
}

// joinTurns lets a sender's queue be the last in turn.
func (s *Scheduler[M]) joinTurns(l *lane, sid uint32, q *sub) {
	if l.sub == 0 {
		l.sub, q.next, q.prev = sid, sid, sid
		return
	}
	cur := s.subs.At(l.sub)
	q.next, q.prev = l.sub, cur.prev
	s.subs.At(cur.prev).next = sid
	cur.prev = sid
}

// unready takes a recipient out of its sender's queue.
func (s *Scheduler[M]) unready(id uint32, r *recipient) {
	l := s.lanes.At(r.lane)
	key := subKey(r.lane, s.msgs.At(r.msg).sender)
	sid := s.subOf[key]
	q := s.subs.At(sid)
	s.unlink(&q.list, id)
	l.ready--
	l.sweep = min(l.sweep, l.ready)
	if q.head != 0 {
		return
	}
	if q.next == sid {
		l.sub = 0
	} else {
		s.subs.At(q.prev).next = q.next
		s.subs.At(q.next).prev = q.prev
		if l.sub == sid {
			l.sub = q.next
		}
	}
	delete(s.subOf, key)
	s.subs.Release(sid)
}

// eligible tells whether a lane may start a delivery, but for the slots.
func (s *Scheduler[M]) eligible(l *lane) bool {
	if l.ready == 0 || l.sweep > 0 {
		return false
	}
	if l.class == down {
		return !l.probing && s.now >= l.probeAt
	}
	return float32(l.running) < l.limit
}

// greedy tells whether a lane holds too many slots to be given another: twice
// what is still free. n slow destinations together then leave 1/(2n+1) of the
// slots to newcomers, and a lane that is alone is hardly hindered.
func (s *Scheduler[M]) greedy(l *lane) bool {
	return l.running > 0 && int(l.running) >= 2*(s.cfg.Running-s.running)
}

// offer puts a lane into the ring of its class when it has something to
// start, or parks it when it is greedy, and sees that a lane that is down
// wakes up for its probe.
func (s *Scheduler[M]) offer(id uint32) {
	l := s.lanes.At(id)
	if l.queued {
		return
	}
	if s.eligible(l) {
		if s.greedy(l) {
			s.enqueue(&s.parked, id, l)
		} else {
			s.joinRing(id, l)
		}
		return
	}
	if l.class == down && l.ready > 0 && l.sweep == 0 && !l.probing && l.pos == 0 {
		s.probes.Push(id)
	}
}

// ring holds lanes that want a slot. They wait in buckets by the sender whose
// turn it is in the lane, and the buckets take turns: a bulk sender with mail
// for thousands of destinations that hang must not make others wait for all of
// them.
type ring struct {
	buckets [buckets]fifo
	held    [buckets]int // slots held by deliveries that came from there
	full    uint64       // bit i: bucket i is not empty
	turn    int          // the bucket to look at first
}

const buckets = 64 // the bits of ring.full

// pick gives the bucket whose turn it is, when share slots are left. Like a
// lane, a bucket may hold twice what is still free.
func (r *ring) pick(share int) (bucket int, ok bool) {
	for todo := r.full; todo != 0 && share > 0; {
		b := (r.turn + bits.TrailingZeros64(bits.RotateLeft64(todo, -r.turn))) % buckets
		if r.held[b] < max(1, 2*share) {
			return b, true
		}
		todo &^= 1 << b
	}
	return 0, false
}

func (s *Scheduler[M]) bucket(l *lane) int { return int(s.subs.At(l.sub).sender % buckets) }

func (s *Scheduler[M]) joinRing(id uint32, l *lane) {
	r, b := &s.rings[l.class], s.bucket(l)
	s.enqueue(&r.buckets[b], id, l)
	r.full |= 1 << b
}

func (s *Scheduler[M]) leaveRing(r *ring, b int) (uint32, *lane) {
	r.turn = (b + 1) % buckets
	id, l := s.dequeue(&r.buckets[b])
	if r.buckets[b].head == 0 {
		r.full &^= 1 << b
	}
	return id, l
}

func (s *Scheduler[M]) disarmProbe(l *lane) {
	if l.pos == 0 {
		return
	}
	s.probes.Remove(l.pos - 1)
	l.pos = 0
}

func (s *Scheduler[M]) enqueue(f *fifo, id uint32, l *lane) {
	l.queued, l.next = true, 0
	if f.tail != 0 {
		s.lanes.At(f.tail).next = id
	} else {
		f.head = id
	}
	f.tail = id
}

func (s *Scheduler[M]) dequeue(f *fifo) (uint32, *lane) {
	id := f.head
	l := s.lanes.At(id)
	f.head = l.next
	if f.head == 0 {
		f.tail = 0
	}
	l.next, l.queued = 0, false
	return id, l
}

// unpark offers some of the greedy lanes again, now that a slot is free.
func (s *Scheduler[M]) unpark() {
	for range unparkMax {
		if s.parked.head == 0 {
			return
		}
		id, _ := s.dequeue(&s.parked)
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

// startDeliveries hands free slots to lanes, in turn.
func (s *Scheduler[M]) startDeliveries() {
	for !s.paused && s.running < s.cfg.Running {
		id, ok := s.pick()
		if !ok {
			return
		}
		s.deliver(id)
	}
}

// pick takes the lane whose turn it is out of its ring.
func (s *Scheduler[M]) pick() (uint32, bool) {
	for range classes {
		c := s.turn
		s.turn = (s.turn + 1) % classes
		for {
			b, ok := s.rings[c].pick(s.share(c))
			if !ok {
				break
			}
			id, l := s.leaveRing(&s.rings[c], b)
			switch {
			case !s.eligible(l) || s.greedy(l):
				s.offer(id) // perhaps it is to be woken up later
			case l.class != c:
				s.joinRing(id, l)
			default:
				return id, true
			}
		}
	}
	return 0, false
}

// deliver starts one transaction of a lane: the recipient whose turn it is,
// and others of the same message that wait here too.
func (s *Scheduler[M]) deliver(id uint32) {
	l := s.lanes.At(id)
	jid, j := s.newJob(Deliver, id)
	j.class, j.bucket = l.class, uint8(s.bucket(l))
	q := s.subs.At(l.sub)
	l.sub = q.next
	first := q.head
	mid := s.rcpts.At(first).msg
	steps := 0
	for rid := first; rid != 0 && steps < batchWalk && len(j.items) < s.cfg.Batch; steps++ {
		r := s.rcpts.At(rid)
		if r.state == ready && r.lane == id && r.msg == mid {
			s.unready(rid, r)
			s.take(rid, r, jid, j)
		}
		rid = r.sib
	}
	l.running++
	l.probing = l.probing || l.class == down
	s.running++
	s.byClass[j.class]++
	s.rings[j.class].held[j.bucket]++
	s.emit(jid, j, Action[M]{Lane: l.key})
	s.offer(id)
}
