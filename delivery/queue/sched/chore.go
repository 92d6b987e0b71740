package sched

import (
	"slices"
)

// startChores starts jobs that need no connection: one of each sort in turn.
func (s *Scheduler[M]) startChores() {
	for !s.paused && s.chores < s.cfg.Chores {
		began := s.chores
		s.giveUp()
		if s.chores < s.cfg.Chores {
			s.postpone()
		}
		if s.chores < s.cfg.Chores {
			s.warn()
		}
		if s.chores < s.cfg.Chores {
			s.purge()
		}
		if s.chores == began {
			return
		}
	}
}

// giveUp starts the end of the message that expired first, with all of its
// recipients whose time is over.
func (s *Scheduler[M]) giveUp() {
	id := s.expiries.Head()
	if id == 0 {
		return
	}
	mid := s.rcpts.At(id).msg
	jid, j := s.newJob(GiveUp, 0)
	for rid := s.msgs.At(mid).head; rid != 0; rid = s.rcpts.At(rid).sib {
		r := s.rcpts.At(rid)
		switch {
		case r.state == expired:
			s.expiries.Remove(rid, s.inList)
		case r.state == deferred && r.flags&flagExpires != 0 && r.due <= s.now:
			s.due.Remove(r.pos)
		default:
			continue
		}
		s.take(rid, r, jid, j)
	}
	s.chores++
	s.emit(jid, j, Action[M]{})
}

// postpone defers a part of what waits in a lane that went down.
func (s *Scheduler[M]) postpone() {
	for s.sweeps.Head() != 0 {
		id := s.sweeps.Pop(s.sweepLink)
		l := s.lanes.At(id)
		l.sweeping = false
		if l.sweep == 0 {
			s.offer(id)
			continue
		}
		jid, j := s.newJob(Postpone, id)
		for n := min(int(l.sweep), s.cfg.ChoreSize); n > 0; n-- {
			side := slices.IndexFunc(l.subs[:], func(sid uint32) bool { return sid != 0 })
			q := s.subs.At(l.subs[side])
			l.subs[side] = q.turns.Next()
			rid := q.list.Head()
			r := s.rcpts.At(rid)
			l.sweep--
			s.unready(rid, r)
			s.take(rid, r, jid, j)
		}
		s.chores++
		s.emit(jid, j, Action[M]{Lane: l.key, Why: l.why})
		if l.sweep > 0 {
			l.sweeping = true
			s.sweeps.Push(id, s.sweepLink)
		} else {
			s.offer(id)
		}
		return
	}
}

// warn starts the warning of the next message that is late, if it still is.
func (s *Scheduler[M]) warn() {
	for len(s.warnings) > 0 {
		w := s.warnings[0]
		s.warnings = s.warnings[1:]
		if len(s.warnings) == 0 {
			s.warnings = nil
		}
		if !s.isMsg(w.msg, w.ref) {
			continue
		}
		jid, j := s.newJob(Warn, 0)
		for rid := s.msgs.At(w.msg).head; rid != 0; rid = s.rcpts.At(rid).sib {
			if s.rcpts.At(rid).state == deferred {
				j.items = append(j.items, rid)
			}
		}
		if len(j.items) == 0 {
			s.jobs.Release(jid)
			continue
		}
		s.chores++
		s.emit(jid, j, Action[M]{})
		j.items = nil // they stay in the timer
		return
	}
}

// purge starts the end of the message whose time in the trash was over first,
// with all of its recipients of which that is true.
func (s *Scheduler[M]) purge() {
	id := s.purges.Head()
	if id == 0 {
		return
	}
	jid, j := s.newJob(Purge, 0)
	for rid := s.msgs.At(s.rcpts.At(id).msg).head; rid != 0; rid = s.rcpts.At(rid).sib {
		if r := s.rcpts.At(rid); r.state == spent {
			s.purges.Remove(rid, s.inList)
			s.take(rid, r, jid, j)
		}
	}
	s.chores++
	s.emit(jid, j, Action[M]{})
}

func (s *Scheduler[M]) isMsg(mid uint32, ref M) bool {
	return s.msgs.Has(mid) && s.msgs.At(mid).left > 0 && s.msgs.At(mid).ref == ref
}

// command carries out an operator's word, or starts the job that does.
func (s *Scheduler[M]) command(ev *Event[M]) {
	answer := Action[M]{Kind: Answer, Tag: ev.Tag}
	if s.isMsg(ev.Msg, ev.Ref) {
		var mine []uint32
		for rid := s.msgs.At(ev.Msg).head; rid != 0; rid = s.rcpts.At(rid).sib {
			r := s.rcpts.At(rid)
			if ev.Which != nil {
				if _, ok := slices.BinarySearch(ev.Which, uint32(r.index)); !ok {
					continue
				}
			}
			switch {
			case ev.Op == Retry && (r.state == ready || r.state == busy):
				answer.Count++ // as wanted already
			case !concerns(ev.Op, r.state):
			case ev.Op == Retry:
				s.retryNow(rid, r)
				answer.Count++
			case r.state == busy:
				s.want(rid, r, want{ev.Op, ev.Tag})
				answer.Waiting++
			default:
				s.leave(rid, r)
				mine = append(mine, rid)
				answer.Count++
			}
		}
		s.operate(want{ev.Op, ev.Tag}, mine)
	}
	s.actions = append(s.actions, answer)
}

// concerns tells whether an operator's word changes a recipient in a state.
func concerns(op Op, st state) bool {
	switch op {
	case Retry:
		return st == deferred || st == expired
	case Release:
		return st == held
	case Hold:
		return st != held && st != done && !st.isTrash()
	case Undrop:
		return st.isTrash()
	case Bounce, Trash, Reroute, Expire:
		return st != done && !st.isTrash()
	}
	return st != done
}

// retryNow makes a deferred recipient ready, and lets its lane find out at
// once whether its destination is back.
func (s *Scheduler[M]) retryNow(rid uint32, r *recipient) {
	s.leave(rid, r)
	r.flags &^= flagExpires
	if l := s.lanes.At(r.lane); l.class == down && l.probeAt > s.now {
		s.disarmProbe(l)
		l.probeAt = s.now
	}
	s.makeReady(rid, r)
}

// leave takes a recipient that is not busy out of where it stands.
func (s *Scheduler[M]) leave(rid uint32, r *recipient) {
	switch r.state {
	case ready:
		s.unready(rid, r)
	case deferred, trashed:
		s.due.Remove(r.pos)
	case held:
		if r.flags&flagTimed != 0 {
			s.due.Remove(r.pos)
			r.flags &^= flagTimed
		}
	case expired:
		s.expiries.Remove(rid, s.inList)
	case spent:
		s.purges.Remove(rid, s.inList)
	}
}

// want notes what is to be done with a busy recipient when its job ends, and
// aborts the job if it is a delivery: before the final dot that is at once.
func (s *Scheduler[M]) want(rid uint32, r *recipient, w want) {
	if old, ok := s.wants[rid]; ok {
		s.actions = append(s.actions, Action[M]{Kind: Overtaken, Tag: old.tag, Count: 1})
	}
	s.wants[rid] = w
	r.flags |= flagWanted
	j := s.jobs.At(r.pos)
	if j.kind != Deliver {
		return
	}
	id := jobID(j, r.pos)
	for i := range s.actions {
		if s.actions[i].Kind == Cancel && s.actions[i].Job == id {
			return
		}
	}
	s.actions = append(s.actions, Action[M]{Kind: Cancel, Job: id})
}

// operateWanted starts what operators wanted of recipients whose job ended.
func (s *Scheduler[M]) operateWanted(rids []uint32) {
	for len(rids) > 0 {
		w, mid := s.wants[rids[0]], s.rcpts.At(rids[0]).msg
		n := 0
		for n < len(rids) && s.wants[rids[n]] == w && s.rcpts.At(rids[n]).msg == mid {
			s.rcpts.At(rids[n]).flags &= flagEnds
			n++
		}
		for _, rid := range rids[:n] {
			delete(s.wants, rid)
		}
		s.operate(w, rids[:n])
		rids = rids[n:]
	}
}

// operate starts the job that records an operator's word.
func (s *Scheduler[M]) operate(w want, rids []uint32) {
	if len(rids) == 0 {
		return
	}
	jid, j := s.newJob(Operate, 0)
	j.op, j.tag = w.op, w.tag
	for _, rid := range rids {
		s.take(rid, s.rcpts.At(rid), jid, j)
	}
	s.emit(jid, j, Action[M]{})
}
