package system

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// clientOf reads who a queued message came from.
func clientOf(t *testing.T, r *relayproc.Relay, id string) string {
	t.Helper()
	var m struct{ Client struct{ Addr string } }
	if err := json.Unmarshal([]byte(cli(t, r, 0, "message", "show", id, "-o", "json")), &m); err != nil {
		t.Fatal(err)
	}
	return m.Client.Addr
}

// proxy2 is a PROXY header, version 2: from 192.0.2.7:1234 to 192.0.2.1:25, or
// LOCAL.
func proxy2(local bool) string {
	const sig = "\r\n\r\n\x00\r\nQUIT\n"
	if local {
		return sig + "\x20\x00\x00\x00"
	}
	return sig + "\x21\x11\x00\x0c" + "\xc0\x00\x02\x07" + "\xc0\x00\x02\x01" + "\x04\xd2" + "\x00\x19"
}

// TestProxyProtocol: the client's address comes from a named proxy's header
// and from nothing else.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	r := startRelay(t, relayproc.Options{
		Listener: "proxy_from: [127.0.0.1]",
		Cluster: fmt.Sprintf(`senders: [{name: far, networks: [192.0.2.0/24, 127.0.0.0/8, "2001:db8::/32"]}]
routes: [{match: {}, action: {smarthost: [%q]}}]
queue: {retry: [1h]}
`, relayproc.FreeAddr()),
	})
	for name, c := range map[string]struct{ header, client string }{
		"version 1":        {"PROXY TCP4 192.0.2.7 192.0.2.1 1234 25\r\n", "192.0.2.7"},
		"version 1, IPv6":  {"PROXY TCP6 2001:db8::7 2001:db8::1 1234 25\r\n", "2001:db8::7"},
		"version 2":        {proxy2(false), "192.0.2.7"},
		"version 2, LOCAL": {proxy2(true), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := dial(t, r.SMTP)
			s.send(c.header)
			s.expect("220 ")
			s.do("EHLO client.test", "250 ")
			s.envelope("<a@client.test>", "<u@x.test>")
			if got := clientOf(t, r, s.data(note(name))); got != c.client {
				t.Errorf("the client is %s, want %s", got, c.client)
			}
		})
	}
	t.Run("not a sender", func(t *testing.T) {
		s := dial(t, r.SMTP)
		s.send("PROXY TCP4 198.51.100.7 192.0.2.1 1234 25\r\n")
		s.expect("220 ")
		s.do("EHLO client.test", "250 ")
		s.do("MAIL FROM:<a@client.test>", "250 ")
		s.do("RCPT TO:<u@x.test>", "550 5.7.1 ")
	})
	t.Run("early talker", func(t *testing.T) {
		s := dial(t, r.SMTP)
		s.send("PROXY TCP4 192.0.2.7 192.0.2.1 1234 25\r\nEHLO too.early\r\n")
		s.expect("5")
		s.closed()
	})
	for name, header := range map[string]string{
		"no header": "EHLO client.test\r\n",
		"cut off":   "PROXY TCP4 192.0.2.7\r\n",
		"nonsense":  "PROXY TCP4 a b c d\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := dial(t, r.SMTP)
			s.send(header)
			text, err := s.reply()
			if err == nil && !strings.HasPrefix(text, "4") && !strings.HasPrefix(text, "5") {
				t.Errorf("the reply is %q", text)
			}
		})
	}
}

// TestProxyHeaderFromOthers: who is no named proxy cannot pretend.
func TestProxyHeaderFromOthers(t *testing.T) {
	t.Parallel()
	r := startRelay(t, relayproc.Options{
		Listener: "proxy_from: [192.0.2.200]",
		Cluster:  "senders: [{name: far, networks: [192.0.2.0/24]}]\n",
	})
	s := dial(t, r.SMTP)
	s.expect("220 ")
	s.do("PROXY TCP4 192.0.2.7 192.0.2.1 1234 25", "5")
	s.do("EHLO client.test", "250 ")
	s.do("MAIL FROM:<a@client.test>", "250 ")
	s.do("RCPT TO:<u@x.test>", "550 5.7.1 ")
}

// TestStartTLS: the session begins anew under TLS, what was sent too early is
// never answered, and the trace tells of the TLS.
func TestStartTLS(t *testing.T) {
	t.Parallel()
	r, in, id := toInbox(t)
	c := greeted(t, r.SMTP)
	if text := c.do("EHLO client.test", "250 "); !strings.Contains(text, "STARTTLS") || strings.Contains(text, "REQUIRETLS") {
		t.Errorf("in the clear EHLO offers %q", text)
	}
	c.do("MAIL FROM:<a@client.test>", "250 ")
	c.do("STARTTLS", "503 ")
	c.do("RSET", "250 ")
	c = c.startTLS(id.Client)
	if text := c.do("EHLO client.test", "250 "); strings.Contains(text, "STARTTLS") || !strings.Contains(text, "REQUIRETLS") {
		t.Errorf("under TLS EHLO offers %q", text)
	}
	c.do("RCPT TO:<u@x.test>", "503 ")
	c.envelope("<tls@client.test>", "<u@x.test>")
	c.data(note("under TLS"))
	if got := string(from(t, in, "tls@client.test", 1)[0].Data); !strings.Contains(got, "with ESMTPS") || !strings.Contains(got, "TLSv1.3") {
		t.Errorf("the trace: %.400q", got)
	}
	early := greeted(t, r.SMTP)
	early.send("STARTTLS\r\nEHLO injected\r\n")
	if text, err := early.reply(); err == nil && strings.HasPrefix(text, "220 ") {
		if text, err = early.reply(); err == nil {
			t.Errorf("the injected command was answered: %q", text)
		}
	}
}

// TestLimits: of what one client, one session and one message may take.
func TestLimits(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`senders: [{name: local, networks: [127.0.0.0/8]}]
receive: {per_client_connections: 3, max_recipients: 100, max_size: 100kB, max_errors: 5, max_hops: 10, max_headers: 50}
routes: [{match: {}, action: {smarthost: [%q]}}]
`, hop.Addr())})
	t.Run("connections", func(t *testing.T) {
		var open []*client
		for range 3 {
			open = append(open, greeted(t, r.SMTP))
		}
		more := dial(t, r.SMTP)
		more.expect("421 4.7.0 ")
		more.closed()
		for _, c := range open {
			c.do("QUIT", "221 ")
			c.closed()
		}
		greeted(t, r.SMTP).do("QUIT", "221 ")
	})
	t.Run("recipients", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.do("MAIL FROM:<many@client.test>", "250 ")
		for i := range 100 {
			c.do(fmt.Sprintf("RCPT TO:<u%d@x.test>", i), "250 ")
		}
		c.do("RCPT TO:<more@x.test>", "452 4.5.3 ")
		c.data(note("a hundred"))
		eventually(t, 20*time.Second, "all hundred", func() bool { return len(rcptsAt(hop)) >= 100 })
		c.do("QUIT", "221 ")
	})
	t.Run("size", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.do("MAIL FROM:<big@client.test> SIZE=100001", "552 5.3.4 ")
		c.envelope("<big@client.test>", "<u@x.test>")
		c.do("DATA", "354 ")
		c.send("Subject: too big\r\n\r\n" + strings.Repeat("0123456789\r\n", 9000) + ".\r\n")
		c.expect("552 5.3.4 ")
		c.envelope("<big@client.test>", "<u@x.test>")
		big := "Subject: fits\r\n\r\n" + strings.Repeat("0123456789\r\n", 8300)
		c.data(big)
		sameContent(t, mailsFrom(t, hop, "big@client.test", 1)[0].Data, big)
		c.do("QUIT", "221 ")
	})
	t.Run("loop", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<loop@client.test>", "<u@x.test>")
		c.do("DATA", "354 ")
		c.send(strings.Repeat("Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n", 11) + "\r\nx\r\n.\r\n")
		c.expect("554 5.4.6 ")
		c.do("QUIT", "221 ")
	})
	t.Run("headers", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		c.envelope("<headers@client.test>", "<u@x.test>")
		c.do("DATA", "354 ")
		c.send(strings.Repeat("X: y\r\n", 60) + "\r\nx\r\n.\r\n")
		c.expect("55")
		c.do("QUIT", "221 ")
	})
	t.Run("errors", func(t *testing.T) {
		c := greeted(t, r.SMTP)
		for range 4 {
			c.do("NONSENSE", "500 ")
		}
		c.send("NONSENSE\r\n")
		for {
			text, err := c.reply()
			if err != nil {
				t.Fatalf("closed without a 421: %v", err)
			}
			if strings.HasPrefix(text, "421 ") {
				break
			}
			c.send("NONSENSE\r\n")
		}
		c.closed()
	})
	balanced(t, r)
}
