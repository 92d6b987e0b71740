package known

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/smtpd/policy"
	"github.com/clrelay/clrelay/smtpd/recipients"
)

// smarthost routes everything to one port; what ends in .none nowhere.
type smarthost uint16

func (s smarthost) Route(_, domain string) (mail.NextHop, *mail.Reply) {
	if strings.HasSuffix(domain, ".none") {
		return mail.NextHop{}, mail.NewReply(550, "5.4.4", "no route")
	}
	return mail.NextHop{Kind: mail.HopSmarthost, Hosts: []mail.HostPort{{Name: "127.0.0.1", Port: uint16(s)}}}, nil
}

// server is a next hop that answers RCPT by the local part.
func server(t *testing.T) (*smtpctest.Server, smarthost) {
	t.Helper()
	srv := &smtpctest.Server{Ehlo: []string{"PIPELINING"}, Say: func(_ int, verb, line string) string {
		for local, reply := range map[string]string{
			"nobody": "550 5.1.1 no such user", "plain": "550 no such user", "moved": "551 5.1.6 moved", "off": "550 5.2.1 disabled",
			"full": "552 5.2.2 mailbox full", "spam": "550 5.7.1 you are blocked", "grey": "450 4.7.1 come back later", "bad": "550 5.1.8 bad sender", "later": "451 try later",
		} {
			if strings.HasPrefix(line, "RCPT TO:<"+local+"@") {
				return reply
			}
		}
		return ""
	}}
	addr, stop, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return srv, smarthost(netip.MustParseAddrPort(addr.String()).Port())
}

func TestAsk(t *testing.T) {
	srv, route := server(t)
	agent := delivery.New(delivery.Options{Hostname: "relay.test"})
	defer agent.Close()
	a := &asker{Options{Router: route, Hosts: agent}}
	for to, want := range map[string]recipients.Answer{
		"jane@c.test": recipients.Taken, "nobody@c.test": recipients.Unknown, "plain@c.test": recipients.Unknown, "moved@c.test": recipients.Unknown, "off@c.test": recipients.Unknown,
		"full@c.test": recipients.NoAnswer, "spam@c.test": recipients.NoAnswer, "grey@c.test": recipients.NoAnswer, "bad@c.test": recipients.NoAnswer, "later@c.test": recipients.NoAnswer,
		"jane@x.none": recipients.NoAnswer,
	} {
		addr, err := mail.ParseMailbox(to, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Ask(t.Context(), addr)
		if got != want || (err != nil) != (want == recipients.NoAnswer) {
			t.Errorf("%s: %v, %v", to, got, err)
		}
	}
	all := strings.Join(srv.Commands(), "|")
	if strings.Count(all, "MAIL FROM:<>") != strings.Count(all, "RCPT") || strings.Contains(all, "DATA") {
		t.Errorf("it was told %s", all)
	}
	shut := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
		if verb == "MAIL" {
			return "550 your address is on a list" // of us, whoever the recipient is
		}
		return ""
	}}
	addr, stop, err := shut.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	a.o.Router = smarthost(netip.MustParseAddrPort(addr.String()).Port())
	if got, err := a.Ask(t.Context(), mail.Address{Local: "jane", Domain: "c.test"}); got != recipients.NoAnswer || err == nil {
		t.Errorf("where MAIL is refused: %v, %v", got, err)
	}
	a.o.Router = smarthost(1)
	if got, err := a.Ask(t.Context(), mail.Address{Local: "jane", Domain: "c.test"}); got != recipients.NoAnswer || err == nil {
		t.Errorf("where nobody listens: %v, %v", got, err)
	}
}

// The door behind the policy refuses who is not there, counts it, and tells who
// asked.
func TestDoor(t *testing.T) {
	_, route := server(t)
	agent := delivery.New(delivery.Options{Hostname: "relay.test"})
	defer agent.Close()
	list := filepath.Join(t.TempDir(), "users.txt")
	if err := os.WriteFile(list, []byte("john\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.ParseCluster("cluster.yaml", []byte(`
domains:
  - {name: any.test}
  - {name: list.test, recipients: list, list: `+list+`, subaddress: "+"}
  - {name: ask.test, recipients: verify, verify: {on_error: defer}}
`), &config.Node{})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := policy.New(policy.Options{Hostname: "relay.test", Domains: []string{"any.test", "list.test", "ask.test"}})
	if err != nil {
		t.Fatal(err)
	}
	m := metrics.New().SMTP
	p := New(Options{Router: route, Hosts: agent, Metrics: m, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, c)
	defer p.Close()
	guessed := map[string]int{}
	p.Guessed = func(c *mail.Client, to mail.Address) { guessed[c.Addr.String()+" "+to.String()]++ }
	for to, want := range map[string]string{
		"x@any.test": "", "john@list.test": "", "John+x@list.test": "", "postmaster@list.test": "", "postmaster@ask.test": "", "jane@ask.test": "",
		"jane@list.test": "550 5.1.1 <jane@list.test>: no such user here", "nobody@ask.test": "550 5.1.1 <nobody@ask.test>: no such user here",
		"grey@ask.test": "450 4.2.0", "x@else.test": "550 5.7.1",
	} {
		addr, err := mail.ParseMailbox(to, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, door := range []interface {
			Recipient(*mail.Client, mail.Address, *mail.Recipient) mail.Verdict
		}{p.Policy(chain), p.Trial(chain)} {
			v := door.Recipient(&mail.Client{Addr: netip.MustParseAddr("192.0.2.1")}, mail.Address{}, &mail.Recipient{Addr: addr})
			if v == nil && want != "" || v != nil && (want == "" || !strings.HasPrefix(v.Line(), want)) {
				t.Errorf("%s: %v, want %q", to, v, want)
			}
		}
	}
	if m.Unknown.Value() != 2 || len(guessed) != 2 || guessed["192.0.2.1 nobody@ask.test"] != 1 {
		t.Errorf("%v are counted, told of %v", m.Unknown.Value(), guessed)
	}
	if len(p.Problems()) != 0 {
		t.Errorf("problems: %q", p.Problems())
	}
}
