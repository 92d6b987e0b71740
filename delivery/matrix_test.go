package delivery_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// pipes dials servers in memory, by IP address. One that is nil does not
// answer until the dialer loses patience.
type pipes map[string]*smtpctest.Server

func (p pipes) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	s, ok := p[host]
	if !ok {
		return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("connection refused")}
	}
	if s == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c1, c2 := net.Pipe()
	go s.Serve(c2)
	return c1, nil
}

// behaviour is what a host does at a stage, and what must come of it.
type behaviour struct {
	name string
	say  string
	// class of the reply of the outcome, before the end of the content and
	// after it, where the message may have been taken.
	before, after int
	unsure        bool // after the end of the content
}

var behaviours = []behaviour{
	{"4xx", "450 4.2.1 not now", 4, 4, false},
	{"5xx", "550 5.7.1 never", 5, 5, false},
	{"421", "421 4.3.2 going down", 4, 4, false},
	{"close", smtpctest.Close, 4, 4, true},
	{"stall", smtpctest.Stall, 4, 4, true},
	{"drip", smtpctest.Drip, 4, 4, true},
	{"flood", smtpctest.Flood, 4, 4, true},
	{"garbage", "hello there", 4, 4, true},
	{"no digits", "2x0 ok", 4, 4, true},
	{"six hundred", "650 what", 4, 4, true},
	{"one hundred", "150 wait", 4, 4, true},
	{"three hundred", "334 more", 4, 4, true},
	{"mixed codes", "250-yes\r\n550 no", 4, 4, true},
	{"no separator", "250_ok", 4, 4, true},
	{"long line", "250 " + strings.Repeat("x", 5000), 4, 4, true},
	{"endless continuation", strings.Repeat("250-x\r\n", 200) + "250 x", 4, 4, true},
	{"empty line", "\r\n250 late", 4, 4, true},
	{"NUL", "\x00\x00\x00", 4, 4, true},
}

type flavour struct {
	name string
	ehlo []string
	end  string // the verb of the last command
}

var flavours = []flavour{
	{"plain", []string{"8BITMIME"}, "DATA"},
	{"pipelining", []string{"PIPELINING", "DSN"}, "DATA"},
	{"chunking", []string{"CHUNKING"}, ""},
	{"both", []string{"PIPELINING", "CHUNKING"}, ""},
}

// TestEveryStageEveryBehaviour holds the outcome against the table, for two
// recipients, in the clock of a bubble: every stall ends in its timeout.
func TestEveryStageEveryBehaviour(t *testing.T) {
	for _, fl := range flavours {
		stages := []string{smtpctest.Connect, "EHLO", "MAIL", "RCPT", "DATA", smtpctest.Dot}
		for _, stage := range stages {
			if stage == "DATA" && fl.end == "" {
				continue
			}
			for _, b := range behaviours {
				t.Run(fl.name+"/"+stage+"/"+b.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { oneBehaviour(t, fl, stage, b) })
				})
			}
		}
	}
}

func oneBehaviour(t *testing.T, fl flavour, stage string, b behaviour) {
	s := &smtpctest.Server{Ehlo: fl.ehlo, Say: func(_ int, verb, _ string) string {
		if verb == stage || stage == "EHLO" && verb == "HELO" {
			return b.say
		}
		return ""
	}}
	a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: pipes{"192.0.2.1": s}.dial,
		Resolver: zone{"MX example.net": "10 mx.example.net", "A mx.example.net": "192.0.2.1"}})
	defer a.Close()
	dots := 0
	at := message(hello, "a", "b")
	at.BeforeDot = func() error { dots++; return nil }
	start := time.Now()
	out := a.Deliver(t.Context(), mail.NextHop{Domain: "example.net"}, at)
	if len(out) != 2 {
		t.Fatalf("%d outcomes, want 2", len(out))
	}
	class, unsure := b.before, false
	if stage == smtpctest.Dot {
		class, unsure = b.after, b.unsure
	}
	for i, o := range out {
		if o.Recipient != i || o.Reply.Code/100 != class || o.Unsure != unsure || o.DSNPassed {
			t.Errorf("outcome %d: %s unsure %v dsn %v, want %dxx unsure %v", i, o.Reply.Error(), o.Unsure, o.DSNPassed, class, unsure)
		}
		if o.Remote != "mx.example.net[192.0.2.1]:25" {
			t.Errorf("remote %q", o.Remote)
		}
		if len(o.Reply.Text) > 1100 || strings.ContainsFunc(o.Reply.Text, func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("text not fit to print: %q", o.Reply.Text)
		}
		if o.At.IsZero() {
			t.Error("no time")
		}
	}
	if want := stage == smtpctest.Dot; (dots > 0) != want {
		t.Errorf("BeforeDot was called %d times", dots)
	}
	if !unsure && len(s.Messages()) > 0 {
		t.Error("the host has a message that was not delivered")
	}
	if took := time.Since(start); took > 16*time.Minute {
		t.Errorf("took %v", took)
	}
	for _, f := range s.Faults() {
		t.Errorf("the client did wrong: %s", f)
	}
}
