package smtpd_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/policy"
)

func TestOneMessage(t *testing.T) {
	w := start(t, setup{})
	p := w.greeted()
	p.envelope()
	p.do("DATA", "354 ")
	p.send("Subject: x\r\n\r\n..dot\r\n...\r\nbody\r\n.\r\n")
	line := p.expect("250 2.0.0 Ok: queued as ")[0]
	p.do("QUIT", "221 2.0.0 ")
	p.closed()
	got := w.inbox.messages()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	m := got[0]
	if id := strings.TrimPrefix(line, "250 2.0.0 Ok: queued as "); id != m.env.ID.String() {
		t.Errorf("queued as %q, the envelope has %s", id, m.env.ID)
	}
	if got, want := string(m.content()), "Subject: x\r\n\r\n.dot\r\n..\r\nbody\r\n"; got != want {
		t.Errorf("content %q, want %q", got, want)
	}
	if m.env.Arrived.Before(m.env.ID.Time()) || time.Since(m.env.Arrived) > time.Minute {
		t.Errorf("arrived %v, the ID is of %v", m.env.Arrived, m.env.ID.Time())
	}
}

const traceDate = `; [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n$`

func TestReceivedLine(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	for _, tc := range []struct {
		hello, mail, want string
		rcpts             []string
		tls               bool
	}{
		{"HELO old.test", "", `from old\.test \(\[127\.0\.0\.1\]\)\r\n\tby mx\.test \(clrelay\) with SMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor <b@example\.edu>`, nil, false},
		{"EHLO [192.0.2.9]", "", `from \[192\.0\.2\.9\] \(\[127\.0\.0\.1\]\)\r\n\tby mx\.test \(clrelay\) with ESMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor <b@example\.edu>`, nil, false},
		{"EHLO [no-ip]", "", `from \[127\.0\.0\.1\] \(\[127\.0\.0\.1\]\)\r\n\tby .* with ESMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor .*`, nil, false},
		{"EHLO bücher.test", "", `from \[127\.0\.0\.1\] \(\[127\.0\.0\.1\]\)\r\n\tby .* with ESMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor .*`, nil, false},
		{"EHLO bücher.test", " SMTPUTF8", `from bücher\.test \(\[127\.0\.0\.1\]\)\r\n\tby .* with UTF8SMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor <ö@example\.edu>`, []string{"ö@example.edu"}, false},
		{"EHLO c.test", "", `from c\.test .* with ESMTP\r\n\tid [0-9A-Z]{26}`, []string{"b@example.edu", "c@example.edu"}, false},
		{"EHLO c.test", "", `from c\.test .* with ESMTP\r\n\tid [0-9A-Z]{26}\r\n\tfor <"b> c"@example\.edu>`, []string{`"b> c"@example.edu`}, false},
		{"EHLO c.test", "", `from c\.test .* with ESMTPS \(TLSv1\.3 TLS_[A-Z0-9_]+\)\r\n\tid [0-9A-Z]{26}\r\n\tfor .*`, nil, true},
		{"EHLO c.test", " SMTPUTF8", `from c\.test .* with UTF8SMTPS \(TLSv1\.3 TLS_[A-Z0-9_]+\)\r\n\tid [0-9A-Z]{26}\r\n\tfor .*`, nil, true},
	} {
		p := w.dial()
		p.expect("220 ")
		if tc.tls {
			p.do("EHLO before.test", "250 ")
			p = p.startTLS(id)
		}
		p.do(tc.hello, "250 ")
		p.do("MAIL FROM:<a@c.test>"+tc.mail, "250 ")
		if tc.rcpts == nil {
			tc.rcpts = []string{"b@example.edu"}
		}
		for _, r := range tc.rcpts {
			p.do("RCPT TO:<"+r+">", "250 ")
		}
		p.do("DATA", "354 ")
		p.do("X: y\r\n\r\n.", "250 ")
		got := w.inbox.messages()
		m := got[len(got)-1]
		trace := string(m.data[:len(m.data)-len(m.content())])
		if !regexp.MustCompile("^Received: (?s:" + tc.want + ")" + traceDate).MatchString(trace) {
			t.Errorf("%s%s: %q does not match %s", tc.hello, tc.mail, trace, tc.want)
		}
		for line := range strings.Lines(trace) {
			if len(line) > 500 {
				t.Errorf("line of %d octets", len(line))
			}
		}
	}
}

func TestEnvelope(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	p := w.greeted().startTLS(id)
	p.do("EHLO client.test", "250 ")
	p.do("MAIL FROM:<a@client.test> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=x+2By SMTPUTF8 REQUIRETLS", "250 ")
	p.do("RCPT TO:<b@example.edu> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2B@example.edu", "250 ")
	p.do(`RCPT TO:<"q r"@example.edu> NOTIFY=NEVER`, "250 ")
	p.do("RCPT TO:<postmaster>", "250 ")
	p.do("DATA", "354 ")
	p.do(".", "250 ")
	env := w.inbox.messages()[0].env
	if env.From.String() != "a@client.test" || env.Body != mail.Body8BitMIME || env.Ret != mail.ReturnHeaders ||
		env.EnvID != "x+y" || !env.SMTPUTF8 || !env.RequireTLS {
		t.Errorf("envelope %+v", env)
	}
	want := []mail.Recipient{
		{Addr: mail.Address{Local: "b", Domain: "example.edu"}, Notify: mail.NotifySuccess | mail.NotifyDelay, ORcptType: "rfc822", ORcpt: "old+@example.edu"},
		{Addr: mail.Address{Local: "q r", Domain: "example.edu"}, Notify: mail.NotifyNever},
		{Addr: mail.Address{Local: "root", Domain: "example.edu"}},
	}
	if fmt.Sprint(env.Recipients) != fmt.Sprint(want) {
		t.Errorf("recipients %+v", env.Recipients)
	}
	c := env.Client
	if c.Addr.String() != "127.0.0.1" || c.Helo != "client.test" || c.Protocol != "UTF8SMTPS" || !strings.HasPrefix(c.TLS, "TLSv1.3 TLS_") {
		t.Errorf("client %+v", c)
	}
}

func TestPipeliningKeepsOrder(t *testing.T) {
	w := start(t, setup{})
	p := w.greeted()
	var b strings.Builder
	b.WriteString("MAIL FROM:<a@client.test>\r\n")
	for i := range 100 {
		domain := localDomain
		if i%2 == 1 {
			domain = "elsewhere.example"
		}
		fmt.Fprintf(&b, "RCPT TO:<u%d@%s>\r\n", i, domain)
	}
	b.WriteString("DATA\r\n")
	p.send(b.String())
	p.expect("250 2.1.0 ")
	for i := range 100 {
		want := "250 2.1.5 "
		if i%2 == 1 {
			want = "550 5.7.1 "
		}
		p.expect(want)
	}
	p.expect("354 ")
	p.do(".", "250 ")
	if got := w.inbox.messages(); len(got) != 1 || len(got[0].env.Recipients) != 50 {
		t.Errorf("messages %+v", got)
	}
	// A content that did not wait for 354 is content, and RSET works in the middle.
	p.send("MAIL FROM:<x@c.test>\r\nRSET\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<b@example.edu>\r\nDATA\r\nMAIL FROM:<b@c.test>\r\n.\r\nQUIT\r\n")
	for _, want := range []string{"250 2.1.0 ", "250 2.0.0 ", "250 2.1.0 ", "250 2.1.5 ", "354 ", "250 2.0.0 Ok: queued", "221 "} {
		p.expect(want)
	}
	if got := w.inbox.messages(); len(got) != 2 || string(got[1].content()) != "MAIL FROM:<b@c.test>\r\n" {
		t.Errorf("messages %+v", got)
	}
}

// countingConn counts the pieces in which a server writes.
type countingConn struct {
	net.Conn
	writes *int
}

func (c countingConn) Write(p []byte) (int, error) { *c.writes++; return c.Conn.Write(p) }

type countingListener struct {
	net.Listener
	writes int
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{c, &l.writes}, nil
}

func TestRepliesAreBatched(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: tcp}
	w := start(t, setup{on: l})
	w.addr = tcp.Addr().String()
	p := w.greeted()
	p.send("MAIL FROM:<a@c.test>\r\n" + strings.Repeat("RCPT TO:<b@example.edu>\r\n", 3) + "DATA\r\n")
	p.expect("250 ")
	for range 3 {
		p.expect("250 ")
	}
	p.expect("354 ")
	p.do(".", "250 ")
	p.do("QUIT", "221 ")
	p.closed()
	if l.writes != 5 { // greeting, EHLO, the group, the message, QUIT
		t.Errorf("%d writes, want 5", l.writes)
	}
}

// TestDATARefusedIsNoDoor: a client that did not wait for the refusal of its
// DATA gets nothing of its content taken for commands.
func TestDATARefusedIsNoDoor(t *testing.T) {
	w := start(t, setup{})
	p := w.greeted()
	p.send("MAIL FROM:<a@c.test>\r\nRCPT TO:<b@elsewhere.example>\r\nDATA\r\nMAIL FROM:<x@c.test>\r\nRCPT TO:<b@example.edu>\r\nDATA\r\n.\r\n")
	p.expect("250 ")
	p.expect("550 ")
	p.expect("554 5.5.1 ")
	p.closed()

	p = w.greeted()
	p.do("MAIL FROM:<a@c.test>", "250 ")
	p.do("DATA", "554 5.5.1 ")
	p.send("Subject: x\r\n\r\nMAIL FROM:<x@c.test>\r\n")
	p.expect("521 ")
	p.closed()

	// One that did wait goes on.
	p = w.greeted()
	p.do("MAIL FROM:<a@c.test>", "250 ")
	p.do("DATA", "554 5.5.1 ")
	p.do("RSET", "250 ")
	p.envelope()
	p.do("DATA", "354 ")
	p.do(".", "250 ")
	if n := len(w.inbox.messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestBadChunkSizes(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Size: 1000}})
	for arg, want := range map[string]string{
		"":                          "501 5.5.4 ",
		"LAST":                      "501 5.5.4 ",
		"-1 LAST":                   "501 5.5.4 ",
		"+9 LAST":                   "501 5.5.4 ",
		"0x10 LAST":                 "501 5.5.4 ",
		"007 LAST":                  "501 5.5.4 ",
		"1e3 LAST":                  "501 5.5.4 ",
		"9 FIRST":                   "501 5.5.4 ",
		"9 LAST LAST":               "501 5.5.4 ",
		"9LAST":                     "501 5.5.4 ",
		"9223372036854775808 LAST":  "501 5.5.4 ",
		"18446744073709551617 LAST": "501 5.5.4 ",
		"9223372036854775807 LAST":  "552 5.3.4 ",
		"2147483648 LAST":           "552 5.3.4 ",
		"4294967297 LAST":           "552 5.3.4 ",
		"1001 LAST":                 "552 5.3.4 ",
	} {
		for _, first := range []string{"", "BDAT 2\r\n\r\n"} {
			p := w.greeted()
			p.envelope()
			if p.send(first); first != "" {
				p.expect("250 ")
			}
			p.send("BDAT " + arg + "\r\nMAIL FROM:<x@c.test>\r\nQUIT\r\n")
			p2 := want
			if first != "" && strings.HasPrefix(want, "552") {
				// Within a message the size is only known to be too much when
				// it was read: the client ends it here.
				_ = p.conn.(*net.TCPConn).CloseWrite()
				p.closed()
				continue
			}
			p.expect(p2)
			p.closed()
		}
	}
	if n := len(w.inbox.messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// TestCutOff: a content without its end is no message, however it ends.
func TestCutOff(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	begin := map[string]string{"DATA": "DATA\r\n", "BDAT": "BDAT 5000 LAST\r\n", "BDAT not last": "BDAT 20\r\n12345678901234567890"}
	for name, cmd := range begin {
		for _, secure := range []bool{false, true} {
			for how, end := range map[string]func(p *peer, tcp *net.TCPConn){
				"half close": func(p *peer, tcp *net.TCPConn) {
					if c, ok := p.conn.(*tls.Conn); ok {
						_ = c.CloseWrite()
					} else {
						_ = tcp.CloseWrite()
					}
				},
				"reset":                     func(_ *peer, tcp *net.TCPConn) { _ = tcp.SetLinger(0); tcp.Close() },
				"close":                     func(p *peer, _ *net.TCPConn) { p.conn.Close() },
				"half close without a word": func(_ *peer, tcp *net.TCPConn) { _ = tcp.CloseWrite() },
				"close_notify, then octets": func(p *peer, tcp *net.TCPConn) {
					if c, ok := p.conn.(*tls.Conn); ok {
						_ = c.CloseWrite()
					}
					_, _ = io.WriteString(tcp, "x\x00")
					_ = tcp.CloseWrite()
				},
			} {
				p := w.greeted()
				tcp := p.conn.(*net.TCPConn)
				if secure {
					p = p.startTLS(id)
					p.do("EHLO client.test", "250 ")
				}
				p.envelope()
				p.send(cmd + "Subject: x\r\n\r\nhalf a mess")
				end(p, tcp)
				if how == "half close" {
					for { // whatever it says, it does not say 250 to the message
						lines, err := p.reply()
						if err != nil {
							break
						}
						if strings.Contains(lines[0], "queued") {
							t.Errorf("%s, TLS %v, %s: %q", name, secure, how, lines)
						}
					}
				}
			}
		}
	}
	waitFor(t, "the sessions to end", func() bool { return w.server.Sessions() == 0 })
	if n := len(w.inbox.messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// waitFor waits until a fact holds.
func waitFor(t testing.TB, what string, fact func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !fact(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAcceptorErrors(t *testing.T) {
	var fail error
	w := start(t, setup{fail: func(*mail.Envelope, io.Reader) error { return fail }})
	p := w.greeted()
	for _, tc := range []struct {
		err  error
		want string
	}{
		{mail.NewReply(452, "4.3.1", "No space left"), "452 4.3.1 No space left"},
		{mail.NewReply(554, "5.7.1", "Not\nwanted"), "554 5.7.1 wanted"},
		{mail.NewReply(554, "", "Not wanted"), "554 5.0.0 Not wanted"},
		{mail.NewReply(451, "5.1.1", "Odd"), "451 4.0.0 Odd"},
		{fmt.Errorf("wrapped: %w", mail.NewReply(451, "4.3.0", "Later")), "451 4.3.0 Later"},
		{mail.NewReply(250, "2.0.0", "A lie"), "451 4.3.0 "},
		{mail.NewReply(550, "5.7.1", "Text\r\n250 2.0.0 Ok"), "550 5.7.1 250 2.0.0 Ok"},
		{errors.New("disk on fire"), "451 4.3.0 Temporary trouble"},
		{io.EOF, "451 4.3.0 "},
	} {
		fail = tc.err
		p.envelope()
		p.do("DATA", "354 ")
		p.do("Subject: x\r\n\r\nMAIL FROM:<x@c.test>\r\n.", tc.want)
	}
	fail = nil
	p.envelope()
	p.do("DATA", "354 ")
	p.do(".", "250 ")
	if n := len(w.inbox.messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestReady(t *testing.T) {
	var not *mail.Reply
	w := start(t, setup{ready: func() *mail.Reply { return not }})
	p := w.greeted()
	not = mail.NewReply(451, "4.3.0", "No quorum")
	p.do("MAIL FROM:<a@c.test>", "451 4.3.0 No quorum")
	p.do("RCPT TO:<b@example.edu>", "503 ")
	not = nil
	p.envelope()
}

func TestNotSMTP(t *testing.T) {
	w := start(t, setup{})
	for _, first := range []string{"GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT a:25 HTTP/1.1", "PRI * HTTP/2.0", "Host: example.edu"} {
		p := w.dial()
		p.expect("220 ")
		p.send(first + "\r\nHost: x\r\n\r\nEHLO a\r\nMAIL FROM:<a@b.cd>\r\n")
		p.expect("521 5.")
		p.closed()
	}
}

func TestSTARTTLSInjection(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	p := w.greeted()
	p.send("STARTTLS\r\nEHLO injected\r\n")
	p.expect("554 5.5.1 ")
	p.closed()

	// What arrives behind STARTTLS a moment later spoils the handshake.
	p = w.greeted()
	p.do("STARTTLS", "220 ")
	p.send("EHLO injected\r\n")
	if lines, err := p.reply(); err == nil {
		t.Errorf("reply %q to what was sent in place of the handshake", lines)
	}

	// Garbage and old versions end the connection too.
	p = w.greeted()
	p.do("STARTTLS", "220 ")
	old := id.trust.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := tls.Client(p.conn, old).Handshake(); err == nil {
		t.Error("TLS 1.1 was taken")
	}
	waitFor(t, "the session to end", func() bool { return w.server.Sessions() == 0 })
}

func TestCertificateReload(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	p := w.greeted().startTLS(id)
	id.renew(t)
	if err := id.certs.Reload(); err != nil {
		t.Fatal(err)
	}
	w.greeted().startTLS(id)         // who trusts the new one alone is content
	p.do("EHLO client.test", "250 ") // and the old session lives
}

// strict is a Policy that refuses by name.
type strict struct{}

func (strict) Connect(c *mail.Client) mail.Verdict {
	if c.TLS != "" {
		return nil
	}
	return mail.NewReply(554, "5.7.1", "Not you")
}

func (strict) Sender(_ *mail.Client, from mail.Address) mail.Verdict {
	if from.Local == "good" {
		return nil
	}
	return mail.NewReply(550, "5.7.1", "Not that sender")
}

func (strict) Recipient(c *mail.Client, _ mail.Address, to *mail.Recipient) mail.Verdict {
	c.Sender, to.Addr.Local = "by the book", "rewritten"
	return nil
}

func TestPolicyIsAsked(t *testing.T) {
	id := newIdentity(t)
	plain := start(t, setup{policy: strict{}})
	p := plain.dial()
	p.expect("554 5.7.1 Not you")
	p.closed()

	secure := start(t, setup{policy: strict{}, listener: smtpd.Listener{Certs: id.certs, Implicit: true}})
	p = newPeer(t, tlsClient(secure.dial().conn, id))
	p.expect("220 ")
	p.do("EHLO client.test", "250 ")
	p.do("MAIL FROM:<bad@c.test>", "550 5.7.1 Not that sender")
	p.do("MAIL FROM:<good@c.test>", "250 ")
	p.do("RCPT TO:<x@anywhere.example>", "250 ")
	p.do("DATA", "354 ")
	p.do(".", "250 ")
	env := secure.inbox.messages()[0].env
	if env.Client.Sender != "by the book" || env.Recipients[0].Addr.String() != "rewritten@anywhere.example" {
		t.Errorf("envelope %+v", env)
	}
}

// The group of a message is its client's, whoever its recipients are and
// whatever came before in the session.
func TestGroupOfAMessage(t *testing.T) {
	chain, err := policy.New(policy.Options{
		Hostname: "mx.test", Domains: []string{localDomain},
		Senders: []policy.Sender{{Name: "campus", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, setup{policy: chain})
	p := w.dial()
	p.expect("220 ")
	p.do("EHLO client.test", "250 ")
	for i, domain := range []string{localDomain, "elsewhere.example", localDomain} {
		p.do("MAIL FROM:<a@c.test>", "250 ")
		p.do("RCPT TO:<x@"+domain+">", "250 ")
		p.do("DATA", "354 ")
		p.do(".", "250 ")
		if got := w.inbox.messages()[i].env.Client.Sender; got != "campus" {
			t.Errorf("message %d, to %s: sender %q", i, domain, got)
		}
	}
}

// shaky is a listener that fails a few times.
type shaky struct {
	net.Listener
	fails int
}

func (l *shaky) Accept() (net.Conn, error) {
	if l.fails > 0 {
		l.fails--
		return nil, &net.OpError{Op: "accept", Err: errors.New("too many open files")}
	}
	return l.Listener.Accept()
}

func TestServeOutlivesAcceptErrors(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, setup{on: &shaky{tcp, 3}})
	w.addr = tcp.Addr().String()
	w.greeted()
}

func TestServeErrors(t *testing.T) {
	srv, err := smtpd.New(smtpd.Options{Hostname: "mx.test", Acceptor: &inbox{}, Policy: strict{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(newPipes(), smtpd.Listener{Implicit: true}); err == nil {
		t.Error("TLS from the start without a certificate was taken")
	}
	l := newPipes()
	l.Close()
	if err := srv.Serve(l, smtpd.Listener{}); err == nil {
		t.Error("a dead listener gave no error")
	}
	if _, err := smtpd.New(smtpd.Options{}); err == nil {
		t.Error("a server without parts was built")
	}
	if _, err := smtpd.LoadCerts("/nonexistent", "/nonexistent"); err == nil {
		t.Error("a certificate came from nowhere")
	}
}

// brittle breaks at a recipient that is called so.
type brittle struct{ smtpd.Policy }

func (b brittle) Connect(*mail.Client) mail.Verdict              { return nil }
func (b brittle) Sender(*mail.Client, mail.Address) mail.Verdict { return nil }
func (b brittle) Recipient(_ *mail.Client, _ mail.Address, to *mail.Recipient) mail.Verdict {
	if to.Addr.Local == "brittle" {
		panic("broken on purpose")
	}
	return nil
}

// TestBrokenSession: a fault in one session ends that one and no other.
func TestBrokenSession(t *testing.T) {
	w := start(t, setup{policy: brittle{}})
	other := w.greeted()
	p := w.greeted()
	p.do("MAIL FROM:<a@b.test>", "250 ")
	p.send("RCPT TO:<brittle@b.test>\r\n")
	p.closed()
	other.do("MAIL FROM:<a@b.test>", "250 ")
}
