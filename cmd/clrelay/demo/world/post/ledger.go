package post

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// entry is one recipient of one attempt of a client to hand over a message. A
// client that got no answer tries again under another number: what became of
// the first attempt is nobody's promise (RFC 5321, section 4.2.5).
type entry struct {
	seq  int64
	rcpt string
}

type fate struct {
	id        string // the relay's name for the message; empty: no 250 was seen
	accepted  time.Time
	delivered int
	bounced   bool
	missing   time.Time // since when no queue knows it; zero while one does
}

// Ledger keeps the books of the demo, in recipients. It hears of acceptance
// from the load, of delivery and bounces from the inbox, and of the queue from
// the relays.
type Ledger struct {
	patience time.Duration // how long an entry may be in no queue before it is called lost

	mu    sync.Mutex
	fates map[entry]*fate
	open  map[entry]*fate // accepted, neither delivered nor bounced
	sums  Sums
	// adopted counts, by the node that accepted, what another node delivered.
	adopted map[string]*Adopted
}

// Sums is the ledger at one instant, in recipients.
type Sums struct {
	Accepted, Delivered, Bounced, Queued int
	UnderWay                             int // accepted, and neither of the above yet: between two machines, or in the answer's delay
	Lost                                 int // missed for longer than can be explained
	Twice                                int // deliveries beyond the first
	Refused                              int // attempts of clients that failed; they try again
}

// Even tells whether everything that was accepted is accounted for.
func (s Sums) Even() bool { return s.Lost == 0 && s.Accepted == s.Delivered+s.Bounced+s.Queued }

// Adopted says what other nodes delivered of what a node had accepted.
type Adopted struct {
	N    int
	Last time.Time
}

// NewLedger opens empty books. Patience is how long an entry may be in no queue
// before it is called lost.
func NewLedger(patience time.Duration) *Ledger {
	return &Ledger{patience: patience, fates: map[entry]*fate{}, open: map[entry]*fate{}, adopted: map[string]*Adopted{}}
}

// of gives the fate of an entry. The inbox can be quicker than the load, so
// whoever comes first makes it.
func (l *Ledger) of(e entry) *fate {
	f := l.fates[e]
	if f == nil {
		f = &fate{}
		l.fates[e] = f
	}
	return f
}

func (l *Ledger) accepted(seq int64, rcpts []string, id string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rcpts {
		e := entry{seq, r}
		f := l.of(e)
		f.id, f.accepted = id, now
		l.sums.Accepted++
		switch {
		case f.delivered > 0:
			l.sums.Delivered++
			l.sums.Twice += f.delivered - 1
		case f.bounced:
			l.sums.Bounced++
		default:
			l.open[e] = f
		}
	}
}

// unanswered notes an attempt that ended without a 250.
func (l *Ledger) unanswered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums.Refused++
}

func (l *Ledger) deliveredTo(seq int64, rcpt string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := entry{seq, rcpt}
	f := l.of(e)
	f.delivered++
	switch {
	case f.id == "":
	case f.delivered > 1:
		l.sums.Twice++
	default:
		l.sums.Delivered++
		if f.bounced {
			l.sums.Bounced--
		}
	}
	delete(l.open, e)
}

func (l *Ledger) bouncedFor(seq int64, rcpt string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := entry{seq, rcpt}
	f := l.of(e)
	if f.id != "" && !f.bounced && f.delivered == 0 {
		l.sums.Bounced++
	}
	f.bounced = true
	delete(l.open, e)
}

// passedOn notes that one node delivered what another had accepted.
func (l *Ledger) passedOn(acceptedBy, deliveredBy string, now time.Time) {
	if acceptedBy == "" || acceptedBy == deliveredBy {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.adopted[acceptedBy]
	if a == nil {
		a = &Adopted{}
		l.adopted[acceptedBy] = a
	}
	a.N++
	a.Last = now
}

// Compare holds what is open against the queues, given as "ID recipient".
func (l *Ledger) Compare(queue map[string]bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums.Queued, l.sums.Lost = 0, 0
	for e, f := range l.open {
		if queue[f.id+" "+e.rcpt] {
			l.sums.Queued++
			f.missing = time.Time{}
			continue
		}
		if f.missing.IsZero() {
			f.missing = now
		}
		if now.Sub(f.missing) > l.patience {
			l.sums.Lost++
		}
	}
}

// Close draws up the last account: what is in no queue now is lost.
func (l *Ledger) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums.Lost = len(l.open) - l.sums.Queued
}

// Sum gives the account.
func (l *Ledger) Sum() Sums {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sums
	s.UnderWay = max(0, len(l.open)-s.Queued-s.Lost)
	return s
}

// AdoptedFrom says what other nodes delivered of what a node had accepted.
func (l *Ledger) AdoptedFrom(node string) Adopted {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.adopted[node]; a != nil {
		return *a
	}
	return Adopted{}
}

// Missing names some of what is lost.
func (l *Ledger) Missing() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for e, f := range maps.All(l.open) {
		if !f.missing.IsZero() {
			out = append(out, f.id+" "+e.rcpt)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 10)]
}
