package sched

import (
	"math/rand/v2"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched/gate"
	"github.com/clrelay/clrelay/delivery/queue/sched/slab"
	"github.com/clrelay/clrelay/delivery/queue/sched/timer"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

// state is where a recipient stands in the scheduler.
type state uint8

const (
	done     state = iota // final: its record waits to be freed
	ready                 // in its sender's queue in its lane
	deferred              // in the timer
	expired               // waits for a GiveUp job
	held                  // in the timer as well, if it is for a time
	busy                  // part of a job
	trashed               // dropped, and still to be had back: in the timer
	spent                 // that time is over: it waits for a Purge job
	states
)

// isTrash tells whether an operator has dropped a recipient in that state.
func (s state) isTrash() bool { return s == trashed || s == spent }

// Flags of a recipient.
const (
	flagExpires uint8 = 1 << iota // its timer ends its life, not its waiting
	flagWanted                    // an operator's word waits for its job to end
	flagEnds                      // an operator said when its life ends: it is in ends
	flagTimed                     // it is held for a time
	flagBack                      // a limit has sent it back: due is the number of the job that was to try it first
)

// recipient is one recipient of a queued message. Times here and below are
// milliseconds of Unix time.
type recipient struct {
	due      int64  // deferred: when the timer fires
	msg      uint32 // its message
	lane     uint32
	links    slab.Links // ready, expired, spent: in the list it stands in
	sib      uint32     // the message's next recipient
	pos      uint32     // deferred: place in the timer; busy: its job; ready: the queue where it stands
	index    uint16     // in the envelope
	domain   uint16     // the caller's number for its domain
	attempts uint16
	state    state
	flags    uint8
}

// message is one message with recipients that are not final.
type message[M comparable] struct {
	ref     M
	arrived int64
	sender  uint32     // and the rank of its class: see classBits
	head    uint32     // first recipient, and by sib the others
	left    uint32     // recipients that are not done
	gone    uint32     // done ones still linked
	links   slab.Links // in order of arrival
	warned  bool
	whole   bool   // it is in the trash as a whole
	trash   uint32 // recipients there
}

// job is work that the caller was given.
type job struct {
	kind   ActionKind
	op     Op
	class  class // of its lane when it began; with rank and bucket: whose slots it holds
	rank   uint8
	bucket uint8
	gate   uint32 // where it asks, until it has an answer; 0: nowhere
	apart  bool   // it is of recipients that stood apart from their sender's others
	seq    uint64
	lane   uint32
	tag    uint64
	items  []uint32
}

// want is an operator's word for a recipient that is busy.
type want struct {
	op  Op
	tag uint64
}

// Scheduler holds what is queued. M is the caller's name of a message.
type Scheduler[M comparable] struct {
	cfg     Config
	rnd     *rand.Rand
	now     int64
	paused  bool
	actions []Action[M]

	msgs    slab.Slab[message[M]]
	rcpts   slab.Slab[recipient]
	lanes   slab.Slab[lane]
	subs    slab.Slab[sub]
	jobs    slab.Slab[job]
	laneOf  map[string]uint32
	subOf   map[subKey]uint32
	lines   gate.Lines       // whose domains stand apart in them
	linedUp int              // in this step, without a question
	wants   map[uint32]want  // busy recipient -> what to do with it next
	ends    map[uint32]int64 // recipient -> when its life ends, for those with flagEnds

	due     timer.Timer // of recipients
	probes  timer.Timer // of lanes
	gates   *gate.Gates // where lanes and senders wait for limits
	rings   [classes]turns.Rings
	parked  turns.FIFO   // lanes with mail that hold enough slots for now
	running int          // Deliver jobs
	byClass [classes]int // of them, by what their lane was at the start
	byRank  [turns.Ranks]int
	turn    class  // the class that is asked first
	seq     uint64 // jobs started so far, and what lined up without one

	chores   int        // Postpone, GiveUp, Warn and Purge jobs
	expiries slab.List  // recipients
	purges   slab.List  // recipients
	sweeps   turns.FIFO // lanes whose waiting mail is to be postponed
	warnings []msgRef[M]

	order     slab.List // of messages, by arrival
	prefix    uint32    // this one and all before it are whole; 0: nothing is known
	wholes    int       // messages that are in the trash as a whole
	count     [states]int
	idle      slab.List // empty lanes, longest idle first
	idleLanes int
	cursors   []*Cursor[M]

	ringLinks                        [classes][turns.Ranks]turns.Link
	parkLink, sweepLink              turns.Link
	inList, inIdle, inOrder, inTurns slab.Find
}

type msgRef[M comparable] struct {
	msg uint32
	ref M
}

// New makes an empty, paused Scheduler that takes its randomness from rnd.
func New[M comparable](c Config, rnd *rand.Rand) *Scheduler[M] {
	s := &Scheduler[M]{
		cfg: c.WithDefaults(), rnd: rnd, paused: true,
		laneOf: map[string]uint32{}, subOf: map[subKey]uint32{}, lines: gate.Lines{}, wants: map[uint32]want{}, ends: map[uint32]int64{},
		gates: gate.New(),
	}
	for c := range s.ringLinks {
		for rank := range s.ringLinks[c] {
			s.ringLinks[c][rank] = func(id uint32) *uint32 { return &s.lanes.At(id).next[c][rank] }
		}
	}
	s.inList = func(id uint32) *slab.Links { return &s.rcpts.At(id).links }
	s.inTurns = func(id uint32) *slab.Links { return &s.subs.At(id).turns }
	s.inOrder = func(id uint32) *slab.Links { return &s.msgs.At(id).links }
	s.inIdle = func(id uint32) *slab.Links { return &s.lanes.At(id).idleLinks }
	s.parkLink = func(id uint32) *uint32 { return &s.lanes.At(id).parkNext }
	s.sweepLink = func(id uint32) *uint32 { return &s.lanes.At(id).sweepNext }
	s.due = timer.Timer{
		At:    func(id uint32) int64 { return s.rcpts.At(id).due },
		Place: func(id, pos uint32) { s.rcpts.At(id).pos = pos },
	}
	s.probes = timer.Timer{
		At:    func(id uint32) int64 { return s.lanes.At(id).probeAt },
		Place: func(id, pos uint32) { s.lanes.At(id).pos = pos + 1 },
	}
	return s
}

// Configure sets other limits, for what happens from now on.
func (s *Scheduler[M]) Configure(c Config) { s.cfg = c.WithDefaults() }

// Config gives the limits that hold, defaults included.
func (s *Scheduler[M]) Config() Config { return s.cfg }

// Step takes an event that happened at now and gives what is to be done. A
// time before that of an earlier step counts as that one. Its work is bounded
// whatever is queued: a Tick that finds very much due does a part, and Wake
// then asks for the next at once.
func (s *Scheduler[M]) Step(now time.Time, ev *Event[M]) []Action[M] {
	s.now = max(s.now, now.UnixMilli())
	clear(s.actions)
	s.actions = s.actions[:0]
	s.linedUp = 0
	switch ev.Kind {
	case Add:
		s.add(ev)
	case Finished:
		s.finish(ev)
	case Admitted:
		s.asked(ev.Job)
	case Relax:
		s.gates.Relax(s.now)
	case Command:
		s.command(ev)
	case Run:
		s.paused = false
	case Pause:
		s.paused = true
	}
	s.tick()
	s.startChores()
	s.startDeliveries()
	return s.actions
}

// Wake gives the time by which the next Tick is needed; ok is false when none
// is.
func (s *Scheduler[M]) Wake() (at time.Time, ok bool) {
	if s.paused {
		return time.Time{}, false
	}
	first := min(s.due.Earliest(), s.probes.Earliest(), s.gates.Wake())
	if first == timer.Never {
		return time.Time{}, false
	}
	return time.UnixMilli(max(first, s.now)), true
}

// tick moves what is due from the timers to where it is started from.
func (s *Scheduler[M]) tick() {
	if s.paused {
		return
	}
	for range tickMax {
		id, at, ok := s.due.First()
		if !ok || at > s.now {
			break
		}
		r := s.rcpts.At(id)
		s.due.Remove(r.pos)
		switch {
		case r.state == trashed:
			s.set(r, spent)
			s.purges.Append(id, s.inList)
		case r.flags&flagExpires != 0:
			s.expire(id, r)
		default:
			r.flags &^= flagTimed
			s.makeReady(id, r)
		}
	}
	for {
		id, at, ok := s.probes.First()
		if !ok || at > s.now {
			break
		}
		s.disarmProbe(s.lanes.At(id))
		s.offer(id)
	}
	s.gates.Tick(s.now)
	s.forgetIdleLanes()
}

// add takes a message in.
func (s *Scheduler[M]) add(ev *Event[M]) {
	if len(ev.Recipients) == 0 {
		return
	}
	mid, m := s.msgs.Take()
	m.ref, m.arrived, m.sender = ev.Ref, ev.Arrived.UnixMilli(), ev.Sender<<classBits|uint32(ev.Class.Rank())
	m.warned = s.cfg.Warn > 0 && s.paused && s.now-m.arrived >= s.cfg.Warn.Milliseconds()
	s.order.Append(mid, s.inOrder)
	link := &m.head
	for i := range ev.Recipients {
		in := &ev.Recipients[i]
		id, r := s.rcpts.Take()
		r.msg, r.index, r.domain = mid, uint16(in.Index), in.Domain
		r.attempts = uint16(min(in.Attempts, 1<<16-1))
		r.lane = s.laneFor(in.Lane)
		*link, link = id, &r.sib
		m.left++
		s.count[done]++ // set leaves it
		s.enter(id, r, in)
	}
	if m.trash > 0 {
		s.weigh(m)
	}
}

// enter puts an added recipient where its stored state says.
func (s *Scheduler[M]) enter(id uint32, r *recipient, in *Recipient) {
	s.endAt(id, r, in.End)
	switch next := lateMillis(in.Next); {
	case in.State == mail.StateHeld:
		s.hold(id, r, in.Next)
	case in.State == mail.StateTrashed:
		s.discard(id, r, in.Next)
	case in.State == mail.StateDeferred && next > s.now:
		s.deferUntil(id, r, next)
	default:
		s.makeReady(id, r)
	}
}

// set keeps the counts.
func (s *Scheduler[M]) set(r *recipient, to state) {
	s.count[r.state]--
	s.count[to]++
	from := r.state
	r.state = to
	if from.isTrash() == to.isTrash() {
		return
	}
	m := s.msgs.At(r.msg)
	if to.isTrash() {
		m.trash++
	} else {
		m.trash--
	}
	s.weigh(m)
}

// weigh notes whether a message is in the trash as a whole.
func (s *Scheduler[M]) weigh(m *message[M]) {
	switch whole := m.trash > 0 && m.trash == m.left; {
	case whole == m.whole:
	case whole:
		m.whole = true
		s.wholes++
	default:
		m.whole = false
		s.wholes--
		s.prefix = 0
	}
}

// hold keeps a recipient back until it is released, or due at a time.
func (s *Scheduler[M]) hold(id uint32, r *recipient, until time.Time) {
	switch {
	case until.IsZero():
		s.set(r, held)
	case lateMillis(until) <= s.now:
		s.makeReady(id, r)
	default:
		r.due = lateMillis(until)
		r.flags |= flagTimed
		s.set(r, held)
		s.due.Push(id)
	}
}

// discard puts a recipient into the trash until a time.
func (s *Scheduler[M]) discard(id uint32, r *recipient, until time.Time) {
	r.due = lateMillis(until)
	s.set(r, trashed)
	s.due.Push(id)
}

// endAt sets when a recipient's life ends; zero changes nothing.
func (s *Scheduler[M]) endAt(id uint32, r *recipient, end time.Time) {
	if end.IsZero() {
		return
	}
	r.flags |= flagEnds
	s.ends[id] = end.UnixMilli()
}

// endOf is when a recipient is given up.
func (s *Scheduler[M]) endOf(id uint32, r *recipient) int64 {
	if r.flags&flagEnds != 0 {
		return s.ends[id]
	}
	return s.msgs.At(r.msg).arrived + s.cfg.Expire.Milliseconds()
}

// deferUntil puts a recipient into the timer, to be tried at due, or to be
// given up when its time is over before that.
func (s *Scheduler[M]) deferUntil(id uint32, r *recipient, due int64) {
	end := s.endOf(id, r)
	r.flags &^= flagExpires
	r.due = due
	if due > end {
		r.flags |= flagExpires
		r.due = max(end, s.now)
	}
	s.set(r, deferred)
	s.due.Push(id)
}

// expire queues a recipient, and all of its message that are over as well,
// for one GiveUp job.
func (s *Scheduler[M]) expire(id uint32, r *recipient) {
	if end := s.endOf(id, r); end > s.now {
		s.deferUntil(id, r, end) // Configure made the time longer
		return
	}
	s.set(r, expired)
	s.expiries.Append(id, s.inList)
}

// finalize ends a recipient; its message goes with the last one.
func (s *Scheduler[M]) finalize(id uint32, r *recipient) {
	s.set(r, done)
	if r.flags&flagEnds != 0 {
		delete(s.ends, id)
		r.flags &^= flagEnds
	}
	s.leaveLane(r.lane)
	mid := r.msg
	m := s.msgs.At(mid)
	m.left--
	m.gone++
	s.weigh(m)
	if m.left == 0 || m.gone > 16 && m.gone > m.left {
		s.freeDone(m)
	}
	if m.left == 0 {
		s.forget(mid, m)
	}
}

// freeDone unlinks the final recipients of a message.
func (s *Scheduler[M]) freeDone(m *message[M]) {
	for link := &m.head; *link != 0; {
		id := *link
		r := s.rcpts.At(id)
		if r.state != done {
			link = &r.sib
			continue
		}
		*link = r.sib
		s.count[done]--
		s.rcpts.Release(id)
	}
	m.gone = 0
}

func (s *Scheduler[M]) forget(mid uint32, m *message[M]) {
	for _, c := range s.cursors {
		if c.at == mid {
			c.at = m.links.Next()
		}
	}
	if s.prefix == mid {
		s.prefix = m.links.Prev()
	}
	s.order.Remove(mid, s.inOrder)
	s.msgs.Release(mid)
}
