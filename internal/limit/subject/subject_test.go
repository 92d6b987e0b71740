package subject

import (
	"net/netip"
	"testing"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

func TestOf(t *testing.T) {
	client := mail.Client{Addr: netip.MustParseAddr("192.0.2.1"), Sender: "Campus"}
	for _, tt := range []struct {
		from           mail.Address
		sender, domain string
	}{
		{mail.Address{}, "<>", ""},
		{mail.Address{Local: "Joe", Domain: "Example.ORG"}, "joe@example.org", "example.org"},
		{mail.Address{Local: "a", Domain: "Bücher.example"}, "a@xn--bcher-kva.example", "xn--bcher-kva.example"},
		{mail.Address{Local: "A b", Domain: "x.example"}, `"a b"@x.example`, "x.example"},
		{mail.Address{Local: "a", Domain: "[192.0.2.9]"}, "a@[192.0.2.9]", "[192.0.2.9]"},
	} {
		want := limit.Subject{Group: "Campus", Client: client.Addr, Sender: tt.sender, SenderDomain: tt.domain}
		if got := Of(&mail.Envelope{From: tt.from, Client: client}); got != want {
			t.Errorf("%v is %+v, want %+v", tt.from, got, want)
		}
	}
}

func BenchmarkOf(b *testing.B) {
	env := &mail.Envelope{From: mail.Address{Local: "joe", Domain: "example.org"}}
	b.ReportAllocs()
	for b.Loop() {
		Of(env)
	}
}
