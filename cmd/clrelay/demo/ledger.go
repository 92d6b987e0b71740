package demo

import (
	"sync"
	"time"
)

// grace is how old an accepted recipient must be before the ledger misses it:
// the inbox's note and the queue's answer are not taken at one instant.
const grace = 2 * time.Second

// entry is one recipient of one message of the load.
type entry struct {
	seq  int64
	rcpt string
}

type fate struct {
	id        string // the relay's name for the message
	accepted  time.Time
	delivered int
	bounced   bool
	missed    int // checks in a row that found it nowhere
}

// ledger keeps the books of the demo, in recipients. It hears of acceptance
// from the load, of delivery and bounces from the inbox, and of the queue from
// the relay's admin API.
type ledger struct {
	mu     sync.Mutex
	fates  map[entry]*fate
	open   map[entry]*fate // neither delivered nor bounced
	queued int
	lost   int
	refuse int
}

// sums is the ledger at one instant.
type sums struct {
	accepted, delivered, bounced, queued, open, lost, twice, refused int
}

func newLedger() *ledger {
	return &ledger{fates: map[entry]*fate{}, open: map[entry]*fate{}}
}

// of gives the fate of an entry. The inbox can be quicker than the load, so
// whoever comes first makes it.
func (l *ledger) of(e entry) *fate {
	f := l.fates[e]
	if f == nil {
		f = &fate{}
		l.fates[e] = f
	}
	return f
}

func (l *ledger) accepted(seq int64, rcpts []string, id string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rcpts {
		e := entry{seq, r}
		f := l.of(e)
		f.id, f.accepted = id, now
		if f.delivered == 0 && !f.bounced {
			l.open[e] = f
		}
	}
}

func (l *ledger) refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse++
}

func (l *ledger) deliveredTo(seq int64, rcpt string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := entry{seq, rcpt}
	l.of(e).delivered++
	delete(l.open, e)
}

func (l *ledger) bouncedFor(seq int64, rcpt string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := entry{seq, rcpt}
	l.of(e).bounced = true
	delete(l.open, e)
}

// compare holds what is open against the queue, given as "ID recipient". What
// two checks in a row find in neither place is lost.
func (l *ledger) compare(queue map[string]bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued, l.lost = 0, 0
	for e, f := range l.open {
		if queue[f.id+" "+e.rcpt] {
			l.queued++
			f.missed = 0
			continue
		}
		if now.Sub(f.accepted) < grace {
			continue
		}
		if f.missed++; f.missed > 1 {
			l.lost++
		}
	}
}

func (l *ledger) sum() sums {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := sums{queued: l.queued, open: len(l.open), lost: l.lost, refused: l.refuse}
	for _, f := range l.fates {
		if f.id == "" {
			continue // a message whose 250 has not been noted yet
		}
		s.accepted++
		switch {
		case f.delivered > 0:
			s.delivered++
			s.twice += f.delivered - 1
		case f.bounced:
			s.bounced++
		}
	}
	return s
}
