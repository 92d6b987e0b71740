package smtpd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
)

// bubble runs a server on pipes in a bubble with a clock of its own.
func bubble(t *testing.T, o setup, run func(t *testing.T, w *world, dial func() *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		o.on = l
		w := start(t, o)
		run(t, w, func() *peer { return newPeer(t, l.dial(t)) })
	})
}

// elapses runs f and checks how long it took by the bubble's clock.
func elapses(t *testing.T, want time.Duration, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	if got := time.Since(begin); got < want || got > want+want/100+time.Second {
		t.Errorf("it took %v, want %v", got, want)
	}
}

func hello(p *peer) {
	p.t.Helper()
	p.expect("220 ")
	p.do("EHLO client.test", "250 ")
}

func TestTimeouts(t *testing.T) {
	limits := smtpd.Limits{Command: 5 * time.Minute, Data: 3 * time.Minute, Discard: 5 * time.Second, RateGrace: time.Hour}
	for name, tc := range map[string]struct {
		prepare func(p *peer)
		wait    time.Duration
	}{
		"after the greeting": {func(p *peer) { p.expect("220 ") }, limits.Command},
		"within a command":   {func(p *peer) { hello(p); p.send("MAIL FR") }, limits.Command},
		"in a transaction":   {func(p *peer) { hello(p); p.envelope() }, limits.Command},
		"in DATA":            {func(p *peer) { hello(p); p.envelope(); p.do("DATA", "354 "); p.send("Subject: x\r\n") }, limits.Data},
		"in DATA at the dot": {func(p *peer) { hello(p); p.envelope(); p.do("DATA", "354 "); p.send("a\r\n.\r") }, limits.Data},
		"in BDAT":            {func(p *peer) { hello(p); p.envelope(); p.send("BDAT 10 LAST\r\nabc") }, limits.Data},
		"between chunks":     {func(p *peer) { hello(p); p.envelope(); p.send("BDAT 3\r\nabc"); p.expect("250 ") }, limits.Data},
		"in a refused chunk": {func(p *peer) { hello(p); p.send("BDAT 10 LAST\r\nabc") }, limits.Data},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, setup{limits: limits}, func(t *testing.T, w *world, dial func() *peer) {
				p := dial()
				tc.prepare(p)
				elapses(t, tc.wait, func() { p.expect("421 4.4.2 ") })
				// What comes now is thrown away, whatever it is.
				begin := time.Now()
				for {
					if _, err := io.WriteString(p.conn, "\r\n.\r\nMAIL FROM:<x@c.test>\r\n"); err != nil {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if d := time.Since(begin); d < 4*time.Second || d > 6*time.Second {
					t.Errorf("input was thrown away for %v", d)
				}
				if n := len(w.inbox.messages()); n != 0 {
					t.Errorf("%d messages", n)
				}
			})
		})
	}
}

// TestTrickle: a client that sends now and then is not waited for longer than
// one that sends nothing, but one that is merely slow gets through.
func TestTrickle(t *testing.T) {
	limits := smtpd.Limits{Command: 5 * time.Minute, Data: 3 * time.Minute, MinRate: 100, RateGrace: time.Minute}
	// trickle sends a piece now and then until the connection is closed, which
	// the function it gives does.
	trickle := func(p *peer, pause time.Duration, piece string) (stop func()) {
		var wg sync.WaitGroup
		wg.Go(func() { trickleOn(p, pause, piece) })
		return func() { p.conn.Close(); wg.Wait() }
	}
	t.Run("command", func(t *testing.T) {
		bubble(t, setup{limits: limits}, func(t *testing.T, _ *world, dial func() *peer) {
			p := dial()
			hello(p)
			defer trickle(p, time.Second, "x")()
			elapses(t, limits.Command, func() { p.expect("421 4.4.2 ") })
		})
	})
	t.Run("content", func(t *testing.T) {
		bubble(t, setup{limits: limits}, func(t *testing.T, w *world, dial func() *peer) {
			p := dial()
			hello(p)
			p.envelope()
			p.do("DATA", "354 ")
			defer trickle(p, time.Second, "x")()
			elapses(t, limits.RateGrace, func() { p.expect("421 4.4.2 ") })
		})
	})
	t.Run("chunks", func(t *testing.T) {
		bubble(t, setup{limits: limits}, func(t *testing.T, w *world, dial func() *peer) {
			p := dial()
			hello(p)
			p.envelope()
			begin := time.Now()
			defer trickle(p, 10*time.Second, "BDAT 1\r\nx")()
			for {
				lines, err := p.reply()
				if err != nil {
					t.Fatalf("closed without a reply: %v after %v", err, time.Since(begin))
				}
				if strings.HasPrefix(lines[0], "421 4.4.2 ") {
					break
				}
			}
			if d := time.Since(begin); d > 2*time.Minute {
				t.Errorf("chunks of one octet went on for %v", d)
			}
		})
	})
	t.Run("slow but honest", func(t *testing.T) {
		bubble(t, setup{limits: limits}, func(t *testing.T, w *world, dial func() *peer) {
			p := dial()
			hello(p)
			p.envelope()
			p.do("DATA", "354 ")
			line := "X-Slow: " + strings.Repeat("x", 118) + "\r\n"
			for range 600 {
				time.Sleep(time.Second)
				p.send(line)
			}
			p.do(".", "250 ")
			if got := w.inbox.messages(); len(got) != 1 || len(got[0].content()) != 600*len(line) {
				t.Error("the message did not come through")
			}
		})
	})
}

func trickleOn(p *peer, pause time.Duration, piece string) {
	for {
		time.Sleep(pause)
		if _, err := io.WriteString(p.conn, piece); err != nil {
			return
		}
	}
}

func TestGreetDelay(t *testing.T) {
	limits := smtpd.Limits{GreetDelay: 3 * time.Second}
	bubble(t, setup{limits: limits}, func(t *testing.T, _ *world, dial func() *peer) {
		p := dial()
		elapses(t, limits.GreetDelay, func() { p.expect("220 ") })
		p.do("EHLO client.test", "250 ")

		p = dial()
		p.send("EHLO client.test\r\n")
		elapses(t, 0, func() { p.expect("554 5.5.1 ") })

		p = dial()
		p.conn.Close()
	})
}

func TestEarlyTalkerWithoutDelay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "EHLO early.test\r\nMAIL FROM:<a@b.cd>\r\n"); err != nil {
		t.Fatal(err)
	}
	start(t, setup{on: l}) // it takes the connection with octets in it
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	p := newPeer(t, conn)
	p.expect("554 5.5.1 ")
	p.closed()
}

func TestDrain(t *testing.T) {
	release := make(chan struct{})
	o := setup{fail: func(*mail.Envelope, io.Reader) error { <-release; return nil }}
	w := start(t, o)
	idle, open, data, talker := w.greeted(), w.greeted(), w.greeted(), w.greeted()
	open.envelope()
	data.envelope()
	data.do("DATA", "354 ")
	talker.do("MAIL FROM:<a@c.test>", "250 ")

	w.server.Drain()
	idle.expect("421 4.3.2 ")
	idle.closed()
	fresh := w.dial() // the port stays open
	fresh.expect("421 4.3.2 ")
	fresh.closed()
	talker.do("RSET", "250 ")
	talker.expect("421 4.3.2 ")
	talker.closed()

	done := make(chan error, 1)
	go func() { done <- w.server.Shutdown(context.Background()) }()
	close(release)
	open.do("DATA", "354 ")
	open.do("Subject: x\r\n\r\n.", "250 2.0.0 Ok: queued")
	open.expect("421 4.3.2 ")
	open.closed()
	data.send("Subject: x\r\n\r\n.\r\nMAIL FROM:<next@c.test>\r\n")
	data.expect("250 2.0.0 Ok: queued")
	data.expect("421 4.3.2 ")
	data.closed()
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if n := len(w.inbox.messages()); n != 2 {
		t.Errorf("%d messages", n)
	}
	if _, err := net.Dial("tcp", w.addr); err == nil {
		t.Error("the port is open after shutdown")
	}
}

func TestResume(t *testing.T) {
	w := start(t, setup{})
	w.server.Drain()
	w.dial().expect("421 4.3.2 ")
	w.server.Resume()
	w.greeted().envelope()
}

func TestHardShutdown(t *testing.T) {
	w := start(t, setup{})
	p := w.greeted()
	p.envelope()
	p.do("DATA", "354 ")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	waitFor(t, "the session to end", func() bool { return w.server.Sessions() == 0 })
	if n := len(w.inbox.messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// TestSlowAcceptor: the time that Acceptor takes is not the client's.
func TestSlowAcceptor(t *testing.T) {
	limits := smtpd.Limits{Data: 3 * time.Minute, MinRate: 100, RateGrace: time.Minute}
	slow := func(_ *mail.Envelope, body io.Reader) error { time.Sleep(time.Hour); return nil }
	bubble(t, setup{limits: limits, fail: slow}, func(t *testing.T, w *world, dial func() *peer) {
		p := dial()
		hello(p)
		for _, send := range []string{"DATA\r\n", "BDAT 30 LAST\r\n"} {
			p.envelope()
			p.send(send)
			if send[0] == 'D' {
				p.expect("354 ")
			}
			time.Sleep(time.Hour + 30*time.Second) // half a minute is the client's
			p.send("X: 45678901234567890123456\r\n\r\n")
			if send[0] == 'D' {
				p.send(".\r\n")
			}
			p.expect("250 2.0.0 Ok: queued")
		}
	})
}
