package recipients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// hop is an Asker that takes its time.
type hop struct {
	mu      sync.Mutex
	takes   time.Duration
	fails   bool
	panics  bool
	asked   int
	running int
	most    int
}

func (h *hop) Ask(ctx context.Context, to mail.Address) (Answer, error) {
	h.mu.Lock()
	h.asked++
	h.running++
	h.most = max(h.most, h.running)
	takes, fails, panics := h.takes, h.fails, h.panics
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.running--
		h.mu.Unlock()
	}()
	if panics {
		panic("of the test")
	}
	if takes > 0 {
		t := time.NewTimer(takes)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return NoAnswer, ctx.Err()
		}
	}
	switch {
	case fails:
		return NoAnswer, errors.New("connection refused")
	case strings.HasPrefix(to.Local, "user"):
		return Taken, nil
	}
	return Unknown, nil
}

func asking(h *hop, deferring bool) *Book {
	b := New(Options{Ask: h, Log: &heard{}})
	b.Configure([]Domain{{Name: "example.edu", Mode: Asked, Verify: Verify{Defer: deferring, Taken: time.Hour, Absent: time.Minute, Timeout: 10 * time.Second, Probes: 3}}})
	return b
}

func code(b *Book, ctx context.Context, local string) int {
	reply, unknown := b.Check(ctx, mail.Address{Local: local, Domain: "Example.edu"})
	switch {
	case reply == nil:
		return 250
	case unknown != (reply.Code == 550):
		return 0
	}
	return reply.Code
}

func TestAnswersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{}
		b := asking(h, false)
		want := func(local string, reply, asked int) {
			t.Helper()
			if got := code(b, t.Context(), local); got != reply || h.asked != asked {
				t.Errorf("%s: %d after %d questions, want %d and %d", local, got, h.asked, reply, asked)
			}
		}
		want("user", 250, 1)
		want("USER", 250, 1)
		want("nobody", 550, 2)
		want("postmaster", 250, 2)
		want("NOBODY", 550, 2)
		want("\u212aim", 550, 3) // the Kelvin sign: what is said of it is not said of kim
		want("kim", 550, 4)
		want("po\u017ftmaster", 550, 5) // a long s: nobody's postmaster
		time.Sleep(time.Minute)
		want("nobody", 550, 6)
		want("user", 250, 6)
		time.Sleep(time.Hour)
		want("user", 250, 7)
	})
}

// A hop that is silent, refuses or panics costs a session ten seconds at most,
// and then what is configured happens.
func TestNoAnswer(t *testing.T) {
	for deferring, want := range map[bool]int{false: 250, true: 450} {
		for _, h := range []*hop{{fails: true}, {takes: time.Hour}, {panics: true}} {
			synctest.Test(t, func(t *testing.T) {
				b := asking(h, deferring)
				from := time.Now()
				if got := code(b, t.Context(), "nobody"); got != want || time.Since(from) > 10*time.Second {
					t.Errorf("%+v: %d after %v", h, got, time.Since(from))
				}
				h.mu.Lock()
				h.takes, h.fails, h.panics = 0, false, false
				h.mu.Unlock()
				time.Sleep(noAnswer + time.Second)
				if got := code(b, t.Context(), "nobody"); got != 550 {
					t.Errorf("%+v: when it answers again: %d", h, got)
				}
			})
		}
	}
}

// Many sessions with the same question ask once, and no domain is asked too much
// at a time.
func TestQuestionsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: time.Second}
		b := asking(h, false)
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				if got := code(b, t.Context(), fmt.Sprint("nobody", i%9)); got != 550 {
					t.Errorf("%d: %d", i, got)
				}
			})
		}
		all.Wait()
		if h.asked != 9 || h.most != 3 {
			t.Errorf("%d questions, %d at a time", h.asked, h.most)
		}
	})
}

// Whoever guesses addresses fills no memory, and holds nobody up for long.
func TestAFloodOfGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: time.Minute}
		b := asking(h, true)
		var all sync.WaitGroup
		from := time.Now()
		for i := range maxFlights + 500 {
			all.Go(func() {
				if got := code(b, t.Context(), fmt.Sprint("nobody", i)); got != 450 {
					t.Errorf("%d: %d", i, got)
				}
			})
		}
		synctest.Wait()
		if n := len(b.verifier.flights); n != maxFlights {
			t.Errorf("%d questions wait", n)
		}
		all.Wait()
		synctest.Wait()
		if len(b.verifier.flights) != 0 || time.Since(from) > 11*time.Second {
			t.Errorf("%d questions wait still, after %v", len(b.verifier.flights), time.Since(from))
		}
		v, c := b.verifier, cached{answer: Taken, until: time.Now().Add(time.Hour)}
		for i := range 100 {
			v.remember(fmt.Sprint("user", i), c)
		}
		c.answer = Unknown
		for i := range maxCached + 1000 {
			v.remember(fmt.Sprint("nobody", i), c)
		}
		kept := 0
		for i := range 100 {
			if v.cache[fmt.Sprint("user", i)].answer == Taken {
				kept++
			}
		}
		if len(v.cache) > maxCached || kept < 95 {
			t.Errorf("%d remembered, %d of 100 that are there", len(v.cache), kept)
		}
	})
}

func TestAClientThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: 5 * time.Second}
		b := asking(h, true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := code(b, ctx, "user"); got != 450 {
			t.Errorf("%d", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := code(b, t.Context(), "user"); got != 250 || h.asked != 1 {
			t.Errorf("the answer that came is lost: %d after %d questions", got, h.asked)
		}
	})
}
