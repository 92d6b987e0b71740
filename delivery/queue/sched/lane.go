package sched

import (
	"strings"

	"github.com/clrelay/clrelay/delivery/queue/sched/gate"
	"github.com/clrelay/clrelay/delivery/queue/sched/pace"
	"github.com/clrelay/clrelay/delivery/queue/sched/slab"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

// class is what is known of a lane's destination. Each class has its rings of
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
	pace      pace.Pace
	members   uint32 // recipients that belong here
	ready     uint32 // of them, waiting for a slot
	sweep     uint32 // of them, to be postponed without a try
	running   uint32 // deliveries
	wait      uint32 // its place at the gate where it waits; 0: it does not
	slots     uint64 // the gate to be told when one of its deliveries ends; 0: none
	subs      [sides]uint32
	next      [classes][turns.Ranks]uint32 // links in the rings
	parkNext  uint32                       // link among the parked
	wheel     turns.Wheel                  // whose turn it is of its senders' ranks
	sweepNext uint32                       // link in the sweeps
	idleLinks slab.Links                   // among the empty lanes
	pos       uint32                       // place in the probe timer, from 1; 0: not there
	class     class
	queued    [classes]uint8 // bit i: it stands in the ring of rank i, in vain but for its class
	parked    bool
	sweeping  bool // stands in the sweeps
	probing   bool // a delivery that began while it was down runs
	idle      bool
}

// The senders of a lane take turns within the rank of their mail. Those that
// wait at a gate of their own stand aside.
const (
	aside = turns.Ranks
	sides = turns.Ranks + 1
)

// sub is the ready mail of one sender and class in one lane. It exists only
// while there is any. What a limit keeps that is not about all of it, but about
// some domain, stands in one of its own, apart from the sender's others.
type sub struct {
	list   slab.List
	limit  string // gate.Denied.Key of that limit; empty: none
	lane   uint32
	sender uint32
	turns  slab.Links // ring of the senders of its side
	wait   uint32     // its place at the gate where it waits; 0: it does not
}

// classBits are the lowest of a sender's number in here: the rank of its mail.
// One sender's mail of two classes is that of two senders.
const classBits = 2

func rankOf(sender uint32) int { return int(sender & (1<<classBits - 1)) }

// side is where a sender's queue stands in its lane.
func (q *sub) side() int {
	if q.wait != 0 {
		return aside
	}
	return rankOf(q.sender)
}

// subKey is how a queue is found.
type subKey struct {
	lane, sender uint32
	limit        string
}

// laneFor finds or makes the lane of a key and counts one more member.
func (s *Scheduler[M]) laneFor(key string) uint32 {
	id, ok := s.laneOf[key]
	if !ok {
		var l *lane
		id, l = s.lanes.Take()
		key = strings.Clone(key) // it may be a part of something large
		l.key, l.pace = key, pace.New(s.cfg.LaneStart, s.cfg.LaneMax)
		s.laneOf[key] = id
	}
	l := s.lanes.At(id)
	l.members++
	if l.idle {
		s.unlinkIdle(id, l)
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
	s.idle.Append(id, s.inIdle)
	s.disarmProbe(l)
	// A lane that is down stays so until its probe time; an idle one needs
	// that time only as a bound, which its idle time is as well.
	l.probeAt = max(l.probeAt, s.now)
}

func (s *Scheduler[M]) unlinkIdle(id uint32, l *lane) {
	s.idle.Remove(id, s.inIdle)
	l.idle = false
	s.idleLanes--
}

// forgetIdleLanes drops empty lanes that are too old or too many.
func (s *Scheduler[M]) forgetIdleLanes() {
	for s.idle.Head() != 0 {
		id := s.idle.Head()
		l := s.lanes.At(id)
		if l.queued != [classes]uint8{} || l.parked || l.sweeping {
			return
		}
		if s.idleLanes <= s.cfg.LanesIdle && s.now-l.probeAt < s.cfg.LaneIdle.Milliseconds() {
			return
		}
		s.unlinkIdle(id, l)
		delete(s.laneOf, l.key)
		s.lanes.Release(id)
	}
}

// makeReady puts a recipient behind the others of its sender in its lane.
func (s *Scheduler[M]) makeReady(id uint32, r *recipient) {
	sid, q := s.subFor(r, "")
	r.flags &^= flagBack
	s.set(r, ready)
	r.pos = sid
	q.list.Append(id, s.inList)
	s.joined(r)
}

// putBack puts a recipient that was not tried before the others, and its sender
// has the turn again. Several that come back stand in the order in which they
// were taken from here, which first, the number of a job, is about.
func (s *Scheduler[M]) putBack(id uint32, r *recipient, first uint64) {
	sid, q := s.subFor(r, "")
	s.cameBack(r, first)
	s.insertFirst(id, r, sid, q)
	s.joined(r)
}

// cameBack notes the job that was the first to try a recipient.
func (s *Scheduler[M]) cameBack(r *recipient, first uint64) {
	s.set(r, ready)
	if r.flags&flagBack == 0 {
		r.flags |= flagBack
		r.due = int64(first)
	}
}

// insertFirst puts one that came back into a queue, before all that did not.
func (s *Scheduler[M]) insertFirst(id uint32, r *recipient, sid uint32, q *sub) {
	r.pos = sid
	q.list.InsertFromHead(id, batchWalk, s.inList, func(o uint32) bool {
		b := s.rcpts.At(o)
		return b.flags&flagBack != 0 && !tookAfter(b, r)
	})
	s.lanes.At(r.lane).subs[q.side()] = sid
}

// insertLast puts one that came back into a queue of such, which is long.
func (s *Scheduler[M]) insertLast(id uint32, r *recipient, sid uint32, q *sub) {
	r.pos = sid
	q.list.InsertFromTail(id, batchWalk, s.inList, func(o uint32) bool { return tookAfter(s.rcpts.At(o), r) })
}

// tookAfter tells whether b was first taken later than r.
func tookAfter(b, r *recipient) bool { return b.due > r.due }

// joined counts one more that is ready in its lane.
func (s *Scheduler[M]) joined(r *recipient) {
	l := s.lanes.At(r.lane)
	l.ready++
	if rank := rankOf(s.msgs.At(r.msg).sender); l.wait != 0 && rank < s.gates.Rank(l.wait) {
		at := s.gates.Gate(l.wait)
		old := l.wait
		l.wait = s.gates.Wait(at, gate.Waiter{Who: r.lane}, rank, false)
		s.gates.Leave(old)
	}
	s.offer(r.lane)
}

// subFor finds or makes the queue of a recipient's sender in its lane, of what a
// limit keeps or, without one, of all else.
func (s *Scheduler[M]) subFor(r *recipient, limit string) (uint32, *sub) {
	key := subKey{r.lane, s.msgs.At(r.msg).sender, limit}
	sid, ok := s.subOf[key]
	if ok {
		return sid, s.subs.At(sid)
	}
	sid, q := s.subs.Take()
	q.lane, q.sender, q.limit = key.lane, key.sender, limit
	s.subOf[key] = sid
	s.joinTurns(sid, q)
	return sid, q
}

// joinTurns lets a sender's queue be the last in turn on its side.
func (s *Scheduler[M]) joinTurns(sid uint32, q *sub) {
	slab.JoinRing(&s.lanes.At(q.lane).subs[q.side()], sid, s.inTurns)
}

func (s *Scheduler[M]) leaveTurns(sid uint32, q *sub) {
	slab.LeaveRing(&s.lanes.At(q.lane).subs[q.side()], sid, s.inTurns)
}

// unready takes a recipient out of its sender's queue.
func (s *Scheduler[M]) unready(id uint32, r *recipient) {
	l := s.lanes.At(r.lane)
	sid := r.pos
	q := s.subs.At(sid)
	q.list.Remove(id, s.inList)
	if q.limit != "" {
		s.lines.Leave(r.lane, r.domain)
	}
	l.ready--
	l.sweep = min(l.sweep, l.ready)
	if q.list.Head() != 0 {
		return
	}
	s.leaveTurns(sid, q)
	if q.wait != 0 {
		s.gates.Leave(q.wait)
	}
	delete(s.subOf, subKey{r.lane, q.sender, q.limit})
	s.subs.Release(sid)
	if l.ready == 0 && l.wait != 0 {
		s.gates.Leave(l.wait)
		l.wait = 0
	}
}

// waiting gives the ranks that have mail in a lane whose sender does not wait
// at a gate, as bits.
func (l *lane) waiting() uint8 {
	mask := uint8(0)
	for rank := range turns.Ranks {
		if l.subs[rank] != 0 {
			mask |= 1 << rank
		}
	}
	return mask
}
