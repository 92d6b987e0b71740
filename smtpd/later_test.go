package smtpd_test

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/later"
)

// TestLaterReachesTheEnvelope: what was asked for goes with the message, and
// not with the next one of the session.
func TestLaterReachesTheEnvelope(t *testing.T) {
	w := start(t, setup{later: later.Offer{Hold: 24 * time.Hour, By: true}})
	p := w.dial()
	p.expect("220")
	p.do("EHLO client.test", "250")
	before := time.Now()
	for _, params := range []string{" HOLDFOR=3600 BY=7200;RT", " HOLDUNTIL=" + before.Add(2*time.Hour).UTC().Format(time.RFC3339), ""} {
		p.do("MAIL FROM:<a@client.test>"+params, "250")
		p.do("RCPT TO:<b@example.edu>", "250")
		p.do("DATA", "354")
		p.do("Subject: x\r\n\r\nx\r\n.", "250")
	}
	msgs := w.inbox.messages()
	if len(msgs) != 3 {
		t.Fatalf("%d messages", len(msgs))
	}
	near := func(got time.Time, want time.Duration) bool {
		d := got.Sub(before.Add(want))
		return d > -2*time.Second && d < 10*time.Second
	}
	first, second, third := msgs[0].env, msgs[1].env, msgs[2].env
	if !near(first.Hold, time.Hour) || !near(first.By.At, 2*time.Hour) || !first.By.Return || !first.By.Trace {
		t.Errorf("held until %v, by %+v", first.Hold, first.By)
	}
	if !near(second.Hold, 2*time.Hour) || second.By != (mail.By{}) {
		t.Errorf("held until %v, by %+v", second.Hold, second.By)
	}
	if !third.Hold.IsZero() || third.By != (mail.By{}) {
		t.Errorf("held until %v, by %+v", third.Hold, third.By)
	}
}

// TestNobodyIsOffered: without an offer neither is known.
func TestNobodyIsOffered(t *testing.T) {
	w := start(t, setup{})
	p := w.dial()
	p.expect("220")
	p.do("EHLO client.test", "250")
	p.do("MAIL FROM:<a@client.test> HOLDFOR=10", "555")
	p.do("MAIL FROM:<a@client.test> BY=10;N", "555")
}
