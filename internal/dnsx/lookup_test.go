package dnsx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/dnsx/dnstest"
)

func start(t *testing.T, zone dnstest.Zone) *dnstest.Server {
	t.Helper()
	srv, err := dnstest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

func resolver(t *testing.T, zone dnstest.Zone) (*dnsx.Resolver, *dnstest.Server) {
	srv := start(t, zone)
	return dnsx.New(dnsx.Options{Servers: []netip.AddrPort{srv.Addr()}}), srv
}

func world() dnstest.Zone {
	var many []dnstest.MX
	for i := range 150 {
		many = append(many, dnstest.MX{Pref: uint16(1000 - i), Host: fmt.Sprintf("mx%d.many.example", i)})
	}
	return dnstest.Zone{
		"example.org":            {MX: []dnstest.MX{{Pref: 20, Host: "b.example.org"}, {Pref: 10, Host: "A.example.org"}}, TXT: []string{"v=spf1 -all", strings.Repeat(`x\"y`, 100)}},
		"a.example.org":          {A: []string{"192.0.2.1", "192.0.2.2"}, AAAA: []string{"2001:db8::1"}},
		"b.example.org":          {A: []string{"192.0.2.3"}},
		"null.example":           {MX: []dnstest.MX{{Pref: 0, Host: "."}}},
		"both.example":           {MX: []dnstest.MX{{Pref: 0, Host: "."}, {Pref: 10, Host: "a.example.org"}}},
		"alias.example":          {CNAME: "alias2.example"},
		"alias2.example":         {CNAME: "A.example.org"},
		"loop.example":           {CNAME: "loop2.example"},
		"loop2.example":          {CNAME: "loop.example"},
		"nowhere.example":        {CNAME: "missing.example"},
		"broken.example":         {Rcode: dnstest.ServFail},
		"refused.example":        {Rcode: dnstest.Refused},
		"dead.example":           {Drop: true},
		"tc.example":             {A: []string{"192.0.2.4"}, Truncate: true},
		"many.example":           {MX: many},
		"nulls.example":          {MX: []dnstest.MX{{Host: "."}, {Pref: 1, Host: "."}}},
		"texts.example":          {TXT: slices.Repeat([]string{strings.Repeat("t", 600)}, 105)},
		"*.wild.example":         {A: []string{"192.0.2.5"}},
		"1.2.0.192.in-addr.arpa": {PTR: []string{"A.example.org"}},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {PTR: []string{"a6.example.org"}},
		"_25._tcp.a.example.org": {TLSA: []dnstest.TLSA{{Usage: 3, Selector: 1, MatchingType: 1, Data: "AB12"}}, AD: true},
	}
}

func TestLookups(t *testing.T) {
	r, srv := resolver(t, world())
	ctx := t.Context()
	for _, c := range []struct {
		what string
		got  func() (any, error)
		want string
	}{
		{"MX by preference, in lower case", func() (any, error) { return r.LookupMX(ctx, "Example.ORG.") }, "[{10 a.example.org} {20 b.example.org}]"},
		{"null MX", func() (any, error) { return r.LookupMX(ctx, "null.example") }, "[{0 .}]"},
		{"null MX beside another", func() (any, error) { return r.LookupMX(ctx, "both.example") }, "[{10 a.example.org}]"},
		{"null MX twice", func() (any, error) { return r.LookupMX(ctx, "nulls.example") }, "[{0 .}]"},
		{"texts beyond the bound", func() (any, error) { x, err := r.LookupTXT(ctx, "texts.example"); return len(x), err }, "100"},
		{"addresses of both kinds", func() (any, error) { return r.LookupAddrs(ctx, "a.example.org") }, "[2001:db8::1 192.0.2.1 192.0.2.2]"},
		{"addresses of one kind", func() (any, error) { return r.LookupAddrs(ctx, "b.example.org") }, "[192.0.2.3]"},
		{"addresses behind CNAMEs", func() (any, error) { return r.LookupAddrs(ctx, "alias.example") }, "[2001:db8::1 192.0.2.1 192.0.2.2]"},
		{"an address is its own", func() (any, error) { return r.LookupAddrs(ctx, "::ffff:192.0.2.9") }, "[192.0.2.9]"},
		{"localhost", func() (any, error) { return r.LookupAddrs(ctx, "localhost") }, "[::1 127.0.0.1]"},
		{"below localhost", func() (any, error) { return r.LookupAddrs(ctx, "a.LOCALHOST") }, "[::1 127.0.0.1]"},
		{"over TCP", func() (any, error) { return r.LookupAddrs(ctx, "tc.example") }, "[192.0.2.4]"},
		{"wildcard", func() (any, error) { return r.LookupAddrs(ctx, "x.y.wild.example") }, "[192.0.2.5]"},
		{"TXT", func() (any, error) { return r.LookupTXT(ctx, "example.org") }, "[v=spf1 -all " + strings.Repeat(`x\"y`, 100) + "]"},
		{"PTR", func() (any, error) { return r.LookupPTR(ctx, netip.MustParseAddr("192.0.2.1")) }, "[a.example.org]"},
		{"PTR of IPv6", func() (any, error) { return r.LookupPTR(ctx, netip.MustParseAddr("2001:db8::1")) }, "[a6.example.org]"},
		{"PTR of a mapped address", func() (any, error) { return r.LookupPTR(ctx, netip.MustParseAddr("::ffff:192.0.2.1")) }, "[a.example.org]"},
		{"TLSA", func() (any, error) {
			a, err := r.Query(ctx, "_25._tcp.a.example.org", dnsx.TypeTLSA)
			if err != nil {
				return nil, err
			}
			return fmt.Sprintln(a.TLSA, a.AD, a.Name, a.TTL > 55*time.Second && a.TTL <= time.Minute), nil
		}, "[{3 1 1 ab12}] true _25._tcp.a.example.org true\n"},
	} {
		for _, again := range []string{"", ", from the cache"} {
			got, err := c.got()
			if err != nil || fmt.Sprint(got) != c.want {
				t.Errorf("%s%s: %v, %v, want %s", c.what, again, got, err, c.want)
			}
		}
	}
	if n := srv.Asked("example.org"); n != 2 {
		t.Errorf("example.org was asked for %d times, want 2: MX and TXT", n)
	}
	mx, err := r.LookupMX(ctx, "many.example")
	if err != nil || len(mx) != 100 || mx[0].Host != "mx149.many.example" || mx[99].Pref != 950 {
		t.Errorf("many: %d, %v", len(mx), err)
	}
	mx[0] = dnsx.MX{}
	if mx, err = r.LookupMX(ctx, "many.example"); err != nil || mx[0].Host != "mx149.many.example" {
		t.Errorf("the cache was changed by a caller: %v, %v", mx[0], err)
	}
}

func TestNotFound(t *testing.T) {
	r, srv := resolver(t, world())
	for _, c := range []struct {
		name     string
		typ      dnsx.Type
		nxdomain bool
		want     string
	}{
		{"missing.example", dnsx.TypeMX, true, "dnsx: missing.example does not exist"},
		{"a.example.org", dnsx.TypeMX, false, "dnsx: a.example.org has no MX record"},
		{"org", dnsx.TypeA, false, "dnsx: org has no A record"},
		{"nowhere.example", dnsx.TypeA, true, "dnsx: nowhere.example does not exist"},
		{"localhost", dnsx.TypeMX, false, "dnsx: localhost has no MX record"},
	} {
		for range 2 {
			_, err := r.Query(t.Context(), c.name, c.typ)
			var nf *dnsx.NotFoundError
			if !errors.As(err, &nf) || !errors.Is(err, dnsx.ErrNotFound) || nf.NXDomain != c.nxdomain || err.Error() != c.want {
				t.Errorf("%s %v: %v", c.name, c.typ, err)
			}
		}
	}
	if n := srv.Asked("missing.example"); n != 1 {
		t.Errorf("missing.example was asked for %d times", n)
	}
	if _, err := r.LookupAddrs(t.Context(), "missing2.example"); !errors.Is(err, dnsx.ErrNotFound) {
		t.Errorf("addresses: %v", err)
	}
	for _, lookup := range []func() error{
		func() error { _, err := r.LookupMX(t.Context(), "missing.example"); return err },
		func() error { _, err := r.LookupTXT(t.Context(), "missing.example"); return err },
		func() error { _, err := r.LookupPTR(t.Context(), netip.MustParseAddr("192.0.2.77")); return err },
	} {
		if err := lookup(); !errors.Is(err, dnsx.ErrNotFound) {
			t.Error(err)
		}
	}
}

func TestTemporary(t *testing.T) {
	r, srv := resolver(t, world())
	for name, want := range map[string]string{
		"broken.example":  "dnsx: MX of broken.example at " + srv.Addr().String() + ": SERVFAIL",
		"refused.example": "dnsx: MX of refused.example at " + srv.Addr().String() + ": REFUSED",
		"loop.example":    "CNAME chain loops or is too long",
	} {
		_, err := r.LookupMX(t.Context(), name)
		var te *dnsx.TempError
		if !errors.As(err, &te) || !te.Temporary() || !strings.Contains(err.Error(), want) || errors.Is(err, dnsx.ErrNotFound) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	// What fails is asked for again the next time.
	srv.Set("broken.example", dnstest.Name{MX: []dnstest.MX{{Pref: 10, Host: "a.example.org"}}})
	if mx, err := r.LookupMX(t.Context(), "broken.example"); err != nil || len(mx) != 1 {
		t.Errorf("mended: %v, %v", mx, err)
	}
	if n := srv.Asked("broken.example"); n != 2 {
		t.Errorf("a server that fails was asked %d times in two lookups", n)
	}
	if _, err := r.Query(t.Context(), "example.org", dnsx.Type(99)); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "SPF of example.org") {
		t.Errorf("a type that is not read: %v", err)
	}
}

func TestNames(t *testing.T) {
	r, srv := resolver(t, nil)
	long := strings.Repeat(strings.Repeat("a", 62)+".", 4) // 252 and a dot
	for name, ok := range map[string]bool{
		"": false, ".": false, "..": false, ".a": false, "a..b": false, "a b": false, "a.b..": false, "bücher.example": false, "a\\.b": false, "a\x00": false, "[192.0.2.1]": false,
		strings.Repeat("a", 64) + ".example": false, strings.Repeat("a", 63) + ".example": true,
		long: true, long + "a": true, long + "aa": false, "_25._tcp.mx-1.example": true, "xn--bcher-kva.example": true, "com": true,
	} {
		_, err := r.LookupMX(t.Context(), name)
		if errors.Is(err, dnsx.ErrName) == ok || errors.Is(err, dnsx.ErrNotFound) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := r.LookupPTR(t.Context(), netip.Addr{}); !errors.Is(err, dnsx.ErrName) {
		t.Errorf("no address: %v", err)
	}
	if srv.Asked("") != 0 {
		t.Error("an empty name was asked for")
	}
}

func TestCancelReturnsAtOnce(t *testing.T) {
	srv := start(t, world())
	r := dnsx.New(dnsx.Options{Servers: []netip.AddrPort{srv.Addr()}, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.LookupAddrs(ctx, "dead.example")
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); srv.Asked("dead.example") < 2 && time.Now().Before(deadline); {
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	err := <-done
	var te *dnsx.TempError
	if !errors.As(err, &te) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// A context that has ended asks nothing.
	if _, err := r.LookupMX(ctx, "dead.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// closedPort gives an address where nobody answers, and says so.
func closedPort(t *testing.T) netip.AddrPort {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestFailover(t *testing.T) {
	good, bad := start(t, world()), start(t, dnstest.Zone{"broken.example": {Rcode: dnstest.ServFail}, "a.example.org": {Rcode: dnstest.Refused}})
	for name, servers := range map[string][]netip.AddrPort{
		"first is down":    {closedPort(t), good.Addr()},
		"second is down":   {good.Addr(), closedPort(t)},
		"first refuses":    {bad.Addr(), good.Addr()},
		"second refuses":   {good.Addr(), bad.Addr()},
		"more than enough": append(slices.Repeat([]netip.AddrPort{closedPort(t)}, 7), good.Addr(), bad.Addr()),
	} {
		r := dnsx.New(dnsx.Options{Servers: servers})
		if addrs, err := r.LookupAddrs(t.Context(), "a.example.org"); err != nil || len(addrs) != 3 {
			t.Errorf("%s: %v, %v", name, addrs, err)
		}
	}
	r := dnsx.New(dnsx.Options{Servers: []netip.AddrPort{closedPort(t)}})
	if _, err := r.LookupAddrs(t.Context(), "a.example.org"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestRotation(t *testing.T) {
	zone := dnstest.Zone{"*.example": {A: []string{"192.0.2.1"}}}
	a, b := start(t, zone), start(t, zone)
	r := dnsx.New(dnsx.Options{Servers: []netip.AddrPort{a.Addr(), b.Addr()}})
	for i := range 10 {
		if _, err := r.Query(t.Context(), fmt.Sprintf("n%d.example", i), dnsx.TypeA); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for i := range 10 {
		n += a.Asked(fmt.Sprintf("n%d.example", i))
	}
	if n != 5 {
		t.Errorf("one of two servers got %d of 10 questions", n)
	}
}

func TestSharedQuestion(t *testing.T) {
	srv := start(t, world())
	gate := make(chan struct{})
	r := dnsx.New(dnsx.Options{Servers: []netip.AddrPort{srv.Addr()}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		<-gate
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}})
	var wg sync.WaitGroup
	started := make(chan struct{}, 50)
	for range 50 {
		wg.Go(func() {
			started <- struct{}{}
			if mx, err := r.LookupMX(t.Context(), "example.org"); err != nil || len(mx) != 2 {
				t.Errorf("%v, %v", mx, err)
			}
		})
	}
	for range 50 {
		<-started
	}
	close(gate)
	wg.Wait()
	if n := srv.Asked("example.org"); n != 1 {
		t.Errorf("50 lookups asked %d times", n)
	}
}

func TestTrust(t *testing.T) {
	srv := start(t, dnstest.Zone{"signed.example": {A: []string{"192.0.2.1"}, AD: true}, "alias.example": {CNAME: "signed.example"}})
	far := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, srv.Addr().String())
	}
	dir := t.TempDir()
	conf := func(text string) string {
		p := filepath.Join(dir, fmt.Sprintf("%x", text))
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		o    dnsx.Options
		want bool
	}{
		"loopback":                  {dnsx.Options{Servers: []netip.AddrPort{srv.Addr()}}, true},
		"far away":                  {dnsx.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Dial: far}, false},
		"far away and trusted":      {dnsx.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Dial: far, TrustAD: true}, true},
		"the system's":              {dnsx.Options{ResolvConf: conf("nameserver 127.0.0.1\n"), Dial: far}, false},
		"the system's and trust-ad": {dnsx.Options{ResolvConf: conf("options edns0 trust-ad\nnameserver 127.0.0.1\n"), Dial: far}, true},
	} {
		a, err := dnsx.New(c.o).Query(t.Context(), "signed.example", dnsx.TypeA)
		if err != nil || a.AD != c.want {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestObserve(t *testing.T) {
	srv := start(t, world())
	var seen []string
	r := dnsx.New(dnsx.Options{Servers: []netip.AddrPort{srv.Addr()}, Observe: func(l dnsx.Lookup) {
		if l.Duration < 0 {
			t.Errorf("%+v", l)
		}
		seen = append(seen, fmt.Sprintf("%v %s %t", l.Type, l.Result, l.Cached))
	}})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"example.org", "example.org", "a.example.org", "missing.example", "broken.example", "a b"} {
		_, _ = r.LookupMX(t.Context(), name)
	}
	_, _ = r.LookupTXT(ended, "dead.example")
	want := []string{"MX found false", "MX found true", "MX nodata false", "MX nxdomain false", "MX temporary false", "MX badname false", "TXT canceled false"}
	if !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}
