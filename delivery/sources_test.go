package delivery_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/mail"
)

// seen is a host that notes where its sessions come from.
type seen struct {
	smtpctest.Server
	mu   sync.Mutex
	from []string
}

// start serves on a port of the loopback interface.
func (s *seen) start(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.from = append(s.from, c.RemoteAddr().(*net.TCPAddr).IP.String())
			s.mu.Unlock()
			wg.Go(func() { s.Serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (s *seen) sessions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.from)
}

func (s *seen) hellos() (out []string) {
	for _, c := range s.Commands() {
		if name, ok := strings.CutPrefix(c, "EHLO "); ok {
			out = append(out, name)
		}
	}
	return out
}

func own(name, addr, hello string) source.Member {
	return source.Member{Source: source.Source{Name: name, Addr: netip.MustParseAddr(addr), Hello: hello}, Weight: 1}
}

func via(pool string, hop mail.NextHop) mail.NextHop {
	hop.Pool = pool
	return hop
}

// TestSources: mail leaves from the address of its pool, under its name, and
// kept connections are never used for that of another.
func TestSources(t *testing.T) {
	s := &seen{}
	hop := smarthost(s.start(t))
	a := agent(t, delivery.Options{Sources: source.New([]source.Pool{
		{Name: "one", Members: []source.Member{own("out1", "127.0.0.2", "out1.example.org")}},
		{Name: "two", Members: []source.Member{own("out2", "127.0.0.3", "")}},
		{Name: "away"},
	})})
	for range 3 {
		for _, c := range [][2]string{{"one", "out1"}, {"two", "out2"}, {"", ""}, {"away", ""}} {
			o := a.Deliver(t.Context(), via(c[0], hop), message(hello, "a"))[0]
			if o.Reply.Code != 250 || o.Source != c[1] {
				t.Errorf("pool %q: %s from %q", c[0], o.Reply.Line(), o.Source)
			}
		}
	}
	if got, want := s.sessions(), []string{"127.0.0.2", "127.0.0.3", "127.0.0.1"}; !slices.Equal(got, want) {
		t.Errorf("sessions from %v, want %v", got, want)
	}
	if got, want := s.hellos(), []string{"out1.example.org", "relay.example.org", "relay.example.org"}; !slices.Equal(got, want) {
		t.Errorf("they said EHLO %v, want %v", got, want)
	}
}

// TestSourceLost: an address that the machine does not have is stepped over,
// and no fault of the host.
func TestSourceLost(t *testing.T) {
	s := &seen{}
	hop := smarthost(s.start(t))
	a := agent(t, delivery.Options{Sources: source.New([]source.Pool{
		{Name: "half", ByMessage: true, Members: []source.Member{own("gone", "192.0.2.77", ""), own("out1", "127.0.0.2", "")}},
		{Name: "none", Members: []source.Member{own("gone", "192.0.2.77", ""), own("gone6", "2001:db8::77", "")}},
		{Name: "wait", Wait: true},
	})})
	for _, c := range []struct{ pool, want, says string }{
		{"none", "451 4.3.5", "lost the address 192.0.2.77 of the source gone"},
		{"half", "250", ""},
		{"none", "451 4.3.5", "no source of the pool none with an IPv4 address"}, // it is remembered
		{"wait", "451 4.3.5", "no source of the pool wait"},
		{"", "250", ""},
	} {
		for range 5 { // of pool half some begin with the one that is gone
			at := message(hello, "a")
			at.Envelope.ID = mail.NewID(time.Now())
			o := a.Deliver(t.Context(), via(c.pool, hop), at)[0]
			if line := o.Reply.Line(); !strings.HasPrefix(line, c.want) || !strings.Contains(line, c.says) {
				t.Errorf("pool %q: %s, want %s %s", c.pool, line, c.want, c.says)
			}
			if c.pool == "none" {
				break // the next one says something else
			}
		}
	}
	for _, from := range s.sessions() {
		if from != "127.0.0.2" && from != "127.0.0.1" {
			t.Errorf("a session from %s", from)
		}
	}
}

// TestSourceFamily: a host that no source reaches is left out, and what others
// say counts; only where there is no other the mail waits.
func TestSourceFamily(t *testing.T) {
	s, say := &seen{}, ""
	s.Say = func(_ int, verb, _ string) string {
		if verb == smtpctest.Connect {
			return say
		}
		return ""
	}
	addr := s.start(t)
	sources := source.New([]source.Pool{{Name: "four", Members: []source.Member{own("out1", "127.0.0.2", "")}}})
	mx := via("four", mail.NextHop{Kind: mail.HopMX, Domain: "example.net"})
	for _, c := range []struct {
		zone zone
		say  string
		want string
	}{
		{zone{"MX example.net": "10 a", "A a": "::1 127.0.0.1"}, "", "250"},
		{zone{"MX example.net": "10 a 20 b", "A a": "::1", "A b": "127.0.0.1"}, "", "250"},
		{zone{"MX example.net": "10 a", "A a": "::1"}, "", "451 4.3.5 no source of the pool four with an IPv6 address"},
		{zone{"MX example.net": "10 a", "A a": "::1 127.0.0.1"}, "554 5.7.1 no", "554 5.7.1 no"},
	} {
		s.Do(func() { say = c.say })
		a := agent(t, delivery.Options{Sources: sources, Resolver: c.zone, MXPort: addr.Port()})
		o := a.Deliver(t.Context(), mx, message(hello, "a"))[0]
		if !strings.HasPrefix(o.Reply.Line(), c.want) {
			t.Errorf("%v: %s, want %s", c.zone, o.Reply.Line(), c.want)
		}
	}
}

// TestBestHost: of hosts of equal preference, or smarthosts that are equal, the
// one that answers well gets the mail, and the other is asked now and then.
func TestBestHost(t *testing.T) {
	slow := func(_ int, verb, _ string) string {
		if verb == smtpctest.Connect {
			time.Sleep(800 * time.Millisecond)
		}
		return ""
	}
	full := func(_ int, verb, _ string) string {
		if verb == "RCPT" {
			return "452 4.3.1 full"
		}
		return ""
	}
	z := zone{"MX example.net": "10 a 10 b", "A a": "192.0.2.1", "A b": "192.0.2.2"}
	equal := mail.NextHop{Kind: mail.HopSmarthost, Balance: true, Hosts: []mail.HostPort{{Name: "a", Port: 25}, {Name: "b", Port: 25}}}
	inOrder := equal
	inOrder.Balance = false
	const n = 300
	for name, c := range map[string]struct {
		hop   mail.NextHop
		say   func(int, string, string) string
		least int // of n go to b, which is well; a is what say does
		most  int
	}{
		"MX, slow":              {mail.NextHop{Domain: "example.net"}, slow, n * 85 / 100, n - 5},
		"MX, full":              {mail.NextHop{Domain: "example.net"}, full, n * 85 / 100, n - 5},
		"MX, alike":             {mail.NextHop{Domain: "example.net"}, nil, n * 35 / 100, n * 65 / 100},
		"smarthosts, slow":      {equal, slow, n * 85 / 100, n - 5},
		"smarthosts, alike":     {equal, nil, n * 35 / 100, n * 65 / 100},
		"smarthosts one by one": {inOrder, slow, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dialed{pipes: pipes{"192.0.2.1": {Say: c.say}, "192.0.2.2": {}}}
				a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: d.dial, Resolver: z,
					Limits: delivery.Limits{ConnIdle: time.Millisecond}})
				defer a.Close()
				got := 0
				for range n {
					a.Deliver(t.Context(), c.hop, message(hello, "a"))
					if strings.HasPrefix(d.take(), "192.0.2.2") {
						got++
					}
					time.Sleep(100 * time.Millisecond) // idle connections end
				}
				if got < c.least || got > c.most {
					t.Errorf("%d of %d went to the host that is well, want %d to %d", got, n, c.least, c.most)
				}
			})
		})
	}
}
