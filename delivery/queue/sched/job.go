package sched

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// newJob makes a job.
func (s *Scheduler[M]) newJob(kind ActionKind, lane uint32) (uint32, *job) {
	id, j := s.jobs.Take()
	s.seq++
	j.kind, j.lane, j.seq = kind, lane, s.seq
	return id, j
}

// jobID names a job. Its number alone would be given again, so a part of how
// many there have been is in it as well.
func jobID(j *job, jid uint32) JobID { return JobID(uint32(j.seq))<<32 | JobID(jid) }

// take makes a recipient that stands in no list part of a job.
func (s *Scheduler[M]) take(rid uint32, r *recipient, jid uint32, j *job) {
	s.set(r, busy)
	r.pos = jid
	j.items = append(j.items, rid)
}

// emit adds the action that starts a job.
func (s *Scheduler[M]) emit(jid uint32, j *job, a Action[M]) {
	a.Kind, a.Op, a.Tag = j.kind, j.op, j.tag
	a.Job = jobID(j, jid)
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
		a.Items[i] = Item[M]{
			Ref: m.ref, Recipient: uint32(r.index), Attempts: uint32(r.attempts),
			Last:  s.endOf(rid, r) <= s.now,
			Delay: s.cfg.Delay(int(r.attempts), jitter),
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
	if j.seq == 0 || jobID(&j, jid) != ev.Job {
		return
	}
	s.jobs.Release(jid)
	var l *lane
	var sender uint32
	switch j.kind {
	case Deliver:
		l = s.lanes.At(j.lane)
		sender = s.msgs.At(s.rcpts.At(j.items[0]).msg).sender
		l.running--
		s.running--
		s.byClass[j.class]--
		s.byRank[j.rank]--
		*s.rings[j.class].Held(int(j.rank), int(j.bucket))--
		if j.class == down {
			l.probing = false
		}
		s.learn(j.lane, l, &j, ev)
	case Postpone, GiveUp, Warn, Purge:
		s.chores--
	}
	var again []uint32
	kept := ev.Denied != nil
	for i, rid := range j.items {
		var res Result
		if i < len(ev.Results) {
			res = ev.Results[i]
		}
		kept = kept || res.Denied != nil
		if s.settle(rid, res, &j, ev.Denied != nil) {
			again = append(again, rid)
		}
	}
	s.operateWanted(again)
	if l != nil {
		if ev.Denied != nil {
			s.deny(j.lane, sender, ev.Denied)
		} else if l.slots != 0 && !kept {
			s.gates.Freed(l.slots)
		}
		if j.gate != 0 {
			s.gates.Ended(j.gate)
		}
		s.offer(j.lane)
		s.unpark()
		s.maybeIdle(j.lane, l)
	}
}

// settle puts a busy recipient where its result says, and tells whether an
// operator's word is waiting for it instead. One that
// a limit has kept goes back.
func (s *Scheduler[M]) settle(rid uint32, res Result, j *job, back bool) (again bool) {
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
	r.flags &= flagEnds | flagBack
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
		} else if res.Denied != nil {
			s.setApart(rid, r, res.Denied, j)
		} else if back {
			s.putBack(rid, r, j.seq)
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

// learn draws the lane's conclusions from a delivery.
func (s *Scheduler[M]) learn(id uint32, l *lane, j *job, ev *Event[M]) {
	switch ev.Reach {
	case Working, Answered:
		l.why = nil
		l.pace.Answered()
		if l.class == down {
			s.disarmProbe(l)
			l.pace.Reset(s.cfg.LaneStart)
		}
		l.class = proven
		if ev.Reach == Working {
			l.pace.Worked(l.running, s.cfg.LaneMax)
		}
	case Overloaded:
		// One that speaks but takes nothing, however little it is asked, is
		// as good as unreachable.
		l.pace.Failed()
		if l.class == down || l.pace.AtEnd(j.seq) {
			s.takeDown(id, l, ev.Why)
			return
		}
		l.pace.Slower(j.seq, s.seq)
	case Unreachable:
		l.pace.Failed()
		if l.class != down { // an outage is no congestion: what it bore before stays known
			l.pace.Slower(j.seq, s.seq)
		}
		if l.class != proven || l.pace.Exhausted() {
			s.takeDown(id, l, ev.Why)
		}
	}
}

// takeDown marks a lane as unreachable and lets all that wait in it be
// postponed.
func (s *Scheduler[M]) takeDown(id uint32, l *lane, why *mail.Reply) {
	s.disarmProbe(l)
	l.class, l.why = down, why
	l.probeAt = s.now + s.cfg.ProbeGap(l.pace.Fails()).Milliseconds()
	l.sweep = l.ready
	if l.sweep > 0 && !l.sweeping {
		l.sweeping = true
		s.sweeps.Push(id, s.sweepLink)
	}
}
