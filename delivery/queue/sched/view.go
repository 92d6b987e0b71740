package sched

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched/view"
	"github.com/clrelay/clrelay/internal/mail"
)

// What the scheduler shows.
type (
	Counts             = view.Counts
	View[M comparable] = view.Message[M]
	RecipientView      = view.Recipient
	LaneView           = view.Lane
)

// Counts costs nothing: the figures are kept as things change.
func (s *Scheduler[M]) Counts() Counts {
	c := Counts{
		Messages: s.msgs.Len() - s.wholes, Held: s.count[held], Trashed: s.count[trashed] + s.count[spent], Trash: s.wholes,
		Active: s.count[ready] + s.count[busy], Deferred: s.count[deferred] + s.count[expired],
		Running: s.running, Lanes: s.lanes.Len(),
	}
	c.Recipients = c.Active + c.Deferred + c.Held
	if id := s.oldest(); id != 0 {
		c.Oldest = time.UnixMilli(min(s.msgs.At(id).arrived, s.now))
	}
	return c
}

// oldest is the first message that is not in the trash as a whole and whose time
// has begun, 0 when there is none. Behind very many of which that is not true it
// is one of them.
func (s *Scheduler[M]) oldest() uint32 {
	if s.msgs.Len() == s.wholes {
		return 0
	}
	id := s.order.Head()
	if s.prefix != 0 {
		id = s.msgs.At(s.prefix).links.Next()
	}
	for id != 0 && s.msgs.At(id).whole {
		s.prefix = id
		id = s.msgs.At(id).links.Next()
	}
	for range tickMax {
		if id == 0 || s.msgs.At(id).arrived <= s.now && !s.msgs.At(id).whole {
			break
		}
		id = s.msgs.At(id).links.Next()
	}
	return id
}

// Cursor walks over the messages in order of arrival, a part at a time, while
// they come and go.
type Cursor[M comparable] struct{ at uint32 }

// Open starts a walk. Each message that is there from now until the walk has
// passed is seen exactly once. Close must follow.
func (s *Scheduler[M]) Open() *Cursor[M] {
	c := &Cursor[M]{at: s.order.Head()}
	s.cursors = append(s.cursors, c)
	return c
}

// Close ends a walk.
func (s *Scheduler[M]) Close(c *Cursor[M]) {
	s.cursors = slices.DeleteFunc(s.cursors, func(o *Cursor[M]) bool { return o == c })
}

// Next shows up to n messages to visit and tells whether there are more. v and
// its slices are used again: visit copies what it keeps.
func (s *Scheduler[M]) Next(c *Cursor[M], n int, visit func(v *View[M])) (more bool) {
	var v View[M]
	for ; n > 0 && c.at != 0; n-- {
		m := s.msgs.At(c.at)
		v.Msg, v.Ref, v.Arrived = c.at, m.ref, time.UnixMilli(m.arrived)
		v.Recipients = v.Recipients[:0]
		for rid := m.head; rid != 0; rid = s.rcpts.At(rid).sib {
			if r := s.rcpts.At(rid); r.state != done {
				v.Recipients = append(v.Recipients, s.view(r))
			}
		}
		c.at = m.links.Next()
		visit(&v)
	}
	return c.at != 0
}

func (s *Scheduler[M]) view(r *recipient) RecipientView {
	l := s.lanes.At(r.lane)
	v := RecipientView{Index: uint32(r.index), Domain: r.domain, Attempts: uint32(r.attempts), Lane: l.key}
	switch r.state {
	case held:
		v.State = mail.StateHeld
		if r.flags&flagTimed != 0 {
			v.Next = time.UnixMilli(r.due)
		}
	case trashed, spent:
		v.State, v.Next = mail.StateTrashed, time.UnixMilli(r.due)
	case deferred, expired:
		v.State, v.Next = mail.StateDeferred, time.UnixMilli(r.due)
	case ready:
		v.Why = l.why
		if l.class == down && l.probeAt > s.now {
			v.Next = time.UnixMilli(l.probeAt)
		} else if g := s.limited(r); g != nil {
			v.Limited, v.Next, v.Why = true, s.later(g.Until), g.Why
		}
	}
	return v
}

// Destinations shows all that are known, those without mail too, in no order.
// The view belongs to the call.
func (s *Scheduler[M]) Destinations(visit func(*LaneView)) {
	for _, id := range s.laneOf {
		l := s.lanes.At(id)
		v := LaneView{
			Key: l.key, State: [classes]string{"unknown", "proven", "down"}[l.class], Why: l.why,
			Running: int(l.running), Limit: max(1, l.pace.Limit()), Ready: int(l.ready), Recipients: int(l.members),
		}
		if l.pos != 0 {
			v.Next = time.UnixMilli(l.probeAt)
		}
		s.viewLimit(l, &v)
		visit(&v)
	}
}

// viewLimit tells what a lane waits for.
func (s *Scheduler[M]) viewLimit(l *lane, v *LaneView) {
	at := l.wait
	switch {
	case l.class == down || at|l.subs[aside] == 0:
		return
	case at != 0:
		v.State = "limited"
	default:
		at = s.subs.At(l.subs[aside]).wait
	}
	g := s.gates.Said(at)
	v.Why, v.Next = g.Why, s.later(g.Until)
}

// later is a time, or now when that is past.
func (s *Scheduler[M]) later(t time.Time) time.Time {
	return time.UnixMilli(max(lateMillis(t), s.now))
}
