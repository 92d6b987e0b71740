package recipients

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Answer is what a next hop says of a recipient.
type Answer uint8

// The answers.
const (
	NoAnswer Answer = iota // it cannot be reached, or says something else
	Taken
	Unknown
)

// Asker asks next hops. With NoAnswer it says why.
type Asker interface {
	Ask(ctx context.Context, to mail.Address) (Answer, error)
}

// Verify says how the recipients of a domain are asked for.
type Verify struct {
	Defer         bool          // with no answer the recipient is put off, not taken
	Taken, Absent time.Duration // how long the answers are remembered
	Timeout       time.Duration // how long a session waits
	Probes        int           // questions at a time
}

const (
	maxCached  = 200_000 // answers that are remembered
	maxFlights = 2000    // questions that wait or are asked
	noAnswer   = 10 * time.Second
)

// verifier remembers what next hops said, and asks each question once.
type verifier struct {
	ask Asker
	now func() time.Time

	mu      sync.Mutex
	cache   map[string]cached
	flights map[string]*flight
	slots   map[string]chan struct{} // by domain
}

type cached struct {
	answer Answer
	err    error
	until  time.Time
}

// flight is a question under way; its fields are set before done is closed.
type flight struct {
	done   chan struct{}
	answer Answer
	err    error
}

func newVerifier(ask Asker, now func() time.Time) *verifier {
	return &verifier{ask: ask, now: now, cache: map[string]cached{}, flights: map[string]*flight{}, slots: map[string]chan struct{}{}}
}

var (
	errLate = errors.New("the next hop has not answered in time")
	errBusy = errors.New("too many recipients wait to be verified")
)

// check gives the answer about a recipient, from memory or from the next hop.
// What comes too late for this session is there for the next.
func (v *verifier) check(ctx context.Context, set *Verify, to mail.Address, domain string) (Answer, error) {
	name := mail.FoldLocal(to.Local) + "@" + domain
	v.mu.Lock()
	if c, ok := v.cache[name]; ok && v.now().Before(c.until) {
		v.mu.Unlock()
		return c.answer, c.err
	}
	f := v.flights[name]
	if f == nil {
		if len(v.flights) >= maxFlights {
			v.mu.Unlock()
			return NoAnswer, errBusy
		}
		f = &flight{done: make(chan struct{})}
		v.flights[name] = f
		go v.fly(f, set, to, name, v.slot(domain, set.Probes))
	}
	v.mu.Unlock()
	late := time.NewTimer(set.Timeout)
	defer late.Stop()
	select {
	case <-f.done:
		return f.answer, f.err
	case <-late.C:
		return NoAnswer, errLate
	case <-ctx.Done():
		return NoAnswer, ctx.Err()
	}
}

// slot gives the room for a domain's questions. It is called with mu held.
func (v *verifier) slot(domain string, n int) chan struct{} {
	s := v.slots[domain]
	if cap(s) != max(1, n) {
		s = make(chan struct{}, max(1, n)) // whoever holds one of the old ones gives it back there
		v.slots[domain] = s
	}
	return s
}

// fly asks one question.
func (v *verifier) fly(f *flight, set *Verify, to mail.Address, name string, slot chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), set.Timeout)
	defer cancel()
	select {
	case slot <- struct{}{}:
		f.answer, f.err = v.safely(ctx, to)
		<-slot
	case <-ctx.Done():
		f.err = errBusy
	}
	keep := noAnswer
	switch f.answer {
	case Taken:
		keep = set.Taken
	case Unknown:
		keep = set.Absent
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.flights, name)
	if !errors.Is(f.err, errBusy) {
		v.remember(name, cached{f.answer, f.err, v.now().Add(keep)})
	}
	close(f.done)
}

// safely asks, and answers for an Asker that panics.
func (v *verifier) safely(ctx context.Context, to mail.Address) (a Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			a, err = NoAnswer, fmt.Errorf("asking the next hop panicked: %v", p)
		}
	}()
	return v.ask.Ask(ctx, to)
}

// remember keeps an answer. When there is no room some others go, at random but
// for those that are over or tell of nobody, which go first: who guesses addresses
// must not push those out that are there.
func (v *verifier) remember(name string, c cached) {
	if _, ok := v.cache[name]; !ok && len(v.cache) >= maxCached {
		now, looked := v.now(), 0
		victim := ""
		for other, o := range v.cache {
			if victim == "" || o.answer != Taken {
				victim = other
			}
			if looked++; looked == 16 || !now.Before(o.until) || o.answer != Taken {
				break
			}
		}
		delete(v.cache, victim)
	}
	v.cache[name] = c
}
