package sched

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Counts says how much is queued.
type Counts struct {
	Messages   int // with a recipient that is not in the trash
	Recipients int // the sum of the three below
	Active     int // ready or being worked on
	Deferred   int
	Held       int
	Trashed    int       // dropped, and still to be had back
	Trash      int       // messages of which nothing else is left
	Oldest     time.Time // when the oldest message arrived; zero when there is none
	Running    int       // deliveries under way
	Lanes      int       // destinations that are known
}

// Counts costs nothing: the figures are kept as things change.
func (s *Scheduler[M]) Counts() Counts {
	c := Counts{
		Messages: s.msgs.Len() - s.wholes, Held: s.count[held], Trashed: s.count[trashed] + s.count[spent], Trash: s.wholes,
		Active: s.count[ready] + s.count[busy], Deferred: s.count[deferred] + s.count[expired],
		Running: s.running, Lanes: s.lanes.Len(),
	}
	c.Recipients = c.Active + c.Deferred + c.Held
	if id := s.oldest(); id != 0 {
		c.Oldest = time.UnixMilli(s.msgs.At(id).arrived)
	}
	return c
}

// oldest is the first message that is not in the trash as a whole, 0 when there
// is none.
func (s *Scheduler[M]) oldest() uint32 {
	if s.msgs.Len() == s.wholes {
		return 0
	}
	id := s.first
	if s.prefix != 0 {
		id = s.msgs.At(s.prefix).next
	}
	for id != 0 && s.msgs.At(id).whole {
		s.prefix = id
		id = s.msgs.At(id).next
	}
	return id
}

// View is what the scheduler knows of one message.
type View[M comparable] struct {
	Msg        uint32 // for Event.Msg
	Ref        M
	Arrived    time.Time
	Recipients []RecipientView // those that are not final
}

// RecipientView is what it knows of one recipient.
type RecipientView struct {
	Index    uint32
	State    mail.State
	Attempts uint32
	Domain   uint16
	Next     time.Time   // of a deferred one, of one that waits for a lane's probe, of one that is held for a time or in the trash; else zero
	Lane     string      // its destination
	Why      *mail.Reply // why its lane is down; else nil
}

// Cursor walks over the messages in order of arrival, a part at a time, while
// they come and go.
type Cursor[M comparable] struct{ at uint32 }

// Open starts a walk. Each message that is there from now until the walk has
// passed is seen exactly once. Close must follow.
func (s *Scheduler[M]) Open() *Cursor[M] {
	c := &Cursor[M]{at: s.first}
	s.cursors = append(s.cursors, c)
	return c
}

// Close ends a walk.
func (s *Scheduler[M]) Close(c *Cursor[M]) {
	for i, o := range s.cursors {
		if o == c {
			s.cursors[i] = s.cursors[len(s.cursors)-1]
			s.cursors = s.cursors[:len(s.cursors)-1]
			return
		}
	}
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
		c.at = m.next
		visit(&v)
	}
	return c.at != 0
}

func (s *Scheduler[M]) view(r *recipient) RecipientView {
	l := s.lanes.At(r.lane)
	v := RecipientView{Index: uint32(r.index), Domain: r.domain, Attempts: uint32(r.attempts), Lane: l.key, Why: l.why}
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
		if l.class == down && l.probeAt > s.now {
			v.Next = time.UnixMilli(l.probeAt)
		}
	}
	return v
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
	return Lane{Key: key, Down: l.class == down, Limit: int(l.limit), Running: int(l.running), Ready: int(l.ready), Members: int(l.members)}, true
}

// LaneView is what the scheduler knows of a destination.
type LaneView struct {
	Key        string
	State      string      // unknown, proven or down
	Running    int         // deliveries under way
	Limit      int         // how many there may be now
	Ready      int         // recipients that wait for a slot
	Recipients int         // all of them that are queued
	Why        *mail.Reply // of one that is down
	Next       time.Time   // when one that is down is tried again; else zero
}

// Destinations shows all that are known, those without mail too, in no order.
// The view belongs to the call.
func (s *Scheduler[M]) Destinations(visit func(*LaneView)) {
	for _, id := range s.laneOf {
		l := s.lanes.At(id)
		v := LaneView{
			Key: l.key, State: [classes]string{"unknown", "proven", "down"}[l.class], Why: l.why,
			Running: int(l.running), Limit: max(1, int(l.limit)), Ready: int(l.ready), Recipients: int(l.members),
		}
		if l.pos != 0 {
			v.Next = time.UnixMilli(l.probeAt)
		}
		visit(&v)
	}
}
