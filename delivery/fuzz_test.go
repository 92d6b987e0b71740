package delivery_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
)

// tape is a host that says what is on it, whatever it is told. It is a
// connection in memory: a read gives the next piece, a write is noted.
type tape struct {
	in  io.Reader
	out bytes.Buffer
}

type tapeAddr struct{}

func (tapeAddr) Network() string { return "tape" }
func (tapeAddr) String() string  { return "tape" }

func (c *tape) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *tape) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return tapeAddr{} }
func (c *tape) RemoteAddr() net.Addr             { return tapeAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// paced gives one line a read, as a host does that is waited for.
type paced struct{ rest []byte }

func (p *paced) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := bytes.IndexByte(p.rest, '\n') + 1
	if n == 0 {
		n = len(p.rest)
	}
	n = copy(b, p.rest[:n])
	p.rest = p.rest[n:]
	return n, nil
}

// FuzzConversation gives a host's whole side of a conversation to the agent.
// Whatever it is, every recipient gets one outcome, and a recipient counts as
// delivered only when the whole content and its end had been written.
func FuzzConversation(f *testing.F) {
	ok := "220 hi\r\n250-hi\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250%s\r\n"
	for _, s := range []string{
		strings.Replace(ok, "%s", " PIPELINING", 1) + "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n250 2.0.0 done\r\n",
		strings.Replace(ok, "%s", " CHUNKING", 1) + "250 ok\r\n250 ok\r\n250 ok\r\n250 done\r\n",
		strings.Replace(ok, "%s", "-PIPELINING\r\n250-DSN\r\n250 CHUNKING", 1) + "250 ok\r\n250 ok\r\n452 4.5.3 full\r\n250 done\r\n250 ok\r\n250 ok\r\n250 done\r\n",
		"220 hi\r\n500 what\r\n250 hi\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 done\r\n",
		strings.Replace(ok, "%s", " STARTTLS", 1) + "454 no\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n421 bye\r\n",
		strings.Replace(ok, "%s", " PIPELINING", 1) + "250 ok\r\n550 no\r\n550 no\r\n354 go\r\n554 nobody\r\n",
		"220 hi\r\n250-hi\r\n250 LIMITS RCPTMAX=1 MAILMAX=1\r\n250 ok\r\n250 ok\r\n354 go\r\n250 done\r\n",
		"220-hi\r\n250 mixed\r\n", "421 4.3.2 no\r\n", "", "220", "\r\n", "220 hi\n250 hi\n250 ok\n250 ok\n250 ok\n354 go\n250 done\n",
	} {
		f.Add([]byte(s), false, false)
		f.Add([]byte(s), true, true)
	}
	m := metrics.New().Delivery
	f.Fuzz(func(t *testing.T, host []byte, lmtp, atOnce bool) {
		var tapes []*tape
		dial := func(context.Context, string, string) (net.Conn, error) {
			c := &tape{in: &paced{host}}
			if atOnce {
				c.in = bytes.NewReader(host)
			}
			tapes = append(tapes, c)
			return c, nil
		}
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: dial, Metrics: m, Limits: delivery.Limits{ConnMessages: 1}})
		hop := mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "192.0.2.1", Port: 25}}}
		if lmtp {
			hop.Kind = mail.HopLMTP
		}
		dots := 0
		at := message(hello, "a", "b")
		at.BeforeDot = func() error { dots++; return nil }
		out := a.Deliver(t.Context(), hop, at)
		a.Close()
		if len(out) != 2 || len(tapes) > 20 {
			t.Fatalf("%d outcomes, %d connections", len(out), len(tapes))
		}
		ended := false
		for _, c := range tapes {
			s := c.out.String()
			ended = ended || strings.Contains(s, "Hello.\r\n..dot\r\n.\r\n") || strings.Contains(s, " LAST\r\n"+hello)
		}
		for i, o := range out {
			if o.Recipient != i || o.Reply.Code/100 < 2 || o.Reply.Code/100 == 3 || o.Reply.Code > 599 {
				t.Errorf("outcome %+v", o)
			}
			if (o.Reply.Positive() || o.Unsure) && (!ended || dots == 0) {
				t.Errorf("outcome %s, and the content was not sent", o.Reply.Error())
			}
			if o.Unsure && !o.Reply.Temporary() {
				t.Errorf("unsure, and %s", o.Reply.Error())
			}
			if strings.ContainsFunc(o.Reply.Line(), func(r rune) bool { return r < ' ' || r == 0x7f }) || len(o.Reply.Text) > 1500 {
				t.Errorf("text %q", o.Reply.Text)
			}
		}
	})
}
