package names_test

import (
	"testing"

	"github.com/clrelay/clrelay/internal/names"
)

// Domains that are names have one form, which routes, limits and lists share;
// what is none is at least the same in small and large letters.
func TestFold(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"Example.ORG":           "example.org",
		"Bücher.example":        "xn--bcher-kva.example",
		"BÜCHER.example":        "xn--bcher-kva.example",
		"XN--Bcher-KVA.example": "xn--bcher-kva.example",
		"_x.bücher.example":     "_x.xn--bcher-kva.example",
		"[192.0.2.1]":           "[192.0.2.1]",
		"[IPv6:2001:DB8::1]":    "[ipv6:2001:db8::1]",
		"a..b":                  "a..b",
		"ß.example":             "xn--zca.example",
		"\u00ad\u00ad.Example":  "\u00ad\u00ad.example",
	} {
		if got := names.Fold(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		if n, err := names.Normalize(in); err == nil && in != "[IPv6:2001:DB8::1]" && n != want {
			t.Errorf("%q is %q as a name, and %q as it is compared", in, n, want)
		}
	}
}
