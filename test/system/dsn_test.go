package system

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// fussy is a next hop that refuses some recipients.
func fussy(line string) string {
	switch {
	case strings.HasPrefix(line, "RCPT TO:<unknown"):
		return "550 5.1.1 No such user\there"
	case strings.HasPrefix(line, "RCPT TO:<later"):
		return "450 4.2.1 Not now"
	}
	return ""
}

const fussyYAML = `senders:
  - {name: local, networks: [127.0.0.0/8]}
domains: [{name: relay.example}]
postmaster: postmaster@client.test
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
queue: {retry: [1s], expire: %s, delay_warning: %s, double_bounce: %s}
`

// TestReports: who is told what, and what the report says.
func TestReports(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: fussy})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(fussyYAML, hop.Addr(), "1h", "off", "drop")})

	t.Run("failure", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<fail@client.test> ENVID=my+2Bid RET=HDRS", "<ok@x.test>", "<unknown@x.test> ORCPT=rfc822;old@y.test", "<unknown2@x.test> NOTIFY=FAILURE")
		c.data(hard())
		st, m := reportMail(t, hop, "fail@client.test")
		if st.ReportingMTA.Value != "relay.test" || st.EnvelopeID != "my+id" || len(st.Recipients) != 2 {
			t.Fatalf("report: %+v", st)
		}
		u := st.Recipients[0]
		if u.Final.Value != "unknown@x.test" || u.Original.Value != "old@y.test" || u.Action != "failed" || u.Status != "5.1.1" ||
			u.Diagnostic.Type != "smtp" || !strings.Contains(u.Diagnostic.Value, "550 5.1.1 No such user") {
			t.Errorf("recipient: %+v", u)
		}
		text := string(m.Data)
		for _, want := range []string{"Auto-Submitted: auto-", "To: <fail@client.test>", "multipart/report", "Subject: hard", "unknown2@x.test"} {
			if !strings.Contains(text, want) {
				t.Errorf("the report lacks %q:\n%s", want, text)
			}
		}
		if strings.Contains(text, "8-bit") {
			t.Error("RET=HDRS, and the body came back")
		}
		if strings.Contains(text, "ok@x.test") {
			t.Error("the report names a recipient who got it")
		}
	})
	t.Run("whole message", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<full@client.test> RET=FULL", "<unknown@x.test>")
		text := "Subject: back\r\n\r\n.\r\n..\r\n8-bit \xe4\xff\r\n" + strings.Repeat("x", 998) + "\r\n.\r\n"
		c.data(text)
		if _, m := reportMail(t, hop, "full@client.test"); !strings.Contains(string(m.Data), text) {
			t.Errorf("RET=FULL, and the message did not come back as it was:\n%.3000q", m.Data)
		}
	})
	t.Run("success", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<yes@client.test>", "<ok@x.test> NOTIFY=SUCCESS", "<ok2@x.test>")
		c.data(note("tell me"))
		st := reportAt(t, hop, "yes@client.test")
		if len(st.Recipients) != 1 || st.Recipients[0].Final.Value != "ok@x.test" || st.Recipients[0].Action != "relayed" {
			t.Errorf("report: %+v", st.Recipients)
		}
	})
	t.Run("nobody is told", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<never@client.test>", "<unknown@x.test> NOTIFY=NEVER", "<unknown2@x.test> NOTIFY=SUCCESS", "<ok@x.test>")
		c.data(note("never"))
		c.envelope("<>", "<unknown@x.test>")
		c.data(note("a bounce that bounces"))
		emptyQueue(t, r, 20*time.Second)
		for _, m := range hop.Mails() {
			if to := m.Rcpts()[0]; m.Sender() == "" && (to == "never@client.test" || strings.HasPrefix(to, "postmaster")) {
				t.Errorf("a report went to %s", to)
			}
		}
		eventually(t, 10*time.Second, "the double bounce is in the log", func() bool { return strings.Contains(r.Log(), "event=double_bounce") })
	})
	balanced(t, r)
}

// TestDelayAndExpiry: the sender hears that it takes long, and then that it
// was given up; a report that cannot be delivered goes to the postmaster.
func TestDelayAndExpiry(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: fussy})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(fussyYAML, hop.Addr(), "4s", "1s", "postmaster")})
	c := greeted(t, r.SMTP)
	c.envelope("<slow@client.test>", "<later@x.test>", "<later2@x.test> NOTIFY=FAILURE")
	c.data(note("takes long"))
	c.envelope("<>", "<unknown@x.test>")
	c.data(note("a bounce that bounces"))
	kinds := map[string]string{}
	eventually(t, 40*time.Second, "a report of delay and one of failure", func() bool {
		for _, m := range hop.Mails() {
			if m.Sender() == "" && m.Rcpts()[0] == "slow@client.test" {
				kinds[string(m.Data)] = ""
			}
		}
		return len(kinds) >= 2
	})
	var delayed, failed string
	for text := range kinds {
		if strings.Contains(text, "Action: delayed") {
			delayed = text
		} else {
			failed = text
		}
	}
	if !strings.Contains(delayed, "later@x.test") || strings.Contains(delayed, "later2@x.test") || !strings.Contains(delayed, "Will-Retry-Until:") {
		t.Errorf("report of delay:\n%s", delayed)
	}
	if !strings.Contains(failed, "Action: failed") || !strings.Contains(failed, "later@x.test") || !strings.Contains(failed, "later2@x.test") || !strings.Contains(failed, "Status: 4.") {
		t.Errorf("report of failure:\n%s", failed)
	}
	eventually(t, 20*time.Second, "the postmaster has the double bounce", func() bool {
		for _, m := range hop.Mails() {
			if m.Sender() == "" && m.Rcpts()[0] == "postmaster@client.test" && strings.Contains(string(m.Data), "unknown@x.test") {
				return true
			}
		}
		return false
	})
	emptyQueue(t, r, 20*time.Second)
	balanced(t, r)
}

// TestLostReply: the next hop takes a message and is gone before it says so.
// That is the one way to a duplicate without any crash of ours: the message
// comes again, and is counted.
func TestLostReply(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 1)
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if line != "." {
			return ""
		}
		select {
		case gone <- struct{}{}:
			return peers.Hangup
		default:
			return ""
		}
	}})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	submit(t, r.SMTP, "a@client.test", "u@x.test", note("twice"))
	mailsFrom(t, hop, "a@client.test", 1)
	emptyQueue(t, r, 10*time.Second)
	if n, err := r.Metric("clrelay_possible_duplicates_total"); err != nil || n != 1 {
		t.Errorf("%v possible duplicates were counted (%v)", n, err)
	}
	balanced(t, r)
}
