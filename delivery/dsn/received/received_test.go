package received_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/clrelay/clrelay/delivery/dsn/received"
)

// messages are reports in the manner of many systems, and what is none.
func messages() map[string]string {
	return map[string]string{
		"standard": `From: MAILER-DAEMON@mx.example.net
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

Sorry.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Original-Envelope-Id: E1

Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.0.0
Diagnostic-Code: smtp; 550 5.1.1 <jane@example.org>: User unknown

Final-Recipient: rfc822; joe@example.org
Action: delayed
Status: 4.2.2
--b
Content-Type: message/rfc822

Message-ID: <m1@example.com>
Subject: hello

hello
--b--
`,
		"international": `From: MAILER-DAEMON@mx.example.net
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: message/global-delivery-status
Content-Transfer-Encoding: base64

` + "UmVwb3J0aW5nLU1UQTogZG5zOyBteC5leGFtcGxlLm5ldAoKRmluYWwtUmVjaXBpZW50OiB1dGYtODsgasOkbmVAZXhhbXBsZS5vcmcKQWN0aW9uOiBmYWlsZWQKU3RhdHVzOiA1LjIuMQo=" + `
--b
Content-Type: message/global-headers

Message-ID: <m2@example.com>
--b--
`,
		"two without an empty line": `Content-Type: multipart/report; boundary=b

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.2.2
Final-Recipient: rfc822; joe@example.org
Action: failed
Status: 5.1.1
--b--
`,
		"the text knows more": `From: MAILER-DAEMON@mx.example.net
Content-Type: multipart/report; boundary=b

--b

<jane@example.org>: host mx.example.org[192.0.2.1] said: 552 5.2.2 no room for you

--b
Content-Type: message/delivery-status

Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.0.0
--b--
`,
		"type lost": `From: MAILER-DAEMON@mx.example.net
Subject: Returned mail

This is a MIME-encapsulated message

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.7.1
Diagnostic-Code: smtp; 554 5.7.1 Relay access denied
`,
		"boundary wrong": `From: MAILER-DAEMON@mx.example.net
Subject: Returned mail
Content-Type: multipart/report; boundary=other

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.1.6
`,
		"forwarded report": `From: boss@example.com
Subject: FW: Returned mail
Content-Type: multipart/mixed; boundary=a

--a

please look at this
--a
Content-Type: message/rfc822

Content-Type: multipart/report; boundary=b

--b
Content-Type: message/delivery-status

Final-Recipient: rfc822; jane@example.org
Action: failed
Status: 5.1.2
--b--
--a--
`,
		"qmail": `From: MAILER-DAEMON@mail.example.net
Subject: failure notice

Hello, this is the program at mail.example.net. I could not deliver your
message to these addresses. I have given up.

<jane@example.org>:
192.0.2.9 does not like recipient.
Remote host said: 550 5.1.1 no such user
Giving up on 192.0.2.9.

<joe@example.org>:
user is over quota. (#5.2.2)

--- Below this line is a copy of the message.

Return-Path: <news@example.com>
Message-ID: <m3@example.com>
To: jane@example.org

hello
`,
		"exim": `From: Mail Delivery System <Mailer-Daemon@mail.example.net>
X-Failed-Recipients: jane@example.org
Subject: Mail delivery failed: returning message to sender

A message that you sent could not be delivered:

  jane@example.org
    host mx.example.org [192.0.2.1]
    SMTP error from remote mail server after RCPT TO:<jane@example.org>:
    554 5.7.1 Client host [192.0.2.3] blocked using bl.example

------ This is a copy of the message, including all the headers. ------

Message-ID: <m4@example.com>
`,
		"exchange": `From: System Administrator <postmaster@example.org>
Subject: Undeliverable: hello

Your message did not reach some or all of the intended recipients.

      Subject:  hello
      Sent:     1/2/2026 10:00 AM

The following recipient(s) could not be reached:

      jane@example.org on 1/2/2026 10:00 AM
            The e-mail account does not exist at the organization.
            <mail.example.org #5.1.1>
`,
		"sendmail of old": `From: Mail Delivery Subsystem <MAILER-DAEMON>
Subject: Returned mail: Host unknown

   ----- Transcript of session follows -----
550 <jane@example.org>... Host unknown
554 <joe@example.org>... 550 User unknown
   ----- Unsent message follows -----
Received: by mail.example.net
Message-ID: <m5@example.com>
`,
		"html alone": `From: postmaster@example.org
Subject: Undeliverable message
Content-Type: text/html

<html><body><p>Delivery failed: <b>550 5.2.2 mailbox full</b></p></body></html>
`,
		"delay": `From: MAILER-DAEMON@mx.example.net
Subject: Warning: message delayed

jane@example.org: 450 4.1.1 User unknown

Delivery attempts will be retried for 4 days. You do not need to resend.
`,
		"success": `Content-Type: multipart/report; boundary=b

--b
Content-Type: message/delivery-status

Final-Recipient: rfc822; jane@example.org
Action: delivered
Status: 2.0.0
--b--
`,
		"complaint": `From: feedback@example.org
Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b

This is spam.
--b
Content-Type: message/feedback-report

Feedback-Type: Abuse
User-Agent: Feedback/1
Version: 1
Source-IP: 192.0.2.7
Original-Rcpt-To: <jane@example.org>
--b
Content-Type: message/rfc822

Message-ID: <m6@example.com>
--b--
`,
		"complaint redacted": `Content-Type: multipart/report; report-type=feedback-report; boundary=b

--b
Content-Type: message/feedback-report

Feedback-Type: fraud
Original-Rcpt-To: <redacted>
--b
Content-Type: text/rfc822-headers

Message-ID: <m7@example.com>
To: redacted
--b--
`,
		"out of office": "From: jane@example.org\nAuto-Submitted: auto-replied (vacation)\nSubject: away\n\nI am away. 550 5.1.1 user unknown\n",
		"vacation":      "From: jane@example.org\nSubject: Out of Office: hello\n\nback on Monday\n",
		"from a person": "From: jane@example.org\nSubject: hello\n\nthanks!\n",
		"empty":         "",
	}
}

func TestRead(t *testing.T) {
	for name, want := range map[string]string{
		"standard":                  `bounce m1@example.com E1: jane@example.org 550 5.1.1 no-mailbox hard bounce; joe@example.org 0 4.2.2 mailbox-full soft delayed`,
		"international":             `bounce m2@example.com : jäne@example.org 0 5.2.1 inactive soft bounce`,
		"two without an empty line": `bounce  : jane@example.org 0 5.2.2 mailbox-full soft bounce; joe@example.org 0 5.1.1 no-mailbox hard bounce`,
		"the text knows more":       `bounce  : jane@example.org 552 5.2.2 mailbox-full soft bounce`,
		"type lost":                 `bounce  : jane@example.org 554 5.7.1 relay-denied soft bounce`,
		"boundary wrong":            `bounce  : jane@example.org 0 5.1.6 relocated hard bounce`,
		"forwarded report":          `bounce  : jane@example.org 0 5.1.2 no-domain hard bounce`,
		"qmail":                     `bounce m3@example.com : jane@example.org 550 5.1.1 no-mailbox hard bounce; joe@example.org 0 5.2.2 mailbox-full soft bounce`,
		"exim":                      `bounce m4@example.com : jane@example.org 554 5.7.1 reputation soft bounce`,
		"exchange":                  `bounce  : jane@example.org 0 5.1.1 no-mailbox hard bounce`,
		"sendmail of old":           `bounce m5@example.com : jane@example.org 550 5.0.0 no-domain hard bounce; joe@example.org 554 5.0.0 no-mailbox hard bounce`,
		"html alone":                `bounce  :  550 5.2.2 mailbox-full soft bounce`,
		"delay":                     `delayed  : jane@example.org 450 4.1.1 no-mailbox soft delayed`,
		"success":                   `success  : jane@example.org 0 2.0.0 other soft success`,
		"complaint":                 `complaint m6@example.com  abuse 192.0.2.7: jane@example.org 0  none soft complaint`,
		"complaint redacted":        `complaint m7@example.com  fraud : `,
		"out of office":             `auto_reply  : `,
		"vacation":                  `auto_reply  : `,
		"from a person":             `unknown  : `,
		"empty":                     `unknown  : `,
	} {
		for _, end := range []string{"\n", "\r\n"} {
			r, err := received.Read(strings.NewReader(strings.ReplaceAll(messages()[name], "\n", end)))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := shown(r); got != want {
				t.Errorf("%s (%q)\n got %s\nwant %s", name, end, got, want)
			}
		}
	}
}

func shown(r *received.Report) string {
	s := fmt.Sprintf("%s %s %s", r.Kind, r.MessageID, r.EnvelopeID)
	if r.Feedback != "" {
		s += " " + r.Feedback + " " + r.Source
	}
	var rcpts []string
	for _, p := range r.Recipients {
		hard := "soft"
		if p.Verdict.Hard {
			hard = "hard"
		}
		rcpts = append(rcpts, fmt.Sprintf("%s %d %s %s %s %s", p.Address, p.Code, p.Verdict.Status, p.Verdict.Class, hard, p.Kind))
	}
	return s + ": " + strings.Join(rcpts, "; ")
}

// TestHostile: what would take memory or time without end is cut, not refused.
func TestHostile(t *testing.T) {
	deep := "Content-Type: multipart/mixed; boundary=b0\n\n"
	for i := range 1000 {
		deep += fmt.Sprintf("--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n", i, i+1)
	}
	nested := strings.Repeat("Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n", 1000)
	for name, r := range map[string]io.Reader{
		"deep":            strings.NewReader(deep),
		"reports within":  strings.NewReader(nested),
		"parts":           strings.NewReader("Content-Type: multipart/report; boundary=b\n\n" + strings.Repeat("--b\nContent-Type: text/plain\n\nx\n", 100_000)),
		"header":          strings.NewReader(strings.Repeat("A: b\n", 100_000)),
		"long field":      strings.NewReader("Subject: " + strings.Repeat("x", 1<<20)),
		"folded":          strings.NewReader("Subject: x\n" + strings.Repeat(" x\n", 1<<20)),
		"addresses":       strings.NewReader("From: MAILER-DAEMON\nSubject: failure\n\n" + numbered(100_000)),
		"one address":     strings.NewReader("From: MAILER-DAEMON\nSubject: failure\n\n" + strings.Repeat("<a@example.org>: x\n", 100_000)),
		"without an end":  io.MultiReader(strings.NewReader("From: MAILER-DAEMON\nSubject: failure\n\n"), endless{}),
		"html":            strings.NewReader("Subject: failure\nContent-Type: text/html\n\n" + strings.Repeat("<", 1<<20)),
		"too many groups": strings.NewReader("Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n" + strings.Repeat("Action: failed\n\n", 100_000)),
	} {
		got, err := received.Read(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(got.Recipients) > 10_000 {
			t.Errorf("%s: %d recipients", name, len(got.Recipients))
		}
		for _, p := range got.Recipients {
			if len(p.Text) > 3*2048 || len(p.Address) > 400 {
				t.Errorf("%s: a text of %d octets, an address of %d", name, len(p.Text), len(p.Address))
			}
		}
	}
}

// TestFoldedHeader: what a field of many lines costs grows with its length, not
// with the square of it. 64 of them in one message took the better part of a
// minute.
func TestFoldedHeader(t *testing.T) {
	text := "Content-Type: message/rfc822\n\nMessage-ID:\n" + strings.Repeat(" x\n", 20_000) + "\n"
	n := testing.AllocsPerRun(1, func() {
		got, err := received.Read(strings.NewReader(text))
		if err != nil || !strings.HasPrefix(got.MessageID, "x x x") || len(got.MessageID) != 2*20_000-1 {
			t.Errorf("%v, %d octets", err, len(got.MessageID))
		}
	})
	if n > 1000 {
		t.Errorf("%v allocations", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "<a@example.org>: 550 no\n"[i%24]
	}
	return len(p), nil
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<a%d@example.org>:\nuser unknown\n\n", i)
	}
	return b.String()
}

// TestReaderFails: that the disk could not be read is not what the message says.
func TestReaderFails(t *testing.T) {
	broken := errors.New("broken")
	for name, text := range messages() {
		r := io.MultiReader(strings.NewReader(text[:len(text)/2]), iotest.ErrReader(broken))
		if got, err := received.Read(r); !errors.Is(err, broken) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, text := range messages() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := received.Read(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == received.Bounce && len(r.Recipients) == 0 {
			t.Error("a bounce of nobody")
		}
		for _, p := range r.Recipients {
			if strings.ContainsAny(p.Address+p.Text, "\r\n") || p.Kind != received.Bounce && p.Verdict.Hard {
				t.Errorf("%+v", p)
			}
		}
	})
}
