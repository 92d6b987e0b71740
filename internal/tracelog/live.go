package tracelog

import (
	"sync/atomic"

	"github.com/clrelay/clrelay/internal/tracelog/record"
)

// Subscription gets events as they happen. Whoever does not take them fast
// enough loses some, and is told how many.
type Subscription struct {
	C <-chan *Event

	l     *Log
	c     chan *Event
	match func(*Event) bool
	lost  atomic.Uint64
}

// Subscribe gives the events to come that match, of which so many wait. match
// must be quick. The caller ends it with Close. On a nil Log nothing comes.
func (l *Log) Subscribe(room int, match func(*Event) bool) *Subscription {
	c := make(chan *Event, room)
	s := &Subscription{C: c, c: c, l: l, match: match}
	if l == nil {
		return s
	}
	l.subsMu.Lock()
	defer l.subsMu.Unlock()
	l.subs[s] = struct{}{}
	l.nsubs.Add(1)
	return s
}

// Lost tells how many events were lost since it was asked last.
func (s *Subscription) Lost() uint64 { return s.lost.Swap(0) }

// Close ends it. Nothing comes any more, and C is left open.
func (s *Subscription) Close() {
	if s.l == nil {
		return
	}
	s.l.subsMu.Lock()
	defer s.l.subsMu.Unlock()
	if _, ok := s.l.subs[s]; ok {
		delete(s.l.subs, s)
		s.l.nsubs.Add(-1)
	}
}

// publish hands records to those who subscribed.
func (l *Log) publish(records []byte) {
	l.subsMu.Lock()
	defer l.subsMu.Unlock()
	for len(records) > 0 {
		r, rest, err := record.Next(records)
		if err != nil {
			return // our own octets: never
		}
		records = rest
		e, err := r.Event()
		if err != nil {
			return
		}
		for s := range l.subs {
			if !s.match(e) {
				continue
			}
			select {
			case s.c <- e:
			default:
				s.lost.Add(1)
			}
		}
	}
}
