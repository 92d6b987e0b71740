package smtpd_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
)

func TestSizeLimit(t *testing.T) {
	const limit = 5000
	w := start(t, setup{limits: smtpd.Limits{Size: limit}})
	p := w.greeted()
	for _, tc := range []struct {
		octets int
		want   string
	}{
		{limit, "250 2.0.0 "}, {limit + 1, "552 5.3.4 "}, {2 * limit, "552 5.3.4 "}, {limit, "250 2.0.0 "},
	} {
		content := "Subject: x\r\n\r\n"
		content += strings.Repeat("x", tc.octets-len(content)-2) + "\r\n"
		p.envelope()
		p.do("DATA", "354 ")
		p.send(content + ".\r\n")
		p.expect(tc.want)
		p.envelope()
		p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(content), content))
		p.expect(tc.want)
		if tc.octets > limit { // a chunk greater than any message is not read to its end
			p.closed()
			p = w.greeted()
		}
	}
	// Dots that are doubled on the wire do not count (RFC 1870 5).
	p.envelope()
	p.do("DATA", "354 ")
	p.send("X: y\r\n\r\n" + strings.Repeat("..\r\n", (limit-8)/3) + ".\r\n")
	p.expect("250 ")
	// Somebody who does not stop is not read forever.
	p.envelope()
	p.do("DATA", "354 ")
	go func() {
		for {
			if _, err := io.WriteString(p.conn, strings.Repeat("endless\r\n", 1000)); err != nil {
				return
			}
		}
	}()
	p.expect("552 5.3.4 ")
	p.closed()
}

func TestHeaderLimits(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Hops: 3, HeaderFields: 20, HeaderSize: 4000}})
	hops := func(n int, name string) string { return strings.Repeat(name+" from a by b; date\r\n\tmore\r\n", n) }
	p := w.greeted()
	for _, tc := range []struct{ content, want string }{
		{hops(2, "Received:") + "\r\n", "250 "},
		{hops(3, "Received:") + "\r\n", "554 5.4.6 "},
		{hops(3, "rEceIVEd \t:") + "\r\n", "554 5.4.6 "},
		{hops(2, "Received:") + "\r\n" + hops(9, "Received:"), "250 "}, // the rest is body
		{hops(9, "Received-SPF:") + "\r\n", "250 "},
		{hops(9, "X-Received:") + "\r\n", "250 "},
		{"Subject: x\r\n" + strings.Repeat(" Received: folded\r\n", 9) + "\r\n", "250 "},
		{strings.Repeat("X: y\r\n", 20) + "\r\n", "250 "},
		{strings.Repeat("X: y\r\n", 21) + "\r\n", "554 5.6.0 "},
		{"X: " + strings.Repeat("y", 3000) + "\r\n\r\n" + strings.Repeat("y", 3000) + "\r\n", "250 "},
		{"X: " + strings.Repeat("y", 4000) + "\r\n\r\n", "554 5.6.0 "},
		{"\r\n" + hops(9, "Received:"), "250 "},
	} {
		for _, piece := range []int{len(tc.content), 1, 7} {
			p.envelope()
			p.do("DATA", "354 ")
			for rest := tc.content; rest != ""; {
				n := min(piece, len(rest))
				p.send(rest[:n])
				rest = rest[n:]
			}
			p.do(".", tc.want)
		}
	}
}

// TestEnvelopeMemory: what the recipients of all open transactions take is
// bounded. Those that are over it are told to come later, a hundred of each
// transaction never are, and the end of a transaction gives back what it took.
func TestEnvelopeMemory(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Envelopes: 60_000}})
	line := "RCPT TO:<" + strings.Repeat("u", 60) + "@example.edu> ORCPT=rfc822;" + strings.Repeat("o", 400)
	open := func() *peer {
		p := w.greeted()
		p.do("MAIL FROM:<a@b.example>", "250 ")
		for range 100 {
			p.do(line, "250 ")
		}
		return p
	}
	first := open()
	first.do(line, "452 4.5.3 ")
	second := open()
	second.do(line, "452 4.5.3 ")
	first.do("RSET", "250 ")
	second.do(line, "452 4.5.3 ") // its own are enough
	second.do("EHLO c.example", "250")
	p := open()
	_ = p.conn.Close()
	for limit := time.Now().Add(10 * time.Second); w.server.Sessions() > 2 && time.Now().Before(limit); {
		runtime.Gosched()
	}
	// All is given back: most of it is free again.
	p = w.greeted()
	p.do("MAIL FROM:<a@b.example>", "250 ")
	for range 110 {
		p.do("RCPT TO:<u@example.edu>", "250 ")
	}
}

func TestConnectionLimits(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Connections: 4, PerClient: 3}, listener: smtpd.Listener{ProxyFrom: []netip.Prefix{mustPrefix("127.0.0.0/8")}}})
	from := func(client, want string) *peer {
		p := w.dial()
		family := "TCP4 " + client + " 192.0.2.1"
		if strings.Contains(client, ":") {
			family = "TCP6 " + client + " 2001:db8::1"
		}
		p.send("PROXY " + family + " 1000 25\r\n")
		p.expect(want)
		return p
	}
	a := from("2001:db8:1:2::1", "220 ")
	from("2001:db8:1:2::2", "220 ")
	from("2001:db8:1:2:3::3", "220 ")
	refused := from("2001:db8:1:2:ffff::4", "421 4.7.0 ")
	refused.closed()
	waitFor(t, "the refused session to end", func() bool { return w.server.Sessions() == 3 })
	other := from("2001:db8:1:3::1", "220 ")
	fifth := w.dial()
	fifth.expect("421 4.7.0 ")
	fifth.closed()
	a.do("QUIT", "221 ")
	other.do("QUIT", "221 ")
	waitFor(t, "the sessions to end", func() bool { return w.server.Sessions() == 2 })
	from("2001:db8:1:2::9", "220 ")
}

func TestErrorLimits(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Errors: 5, Commands: 30}})
	p := w.greeted()
	for range 4 {
		p.do("BURP", "500 ")
	}
	p.do("BURP", "500 ")
	p.expect("421 4.7.0 ")
	p.closed()

	p = w.greeted() // EHLO is one of the thirty
	for range 29 {
		p.do("NOOP", "250 ")
	}
	p.do("NOOP", "250 ")
	p.expect("421 4.7.0 ")
	p.closed()

	// A message wipes the slate clean; recipients that are taken cost nothing.
	p = w.greeted()
	for range 10 {
		for range 4 {
			p.do("BURP", "500 ")
		}
		p.envelope()
		for range 30 {
			p.do("RCPT TO:<b@example.edu>", "250 ")
		}
		p.do("DATA", "354 ")
		p.do(".", "250 ")
	}
	// A thousand refused recipients in one go get their replies in order,
	// until there are too many.
	p.do("MAIL FROM:<a@c.test>", "250 ")
	p.send(strings.Repeat("RCPT TO:<b@elsewhere.example>\r\n", 40))
	for range 30 {
		p.expect("550 5.7.1 ")
	}
	p.expect("421 4.7.0 ")
	p.closed()
}

func TestGiantPipelines(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Commands: 200_000}})
	p := w.greeted()
	const n = 100_000
	go func() { _, _ = io.WriteString(p.conn, strings.Repeat("NOOP\r\n", n)) }()
	for range n {
		p.expect("250 ")
	}
	// A client that never reads is not answered forever.
	deaf := start(t, setup{limits: smtpd.Limits{Commands: 100_000_000, Write: 200 * time.Millisecond}})
	p = deaf.greeted()
	for {
		if _, err := io.WriteString(p.conn, strings.Repeat("HELP\r\n", 10_000)); err != nil {
			break
		}
	}
	waitFor(t, "the deaf client's session to end", func() bool { return deaf.server.Sessions() == 0 })
}

func TestPROXY(t *testing.T) {
	id := newIdentity(t)
	trusted := []netip.Prefix{mustPrefix("127.0.0.1/32")}
	w := start(t, setup{limits: smtpd.Limits{Proxy: 300 * time.Millisecond}, listener: smtpd.Listener{ProxyFrom: trusted}})
	v2 := func(cmd, family string, payload string) string {
		return "\r\n\r\n\x00\r\nQUIT\n" + cmd + family + string([]byte{byte(len(payload) >> 8), byte(len(payload))}) + payload
	}
	v4 := "\xcb\x00\x71\x09\xc0\x00\x02\x01\x10\x00\x00\x19"
	for name, tc := range map[string]struct{ header, addr string }{
		"v1":         {"PROXY TCP4 203.0.113.9 192.0.2.1 4096 25\r\n", "203.0.113.9"},
		"v1 six":     {"PROXY TCP6 2001:db8::9 2001:db8::1 4096 25\r\n", "2001:db8::9"},
		"v1 unknown": {"PROXY UNKNOWN\r\n", "127.0.0.1"},
		"v2":         {v2("\x21", "\x11", v4), "203.0.113.9"},
		"v2 and TLV": {v2("\x21", "\x11", v4+"\x04\x00\x03abc"), "203.0.113.9"},
		"v2 local":   {v2("\x20", "\x00", ""), "127.0.0.1"},
		"v2 local 4": {v2("\x20", "\x11", v4), "127.0.0.1"},
	} {
		p := w.dial()
		p.send(tc.header)
		p.expect("220 ")
		p.do("EHLO client.test", "250 ")
		p.envelope()
		p.do("DATA", "354 ")
		p.do(".", "250 ")
		got := w.inbox.messages()
		if c := got[len(got)-1].env.Client; c.Addr.String() != tc.addr {
			t.Errorf("%s: client %v, want %s", name, c.Addr, tc.addr)
		}
	}
	for name, header := range map[string]string{
		"none":        "",
		"no header":   "EHLO client.test\r\n",
		"bad v1":      "PROXY TCP4 203.0.113.9\r\n",
		"endless v1":  "PROXY TCP4 " + strings.Repeat("9", 500),
		"unix":        v2("\x21", "\x31", strings.Repeat("x", 216)),
		"datagram":    v2("\x21", "\x12", v4),
		"unspecified": v2("\x21", "\x00", ""),
		"v3":          v2("\x31", "\x11", v4),
		"cut off":     v2("\x21", "\x11", v4)[:20],
	} {
		p := w.dial()
		p.send(header)
		if lines, err := p.reply(); err == nil {
			t.Errorf("%s: reply %q", name, lines)
		}
	}
	// What comes right behind the header is early talk.
	p := w.dial()
	p.send("PROXY TCP4 203.0.113.9 192.0.2.1 4096 25\r\nEHLO early.test\r\n")
	p.expect("554 5.5.1 ")
	p.closed()

	// Nobody else may send one.
	direct := start(t, setup{listener: smtpd.Listener{ProxyFrom: []netip.Prefix{mustPrefix("192.0.2.0/24")}}})
	p = direct.dial()
	p.expect("220 ")
	p.send("PROXY TCP4 203.0.113.9 192.0.2.1 4096 25\r\n")
	p.expect("500 ")

	// TLS from the start lies behind the header, even in one segment.
	tlsw := start(t, setup{listener: smtpd.Listener{ProxyFrom: trusted, Certs: id.certs, Implicit: true}})
	client, relayed := net.Pipe()
	go func() { // a proxy that sends its header together with the ClientHello
		up := tlsw.dial().conn
		first := make([]byte, 4096)
		n, _ := relayed.Read(first)
		_, _ = up.Write(append([]byte("PROXY TCP4 203.0.113.9 192.0.2.1 4096 25\r\n"), first[:n]...))
		go func() { _, _ = io.Copy(relayed, up) }()
		_, _ = io.Copy(up, relayed)
		up.Close()
	}()
	p = newPeer(t, tlsClient(client, id))
	p.expect("220 ")
	p.do("EHLO client.test", "250 ")
	p.do("QUIT", "221 ")
	client.Close()
}

// notes is an Observer that remembers.
type notes struct {
	mu       sync.Mutex
	accepted []string
	rejected []string
	closed   []smtpd.Summary
}

func (n *notes) Accepted(env *mail.Envelope, size int64, took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.accepted = append(n.accepted, fmt.Sprint(env.ID, " ", size, " ", took >= 0 && took < time.Minute))
}

func (n *notes) Rejected(c *mail.Client, from, to string, r *mail.Reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rejected = append(n.rejected, fmt.Sprintf("%s %q %q %d", c.Addr, from, to, r.Code))
}

func (n *notes) Closed(_ *mail.Client, s smtpd.Summary) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = append(n.closed, s)
}

func TestObserver(t *testing.T) {
	n := &notes{}
	w := start(t, setup{observer: n, limits: smtpd.Limits{Size: 100}})
	p := w.greeted()
	p.do("MAIL FROM:<a@c.test> SIZE=1000", "552 ")
	p.do("MAIL FROM:<a@c.test>", "250 ")
	p.do("RCPT TO:<b@elsewhere.example>", "550 ")
	p.do("RCPT TO:<b@example.edu>", "250 ")
	p.do("DATA", "354 ")
	p.do("X: y\r\n\r\n.", "250 ")
	p.envelope()
	p.do("DATA", "354 ")
	p.do(strings.Repeat("x", 200)+"\r\n.", "552 ")
	p.do("QUIT", "221 ")
	p.closed()
	waitFor(t, "the end of the session to be told", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.closed) == 1 })
	m := w.inbox.messages()[0]
	if want := fmt.Sprint(m.env.ID, " ", len(m.data), " true"); len(n.accepted) != 1 || n.accepted[0] != want {
		t.Errorf("accepted %q, want %q", n.accepted, want)
	}
	want := []string{`127.0.0.1 "a@c.test" "" 552`, `127.0.0.1 "a@c.test" "b@elsewhere.example" 550`, `127.0.0.1 "a@client.test" "" 552`}
	if fmt.Sprint(n.rejected) != fmt.Sprint(want) {
		t.Errorf("rejected %q, want %q", n.rejected, want)
	}
	if s := n.closed[0]; s.Messages != 1 || s.End != "quit" || s.Commands != 10 || s.Duration <= 0 {
		t.Errorf("summary %+v", s)
	}
}

// TestIdleMemory measures what an idle session costs, with the stack of its
// goroutine, after it has brought a message.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory")
	}
	const sessions = 300
	w := start(t, setup{limits: smtpd.Limits{PerClient: 10 * sessions}, buf: 32 << 10})
	stat := func() uint64 {
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	buf := make([]byte, 4096)
	content := strings.Repeat("x", 20<<10) + "\r\n.\r\n"
	base := stat()
	for range sessions {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, step := range []struct{ send, want string }{
			{"", "220 "}, {"EHLO c.test\r\n", "LIMITS"}, {"MAIL FROM:<a@c.test>\r\n", "250"}, {"RCPT TO:<b@example.edu>\r\n", "250"}, {"DATA\r\n", "354"}, {content, "queued"},
		} {
			if _, err := io.WriteString(conn, step.send); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(buf)
			if err != nil || !bytes.Contains(buf[:n], []byte(step.want)) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	}
	w.inbox.mu.Lock()
	w.inbox.got = nil
	w.inbox.mu.Unlock()
	per := int64(stat()-base) / sessions
	t.Logf("%d octets a session, both sides of the connection in one process", per)
	if per > 20<<10 {
		t.Errorf("an idle session costs %d octets", per)
	}
}
