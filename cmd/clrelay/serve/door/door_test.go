package door

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/overload"
	"github.com/clrelay/clrelay/smtpd/guard"
)

// house is a door with a clock by hand. Clients in 10.0.0.0/8 are the entry
// campus, whose mail is bulk.
type house struct {
	*Door
	t   *testing.T
	now time.Duration
}

func newHouse(t *testing.T, defs ...limit.Definition) *house {
	h := &house{t: t, now: time.Hour}
	clock := func() time.Duration { return h.now }
	wall := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	limits := local.New(local.Options{Now: clock, Wall: func() time.Time { return wall.Add(h.now) }})
	if err := limits.Configure(defs); err != nil {
		t.Fatal(err)
	}
	limits.Apply(limit.Update{Full: true, Seats: 1, Leased: true})
	h.now += time.Hour
	table := abuse.New(clock, 0)
	table.Configure(abuse.Rules{Window: time.Minute, Most: [abuse.Kinds]int{5, 10, 3, 3}, Hold: 5 * time.Second, Lockout: 10 * time.Minute})
	gate := overload.NewGate(clock, func(s *overload.Signals) { s.Max = 100 })
	gate.Configure(time.Second)
	campus := netip.MustParsePrefix("10.0.0.0/8")
	h.Door = New(Options{
		Limits: limits, Abuse: table, Gate: gate, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New().Door,
		Entry: func(a netip.Addr) string {
			if campus.Contains(a) {
				return "campus"
			}
			return ""
		},
	})
	h.Configure(Rules{Classes: map[string]overload.Class{"campus": overload.Bulk}, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	return h
}

func (h *house) enter(addr string) (guard.Visit, *mail.Reply) {
	return h.Enter(&mail.Client{Addr: netip.MustParseAddr(addr)}, func() {})
}

func (h *house) in(addr string) guard.Visit {
	h.t.Helper()
	v, r := h.enter(addr)
	if r != nil {
		h.t.Fatalf("%s is not let in: %s", addr, r.Line())
	}
	return v
}

func from(local string) *guard.Question {
	return &guard.Question{From: mail.Address{Local: local, Domain: "x.example"}}
}

// message brings a whole message and gives the first refusal.
func message(v guard.Visit, q *guard.Question, rcpts ...string) *mail.Reply {
	if r := v.Ask(guard.Mail, &guard.Question{From: q.From, Size: q.Size}); r != nil {
		return r
	}
	for _, to := range rcpts {
		if r := v.Ask(guard.Recipient, &guard.Question{From: q.From, To: mail.Address{Local: "u", Domain: to}}); r != nil {
			return r
		}
	}
	return v.Ask(guard.Content, q)
}

func (h *house) expect(r *mail.Reply, want string) {
	h.t.Helper()
	got := "ok"
	if r != nil {
		got = r.Line()
	}
	if !strings.Contains(got, want) {
		h.t.Fatalf("got %q, want %q", got, want)
	}
}

func minutely(name string, n int64, per ...limit.Field) limit.Definition {
	return limit.Definition{Name: name, Side: limit.Receive, Per: per, Rate: limit.Rate{N: n, Per: time.Minute}, Burst: n}
}

func TestMessagesPerSender(t *testing.T) {
	h := newHouse(t, minutely("senders", 3, limit.Sender))
	v, w := h.in("192.0.2.1"), h.in("192.0.2.2")
	// What is begun and given up does not count.
	for range 10 {
		h.expect(v.Ask(guard.Mail, from("a")), "ok")
	}
	h.expect(message(v, from("a"), "y.example"), "ok")
	h.expect(message(w, from("A"), "y.example"), "ok")
	h.expect(message(v, from("a"), "y.example"), "ok")
	h.expect(message(w, from("a")), "450 4.7.1 limit senders of sender=a@x.example: 3 messages a minute; try again in 20 s")
	h.expect(message(w, from("b")), "ok")
	h.now += 20 * time.Second
	h.expect(message(w, from("a")), "ok")
}

func TestRecipientsByDomain(t *testing.T) {
	d := minutely("rcpts", 2, limit.RecipientDomain)
	d.Count = limit.Recipients
	h := newHouse(t, d)
	v := h.in("192.0.2.1")
	h.expect(message(v, from("a"), "y.example", "y.example", "Z.example"), "ok")
	h.expect(message(v, from("a"), "Y.example"), "450 4.7.1 limit rcpts of domain=y.example: 2 recipients a minute; try again in 30 s")
	h.expect(message(v, from("a"), "z.example"), "ok")
}

func TestOctetsBySizeAndAsTheyCome(t *testing.T) {
	d := minutely("octets", 6000, limit.Client)
	d.Count = limit.Octets
	h := newHouse(t, d)
	v := h.in("192.0.2.1")
	q := from("a")
	h.expect(v.Ask(guard.Mail, q), "ok") // nothing was declared
	q.Size = 5000
	h.expect(v.Ask(guard.Content, q), "ok")
	h.expect(v.Ask(guard.Mail, q), "450 4.7.1 limit octets of client=192.0.2.1")
	q.Size = 0
	h.expect(v.Ask(guard.Mail, q), "ok")
	q.Size = 5000
	h.expect(v.Ask(guard.Content, q), "450 4.7.1 limit octets")
	q.Size = 1000
	h.expect(message(v, q), "ok")
}

// A stranger who announces a message and does not send it keeps nothing from the
// others. For those who may relay it is kept.
func TestAnnouncedAndNotSent(t *testing.T) {
	octets := limit.Definition{Name: "line", Side: limit.Receive, Count: limit.Octets, Rate: limit.Rate{N: 1000, Per: time.Second}, Burst: 1000}
	big := from("a")
	big.Size = 1000
	for _, def := range []limit.Definition{octets, minutely("all", 1)} {
		h := newHouse(t, def)
		h.expect(h.in("192.0.2.1").Ask(guard.Mail, big), "ok")
		h.expect(message(h.in("10.0.0.1"), big, "y.example"), "ok")
		h = newHouse(t, def)
		h.expect(h.in("10.0.0.1").Ask(guard.Mail, big), "ok")
		h.expect(h.in("192.0.2.1").Ask(guard.Mail, big), "450 4.7.1 limit "+def.Name)
		// What two have announced together is still no more than one of them gets.
		h = newHouse(t, def)
		v, w := h.in("192.0.2.1"), h.in("192.0.2.2")
		h.expect(v.Ask(guard.Mail, big), "ok")
		h.expect(w.Ask(guard.Mail, big), "ok")
		h.expect(v.Ask(guard.Content, big), "ok")
		h.expect(w.Ask(guard.Content, big), "450 4.7.1 limit "+def.Name)
	}
}

func TestConnections(t *testing.T) {
	h := newHouse(t, limit.Definition{Name: "conns", Side: limit.Receive, Per: []limit.Field{limit.Client}, Connections: 2})
	a := h.in("192.0.2.1")
	h.in("192.0.2.1")
	_, r := h.enter("192.0.2.1")
	h.expect(r, "421 4.7.0 limit conns of client=192.0.2.1: 2 connections at a time")
	h.in("192.0.2.2")
	a.Leave()
	h.in("192.0.2.1")
}

func TestSuspended(t *testing.T) {
	d := limit.Definition{Name: "stop", Side: limit.Receive, Suspended: true, Reason: "stolen password"}
	d.Match[limit.Sender] = []string{"a@x.example"}
	h := newHouse(t, d)
	h.expect(message(h.in("192.0.2.1"), from("a")), "450 4.7.1 limit stop: suspended (stolen password); try again in 60 min")
	h.expect(message(h.in("192.0.2.1"), from("b")), "ok")
}

func unknown() *mail.Reply { return mail.NewReply(550, "5.1.1", "no such user here") }

func TestUnknownRecipients(t *testing.T) {
	h := newHouse(t)
	v := h.in("192.0.2.1")
	for i := 1; i < 9; i++ {
		want := time.Duration(0)
		if i >= 3 {
			want = 5 * time.Second
		}
		if got := v.Answered(unknown()); got != want {
			t.Fatalf("unknown recipient %d is answered after %v, want %v", i, got, want)
		}
		if got := h.held.Load(); (got == 1) != (want > 0) {
			t.Fatalf("%d sessions are held back", got)
		}
		v.Rested()
	}
	if h.held.Load() != 0 {
		t.Fatalf("%d sessions are held back that have their replies", h.held.Load())
	}
	for range 3 { // its transaction goes on, and not faster than before
		if got := v.Answered(unknown()); got != 5*time.Second {
			t.Fatalf("when it is locked out, an unknown recipient is answered after %v", got)
		}
	}
	h.expect(v.Ask(guard.Mail, from("a")), "450 4.7.1 too many unknown recipients from 192.0.2.1; try again in 10 min")
	v.Leave()
	if h.held.Load() != 0 {
		t.Fatalf("%d sessions are held back after all are gone", h.held.Load())
	}
	_, r := h.enter("192.0.2.1")
	h.expect(r, "421 4.7.0 too many unknown recipients from 192.0.2.1; try again in 10 min")
	h.in("192.0.2.2")
	h.now += 10 * time.Minute
	h.in("192.0.2.1")
}

// Those who may relay, and exempt networks, are not counted.
func TestTrusted(t *testing.T) {
	h := newHouse(t)
	for _, addr := range []string{"10.0.0.1", "127.0.0.1"} {
		v := h.in(addr)
		for range 100 {
			if v.Answered(unknown()) != 0 {
				t.Fatalf("%s is kept waiting", addr)
			}
		}
		v.Leave()
	}
	if n, _ := h.Abuse.Clients(); n != 0 {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestFruitlessConnections(t *testing.T) {
	h := newHouse(t)
	for range 15 {
		v, r := h.enter("192.0.2.1")
		if r != nil {
			break
		}
		v.Leave()
	}
	_, r := h.enter("192.0.2.1")
	h.expect(r, "421 4.7.0 too many connections without a message from 192.0.2.1")
	for range 100 {
		v := h.in("192.0.2.2")
		h.expect(message(v, from("a")), "ok")
		v.Leave()
	}
}

func TestHeldSessionsAreBounded(t *testing.T) {
	h := newHouse(t)
	for i := range 3 * maxHeld {
		v := h.in(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).String())
		for range 3 {
			v.Answered(unknown())
		}
	}
	if got := h.held.Load(); got != maxHeld {
		t.Errorf("%d sessions are held back, want %d", got, maxHeld)
	}
}

func TestBulkIsSentAwayFirst(t *testing.T) {
	h := newHouse(t)
	bulk, other := h.in("10.0.0.1"), h.in("192.0.2.1")
	h.expect(message(bulk, from("a")), "ok")
	for range 3 {
		h.now += time.Second
		h.Gate.Stored(5 * time.Second)
		_ = message(bulk, from("a"))
	}
	h.expect(message(bulk, from("a")), "451 4.3.2 Too much to do at the moment, bulk mail has to wait")
	h.expect(message(other, from("a")), "ok")
}

// What one node has seen of a client the others know within a second, and have it
// in their logs.
func TestNodesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newHouse(t), newHouse(t)
		ctx, cancel := context.WithCancel(t.Context())
		var text bytes.Buffer
		log := slog.New(slog.NewTextHandler(&text, nil))
		go Share(ctx, a.Abuse, func(text []byte) { Heard(b.Abuse, text, log) })
		v := a.in("192.0.2.1")
		for range 9 {
			v.Answered(unknown())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		_, r := b.enter("192.0.2.1")
		b.expect(r, "421 4.7.0 too many unknown recipients from 192.0.2.1")
		Heard(b.Abuse, []byte("no message"), log)
		cancel()
		synctest.Wait()
		if n := strings.Count(text.String(), `msg="a client is locked out" client=192.0.2.1 `); n != 1 || !strings.Contains(text.String(), "clrelay limit lockout lift 192.0.2.1 --reason TEXT") {
			t.Errorf("the log of the other: %s", text.String())
		}
	})
}

// BenchmarkMessage is what a message costs that one limit is about, one that
// none is.
func BenchmarkMessage(b *testing.B) {
	for name, defs := range map[string][]limit.Definition{"none": nil, "one": {minutely("senders", 1<<40, limit.Sender)}} {
		b.Run(name, func(b *testing.B) {
			h := newHouse(&testing.T{}, defs...)
			v := h.in("192.0.2.1")
			q, to := from("a"), []string{"y.example"}
			b.ReportAllocs()
			for b.Loop() {
				if r := message(v, q, to...); r != nil {
					b.Fatal(r.Line())
				}
			}
		})
	}
}
