package delivery_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
)

// TestKeptConnectionIsDead: whatever has become of a kept connection, before
// the final dot a fresh one is used at once, and the message is not sent twice.
func TestKeptConnectionIsDead(t *testing.T) {
	for name, say := range map[string]map[string]string{
		"421 to MAIL":  {"MAIL": "421 4.4.2 idle"},
		"421 to RCPT":  {"RCPT": "421 4.4.2 idle"},
		"421 to DATA":  {"DATA": "421 4.4.2 idle"},
		"EOF at MAIL":  {"MAIL": smtpctest.Close},
		"EOF at RCPT":  {"RCPT": smtpctest.Close},
		"RST at MAIL":  {"MAIL": smtpctest.Reset},
		"RST at DATA":  {"DATA": smtpctest.Reset},
		"421 to a dot": {"none": ""},
	} {
		t.Run(name, func(t *testing.T) {
			second := false
			s := &smtpctest.Server{Say: func(session int, verb, _ string) string {
				if session == 1 && second {
					return say[verb]
				}
				return ""
			}}
			hop := smarthost(listen(t, s))
			a := agent(t, delivery.Options{})
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
				t.Fatal(got)
			}
			s.Do(func() { second = true })
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "b"))); got != "250" {
				t.Errorf("outcome %s", got)
			}
			if n := len(s.Messages()); n != 2 {
				t.Errorf("%d messages, want 2", n)
			}
		})
	}
}

// TestStrayOctets: what a host says unasked is never taken for a reply.
func TestStrayOctets(t *testing.T) {
	for name, say := range map[string][2]string{
		"behind the dot":      {smtpctest.Dot, "250 2.0.0 taken\r\n250 2.0.0 taken"},
		"421 behind the dot":  {smtpctest.Dot, "250 2.0.0 taken\r\n421 4.4.2 bye"},
		"behind the 354":      {"DATA", "354 go\r\n250 2.0.0 taken"},
		"behind the greeting": {smtpctest.Connect, "220 hi\r\n250 hi"},
		"behind MAIL":         {"MAIL", "250 ok\r\n250 ok"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &smtpctest.Server{Say: func(session int, verb, _ string) string {
				if session == 1 && verb == say[0] {
					return say[1]
				}
				return ""
			}}
			hop := smarthost(listen(t, s))
			a := agent(t, delivery.Options{})
			delivered := 0
			for range 3 {
				if codes(a.Deliver(t.Context(), hop, message(hello, "a"))) == "250" {
					delivered++
				}
			}
			if n := len(s.Messages()); n != delivered {
				t.Errorf("%d delivered, the host has %d", delivered, n)
			}
			if s.Sessions() < 2 {
				t.Error("the connection was used on")
			}
		})
	}
}

// TestPoolBounds: idle time, number of messages, number of idle connections.
func TestPoolBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &smtpctest.Server{}
		m := metrics.New().Delivery
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Metrics: m, Dial: pipes{"192.0.2.1": s, "192.0.2.2": s}.dial,
			Limits: delivery.Limits{ConnMessages: 3, ConnIdle: 5 * time.Second, ConnAge: time.Minute, IdleConns: 1}})
		send := func(host string) {
			t.Helper()
			hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: host, Port: 25}}}
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
				t.Fatal(got)
			}
			synctest.Wait()
		}
		want := func(sessions int, what string) {
			t.Helper()
			if got := s.Sessions(); got != sessions {
				t.Errorf("%s: %d sessions, want %d", what, got, sessions)
			}
		}
		send("192.0.2.1")
		time.Sleep(4 * time.Second)
		send("192.0.2.1")
		want(1, "in time")
		time.Sleep(6 * time.Second)
		send("192.0.2.1")
		want(2, "idle for too long")
		send("192.0.2.1")
		send("192.0.2.1")
		send("192.0.2.1")
		want(3, "three messages a connection")
		for range 14 { // 56 s
			time.Sleep(4 * time.Second)
			if s.Sessions() == 3 {
				send("192.0.2.1")
			}
		}
		send("192.0.2.2")
		n := s.Sessions()
		send("192.0.2.2")
		want(n, "kept") // the one place is free by now
		a.Close()
		synctest.Wait()
		quits := strings.Count(verbs(s), "QUIT")
		if quits != s.Sessions() {
			t.Errorf("%d QUITs for %d sessions", quits, s.Sessions())
		}
		if v := m.Outbound.Value(); v != 0 {
			t.Errorf("%v connections counted as open", v)
		}
	})
}

// TestMaxAge: a connection is not used for ever.
func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &smtpctest.Server{}
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: pipes{"192.0.2.1": s}.dial,
			Limits: delivery.Limits{ConnIdle: 5 * time.Second, ConnAge: time.Minute}})
		defer a.Close()
		hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "192.0.2.1", Port: 25}}}
		for range 31 {
			a.Deliver(t.Context(), hop, message(hello, "a"))
			time.Sleep(2 * time.Second)
		}
		if n := s.Sessions(); n != 1 && n != 2 {
			t.Errorf("%d sessions", n)
		}
		a.Deliver(t.Context(), hop, message(hello, "a"))
		if n := s.Sessions(); n != 2 {
			t.Errorf("%d sessions, want 2", n)
		}
	})
}

// TestDifferentTargetsShareNothing: neither TLS mode nor user nor name.
func TestDifferentTargetsShareNothing(t *testing.T) {
	s := &smtpctest.Server{}
	addr := listen(t, s)
	a := agent(t, delivery.Options{Resolver: zone{"A one": "127.0.0.1", "A two": "127.0.0.1"}})
	for _, name := range []string{"one", "two", "127.0.0.1"} {
		for _, mode := range []mail.TLSMode{mail.TLSNone, mail.TLSOpportunistic} {
			hop := mail.NextHop{Kind: mail.HopSmarthost, TLS: mode, Hosts: []mail.HostPort{{Name: name, Port: addr.Port()}}}
			for range 2 {
				a.Deliver(t.Context(), hop, message(hello, "a"))
			}
		}
	}
	if n := s.Sessions(); n != 6 {
		t.Errorf("%d sessions for 6 targets", n)
	}
}

// TestCancel: at every stage the context ends the attempt at once, with an
// outcome for everybody.
func TestCancel(t *testing.T) {
	for _, stage := range []string{"dial", smtpctest.Connect, "EHLO", "MAIL", "RCPT", "DATA", smtpctest.Dot} {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *smtpctest.Server
				if stage != "dial" {
					s = &smtpctest.Server{Say: func(_ int, verb, line string) string {
						if verb == stage && !strings.Contains(line, "<b@") {
							return smtpctest.Stall
						}
						return ""
					}}
				}
				p := pipes{"192.0.2.1": s}
				a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: p.dial})
				defer a.Close()
				ctx, cancel := context.WithCancel(t.Context())
				hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "192.0.2.1", Port: 25}}}
				var out []mail.Outcome
				var done sync.WaitGroup
				start := time.Now()
				done.Go(func() { out = a.Deliver(ctx, hop, message(hello, "a", "b")) })
				synctest.Wait()
				cancel()
				done.Wait()
				want := "451 451"
				if stage == smtpctest.Dot {
					want = "451! 451!"
				}
				if got := codes(out); got != want || out[0].Reply.Enhanced.String() != "4.3.2" {
					t.Errorf("outcome %s (%s), want %s", got, out[0].Reply.Error(), want)
				}
				if time.Since(start) != 0 {
					t.Errorf("took %v", time.Since(start))
				}
			})
		})
	}
}

// TestCancelledBefore: no connection at all.
func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &smtpctest.Server{}
	if got := codes(agent(t, delivery.Options{}).Deliver(ctx, smarthost(listen(t, s)), message(hello, "a"))); got != "451" || s.Sessions() > 0 {
		t.Errorf("outcome %s, %d sessions", got, s.Sessions())
	}
}

// TestBDATNotKnown: a host that offers CHUNKING and does not know BDAT gets
// the message by DATA, at once and for a while.
func TestBDATNotKnown(t *testing.T) {
	s := &smtpctest.Server{Ehlo: []string{"PIPELINING", "CHUNKING"}, Say: func(_ int, verb, line string) string {
		// The scripted server has read the chunk, which spares the test the
		// commands that a real one would see in it.
		if verb == smtpctest.Dot && strings.HasPrefix(line, "bdat") {
			return "502 5.5.1 what?"
		}
		return ""
	}}
	first := true
	say := s.Say
	s.Say = func(n int, verb, line string) string {
		if verb == smtpctest.Dot && first {
			first = false
			return say(n, verb, "bdat")
		}
		return ""
	}
	hop := smarthost(listen(t, s))
	a := agent(t, delivery.Options{})
	for range 2 {
		if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
			t.Errorf("outcome %s", got)
		}
	}
	if got := verbs(s); got != "EHLO MAIL RCPT BDAT EHLO MAIL RCPT DATA MAIL RCPT DATA" {
		t.Errorf("said %s", got)
	}
}

// hangUp is a host that answers in the middle of the content and closes.
func hangUp(t *testing.T, after int, reply string, bdat bool) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		caps := "250 PIPELINING\r\n"
		if bdat {
			caps = "250-PIPELINING\r\n250 CHUNKING\r\n"
		}
		buf := make([]byte, 4096)
		for _, r := range []string{"220 hi\r\n", "250-hi\r\n" + caps, "250 ok\r\n250 ok\r\n354 go\r\n"} {
			if bdat {
				r = strings.TrimSuffix(r, "354 go\r\n")
			}
			if _, err := io.WriteString(c, r); err != nil {
				return
			}
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
		_, _ = io.CopyN(io.Discard, c, int64(after)) // the client shows what became of it
		_, _ = io.WriteString(c, reply)
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr()
}

// TestAnswerBeforeTheEnd: what a host says when it has had enough counts, and
// the message was not delivered whatever happens to the connection.
func TestAnswerBeforeTheEnd(t *testing.T) {
	for _, bdat := range []bool{false, true} {
		for reply, want := range map[string]string{"552 5.3.4 too large\r\n": "552", "": "451", "250 2.0.0 thanks\r\n": "451", "421 4.3.0 bye\r\n": "421"} {
			addr := hangUp(t, 1<<20, reply, bdat).(*net.TCPAddr).AddrPort()
			a := agent(t, delivery.Options{})
			at := message(strings.Repeat(hello, 1<<20), "a")
			at.BeforeDot = func() error { t.Error("BeforeDot was called"); return nil }
			got := codes(a.Deliver(t.Context(), smarthost(addr), at))
			if bdat && strings.HasPrefix(reply, "250") {
				continue // a good answer to the first chunk
			}
			if got != want {
				t.Errorf("bdat %v, %q: outcome %s, want %s", bdat, reply, got, want)
			}
		}
	}
}

// TestStalledReader: a host that stops reading is left after a while.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			c1, c2 := net.Pipe()
			go func() {
				buf := make([]byte, 4096)
				for _, r := range []string{"220 hi\r\n", "250 hi\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"} {
					_, _ = io.WriteString(c2, r)
					if r[0] != '3' {
						_, _ = c2.Read(buf)
					}
				}
			}()
			return c1, nil
		}
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: dial})
		defer a.Close()
		hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "192.0.2.1", Port: 25}}}
		start := time.Now()
		o := a.Deliver(t.Context(), hop, message(strings.Repeat(hello, 10000), "a"))
		if took := time.Since(start); codes(o) != "451" || took > 4*time.Minute {
			t.Errorf("outcome %s after %v", o[0].Reply.Error(), took)
		}
	})
}

// TestChunkRefused: what is said to one of several chunks decides, and a host
// that takes the message all the same leaves it open.
func TestChunkRefused(t *testing.T) {
	for _, ehlo := range [][]string{{"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
		for _, c := range []struct {
			at   int // chunk
			say  string
			then string // to the last
			want string
		}{
			{1, "552 5.3.4 too large", "503 5.5.1 order", "552 552"},
			{1, "452 4.3.1 full", "503 5.5.1 order", "452 452"},
			{3, "552 5.3.4 too large", "503 5.5.1 order", "552 552"},
			{1, "421 4.3.2 bye", smtpctest.Close, "421 421"},
			{1, "354 what", "503 5.5.1 order", "451 451"},
			{1, smtpctest.Close, "", "451 451"},
			{2, "552 5.3.4 too large", smtpctest.Close, "552 552"},
			{2, "552 5.3.4 too large", "250 2.0.0 thanks", "451! 451!"}, // without PIPELINING it is not asked
		} {
			n, want := 0, c.want
			s := &smtpctest.Server{Ehlo: ehlo, Say: func(_ int, verb, _ string) string {
				if verb == "BDAT" {
					if n++; n == c.at {
						return c.say
					}
				}
				if verb == smtpctest.Dot {
					return c.then
				}
				return ""
			}}
			if len(ehlo) == 1 && strings.HasSuffix(want, "!") {
				want = "552 552"
			}
			at := message("", "a", "b")
			at.Content = &pieces{[]byte(strings.Repeat(hello, 10000)), []int{100_000}}
			out := agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), at)
			got := codes(out)
			if c.say == smtpctest.Close { // the last chunk may have been written by then
				got = strings.ReplaceAll(got, "!", "")
			}
			if got != want {
				t.Errorf("%v %+v: outcome %s (%s)", ehlo, c, got, out[0].Reply.Error())
			}
		}
	}
}

// TestStrangeIndex: a recipient that the envelope does not have gets an
// outcome too.
func TestStrangeIndex(t *testing.T) {
	s := &smtpctest.Server{}
	at := message(hello, "a")
	at.Recipients = []int{-1, 0, 1}
	out := agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), at)
	if got := codes(out); got != "451 250 451" || out[0].Recipient != -1 || out[2].Recipient != 1 {
		t.Errorf("outcomes %s", got)
	}
}

// TestNoHostAfterTooLong: hosts that each take their time do not add up.
func TestNoHostAfterTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func() *smtpctest.Server {
			return &smtpctest.Server{Say: func(_ int, verb, _ string) string {
				if verb == "RCPT" {
					return smtpctest.Stall
				}
				return ""
			}}
		}
		d := &dialed{pipes: pipes{"192.0.2.1": slow(), "192.0.2.2": slow(), "192.0.2.3": slow(), "192.0.2.4": slow()}}
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: d.dial})
		defer a.Close()
		hop := mail.NextHop{Kind: mail.HopSmarthost}
		for i := range 4 {
			hop.Hosts = append(hop.Hosts, mail.HostPort{Name: "192.0.2." + string(rune('1'+i)), Port: 25})
		}
		start := time.Now()
		o := a.Deliver(t.Context(), hop, message(hello, "a"))
		if took := time.Since(start); codes(o) != "451" || took > 11*time.Minute {
			t.Errorf("outcome %s after %v, tried %s", codes(o), took, d.take())
		}
	})
}
