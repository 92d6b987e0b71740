package system

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// client speaks SMTP octet by octet.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, conn)
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &client{t, conn, bufio.NewReader(conn)}
}

// greeted gives a client behind EHLO.
func greeted(t testing.TB, addr string) *client {
	t.Helper()
	c := dial(t, addr)
	c.expect("220 ")
	c.do("EHLO client.test", "250 ")
	return c
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatalf("sending %.60q: %v", text, err)
	}
}

// reply reads one reply with all its lines; err tells that there is none.
func (c *client) reply() (string, error) {
	var all strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			return all.String(), err
		}
		if len(line) < 4 || !strings.HasSuffix(line, "\r\n") {
			return all.String(), fmt.Errorf("reply line %q", line)
		}
		if line[3] != '-' {
			return all.String(), nil
		}
	}
}

// expect reads a reply whose last line begins with want, and gives it whole.
func (c *client) expect(want string) string {
	c.t.Helper()
	text, err := c.reply()
	if err != nil {
		c.t.Fatalf("wanted %q: %v (have %q)", want, err, text)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, want) {
		c.t.Fatalf("the reply is %q, want %q", text, want)
	}
	return text
}

func (c *client) do(line, want string) string {
	c.t.Helper()
	c.send(line + "\r\n")
	return c.expect(want)
}

// closed reads to the end of the connection; a reply is an error.
func (c *client) closed() {
	c.t.Helper()
	text, err := c.reply()
	var ne net.Error
	if err == nil || errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("the connection is open (%v), reply %q", err, text)
	}
}

func (c *client) startTLS(cfg *tls.Config) *client {
	c.t.Helper()
	c.do("STARTTLS", "220 ")
	conn := tls.Client(c.conn, cfg)
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	out := newClient(c.t, conn)
	out.do("EHLO client.test", "250 ")
	return out
}

// envelope begins a transaction; the arguments stand as they are behind
// "MAIL FROM:" and "RCPT TO:".
func (c *client) envelope(from string, to ...string) {
	c.t.Helper()
	c.do("MAIL FROM:"+from, "250 ")
	for _, rcpt := range to {
		c.do("RCPT TO:"+rcpt, "250 ")
	}
}

// data sends a content by DATA and gives the ID.
func (c *client) data(content string) string {
	c.t.Helper()
	c.do("DATA", "354 ")
	c.send(string(peers.Stuff([]byte(content))))
	return c.accepted()
}

// bdat sends a content by BDAT in chunks of at most size octets and gives the
// ID. All chunks are sent before the first reply is read.
func (c *client) bdat(content string, size int) string {
	c.t.Helper()
	var chunks []string
	for len(content) > size {
		chunks, content = append(chunks, fmt.Sprintf("BDAT %d\r\n%s", size, content[:size])), content[size:]
	}
	chunks = append(chunks, fmt.Sprintf("BDAT %d LAST\r\n%s", len(content), content))
	c.send(strings.Join(chunks, ""))
	for range len(chunks) - 1 {
		c.expect("250 ")
	}
	return c.accepted()
}

const queuedAs = "250 2.0.0 Ok: queued as "

// accepted reads the 250 of a message and gives its ID.
func (c *client) accepted() string {
	c.t.Helper()
	return strings.TrimSpace(strings.TrimPrefix(c.expect(queuedAs), queuedAs))
}

// submit sends one message on a connection of its own and gives its ID.
func submit(t testing.TB, addr, from, to, content string) string {
	t.Helper()
	c := greeted(t, addr)
	defer c.conn.Close()
	c.envelope("<"+from+">", "<"+to+">")
	return c.data(content)
}

// note is a short message.
func note(subject string) string {
	return "From: <a@client.test>\r\nSubject: " + subject + "\r\n\r\nA line.\r\n"
}
