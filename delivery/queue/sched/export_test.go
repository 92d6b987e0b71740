package sched

import "fmt"

// Check walks over everything and compares it with what is counted.
func (s *Scheduler[M]) Check() error {
	var count [states]int
	wanted, ends, wholes, timed := 0, 0, 0, 0
	inLane, readyIn, msgs := map[uint32]uint32{}, map[uint32]uint32{}, 0
	for mid, prev := s.order.Head(), uint32(0); mid != 0; mid = s.msgs.At(mid).links.Next() {
		m := s.msgs.At(mid)
		msgs++
		if m.links.Prev() != prev {
			return fmt.Errorf("message %d: prev is %d, not %d", mid, m.links.Prev(), prev)
		}
		prev = mid
		left, gone, trash := uint32(0), uint32(0), uint32(0)
		for rid := m.head; rid != 0; rid = s.rcpts.At(rid).sib {
			r := s.rcpts.At(rid)
			count[r.state]++
			if r.state == done {
				gone++
				continue
			}
			left++
			if r.state.isTrash() {
				trash++
			}
			if r.flags&flagEnds != 0 {
				ends++
			}
			if r.flags&flagTimed != 0 {
				timed++
			}
			if r.flags&flagWanted != 0 {
				wanted++
			}
			inLane[r.lane]++
			if err := s.checkRecipient(rid, r, readyIn); err != nil {
				return err
			}
		}
		if m.trash != trash || m.whole != (trash > 0 && trash == left) {
			return fmt.Errorf("message %d: %d of %d in the trash, noted %d, whole %v", mid, trash, left, m.trash, m.whole)
		}
		if m.whole {
			wholes++
		}
		if left != m.left || gone != m.gone || left == 0 {
			return fmt.Errorf("message %d: %d left and %d gone, counted %d and %d", mid, left, gone, m.left, m.gone)
		}
	}
	if msgs != s.msgs.Len() {
		return fmt.Errorf("%d messages, counted %d", msgs, s.msgs.Len())
	}
	if wholes != s.wholes || ends != len(s.ends) {
		return fmt.Errorf("%d messages in the trash, counted %d; %d recipients with an end, noted %d", wholes, s.wholes, ends, len(s.ends))
	}
	if err := s.checkOldest(); err != nil {
		return err
	}
	if wanted != len(s.wants) {
		return fmt.Errorf("%d recipients with an operator's word, %d noted", wanted, len(s.wants))
	}
	if count != s.count {
		return fmt.Errorf("states are %v, counted %v", count, s.count)
	}
	if n := count[deferred] + count[trashed] + timed; n != s.due.Len() {
		return fmt.Errorf("%d deferred, in the trash or held for a time, %d in the timer", n, s.due.Len())
	}
	return s.checkLanes(inLane, readyIn)
}

func (s *Scheduler[M]) checkOldest() error {
	id := s.order.Head()
	for id != 0 && (s.msgs.At(id).whole || s.msgs.At(id).arrived > s.now) {
		id = s.msgs.At(id).links.Next()
	}
	if got := s.oldest(); got != id {
		return fmt.Errorf("message %d is the oldest, not %d", id, got)
	}
	return nil
}

func (s *Scheduler[M]) checkRecipient(rid uint32, r *recipient, readyIn map[uint32]uint32) error {
	switch st := r.state; {
	case st == deferred, st == trashed, st == held && r.flags&flagTimed != 0:
		if s.due.IDs()[r.pos] != rid {
			return fmt.Errorf("recipient %d is not at %d in the timer", rid, r.pos)
		}
		if r.pos > 0 && s.rcpts.At(s.due.IDs()[(r.pos-1)/4]).due > r.due {
			return fmt.Errorf("recipient %d stands under a later one", rid)
		}
	case st == ready:
		readyIn[r.lane]++
	case st == busy:
		j := s.jobs.At(r.pos)
		for _, o := range j.items {
			if o == rid {
				return nil
			}
		}
		return fmt.Errorf("recipient %d is not in its job", rid)
	}
	return nil
}

func (s *Scheduler[M]) checkLanes(inLane, readyIn map[uint32]uint32) error {
	running, subs, idle, waits := 0, 0, 0, 0
	lines := map[[2]uint32]int{}
	for key, id := range s.laneOf {
		l := s.lanes.At(id)
		running += int(l.running)
		if l.key != key || l.members != inLane[id] || l.ready != readyIn[id] || l.sweep > l.ready {
			return fmt.Errorf("lane %s: %+v has %d members, %d ready", key, *l, inLane[id], readyIn[id])
		}
		if l.idle {
			idle++
		}
		if l.idle != (l.members == 0 && l.running == 0) {
			return fmt.Errorf("lane %s: idle %v with %d members", key, l.idle, l.members)
		}
		if s.eligible(l) && l.waiting()&^l.queued[l.class] != 0 && !l.parked && l.pos == 0 {
			return fmt.Errorf("lane %s could start a delivery and waits for nothing", key)
		}
		if l.class == down && l.ready > 0 && !l.probing && l.queued[down] == 0 && !l.parked && l.pos == 0 && !l.sweeping && l.wait == 0 && l.waiting() != 0 {
			return fmt.Errorf("lane %s is down and nothing wakes it", key)
		}
		if l.sweep > 0 != l.sweeping && l.sweep > 0 {
			return fmt.Errorf("lane %s: %d to be postponed by nobody", key, l.sweep)
		}
		seen := uint32(0)
		for side, first := range l.subs {
			for sid := first; sid != 0; {
				subs++
				q := s.subs.At(sid)
				if q.side() != side || q.lane != id {
					return fmt.Errorf("lane %s: a sender's queue on side %d is %+v", key, side, *q)
				}
				if q.wait != 0 {
					waits++
				}
				if mine := s.subOf[subKey{id, q.sender, q.limit}]; mine != sid {
					return fmt.Errorf("lane %s: queue %d of %q is found as %d", key, sid, q.limit, mine)
				}
				for rid := q.list.Head(); rid != 0; rid = s.rcpts.At(rid).links.Next() {
					if at := s.rcpts.At(rid).pos; at != sid {
						return fmt.Errorf("lane %s: recipient %d is in queue %d, noted %d", key, rid, sid, at)
					}
					if q.limit != "" {
						lines[[2]uint32{id, uint32(s.rcpts.At(rid).domain)}]++
					}
					seen++
				}
				if sid = q.turns.Next(); sid == first {
					break
				}
			}
		}
		if l.wait != 0 {
			waits++
			if l.ready == 0 {
				return fmt.Errorf("lane %s waits at a gate without mail", key)
			}
		}
		if seen != l.ready {
			return fmt.Errorf("lane %s: %d in its queues, %d ready", key, seen, l.ready)
		}
	}
	for key, n := range lines {
		if s.lines.Len(key[0], uint16(key[1])) != n {
			return fmt.Errorf("%d of a domain stand apart, counted %d", n, s.lines.Len(key[0], uint16(key[1])))
		}
	}
	if len(lines) != len(s.lines) {
		return fmt.Errorf("%d domains stand apart, counted %d", len(lines), len(s.lines))
	}
	if _, n := s.gates.Len(); n != waits {
		return fmt.Errorf("%d wait at gates, %d are noted there", waits, n)
	}
	if running != s.running || subs != len(s.subOf) || subs != s.subs.Len() || idle != s.idleLanes || len(s.laneOf) != s.lanes.Len() {
		return fmt.Errorf("running %d/%d senders %d/%d/%d idle %d/%d", running, s.running, subs, len(s.subOf), s.subs.Len(), idle, s.idleLanes)
	}
	return nil
}

// Lane is what the scheduler knows of one destination.
type Lane struct {
	Key     string
	Down    bool
	Limit   int // concurrency that is allowed now
	Running int
	Ready   int
	Members int
}

// Lane gives what is known of a destination.
func (s *Scheduler[M]) Lane(key string) (Lane, bool) {
	id, ok := s.laneOf[key]
	if !ok {
		return Lane{}, false
	}
	l := s.lanes.At(id)
	return Lane{Key: key, Down: l.class == down, Limit: l.pace.Limit(), Running: int(l.running), Ready: int(l.ready), Members: int(l.members)}, true
}

// Skip makes the next job one that comes after n others.
func (s *Scheduler[M]) Skip(n uint64) { s.seq += n }
