package dnstest_test

import (
	"context"
	"net"
	"testing"

	"github.com/clrelay/clrelay/internal/dnsx/dnstest"
)

// TestGoResolver asks with a resolver that is not ours.
func TestGoResolver(t *testing.T) {
	srv, err := dnstest.Start(dnstest.Zone{
		"example.org":    {MX: []dnstest.MX{{Pref: 10, Host: "mx.example.org"}}, TXT: []string{`a "quoted" \ text`}},
		"mx.example.org": {A: []string{"127.0.0.1"}, AAAA: []string{"::1"}},
		"tc.example.org": {A: []string{"127.0.0.2"}, Truncate: true},
		"www.other.test": {CNAME: "mx.example.org"},
		"*.bulk.example": {A: []string{"127.0.0.3"}},
		"broken.example": {Rcode: dnstest.ServFail},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, srv.Addr().String())
	}}
	mx, err := r.LookupMX(t.Context(), "example.org")
	if err != nil || len(mx) != 1 || mx[0].Host != "mx.example.org." || mx[0].Pref != 10 {
		t.Errorf("MX: %v, %v", mx, err)
	}
	txt, err := r.LookupTXT(t.Context(), "example.org")
	if err != nil || len(txt) != 1 || txt[0] != `a "quoted" \ text` {
		t.Errorf("TXT: %q, %v", txt, err)
	}
	for name, want := range map[string]string{"mx.example.org": "127.0.0.1", "tc.example.org": "127.0.0.2", "www.other.test": "127.0.0.1", "x.bulk.example": "127.0.0.3"} {
		ips, err := r.LookupIP(t.Context(), "ip4", name)
		if err != nil || len(ips) != 1 || ips[0].String() != want {
			t.Errorf("%s: %v, %v, want %s", name, ips, err, want)
		}
	}
	for name, notFound := range map[string]bool{"missing.example": true, "bulk.example": true, "broken.example": false} {
		_, err := r.LookupIP(t.Context(), "ip4", name)
		if e, ok := err.(*net.DNSError); !ok || e.IsNotFound != notFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	srv.Set("Missing.example", dnstest.Name{A: []string{"127.0.0.4"}})
	if ips, err := r.LookupIP(t.Context(), "ip4", "missing.example"); err != nil || len(ips) != 1 {
		t.Errorf("set: %v, %v", ips, err)
	}
	srv.Remove("missing.example")
	if ips, err := r.LookupIP(t.Context(), "ip4", "missing.example"); err == nil {
		t.Errorf("removed: %v", ips)
	}
	if n := srv.Asked("Example.org"); n < 2 {
		t.Errorf("asked %d times", n)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dnstest.Listen("192.0.2.1:1", nil); err == nil {
		t.Error("an address that is not ours was listened on")
	}
}
