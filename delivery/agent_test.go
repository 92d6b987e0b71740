package delivery_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type content []byte

func (c content) Size() int64                  { return int64(len(c)) }
func (c content) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c)), nil }

const hello = "Subject: hello\r\n\r\nHello.\r\n.dot\r\n"

// message is one for these recipients, all at example.net.
func message(body string, to ...string) *delivery.Attempt {
	env := &mail.Envelope{From: mail.Address{Local: "from", Domain: "example.org"}}
	at := &delivery.Attempt{Envelope: env, Content: content(body)}
	for i, r := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: mail.Address{Local: r, Domain: "example.net"}})
		at.Recipients = append(at.Recipients, i)
	}
	return at
}

func listen(t testing.TB, s *smtpctest.Server) netip.AddrPort {
	t.Helper()
	addr, stop, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		for _, f := range s.Faults() {
			t.Errorf("the client did wrong: %s", f)
		}
	})
	return addr.(*net.TCPAddr).AddrPort()
}

func smarthost(hosts ...netip.AddrPort) mail.NextHop {
	h := mail.NextHop{Kind: mail.HopSmarthost}
	for _, a := range hosts {
		h.Hosts = append(h.Hosts, mail.HostPort{Name: a.Addr().String(), Port: a.Port()})
	}
	return h
}

func agent(t testing.TB, o delivery.Options) *delivery.Agent {
	t.Helper()
	o.Hostname = "relay.example.org"
	if o.Resolver == nil {
		o.Resolver = zone{}
	}
	a := delivery.New(o)
	t.Cleanup(a.Close)
	return a
}

// zone is a DNS of its own: "MX name" -> "10 host ...", "A name" -> addresses.
// "?" is a temporary failure.
type zone map[string]string

func (z zone) LookupMX(_ context.Context, name string) ([]dnsx.MX, error) {
	words := strings.Fields(z["MX "+name])
	switch {
	case len(words) == 0:
		return nil, dnsx.ErrNotFound
	case words[0] == "?":
		return nil, io.ErrUnexpectedEOF
	}
	var set []dnsx.MX
	for i := 0; i < len(words); i += 2 {
		n, _ := strconv.Atoi(words[i])
		set = append(set, dnsx.MX{Pref: uint16(n), Host: words[i+1]})
	}
	return set, nil
}

func (z zone) LookupAddrs(_ context.Context, name string) ([]netip.Addr, error) {
	words := strings.Fields(z["A "+name])
	switch {
	case len(words) == 0:
		return nil, dnsx.ErrNotFound
	case words[0] == "?":
		return nil, io.ErrUnexpectedEOF
	}
	var out []netip.Addr
	for _, w := range words {
		out = append(out, netip.MustParseAddr(w))
	}
	return out, nil
}

func TestDeliverOverKeptConnection(t *testing.T) {
	s := &smtpctest.Server{}
	hop := smarthost(listen(t, s))
	a := agent(t, delivery.Options{})
	for range 3 {
		for i, o := range a.Deliver(t.Context(), hop, message(hello, "a", "b")) {
			if o.Recipient != i || o.Reply.Code != 250 || o.Reply.Enhanced.String() != "2.0.0" || o.Unsure || o.TLS != "" {
				t.Errorf("outcome %d: %+v", i, o)
			}
			if want := "127.0.0.1[127.0.0.1]:" + strconv.Itoa(int(hop.Hosts[0].Port)); o.Remote != want {
				t.Errorf("remote %q, want %q", o.Remote, want)
			}
		}
	}
	if n := s.Sessions(); n != 1 {
		t.Errorf("%d connections for three messages, want 1", n)
	}
	for _, m := range s.Messages() {
		if string(m.Data) != hello || len(m.To) != 2 {
			t.Errorf("got %q for %v", m.Data, m.To)
		}
	}
}
