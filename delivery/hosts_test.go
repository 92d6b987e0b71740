package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// dialed notes the order of the addresses that were tried.
type dialed struct {
	pipes
	mu    sync.Mutex
	order []string
}

func (d *dialed) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.order = append(d.order, addr)
	d.mu.Unlock()
	return d.pipes.dial(ctx, network, addr)
}

func (d *dialed) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.order, " ")
	d.order = nil
	return s
}

func TestFindingHosts(t *testing.T) {
	ok := func() *smtpctest.Server { return &smtpctest.Server{} }
	says := func(verb, reply string) *smtpctest.Server {
		return &smtpctest.Server{Say: func(_ int, v, _ string) string {
			if v == verb || verb == "EHLO" && v == "HELO" {
				return reply
			}
			return ""
		}}
	}
	mx := mail.NextHop{Kind: mail.HopMX, Domain: "example.net"}
	lit := func(s string) mail.NextHop { return mail.NextHop{Kind: mail.HopMX, Domain: s} }
	smart := func(names ...string) mail.NextHop {
		h := mail.NextHop{Kind: mail.HopSmarthost}
		for _, n := range names {
			h.Hosts = append(h.Hosts, mail.HostPort{Name: n, Port: 25})
		}
		return h
	}
	self := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:25"), netip.MustParseAddrPort("192.0.2.8:2525")}
	for _, c := range []struct {
		name  string
		hop   mail.NextHop
		zone  zone
		hosts pipes
		want  string // beginning of the reply
		tried string
	}{
		{"by preference", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": ok()}, "250", "192.0.2.1:25"},
		{"next on refused connection", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"next on time-out", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": nil, "192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"next on 4xx greeting", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says(smtpctest.Connect, "450 later"), "192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"next on 5xx greeting", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says(smtpctest.Connect, "554 no"), "192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"next on EHLO", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says("EHLO", "550 no"), "192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"next on 421", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says("RCPT", "421 no"), "192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"450 is an answer", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says("RCPT", "450 greylisted"), "192.0.2.2": ok()}, "450 greylisted", "192.0.2.1:25"},
		{"not after the dot", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says(smtpctest.Dot, smtpctest.Close), "192.0.2.2": ok()}, "451 4.4.2", "192.0.2.1:25"},
		{"all say 5xx", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.1": says(smtpctest.Connect, "554 no"), "192.0.2.2": says(smtpctest.Connect, "521 5.3.2 none")},
			"521 5.3.2 none", "192.0.2.1:25 192.0.2.2:25"},
		{"one says 5xx, one is away", mx, zone{"MX example.net": "20 b 10 a", "A a": "192.0.2.1", "A b": "192.0.2.2"},
			pipes{"192.0.2.2": says(smtpctest.Connect, "554 no")}, "451 4.4.1", "192.0.2.1:25 192.0.2.2:25"},
		{"a smarthost's 5xx greeting", smart("192.0.2.1"), nil,
			pipes{"192.0.2.1": says(smtpctest.Connect, "554 no")}, "451 4.3.5", "192.0.2.1:25"},
		{"implicit MX", mx, zone{"A example.net": "192.0.2.1"}, pipes{"192.0.2.1": ok()}, "250", "192.0.2.1:25"},
		{"null MX", mx, zone{"MX example.net": "0 .", "A example.net": "192.0.2.1"}, nil, "556 5.1.10", ""},
		{"no such domain", mx, zone{}, nil, "550 5.1.2", ""},
		{"MX without address", mx, zone{"MX example.net": "10 a", "A example.net": "192.0.2.1"}, nil, "550 5.4.4", ""},
		{"MX that is an address", mx, zone{"MX example.net": "10 192.0.2.1"}, pipes{"192.0.2.1": ok()}, "550 5.4.4", ""},
		{"MX lookup fails", mx, zone{"MX example.net": "?"}, nil, "451 4.4.3", ""},
		{"address lookup fails", mx, zone{"MX example.net": "10 a", "A a": "?"}, nil, "451 4.4.3", ""},
		{"one lookup fails", mx, zone{"MX example.net": "10 a 20 b", "A a": "?", "A b": "192.0.2.2"}, pipes{"192.0.2.2": ok()}, "250", "192.0.2.2:25"},
		{"one lookup fails, one has none", mx, zone{"MX example.net": "10 a 20 b", "A a": "?"}, nil, "451 4.4.3", ""},
		{"IPv6 and IPv4 by turns", mx, zone{"MX example.net": "10 a", "A a": "192.0.2.1 2001:db8::1"}, pipes{"192.0.2.1": ok()},
			"250", "[2001:db8::1]:25 192.0.2.1:25"},
		{"each host before the second addresses", mx,
			zone{"MX example.net": "10 a 20 b", "A a": "192.0.2.1 2001:db8::1 2001:db8::1 2001:db8::1 2001:db8::1 2001:db8::1", "A b": "192.0.2.2"},
			pipes{"192.0.2.2": ok()}, "250", "[2001:db8::1]:25 192.0.2.1:25 192.0.2.2:25"},
		{"no more than five", mx, zone{"MX example.net": "1 a 2 b 3 c 4 d 5 e 6 f", "A a": "192.0.2.1", "A b": "192.0.2.2",
			"A c": "192.0.2.3", "A d": "192.0.2.4", "A e": "192.0.2.5", "A f": "192.0.2.6"}, pipes{"192.0.2.6": ok()},
			"451 4.4.1", "192.0.2.1:25 192.0.2.2:25 192.0.2.3:25 192.0.2.4:25 192.0.2.5:25"},
		{"literal", lit("[192.0.2.1]"), nil, pipes{"192.0.2.1": ok()}, "250", "192.0.2.1:25"},
		{"IPv6 literal", lit("[IPv6:2001:db8::1]"), nil, pipes{"2001:db8::1": ok()}, "250", "[2001:db8::1]:25"},
		{"strange literal", lit("[x400:c=de]"), nil, nil, "550 5.1.2", ""},
		{"no domain", lit(""), nil, nil, "550 5.1.2", ""},
		{"ourselves", mx, zone{"MX example.net": "10 a", "A a": "192.0.2.9"}, pipes{"192.0.2.9": ok()}, "554 5.4.6", ""},
		{"ourselves by name", mx, zone{"MX example.net": "10 RELAY.example.org."}, nil, "554 5.4.6", ""},
		{"ourselves among equals", mx, zone{"MX example.net": "10 a 10 b", "A a": "192.0.2.1", "A b": "192.0.2.9"}, pipes{"192.0.2.1": ok()}, "554 5.4.6", ""},
		{"better than ourselves", mx, zone{"MX example.net": "10 a 20 b", "A a": "192.0.2.1", "A b": "192.0.2.9"}, pipes{"192.0.2.1": ok()}, "250", "192.0.2.1:25"},
		{"never worse than ourselves", mx, zone{"MX example.net": "10 a 20 b 30 c", "A a": "192.0.2.1", "A b": "192.0.2.9", "A c": "192.0.2.3"},
			pipes{"192.0.2.3": ok()}, "451 4.4.1", "192.0.2.1:25"},
		{"another port is not us", mx, zone{"MX example.net": "10 a", "A a": "192.0.2.8"}, pipes{"192.0.2.8": ok()}, "250", "192.0.2.8:25"},
		{"ourselves as smarthost", smart("192.0.2.9"), nil, pipes{"192.0.2.9": ok()}, "554 5.4.6", ""},
		{"ourselves mapped", smart("::ffff:192.0.2.9"), nil, pipes{"192.0.2.9": ok()}, "554 5.4.6", ""},
		{"literal of ourselves", lit("[192.0.2.9]"), nil, pipes{"192.0.2.9": ok()}, "554 5.4.6", ""},
		{"smarthosts in order", smart("a", "b"), zone{"A a": "192.0.2.1", "A b": "192.0.2.2"}, pipes{"192.0.2.2": ok()}, "250", "192.0.2.1:25 192.0.2.2:25"},
		{"smarthost without address", smart("a"), zone{}, nil, "451 4.3.5", ""},
		{"no hosts", smart(), nil, nil, "451 4.4.4", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dialed{pipes: c.hosts}
				a := delivery.New(delivery.Options{Hostname: "relay.example.org", Self: self, Resolver: c.zone, Dial: d.dial})
				defer a.Close()
				o := a.Deliver(t.Context(), c.hop, message(hello, "a"))[0]
				if !strings.HasPrefix(o.Reply.Line(), c.want) {
					t.Errorf("outcome %s, want %s", o.Reply.Error(), c.want)
				}
				if got := d.take(); got != c.tried {
					t.Errorf("tried %q, want %q", got, c.tried)
				}
				if c.tried == "" && o.Remote != "" {
					t.Errorf("remote %q, and nobody was reached", o.Remote)
				}
			})
		})
	}
}

// TestEqualPreference: hosts of the same rank are taken in random order.
func TestEqualPreference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialed{pipes: pipes{"192.0.2.1": {}, "192.0.2.2": {}, "192.0.2.3": {}}}
		first := map[string]int{}
		for range 60 {
			a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: d.dial,
				Resolver: zone{"MX example.net": "10 a 10 b 10 c", "A a": "192.0.2.1", "A b": "192.0.2.2", "A c": "192.0.2.3"}})
			a.Deliver(t.Context(), mail.NextHop{Domain: "example.net"}, message(hello, "a"))
			a.Close()
			first[d.take()]++
		}
		if len(first) != 3 {
			t.Errorf("first hosts %v, want three different ones", first)
		}
	})
}

// TestDeadHosts: a host that did not answer comes last for a while, and is
// tried all the same where there is no other.
func TestDeadHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialed{pipes: pipes{"192.0.2.1": nil, "192.0.2.2": {}}}
		a := delivery.New(delivery.Options{Hostname: "relay.example.org", Dial: d.dial, Limits: delivery.Limits{ConnIdle: time.Millisecond},
			Resolver: zone{"MX example.net": "10 a 20 b", "A a": "192.0.2.1", "A b": "192.0.2.2"}})
		defer a.Close()
		try := func(want, tried string) {
			t.Helper()
			o := a.Deliver(t.Context(), mail.NextHop{Domain: "example.net"}, message(hello, "a"))
			if got := codes(o); got != want {
				t.Errorf("outcome %s, want %s", got, want)
			}
			if got := d.take(); got != tried {
				t.Errorf("tried %q, want %q", got, tried)
			}
			time.Sleep(time.Second) // idle connections end
			synctest.Wait()
		}
		try("250", "192.0.2.1:25 192.0.2.2:25")
		try("250", "192.0.2.2:25")
		d.pipes["192.0.2.2"] = nil // both are away: the better one is not asked while it is remembered
		try("451", "192.0.2.2:25")
		// Now both are remembered dead, so both are tried.
		try("451", "192.0.2.1:25 192.0.2.2:25")
		time.Sleep(time.Minute)
		d.pipes["192.0.2.1"] = &smtpctest.Server{}
		try("250", "192.0.2.1:25")
		d.pipes["192.0.2.2"] = &smtpctest.Server{}
		try("250", "192.0.2.1:25")
	})
}

// TestUnroutedFamilyCostsNothing: a machine without IPv6 still tries as many
// hosts as it may.
func TestUnroutedFamilyCostsNothing(t *testing.T) {
	var tried []string
	dial := func(_ context.Context, _, addr string) (net.Conn, error) {
		tried = append(tried, addr)
		if addr[0] == '[' {
			return nil, &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
		}
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	z := zone{"MX example.net": "1 a 2 b 3 c 4 d 5 e 6 f"}
	for i, n := range strings.Split("abcdef", "") {
		z["A "+n] = fmt.Sprintf("192.0.2.%d 2001:db8::%d", i, i)
	}
	a := agent(t, delivery.Options{Dial: dial, Resolver: z})
	o := a.Deliver(t.Context(), mail.NextHop{Domain: "example.net"}, message(hello, "a"))[0]
	four := slices.DeleteFunc(tried, func(s string) bool { return s[0] == '[' })
	if len(four) != 5 || !errors.Is(&o.Reply, syscall.ECONNREFUSED) || o.Remote != "" {
		t.Errorf("tried %q, outcome %s", four, o.Reply.Error())
	}
	if want := "connect to e[192.0.2.4]:25: connection refused"; o.Reply.Text != want {
		t.Errorf("text %q, want %q", o.Reply.Text, want)
	}
}

// TestSelfOnEveryAddress: a listener without an address stands for all that
// this machine has.
func TestSelfOnEveryAddress(t *testing.T) {
	s := &smtpctest.Server{}
	addr := listen(t, s)
	for _, unspecified := range []string{"0.0.0.0", "::"} {
		a := agent(t, delivery.Options{Self: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(unspecified), addr.Port())}})
		own := []string{"127.0.0.1", "127.3.2.1", "0.0.0.0", "::1"}
		if addrs, err := net.InterfaceAddrs(); err == nil {
			for _, a := range addrs {
				own = append(own, netip.MustParsePrefix(a.String()).Addr().String())
			}
		}
		for _, to := range own {
			o := a.Deliver(t.Context(), smarthost(netip.AddrPortFrom(netip.MustParseAddr(to), addr.Port())), message(hello, "a"))[0]
			if o.Reply.Enhanced.String() != "5.4.6" {
				t.Errorf("%s: outcome %s", to, o.Reply.Error())
			}
		}
	}
	a := agent(t, delivery.Options{Self: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("::"), addr.Port()+1)}})
	if got := codes(a.Deliver(t.Context(), smarthost(addr), message(hello, "a"))); got != "250" {
		t.Errorf("another port: outcome %s", got)
	}
}
