package delivery_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/allow/node"
	"github.com/clrelay/clrelay/delivery/queue/limits"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
)

// turnstile is a limit of connections at a time whose changes can be waited
// for.
type turnstile struct {
	most int

	mu      sync.Mutex
	changed sync.Cond
	turns   int
	open    map[*turn]bool
	top     int
}

type turn struct {
	s      *turnstile
	revoke func(now bool)
}

func newTurnstile(most int) *turnstile {
	s := &turnstile{most: most, open: map[*turn]bool{}}
	s.changed.L = &s.mu
	return s
}

func (s *turnstile) Reserve(*limit.Subject, int, int64) (allow.Ticket, *allow.Denied) {
	return free{}, nil
}

func (s *turnstile) ByDomain(string) bool { return false }

func (s *turnstile) Open(_ *limit.Subject, revoke func(bool)) (allow.Slot, *allow.Denied) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.most {
		return nil, &allow.Denied{Limit: "few", Key: "site=here", Kind: limit.KindConnections, Wait: time.Second}
	}
	o := &turn{s, revoke}
	s.open[o] = true
	s.top = max(s.top, len(s.open))
	return o, nil
}

func (o *turn) Close() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	delete(o.s.open, o)
	o.s.turn()
}

// turn tells of a change. s.mu is held.
func (s *turnstile) turn() {
	s.turns++
	s.changed.Broadcast()
}

// until waits until something is true, looking after each change.
func (s *turnstile) until(is func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !is() {
		s.changed.Wait()
	}
}

// revokeAll asks for every connection.
func (s *turnstile) revokeAll(now bool) {
	s.mu.Lock()
	var all []*turn
	for o := range s.open {
		all = append(all, o)
	}
	s.mu.Unlock()
	for _, o := range all {
		o.revoke(now)
	}
}

type free struct{}

func (free) Use() time.Duration { return 0 }
func (free) Cancel()            {}

// here is the site of everything.
type here struct{}

func (here) Site(context.Context, mail.NextHop) string { return "here" }

// gauge counts the connections of servers, from accept to close.
type gauge struct {
	mu       sync.Mutex
	now, top int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.top = max(g.top, g.now)
}

// most is how many there were at a time.
func (g *gauge) most() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.top
}

// listen serves and counts.
func (g *gauge) listen(t *testing.T, s *smtpctest.Server) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.add(1)
			wg.Go(func() {
				s.Serve(uncounted{c, g})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // ends Accept
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// uncounted is not counted any more when the server closes it.
type uncounted struct {
	net.Conn
	g *gauge
}

func (u uncounted) Close() error {
	u.g.add(-1)
	return u.Conn.Close()
}

// deniedIn gives the limit that kept a recipient; nil: none did.
func deniedIn(outs []mail.Outcome) *allow.Denied {
	for i := range outs {
		if d := limits.Of(&outs[i].Reply); d != nil {
			return d
		}
	}
	return nil
}

// TestConnectionsAtATime: forty attempts at once to two hosts of a site, which
// refuse, hang, close, and say 421 at every stage, and the site never sees more
// connections than it may, counted from accept to close. All are used.
func TestConnectionsAtATime(t *testing.T) {
	const most = 3
	g, s := &gauge{}, newTurnstile(most)
	n := 0
	script := func(_ int, verb, line string) string {
		n++
		switch {
		case n%17 == 0 && verb == smtpctest.Connect:
			return "421 4.7.0 too many"
		case n%19 == 0 && verb == "EHLO":
			return smtpctest.Close
		case n%23 == 0 && verb == "MAIL":
			return "421 4.3.2 closing"
		case n%29 == 0 && verb == "RCPT":
			return smtpctest.Close
		case n%31 == 0 && verb == smtpctest.Dot:
			return "451 4.3.0 not now"
		case n%67 == 0 && verb == "MAIL":
			return smtpctest.Stall
		}
		return ""
	}
	a := agent(t, delivery.Options{Limiter: s, Sites: here{}, Limits: delivery.Limits{
		ConnMessages: 7, DeadFor: time.Nanosecond,
		Timeouts: smtpc.Timeouts{Mail: 100 * time.Millisecond, Quit: 10 * time.Second},
	}})
	hosts := []netip.AddrPort{g.listen(t, &smtpctest.Server{Say: script}), g.listen(t, &smtpctest.Server{Say: nil})}
	var wg sync.WaitGroup
	for i := range 40 {
		hop := smarthost(hosts[i%2], hosts[(i+1)%2])
		wg.Go(func() {
			for sent := 0; sent < 6; {
				s.mu.Lock()
				before := s.turns
				s.mu.Unlock()
				outs := a.Deliver(t.Context(), hop, message(hello, "a"))
				s.mu.Lock()
				s.turn() // a connection may be idle now
				s.mu.Unlock()
				if d := deniedIn(outs); d == nil {
					sent++
				} else {
					s.until(func() bool { return s.turns > before+1 })
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.turn()
		})
	}
	wg.Wait()
	a.Close()
	if top := g.most(); top > most || top < 2 {
		t.Errorf("%d connections at a time, want %d", top, most)
	}
	if s.top != most || len(s.open) != 0 {
		t.Errorf("%d places were used at a time, and %d were not given back", s.top, len(s.open))
	}
}

// TestPlaceForTheNextHost: with one connection in all, the second host gets its
// own when that to the first has ended, and an idle one to another host of the
// site makes room.
func TestPlaceForTheNextHost(t *testing.T) {
	g, s := &gauge{}, newTurnstile(1)
	first := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
		if verb == "MAIL" {
			return "421 4.3.2 closing"
		}
		return ""
	}}
	one, two, three := g.listen(t, first), g.listen(t, &smtpctest.Server{}), g.listen(t, &smtpctest.Server{})
	a := agent(t, delivery.Options{Limiter: s, Sites: here{}})
	for _, hop := range []mail.NextHop{smarthost(one, two), smarthost(three), smarthost(two)} {
		for _, o := range a.Deliver(t.Context(), hop, message(hello, "a")) {
			if !o.Reply.Positive() {
				t.Errorf("%v: %s", hop.Hosts, o.Reply.Line())
			}
		}
	}
	a.Close()
	if top := g.most(); top != 1 || len(s.open) != 0 {
		t.Errorf("%d connections at a time, %d places not given back", top, len(s.open))
	}
}

// TestRevoked: a connection that is taken away ends at once when it is idle;
// one in use after its transaction, or at once when the node is cut off. What
// had not come to its dot then is not tried, and what had is in doubt.
func TestRevoked(t *testing.T) {
	for _, c := range []struct {
		verb   string // where the host hangs
		now    bool
		unsure bool
	}{
		{smtpctest.Connect, true, false}, {"EHLO", true, false}, {"MAIL", true, false}, {"RCPT", true, false}, {"DATA", true, false},
		{smtpctest.Dot, true, true}, {smtpctest.Dot, false, false},
	} {
		t.Run(fmt.Sprintf("%s now=%v", c.verb, c.now), func(t *testing.T) {
			g, s := &gauge{}, newTurnstile(1)
			there, goOn := make(chan bool, 1), make(chan bool)
			a := agent(t, delivery.Options{Limiter: s, Sites: here{}})
			hop := smarthost(g.listen(t, &smtpctest.Server{Say: func(_ int, verb, _ string) string {
				if verb == c.verb {
					there <- true
					if !c.now {
						<-goOn
						return ""
					}
					return smtpctest.Stall
				}
				return ""
			}}))
			done := make(chan []mail.Outcome, 1)
			go func() { done <- a.Deliver(t.Context(), hop, message(hello, "a")) }()
			<-there
			s.revokeAll(c.now)
			if !c.now {
				close(goOn)
			}
			o := (<-done)[0]
			switch d := deniedIn([]mail.Outcome{o}); {
			case !c.now && !o.Reply.Positive():
				t.Errorf("a transaction under way was not ended: %s", o.Reply.Line())
			case c.unsure && !o.Unsure:
				t.Errorf("behind the dot: %+v", o)
			case c.now && !c.unsure && (d == nil || !d.Cut || o.Unsure):
				t.Errorf("before the dot: %+v", o)
			}
			s.until(func() bool { return len(s.open) == 0 })
		})
	}
	t.Run("idle", func(t *testing.T) {
		g, s := &gauge{}, newTurnstile(1)
		a := agent(t, delivery.Options{Limiter: s, Sites: here{}, Limits: delivery.Limits{ConnIdle: time.Hour}})
		a.Deliver(t.Context(), smarthost(g.listen(t, &smtpctest.Server{})), message(hello, "a"))
		if len(s.open) != 1 {
			t.Fatal("no connection is kept")
		}
		s.revokeAll(false)
		s.until(func() bool { return len(s.open) == 0 })
	})
}

// TestRateAtTheHost: many attempts at once, and in no window does a host get
// more messages than burst + rate * window, counted at MAIL; and nearly all of
// them go out.
func TestRateAtTheHost(t *testing.T) {
	const rate, burst, total = 100, 3, 150
	start := time.Now()
	l := local.New(local.Options{Now: func() time.Duration { return time.Since(start) + time.Hour }, Wall: time.Now})
	if err := l.Configure([]limit.Definition{{Name: "slow", Per: []limit.Field{limit.Site}, Rate: limit.Rate{N: rate, Per: time.Second}, Burst: burst}}); err != nil {
		t.Fatal(err)
	}
	l.Apply(limit.Update{Full: true, Seats: 1, Leased: true})
	var at []time.Time
	sink := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
		if verb == "MAIL" {
			at = append(at, time.Now())
		}
		return ""
	}}
	a := agent(t, delivery.Options{Limiter: node.Limits{Local: l}, Sites: here{}})
	hop := smarthost(listen(t, sink))
	work := make(chan int, total)
	for i := range total {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			for range work {
				for {
					outs := a.Deliver(t.Context(), hop, message(hello, "a"))
					d := deniedIn(outs)
					if d == nil {
						break
					}
					<-time.After(d.Wait) // what the queue does
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	a.Close()
	sink.Do(func() {
		if len(at) != total {
			t.Errorf("%d messages, want %d", len(at), total)
		}
		const slack = 150 * time.Millisecond // from the count to the ear of a host on a busy machine
		for i := range at {
			for j := i + 1; j < len(at); j++ {
				if most := burst + rate*(at[j].Sub(at[i])+slack).Seconds(); float64(j-i+1) > most {
					t.Fatalf("%d messages in %s, want at most %.1f", j-i+1, at[j].Sub(at[i]), most)
				}
			}
		}
	})
	t.Logf("%d messages at %d a second in %s", total, rate, took)
	if took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestWaits: how long a host asks to be left alone is told with the outcome,
// whether it says so to a session, to a message or to a recipient.
func TestWaits(t *testing.T) {
	for _, c := range []struct {
		verb, says string
		want       time.Duration
	}{
		{"", "", 0},
		{smtpctest.Connect, "450 4.7.1 greylisted", 6 * time.Minute},
		{"MAIL", "450 4.7.1 greylisted", 6 * time.Minute},
		{"RCPT", "450 4.7.1 greylisted", 6 * time.Minute},
		{"RCPT", "550 5.7.1 greylisted", 0},
		{smtpctest.Dot, "451 4.7.1 greylisted", 6 * time.Minute},
		{"DATA", "451 4.3.0 later", 0},
		{"EHLO", smtpctest.Close, 0},
	} {
		a := agent(t, delivery.Options{Sites: here{}, Wait: func(site string, at smtpc.Stage, r *mail.Reply) time.Duration {
			if site != "here" || at == "" {
				t.Errorf("asked about %q at %q of %s", r.Line(), at, site)
			}
			if strings.Contains(r.Text, "greylisted") {
				return 6 * time.Minute
			}
			return 0
		}})
		outs := a.Deliver(t.Context(), smarthost(listen(t, &smtpctest.Server{Say: func(_ int, verb, _ string) string {
			if verb == c.verb {
				return c.says
			}
			return ""
		}})), message(hello, "a"))
		if len(outs) != 1 || outs[0].Wait != c.want {
			t.Errorf("%s %q: %+v, want a wait of %s", c.verb, c.says, outs, c.want)
		}
	}
}

// TestWords: what hosts say is passed on, each word once, with its stage.
func TestWords(t *testing.T) {
	for _, c := range []struct{ verb, says, want string }{
		{"", "", "end of content 250 true"},
		{smtpctest.Connect, "554 5.7.1 go away", "greeting 554 false"},
		{"EHLO", smtpctest.Close, "EHLO 451 false"},
		{"MAIL", "450 4.7.1 slow down", "MAIL 450 false"},
		{"RCPT", "550 5.1.1 nobody", "RCPT 550 false"},
		{"DATA", "451 4.3.0 later", "DATA 451 false"},
		{smtpctest.Dot, "452 4.3.1 full", "end of content 452 false"},
	} {
		var mu sync.Mutex
		var words []string
		a := agent(t, delivery.Options{Sites: here{}, Heard: func(w *delivery.Word) {
			mu.Lock()
			defer mu.Unlock()
			words = append(words, fmt.Sprintf("%s %d %v", w.Stage, w.Reply.Code, w.OK))
			if w.Site != "here" || w.Hop == nil || !w.Addr.IsValid() {
				t.Errorf("the word is %+v", w)
			}
		}})
		at := message(hello, "a", "b")
		a.Deliver(t.Context(), smarthost(listen(t, &smtpctest.Server{Say: func(_ int, verb, _ string) string {
			if verb == c.verb {
				return c.says
			}
			return ""
		}})), at)
		mu.Lock()
		if got := strings.Join(words, ", "); got != c.want {
			t.Errorf("%s %q: heard %q, want %q", c.verb, c.says, got, c.want)
		}
		mu.Unlock()
	}
}
