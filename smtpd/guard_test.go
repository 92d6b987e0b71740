package smtpd_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/guard"
)

// porter is a guard that says what a test wants it to, and writes down what it
// is asked.
type porter struct {
	mu    sync.Mutex
	asked []string
	enter *mail.Reply
	deny  map[guard.Step]*mail.Reply
	hold  time.Duration // of replies of 5yz
	end   func()
}

func (g *porter) Enter(_ *mail.Client, end func()) (guard.Visit, *mail.Reply) {
	g.note("enter")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end = end
	return g, g.enter
}

func (g *porter) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprintf(format, args...))
}

func (g *porter) Ask(s guard.Step, q *guard.Question) *mail.Reply {
	switch s {
	case guard.Mail:
		g.note("mail %s %d", q.From, q.Size)
	case guard.Recipient:
		g.note("rcpt %s", q.To)
	case guard.Content:
		g.note("content %d", q.Size)
	}
	return g.deny[s]
}

func (g *porter) Answered(r *mail.Reply) time.Duration {
	if r.Permanent() {
		return g.hold
	}
	return 0
}

func (g *porter) Rested() { g.note("rested") }

func (g *porter) Leave() { g.note("leave") }

func (g *porter) heard() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.asked, ", ")
}

func notNow() *mail.Reply { return mail.NewReply(450, "4.7.1", "limit x of y") }

func TestGuardIsAsked(t *testing.T) {
	g := &porter{}
	w := start(t, setup{guard: g})
	p := w.greeted()
	p.do("MAIL FROM:<a@client.test> SIZE=1000", "250 ")
	p.do("RCPT TO:<b@example.edu>", "250 ")
	p.do("RCPT TO:<b@elsewhere.example>", "550 ") // refused by the policy: the guard is not asked
	p.do("DATA", "354 ")
	p.do("x\r\n.", "250 ")
	p.do("MAIL FROM:<>", "250 ")
	p.do("RCPT TO:<b@example.edu>", "250 ")
	p.send("BDAT 2\r\nab")
	p.expect("250 ")
	p.send("BDAT 3 LAST\r\nc\r\n")
	p.expect("250 ")
	p.do("QUIT", "221 ")
	if err := w.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "enter, mail a@client.test 1000, rcpt b@example.edu, content 3, mail  0, rcpt b@example.edu, content 5, leave"
	if got := g.heard(); got != want {
		t.Errorf("asked\n%s, want\n%s", got, want)
	}
}

// What a guard refuses is not stored, whichever way the content came, and the
// session goes on.
func TestGuardRefuses(t *testing.T) {
	for step, reach := range map[guard.Step]func(p *peer){
		guard.Mail: func(p *peer) { p.do("MAIL FROM:<a@client.test>", "450 4.7.1 limit x of y") },
		guard.Recipient: func(p *peer) {
			p.do("MAIL FROM:<a@client.test>", "250 ")
			p.do("RCPT TO:<b@example.edu>", "450 4.7.1 ")
		},
		guard.Content: func(p *peer) {
			p.envelope()
			p.do("DATA", "354 ")
			p.do("x\r\n.", "450 4.7.1 ")
			p.envelope()
			p.do("DATA", "354 ")
			p.do(".", "450 4.7.1 ")
			p.envelope()
			p.send("BDAT 3 LAST\r\nc\r\n")
			p.expect("450 4.7.1 ")
			p.envelope()
			p.send("BDAT 3\r\nc\r\n")
			p.expect("250 ")
			p.send("BDAT 0 LAST\r\n")
			p.expect("450 4.7.1 ")
		},
	} {
		for _, buf := range []int{0, 1, 7} {
			g := &porter{deny: map[guard.Step]*mail.Reply{step: notNow()}}
			w := start(t, setup{guard: g, buf: buf})
			p := w.greeted()
			reach(p)
			p.do("RSET", "250 ")
			p.do("QUIT", "221 ")
			if got := w.inbox.messages(); len(got) != 0 {
				t.Errorf("step %d, reads of %d: %d messages were stored", step, buf, len(got))
			}
		}
	}
}

func TestGuardTurnsAway(t *testing.T) {
	g := &porter{enter: mail.NewReply(421, "4.7.0", "limit x of y")}
	w := start(t, setup{guard: g})
	p := w.dial()
	p.expect("421 4.7.0 limit x of y")
	p.closed()
	if got := g.heard(); got != "enter" {
		t.Errorf("asked %q, want nothing after a client was turned away", got)
	}
}

// A session that is to end does so between two transactions.
func TestGuardEnds(t *testing.T) {
	g := &porter{}
	w := start(t, setup{guard: g})
	p := w.greeted()
	p.envelope()
	g.mu.Lock()
	end := g.end
	g.mu.Unlock()
	end()
	p.do("DATA", "354 ")
	p.do("x\r\n.", "250 ")
	p.expect("421 4.3.2 ")
	p.closed()
	if len(w.inbox.messages()) != 1 {
		t.Error("the transaction in hand was cut")
	}
}

// Replies that are held back hold nobody else up.
func TestGuardHolds(t *testing.T) {
	g := &porter{hold: 5 * time.Second}
	bubble(t, setup{guard: g, limits: smtpd.Limits{Discard: time.Second}}, func(t *testing.T, _ *world, dial func() *peer) {
		slow, other := dial(), dial()
		hello(slow)
		hello(other)
		elapses(t, 5*time.Second, func() {
			slow.send("NONSENSE\r\n")
			elapses(t, 0, func() { other.do("NOOP", "250 ") })
			slow.expect("500 ")
		})
		if got := g.heard(); got != "enter, enter, rested" {
			t.Errorf("told %s", got)
		}
		other.do("QUIT", "221 ")
		slow.do("QUIT", "221 ")
	})
}
