package delivery_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// codes shows outcomes as "250 550!" where "!" stands for unsure.
func codes(out []mail.Outcome) string {
	var s []string
	for _, o := range out {
		c := strings.Fields(o.Reply.Line())[0]
		if o.Unsure {
			c += "!"
		}
		s = append(s, c)
	}
	return strings.Join(s, " ")
}

// verbs shows the first words of all commands.
func verbs(s *smtpctest.Server) string {
	var out []string
	for _, c := range s.Commands() {
		v, _, _ := strings.Cut(c, " ")
		out = append(out, v)
	}
	return strings.Join(out, " ")
}

func TestMixturesOfReplies(t *testing.T) {
	full := "452 4.5.3 too many"
	for _, c := range []struct {
		name     string
		ehlo     []string
		say      map[string]string // by the beginning of the command
		want     string
		commands string // behind EHLO, with a second message to c behind it
		sessions int
	}{
		{"one refused", nil, map[string]string{"RCPT TO:<b@": "550 no"}, "250 550",
			"MAIL RCPT RCPT DATA MAIL RCPT DATA", 1},
		{"one later", nil, map[string]string{"RCPT TO:<a@": "450 later"}, "450 250",
			"MAIL RCPT RCPT DATA MAIL RCPT DATA", 1},
		{"all refused, DATA too", nil, map[string]string{"RCPT TO:<a@": "550 no", "RCPT TO:<b@": "551 no"}, "550 551",
			"MAIL RCPT RCPT DATA RSET MAIL RCPT DATA", 1},
		{"all refused, 354 all the same", nil, map[string]string{"RCPT TO:<a@": "550 no", "RCPT TO:<b@": "551 no", "DATA": "354 come on"}, "550 551",
			"MAIL RCPT RCPT DATA MAIL RCPT DATA", 1},
		{"MAIL refused", nil, map[string]string{"MAIL FROM:<from@": "550 no"}, "550 550",
			"MAIL RCPT RCPT DATA MAIL RCPT DATA", 1},
		{"MAIL refused, 354 all the same", nil, map[string]string{"MAIL FROM:<from@": "550 no", "DATA": "354 come on"}, "550 550",
			"MAIL RCPT RCPT DATA", 2},
		{"DATA refused", nil, map[string]string{"DATA": "451 no"}, "451 451",
			"MAIL RCPT RCPT DATA RSET MAIL RCPT DATA", 1},
		{"dot refused", nil, map[string]string{"a@example.net,b@example.net": "552 no"}, "552 552",
			"MAIL RCPT RCPT DATA RSET MAIL RCPT DATA", 1},
		{"too many", nil, map[string]string{"RCPT TO:<b@": full}, "250 452", // refused as the first one too
			"MAIL RCPT RCPT DATA MAIL RCPT DATA RSET MAIL RCPT DATA", 1},
		{"mailbox full is not too many", nil, map[string]string{"RCPT TO:<b@": "452 4.2.2 full"}, "250 452",
			"MAIL RCPT RCPT DATA MAIL RCPT DATA", 1},
		{"no pipelining, all refused", []string{}, map[string]string{"RCPT TO:<a@": "550 no", "RCPT TO:<b@": "551 no"}, "550 551",
			"MAIL RCPT RCPT RSET MAIL RCPT DATA", 1},
		{"no pipelining, MAIL refused", []string{}, map[string]string{"MAIL FROM:<from@": "550 no"}, "550 550",
			"MAIL MAIL", 1},
		{"BDAT, all refused", []string{"PIPELINING", "CHUNKING"}, map[string]string{"RCPT TO:<a@": "550 no", "RCPT TO:<b@": "551 no"}, "550 551",
			"MAIL RCPT RCPT RSET MAIL RCPT BDAT", 1},
		{"BDAT refused", []string{"PIPELINING", "CHUNKING"}, map[string]string{"a@example.net,b@example.net": "550 no"}, "550 550",
			"MAIL RCPT RCPT BDAT RSET MAIL RCPT BDAT", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &smtpctest.Server{Ehlo: c.ehlo, Say: func(session int, verb, line string) string {
				for begin, say := range c.say {
					if strings.HasPrefix(line, begin) {
						return say
					}
				}
				return ""
			}}
			hop := smarthost(listen(t, s))
			a := agent(t, delivery.Options{})
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "a", "b"))); got != c.want {
				t.Errorf("outcomes %s, want %s", got, c.want)
			}
			for _, m := range s.Messages() {
				if string(m.Data) != hello {
					t.Errorf("message %q", m.Data)
				}
			}
			a.Deliver(t.Context(), hop, message(hello, "c"))
			want := "EHLO " + c.commands
			if got := verbs(s); c.sessions == 1 && got != want {
				t.Errorf("commands\n%s, want\n%s", got, want)
			}
			if s.Sessions() != c.sessions {
				t.Errorf("%d sessions, want %d", s.Sessions(), c.sessions)
			}
		})
	}
}

// TestTooManyRecipients: those that the host had no room for are offered again
// on the same connection, at once.
func TestTooManyRecipients(t *testing.T) {
	for _, how := range []string{"452 4.5.3 too many recipients", "452 too many recipients", "552 5.5.3 too many recipients"} {
		n := 0
		s := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
			switch verb {
			case "MAIL":
				n = 0
			case "RCPT":
				if n++; n > 2 {
					return how
				}
			}
			return ""
		}}
		hop := smarthost(listen(t, s))
		a := agent(t, delivery.Options{})
		if got := codes(a.Deliver(t.Context(), hop, message(hello, "a", "b", "c", "d", "e"))); got != "250 250 250 250 250" {
			t.Errorf("%s: outcomes %s", how, got)
		}
		if len(s.Messages()) != 3 || s.Sessions() != 1 {
			t.Errorf("%s: %d messages in %d sessions", how, len(s.Messages()), s.Sessions())
		}
	}
}

// TestLimits: RFC 9422 and our own bound split recipients; MAILMAX ends a
// connection.
func TestLimits(t *testing.T) {
	s := &smtpctest.Server{Ehlo: []string{"PIPELINING", "limits rcptmax=2 MAILMAX=2"}}
	hop := smarthost(listen(t, s))
	a := agent(t, delivery.Options{})
	if got := codes(a.Deliver(t.Context(), hop, message(hello, "a", "b", "c", "d", "e"))); got != "250 250 250 250 250" {
		t.Errorf("outcomes %s", got)
	}
	if len(s.Messages()) != 3 || s.Sessions() != 2 {
		t.Errorf("%d messages in %d sessions, want 3 in 2", len(s.Messages()), s.Sessions())
	}
	s = &smtpctest.Server{}
	hop = smarthost(listen(t, s))
	a = agent(t, delivery.Options{Limits: delivery.Limits{Recipients: 2}})
	a.Deliver(t.Context(), hop, message(hello, "a", "b", "c"))
	if len(s.Messages()) != 2 {
		t.Errorf("%d messages, want 2", len(s.Messages()))
	}
}

// TestParameters: what the host offers is used, and nothing else.
func TestParameters(t *testing.T) {
	dsn := func(e *mail.Envelope) {
		e.Ret, e.EnvID = mail.ReturnHeaders, "id+1=x"
		e.Recipients[0].Notify = mail.NotifySuccess | mail.NotifyFailure
		e.Recipients[0].ORcptType, e.Recipients[0].ORcpt = "rfc822", "a b@example.com"
	}
	utf8 := func(e *mail.Envelope) { e.SMTPUTF8 = true; e.Recipients[0].Addr.Local = "ä" }
	for _, c := range []struct {
		name  string
		ehlo  string
		with  func(*mail.Envelope)
		body  string
		mail  string // the command, or the reply when it begins with a digit
		rcpt  string
		passd bool
	}{
		{"nothing", "", nil, hello, "MAIL FROM:<from@example.org>", "RCPT TO:<a@example.net>", false},
		{"size", "size", nil, hello, "MAIL FROM:<from@example.org> SIZE=32", "", false},
		{"too large", "SIZE 31", nil, hello, "552 5.3.4", "", false},
		{"large enough", "SIZE 32", nil, hello, "MAIL FROM:<from@example.org> SIZE=32", "", false},
		{"bad size", "SIZE 99999999999999999999", nil, hello, "MAIL FROM:<from@example.org> SIZE=32", "", false},
		{"8bit", "8bitmime", func(e *mail.Envelope) { e.Body = mail.Body8BitMIME }, hello, "MAIL FROM:<from@example.org> BODY=8BITMIME", "", false},
		{"8bit not offered", "", func(e *mail.Envelope) { e.Body = mail.Body8BitMIME }, "\r\nä\r\n", "MAIL FROM:<from@example.org>", "", false},
		{"dsn", "dsn", dsn, hello, "MAIL FROM:<from@example.org> RET=HDRS ENVID=id+2B1+3Dx",
			"RCPT TO:<a@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+20b@example.com", true},
		{"dsn not offered", "", dsn, hello, "MAIL FROM:<from@example.org>", "RCPT TO:<a@example.net>", false},
		{"by", "deliverby 60", func(e *mail.Envelope) {
			e.By = mail.By{At: time.Now().Add(-100*time.Second - time.Millisecond), Trace: true}
		}, hello, "MAIL FROM:<from@example.org> BY=-100;NT", "", false},
		{"by not offered", "8BITMIME", func(e *mail.Envelope) { e.By = mail.By{At: time.Now().Add(time.Hour), Return: true} }, hello, "MAIL FROM:<from@example.org>", "", false},
		{"by too short", "DELIVERBY 60", func(e *mail.Envelope) { e.By = mail.By{At: time.Now().Add(50 * time.Second), Return: true} }, hello, "MAIL FROM:<from@example.org>", "", false},
		{"utf8 address", "SMTPUTF8", utf8, hello, "MAIL FROM:<from@example.org> SMTPUTF8", "RCPT TO:<ä@example.net>", false},
		{"utf8 address not offered", "", utf8, hello, "550 5.6.7", "", false},
		{"utf8 domain not offered", "", func(e *mail.Envelope) { e.Recipients[0].Addr.Domain = "BÜCHER.example" }, hello,
			"MAIL FROM:<from@example.org>", "RCPT TO:<a@xn--bcher-kva.example>", false},
		{"utf8 header not offered", "", func(e *mail.Envelope) { e.SMTPUTF8 = true }, "Subject: ä\r\n\r\n", "550 5.6.7", "", false},
		{"utf8 body not offered", "", func(e *mail.Envelope) { e.SMTPUTF8 = true }, "Subject: a\r\n\r\nä\r\n", "MAIL FROM:<from@example.org>", "", false},
		{"utf8 flag without need", "", func(e *mail.Envelope) { e.SMTPUTF8 = true }, hello, "MAIL FROM:<from@example.org>", "", false},
		{"8-bit header without the flag", "", nil, "Subject: \xe4\r\n\r\n", "MAIL FROM:<from@example.org>", "", false},
		{"utf8 sender not offered", "", func(e *mail.Envelope) { e.From.Local = "ö" }, hello, "550 5.6.7", "", false},
		{"binary", "CHUNKING\r\n250-BINARYMIME", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, "a\rb\nc\x00.", "MAIL FROM:<from@example.org> BODY=BINARYMIME", "", false},
		{"binary without BDAT", "BINARYMIME", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, hello, "554 5.6.1", "", false},
		{"binary not offered", "CHUNKING", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, hello, "554 5.6.1", "", false},
		{"null sender", "", func(e *mail.Envelope) { e.From = mail.Address{} }, hello, "MAIL FROM:<>", "", false},
		{"quoted", "", func(e *mail.Envelope) { e.Recipients[0].Addr.Local = `a> SIZE=1 "` }, hello, "", `RCPT TO:<"a> SIZE=1 \""@example.net>`, false},
		{"line end in an address", "", func(e *mail.Envelope) { e.Recipients[0].Addr.Local = "a\r\nRSET" }, hello, "", `RCPT TO:<"a??RSET"@example.net>`, false},
		{"REQUIRETLS in the clear", "REQUIRETLS", func(e *mail.Envelope) { e.RequireTLS = true }, hello, "550 5.7.30", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &smtpctest.Server{Ehlo: strings.Split(c.ehlo, "\r\n250-")}
			at := message(c.body, "a")
			if c.with != nil {
				c.with(at.Envelope)
			}
			o := agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), at)[0]
			var cmds []string
			for _, c := range s.Commands() {
				if !strings.HasPrefix(c, "EHLO") {
					cmds = append(cmds, c)
				}
			}
			if c.mail != "" && c.mail[0] == '5' {
				if got := o.Reply.Line(); !strings.HasPrefix(got, c.mail) || len(cmds) > 0 && cmds[0] != "QUIT" {
					t.Errorf("outcome %s, commands %q; want %s and nothing said", got, cmds, c.mail)
				}
				return
			}
			if o.Reply.Code != 250 || o.DSNPassed != c.passd {
				t.Fatalf("outcome %s, DSN passed %v", o.Reply.Error(), o.DSNPassed)
			}
			if c.mail != "" && cmds[0] != c.mail {
				t.Errorf("said %q, want %q", cmds[0], c.mail)
			}
			if c.rcpt != "" && cmds[1] != c.rcpt {
				t.Errorf("said %q, want %q", cmds[1], c.rcpt)
			}
			if got := string(s.Messages()[0].Data); got != c.body {
				t.Errorf("content %q, want %q", got, c.body)
			}
		})
	}
}

// TestUTF8RecipientAlone: one recipient that the host cannot be told does not
// spoil the others.
func TestUTF8RecipientAlone(t *testing.T) {
	s := &smtpctest.Server{}
	at := message(hello, "a", "ä", "b")
	if got := codes(agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), at)); got != "250 550 250" {
		t.Errorf("outcomes %s", got)
	}
}

func TestEightBitFail(t *testing.T) {
	for body, want := range map[string]string{"\r\n\xe4\r\n": "554", "\r\na\r\n": "250"} {
		s := &smtpctest.Server{Ehlo: []string{}}
		hop := smarthost(listen(t, s))
		hop.EightBitFail = true
		o := agent(t, delivery.Options{}).Deliver(t.Context(), hop, message(body, "a"))
		if codes(o) != want || want == "554" && o[0].Reply.Enhanced.String() != "5.6.3" {
			t.Errorf("%q: %s", body, o[0].Reply.Error())
		}
	}
}

// TestHelo: a host of the time before EHLO.
func TestHelo(t *testing.T) {
	s := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
		if verb == "EHLO" {
			return "500 what?"
		}
		return ""
	}}
	if got := codes(agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), message(hello, "a"))); got != "250" {
		t.Errorf("outcome %s", got)
	}
	if got := verbs(s); got != "EHLO HELO MAIL RCPT DATA" {
		t.Errorf("said %s", got)
	}
}

// TestLMTP: one reply for each recipient that was taken.
func TestLMTP(t *testing.T) {
	for _, ehlo := range [][]string{nil, {}, {"PIPELINING", "CHUNKING"}} {
		s := &smtpctest.Server{LMTP: true, Ehlo: ehlo, Say: func(_ int, verb, line string) string {
			switch {
			case strings.HasPrefix(line, "RCPT TO:<no@"):
				return "550 5.1.1 unknown"
			case verb == smtpctest.Dot && line == "full@example.net":
				return "452 4.2.2 full"
			case verb == smtpctest.Dot && line == "bad@example.net":
				return "554 5.6.0 bad"
			}
			return ""
		}}
		hop := smarthost(listen(t, s))
		hop.Kind = mail.HopLMTP
		a := agent(t, delivery.Options{})
		for range 2 {
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "a", "no", "full", "bad", "b"))); got != "250 550 452 554 250" {
				t.Errorf("outcomes %s", got)
			}
			if got := codes(a.Deliver(t.Context(), hop, message(hello, "no"))); got != "550" {
				t.Errorf("outcomes %s", got)
			}
		}
		if len(s.Messages()) != 2 || s.Commands()[0] != "LHLO relay.example.org" {
			t.Errorf("%d messages, first command %q", len(s.Messages()), s.Commands()[0])
		}
	}
}

// TestLMTPCutShort: those whose reply came have it, the others are unsure.
func TestLMTPCutShort(t *testing.T) {
	s := &smtpctest.Server{LMTP: true, Say: func(_ int, verb, line string) string {
		if verb == smtpctest.Dot && line != "a@example.net" {
			return smtpctest.Close
		}
		return ""
	}}
	hop := smarthost(listen(t, s))
	hop.Kind = mail.HopLMTP
	if got := codes(agent(t, delivery.Options{}).Deliver(t.Context(), hop, message(hello, "a", "b", "c"))); got != "250 451! 451!" {
		t.Errorf("outcomes %s", got)
	}
}

var errNote = errors.New("disk on fire")

// TestBeforeDot: nothing that ends the message is on the wire when it is
// called, and nothing of it gets there when it fails.
func TestBeforeDot(t *testing.T) {
	for _, ehlo := range [][]string{nil, {"PIPELINING", "CHUNKING"}} {
		s := &smtpctest.Server{Ehlo: ehlo}
		hop := smarthost(listen(t, s))
		a := agent(t, delivery.Options{})
		at := message(strings.Repeat(hello, 10000), "a")
		at.BeforeDot = func() error { return errNote }
		o := a.Deliver(t.Context(), hop, at)[0]
		if o.Reply.Code != 451 || !errors.Is(&o.Reply, errNote) || o.Unsure {
			t.Errorf("outcome %s", o.Reply.Error())
		}
		called := 0
		at.BeforeDot = func() error { called++; return nil }
		if got := codes(a.Deliver(t.Context(), hop, at)); got != "250" || called != 1 {
			t.Errorf("outcome %s, BeforeDot called %d times", got, called)
		}
		if len(s.Messages()) != 1 || s.Sessions() != 2 || slices.Contains(s.Commands(), "RSET") {
			t.Errorf("%d messages in %d sessions", len(s.Messages()), s.Sessions())
		}
	}
}
