package sched

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// newJob makes a job. Its number alone would be given again, so its JobID
// carries how many there have been as well.
func (s *Scheduler[M]) newJob(kind ActionKind, lane uint32) (uint32, *job) {
	id, j := s.jobs.Take()
	s.seq++
	j.kind, j.lane, j.seq = kind, lane, s.seq
	return id, j
}

// take makes a recipient that stands in no list part of a job.
func (s *Scheduler[M]) take(rid uint32, r *recipient, jid uint32, j *job) {
	s.set(r, busy)
	r.pos = jid
	j.items = append(j.items, rid)
}

// emit adds the action that starts a job.
func (s *Scheduler[M]) emit(jid uint32, j *job, a Action[M]) {
	a.Kind, a.Op, a.Tag = j.kind, j.op, j.tag
	a.Job = JobID(j.seq)<<32 | JobID(jid)
	a.Items = make([]Item[M], len(j.items))
	// Recipients of one message share the jitter, so that those that failed
	// together are tried together.
	var of, jitter = uint32(0), 0.0
	for i, rid := range j.items {
		r := s.rcpts.At(rid)
		m := s.msgs.At(r.msg)
		if r.msg != of {
			of, jitter = r.msg, s.rnd.Float64()
		}
		delay := s.cfg.Retry[min(int(r.attempts), len(s.cfg.Retry)-1)]
		a.Items[i] = Item[M]{
			Ref: m.ref, Recipient: uint32(r.index), Attempts: uint32(r.attempts),
			Last:  s.endOf(rid, r) <= s.now,
			Delay: delay + time.Duration(jitter*float64(delay/jitterPart)),
		}
	}
	s.actions = append(s.actions, a)
}

// finish takes a job's results.
func (s *Scheduler[M]) finish(ev *Event[M]) {
	jid := uint32(ev.Job)
	if !s.jobs.Has(jid) {
		return
	}
	j := *s.jobs.At(jid)
	if j.seq != uint32(ev.Job>>32) || j.seq == 0 {
		return
	}
	s.jobs.Release(jid)
	var l *lane
	switch j.kind {
	case Deliver:
		l = s.lanes.At(j.lane)
		l.running--
		s.running--
		s.byClass[j.class]--
		s.rings[j.class].held[j.bucket]--
		if j.class == down {
			l.probing = false
		}
		s.learn(j.lane, l, &j, ev)
	case Postpone, GiveUp, Warn, Purge:
		s.chores--
	}
	var again []uint32
	for i, rid := range j.items {
		var res Result
		if i < len(ev.Results) {
			res = ev.Results[i]
		}
		if s.settle(rid, res) {
			again = append(again, rid)
		}
	}
	s.operateWanted(again)
	if l != nil {
		s.offer(j.lane)
		s.unpark()
		s.maybeIdle(j.lane, l)
	}
}

// settle puts a busy recipient where its result says, and tells whether an
// operator's word is waiting for it instead.
func (s *Scheduler[M]) settle(rid uint32, res Result) (again bool) {
	r := s.rcpts.At(rid)
	if res.State == mail.StateDeferred && !res.Same && r.attempts < 1<<16-1 {
		r.attempts++
	}
	s.endAt(rid, r, res.End)
	if r.flags&flagWanted != 0 {
		if !res.State.Final() {
			s.moveTo(r, res.Lane)
			return true
		}
		w := s.wants[rid]
		delete(s.wants, rid)
		s.actions = append(s.actions, Action[M]{Kind: Overtaken, Tag: w.tag, Count: 1})
	}
	r.flags &= flagEnds
	switch {
	case res.State.Final():
		s.finalize(rid, r)
	case res.State == mail.StateHeld:
		s.moveTo(r, res.Lane)
		s.hold(rid, r, res.Next)
	case res.State == mail.StateTrashed:
		s.discard(rid, r, res.Next)
	case res.State == mail.StateDeferred:
		s.deferred(r)
		s.deferUntil(rid, r, lateMillis(res.Next))
	default:
		s.moveTo(r, res.Lane)
		if next := lateMillis(res.Next); !res.Next.IsZero() && next > s.now {
			s.waitUntil(rid, r, next)
		} else {
			s.makeReady(rid, r)
		}
	}
	return false
}

// waitUntil is deferUntil for one that was not tried: its expiry has to wait,
// too.
func (s *Scheduler[M]) waitUntil(rid uint32, r *recipient, due int64) {
	r.due = due
	s.set(r, deferred)
	s.due.Push(rid)
}

func (s *Scheduler[M]) moveTo(r *recipient, key string) {
	if key == "" {
		return
	}
	old := r.lane
	r.lane = s.laneFor(key)
	s.leaveLane(old)
}

// lateMillis rounds up, so that nothing is tried early.
func lateMillis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// deferred notes that a message is late, when it is.
func (s *Scheduler[M]) deferred(r *recipient) {
	m := s.msgs.At(r.msg)
	if s.cfg.Warn <= 0 || m.warned || s.now-m.arrived < s.cfg.Warn.Milliseconds() {
		return
	}
	m.warned = true
	s.warnings = append(s.warnings, msgRef[M]{r.msg, m.ref})
}

// learn draws the lane's conclusions from a delivery: slow start, then
// additive increase, multiplicative decrease.
func (s *Scheduler[M]) learn(id uint32, l *lane, j *job, ev *Event[M]) {
	switch ev.Reach {
	case Working, Answered:
		l.fails, l.why = 0, nil
		if l.class == down {
			s.disarmProbe(l)
			l.limit = float32(s.cfg.LaneStart)
		}
		l.class = proven
		// Only a lane that used up its limit has shown that it bears it.
		if ev.Reach == Working && float32(l.running+1) >= l.limit {
			if l.limit < l.calm {
				l.limit++
			} else {
				l.limit += 1 / l.limit
			}
			l.limit = min(l.limit, float32(s.cfg.LaneMax))
		}
	case Overloaded:
		// One that speaks but takes nothing, however little it is asked, is
		// as good as unreachable.
		l.fails++
		if l.class == down || l.limit <= 1 && l.isNews(j) {
			s.takeDown(id, l, ev.Why)
			return
		}
		s.cut(l, j)
	case Unreachable:
		l.fails++
		if l.class != down { // an outage is no congestion: what it bore before stays known
			s.cut(l, j)
		}
		if l.class != proven || float32(l.fails) >= l.limit {
			s.takeDown(id, l, ev.Why)
		}
	}
}

// isNews tells whether a delivery began after the lane was slowed down last.
func (l *lane) isNews(j *job) bool { return int32(j.seq-l.cutSeq) > 0 }

// cut halves a lane's concurrency, once for all the deliveries that were
// under way together.
func (s *Scheduler[M]) cut(l *lane, j *job) {
	if !l.isNews(j) {
		return
	}
	l.cutSeq = s.seq
	l.limit = max(1, l.limit/2)
	l.calm = l.limit
}

// takeDown marks a lane as unreachable and lets all that wait in it be
// postponed.
func (s *Scheduler[M]) takeDown(id uint32, l *lane, why *mail.Reply) {
	s.disarmProbe(l)
	l.class, l.why = down, why
	gap := s.cfg.ProbeMin << min(l.fails-1, 16)
	if gap <= 0 || gap > s.cfg.ProbeMax {
		gap = s.cfg.ProbeMax
	}
	l.probeAt = s.now + gap.Milliseconds()
	l.sweep = l.ready
	if l.sweep > 0 && !l.sweeping {
		l.sweeping = true
		s.sweepLater(id, l)
	}
}
