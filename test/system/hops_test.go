package system

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestSMTPSink: Postfix's sink writes each message into a file of its own.
func TestSMTPSink(t *testing.T) {
	need(t, "smtp-sink")
	binary(t)
	dir := workDir(t)
	dumps := filepath.Join(dir, "dumps")
	if err := os.Mkdir(dumps, 0o777); err != nil {
		t.Fatal(err)
	}
	addr := relayproc.FreeAddr()
	args := []string{"-d", "m", addr, "1000"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "postfix"}, args...)
		if err := os.Chmod(dumps, 0o777); err != nil { // whatever the umask says
			t.Fatal(err)
		}
	}
	cmd := exec.Command("smtp-sink", args...)
	cmd.Dir = dumps
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended already when this fails
		_ = cmd.Wait()
	})
	eventually(t, 10*time.Second, "smtp-sink listens", func() bool {
		c, err := net.Dial("tcp", addr)
		return err == nil && c.Close() == nil
	})
	r := startRelay(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Cluster: fmt.Sprintf(toSink, addr)})
	const n = 5000
	src := &peers.Source{Addr: r.SMTP, Sessions: 100, Reuse: true, Size: 3000, Body: peers.RandomBody}
	sent := src.Run(t.Context(), 0, n)
	if sent.Errors != 0 {
		t.Fatalf("%d errors, the last: %v", sent.Errors, sent.LastErr)
	}
	emptyQueue(t, r, time.Minute)
	checkDumps(t, dumps, src, n)
	balanced(t, r)
}

// checkDumps holds smtp-sink's files against what was sent. It writes lines
// with LF alone, headers of its own in front, and an empty line behind.
func checkDumps(t *testing.T, dir string, src *peers.Source, n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "m*"))
	if err != nil || len(files) != n {
		t.Fatalf("smtp-sink wrote %d files (%v), want %d", len(files), err, n)
	}
	seen := map[int64]bool{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(text, []byte(peers.SeqHeader))
		if i < 0 {
			t.Fatalf("%s holds no message of ours: %.300q", f, text)
		}
		var seq int64
		if _, err := fmt.Sscanf(string(text[i+len(peers.SeqHeader):]), "%d", &seq); err != nil {
			t.Fatal(err)
		}
		if seen[seq] {
			t.Errorf("message %d came twice", seq)
		}
		seen[seq] = true
		want := bytes.ReplaceAll(src.Message(seq), []byte("\r\n"), []byte("\n"))
		if got := bytes.TrimSuffix(text[i:], []byte("\n")); !bytes.Equal(got, want) && !bytes.Equal(text[i:], want) {
			t.Fatalf("message %d came out different in %s:\n%.300q\nwant\n%.300q", seq, f, got, want)
		}
	}
}

// TestPostfixBehind: a private Postfix takes the mail and hands it on.
func TestPostfixBehind(t *testing.T) {
	binary(t)
	sink := startSink(t, &peers.Sink{Hash: true})
	p, err := peers.StartPostfix(filepath.Join(publicDir(t), "postfix"), sink.Addr())
	if errors.Is(err, peers.ErrNoPostfix) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, p.Addr)})
	first := int64(0)
	for _, k := range []struct{ size, n int }{{1000, 1000}, {20 << 10, 300}, {400 << 10, 20}} {
		src := &peers.Source{Addr: r.SMTP, Sessions: 20, Reuse: true, Size: k.size, Body: peers.RandomBody}
		sent := src.Run(t.Context(), first, k.n)
		if sent.Errors != 0 {
			t.Fatalf("%d errors, the last: %v", sent.Errors, sent.LastErr)
		}
		eventually(t, time.Minute, "Postfix has handed on all", func() bool { return sink.Messages() >= first+int64(k.n) })
		for _, seq := range sent.Accepted {
			if sum, _ := sink.Sum(seq); sum != src.Sum(seq) {
				t.Fatalf("message %d of %d octets came out different", seq, k.size)
			}
		}
		first += int64(k.n)
	}
	if n, dup := sink.Distinct(); int64(n) != first || dup != 0 {
		t.Errorf("%d messages, %d duplicates; want %d and 0", n, dup, first)
	}
	balanced(t, r)
}

// hopsYAML routes each domain to a next hop of another kind.
const hopsYAML = `senders:
  - {name: local, networks: [127.0.0.0/8]}
routes:
%s
queue: {retry: [1s, 2s], expire: 1h}
deliver: {ca_file: %s}
`

func route(domain, action string) string {
	return fmt.Sprintf("  - {match: {domains: [%s]}, action: {%s}}\n", domain, action)
}

func smarthost(addr, more string) string {
	return strings.TrimSuffix(fmt.Sprintf("smarthost: [%q], %s", addr, more), ", ")
}

// TestGoSMTPBehind: go-smtp's server with its extensions, each as a next hop of
// its own, and reports to the sender where mail does not fit.
func TestGoSMTPBehind(t *testing.T) {
	t.Parallel()
	binary(t)
	id := identity(t, "localhost")
	full := startInbox(t, &peers.Inbox{TLS: id.Server})
	plain := startInbox(t, &peers.Inbox{Plain: true})
	lmtp := startInbox(t, &peers.Inbox{LMTP: true, Refuse: func(to string) *smtp.SMTPError {
		if strings.HasPrefix(to, "full@") {
			return &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 2, 2}, Message: "mailbox full"}
		}
		return nil
	}})
	bare := startHop(t, &peers.Hop{Offer: []string{"PIPELINING"}})
	helo := startHop(t, &peers.Hop{Answer: func(line string) string {
		if strings.HasPrefix(line, "EHLO") {
			return "502 5.5.1 Only HELO here"
		}
		return ""
	}})
	sender := startInbox(t, &peers.Inbox{})
	r := startRelay(t, relayproc.Options{
		Listener: "binarymime: true",
		Cluster: fmt.Sprintf(hopsYAML, route("full.test", smarthost(full.Addr(), ""))+
			route("plain.test", smarthost(plain.Addr(), ""))+
			route("lmtp.test", smarthost(lmtp.Addr(), "lmtp: true"))+
			route("bare.test", smarthost(bare.Addr(), ""))+
			route("strict.test", smarthost(bare.Addr(), "eightbit: bounce"))+
			route("helo.test", smarthost(helo.Addr(), ""))+
			route("client.test", smarthost(sender.Addr(), "")), id.Cert),
	})

	t.Run("all parameters", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<p1@client.test> BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=env+2B1",
			"<jörg@full.test> NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;j\\x{F6}rg@old.test", "<b@full.test> NOTIFY=NEVER")
		content := "Subject: \xc3\xb6\r\n\r\n\x00\n\r."
		c.bdat(content, 5)
		l := from(t, full, "p1@client.test", 1)[0]
		sameContent(t, l.Data, content)
		if m := l.Mail; m.Body != smtp.BodyBinaryMIME || !m.UTF8 || m.Return != smtp.DSNReturnHeaders || m.EnvelopeID != "env+1" {
			t.Errorf("MAIL parameters: %+v", m)
		}
		if !slices.Equal(l.To, []string{"jörg@full.test", "b@full.test"}) {
			t.Fatalf("recipients: %q", l.To)
		}
		if o := l.Rcpt[0]; len(o.Notify) != 2 || o.OriginalRecipient != "jörg@old.test" {
			t.Errorf("RCPT parameters: %+v", o)
		}
		if o := l.Rcpt[1]; len(o.Notify) != 1 || o.Notify[0] != smtp.DSNNotifyNever {
			t.Errorf("RCPT parameters: %+v", o)
		}
		if !l.TLS {
			t.Error("STARTTLS was offered and not used")
		}
	})
	t.Run("8-bit to a next hop without 8BITMIME", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<p2@client.test> BODY=8BITMIME", "<u@bare.test>")
		c.data(hard())
		got := mailsFrom(t, bare, "p2@client.test", 1)
		sameContent(t, got[0].Data, hard())
	})
	t.Run("HELO", func(t *testing.T) {
		submit(t, r.SMTP, "p3@client.test", "u@helo.test", hard())
		got := mailsFrom(t, helo, "p3@client.test", 1)
		sameContent(t, got[0].Data, hard())
		if got[0].From != "<p3@client.test>" {
			t.Errorf("after HELO, MAIL FROM:%s", got[0].From)
		}
	})
	t.Run("LMTP", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<p4@client.test>", "<a@lmtp.test>", "<full@lmtp.test>", "<c@lmtp.test>")
		c.data(hard())
		l := from(t, lmtp, "p4@client.test", 1)[0]
		sameContent(t, l.Data, hard())
		if !slices.Equal(l.To, []string{"a@lmtp.test", "c@lmtp.test"}) {
			t.Errorf("LMTP took %q", l.To)
		}
		st := reportTo(t, sender, "p4@client.test")
		if len(st.Recipients) != 1 || st.Recipients[0].Final.Value != "full@lmtp.test" || st.Recipients[0].Status != "5.2.2" {
			t.Errorf("report: %+v", st.Recipients)
		}
	})
	for _, c := range []struct{ name, from, to, content, status string }{
		{"8-bit, bounce", "<p5@client.test> BODY=8BITMIME", "u@strict.test", hard(), "5.6.3"},
		{"no SMTPUTF8", "<p6@client.test> SMTPUTF8", "jörg@plain.test", note("to a name"), "5.6.7"},
		{"no BINARYMIME", "<p7@client.test> BODY=BINARYMIME", "u@plain.test", "Subject: x\r\n\r\n\x00", "5.6.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := greeted(t, r.SMTP)
			s.envelope(c.from, "<"+c.to+">")
			s.bdat(c.content, 1<<20)
			addr, _, _ := strings.Cut(c.from[1:], ">")
			st := reportTo(t, sender, addr)
			if len(st.Recipients) != 1 || st.Recipients[0].Status != c.status || st.Recipients[0].Action != "failed" {
				t.Errorf("report: %+v", st.Recipients)
			}
		})
	}
	t.Run("SMTPUTF8 that is not needed", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<p8@client.test> SMTPUTF8", "<u@plain.test>")
		c.data(note("plain after all"))
		sameContent(t, from(t, plain, "p8@client.test", 1)[0].Data, note("plain after all"))
	})
	emptyQueue(t, r, 20*time.Second)
	balanced(t, r)
}

// TestSmarthostTLSAndAuth: logging in, required and verified TLS, TLS from the
// start.
func TestSmarthostTLSAndAuth(t *testing.T) {
	t.Parallel()
	binary(t)
	id, other := identity(t, "localhost"), identity(t, "other.test")
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("pass word+1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var routes strings.Builder
	mechs := map[string]*peers.Inbox{}
	for domain, mech := range map[string]string{"plain.test": "PLAIN", "login.test": "LOGIN", "scram.test": "SCRAM-SHA-256"} {
		mechs[domain] = startInbox(t, &peers.Inbox{TLS: id.Server, User: "relay", Password: "pass word+1", Auth: []string{mech}})
		_, port, _ := net.SplitHostPort(mechs[domain].Addr())
		routes.WriteString(route(domain, smarthost("localhost:"+port, fmt.Sprintf("tls: verify, auth: {user: relay, password_file: %s}", password))))
	}
	clear := startInbox(t, &peers.Inbox{User: "relay", Password: "pass word+1"}) // offers no TLS
	routes.WriteString(route("clear.test", smarthost(clear.Addr(), fmt.Sprintf("tls: require, auth: {user: relay, password_file: %s}", password))))
	wrong := startInbox(t, &peers.Inbox{TLS: other.Server})
	routes.WriteString(route("wrong.test", smarthost(wrong.Addr(), "tls: verify")))
	routes.WriteString(route("lax.test", smarthost(wrong.Addr(), "")))
	implicit := &peers.Inbox{TLS: id.Server, Implicit: true}
	err := implicit.Listen("127.0.0.46:465")
	if err == nil {
		t.Cleanup(implicit.Close)
		routes.WriteString(route("implicit.test", smarthost("127.0.0.46:465", "tls: require")))
	}
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(hopsYAML, routes.String(), id.Cert)})

	for domain, in := range mechs {
		submit(t, r.SMTP, "a@client.test", "u@"+domain, note(domain))
		if l := from(t, in, "a@client.test", 1)[0]; !l.TLS || l.User != "relay "+in.Auth[0] {
			t.Errorf("%s: TLS %v, login %q", domain, l.TLS, l.User)
		}
	}
	submit(t, r.SMTP, "a@client.test", "u@lax.test", note("any certificate will do"))
	if l := from(t, wrong, "a@client.test", 1)[0]; !l.TLS {
		t.Error("opportunistic TLS was not used")
	}
	if err != nil {
		t.Logf("TLS from the start is not tested: %v", err)
	} else {
		submit(t, r.SMTP, "a@client.test", "u@implicit.test", note("TLS from the start"))
		from(t, implicit, "a@client.test", 1)
	}
	// What cannot be sent as it must waits, and the reason can be seen.
	submit(t, r.SMTP, "b@client.test", "u@clear.test", note("no password in the clear"))
	submit(t, r.SMTP, "b@client.test", "u@wrong.test", note("no trust"))
	rows := waitRows(t, r, "both wait with a reason", func(rows []queueRow) bool {
		return len(rows) == 2 && rows[0].LastReply != "" && rows[1].LastReply != ""
	})
	for _, row := range rows {
		if !strings.Contains(strings.ToUpper(row.LastReply), "TLS") && !strings.Contains(row.LastReply, "certificate") {
			t.Errorf("%s waits because of %q", row.Rcpt, row.LastReply)
		}
	}
	if n := len(clear.Letters()) + len(wrong.Letters()) - 1; n != 0 {
		t.Errorf("%d letters went where they must not", n)
	}
}

// mailsFrom waits for n messages of a sender at a hop.
func mailsFrom(t testing.TB, h *peers.Hop, sender string, n int) []peers.Mail {
	t.Helper()
	var got []peers.Mail
	eventually(t, 30*time.Second, fmt.Sprintf("%d messages of %q", n, sender), func() bool {
		got = got[:0]
		for _, m := range h.Mails() {
			if m.Sender() == sender {
				got = append(got, m)
			}
		}
		return len(got) >= n
	})
	if len(got) != n {
		t.Errorf("%d messages of %q, want %d", len(got), sender, n)
	}
	return got
}

// reportTo waits for the one report in an inbox that is for a sender.
func reportTo(t testing.TB, in *peers.Inbox, sender string) *dsn.Status {
	t.Helper()
	var out *dsn.Status
	eventually(t, 30*time.Second, "a report for "+sender, func() bool {
		for _, l := range in.Letters() {
			if l.From != "" || !slices.Contains(l.To, sender) {
				continue
			}
			st, err := dsn.Parse(bytes.NewReader(l.Data))
			if errors.Is(err, dsn.ErrNotReport) {
				t.Fatalf("no report: %.2000q", l.Data)
			} else if err != nil {
				t.Fatal(err)
			}
			out = st
		}
		return out != nil
	})
	return out
}
