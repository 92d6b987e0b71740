// Package names brings domains into the one form in which they are compared.
package names

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/clrelay/clrelay/internal/mail"
)

// Lengths that the DNS has room for (RFC 1035 2.3.4), without a final dot.
const (
	maxLabel = 63
	maxName  = 253
)

// ErrDomain is wrapped by the errors of Normalize.
var ErrDomain = errors.New("not a domain")

// Normalize gives the one form of a domain that routes, queues and the DNS
// know it by: lower-case A-labels without a final dot, or an address literal
// in its canonical form.
func Normalize(domain string) (string, error) {
	if strings.HasPrefix(domain, "[") {
		return literal(domain)
	}
	name := strings.TrimSuffix(domain, ".")
	if !isASCII(name) {
		if !utf8.ValidString(name) { // which idna would take for U+FFFD
			return "", fmt.Errorf("%w: not UTF-8", ErrDomain)
		}
		// x/net/idna checks lengths only when told to, and its ready-made
		// lookup profile refuses the underscore, which stands in real names.
		p := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.VerifyDNSLength(true))
		a, err := p.ToASCII(name)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrDomain, err)
		}
		name = a
	}
	name = strings.ToLower(name)
	if err := checkName(name); err != nil {
		return "", err
	}
	return name, nil
}

// Fold gives the form in which domains of addresses are compared: that of
// Normalize where they are names, else what was written, in lower case.
func Fold(domain string) string {
	if !isASCII(domain) {
		if name, err := Normalize(domain); err == nil {
			return name
		}
	}
	return strings.ToLower(domain)
}

// literal reads an address literal (RFC 5321 4.1.3).
func literal(s string) (string, error) {
	ip, ok := mail.Address{Local: "x", Domain: s}.IP()
	switch {
	case !ok:
		return "", fmt.Errorf("%w: address literal of no known kind", ErrDomain)
	case ip.Is4():
		return "[" + ip.String() + "]", nil
	}
	return "[IPv6:" + ip.String() + "]", nil
}

// checkName holds an ASCII name against what the DNS can be asked for. What
// the labels mean is the DNS's to say.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: empty or too long", ErrDomain)
	}
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return fmt.Errorf("%w: empty label", ErrDomain)
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return fmt.Errorf("%w: character %q", ErrDomain, c)
		}
		if label++; label > maxLabel {
			return fmt.Errorf("%w: label too long", ErrDomain)
		}
	}
	if label == 0 {
		return fmt.Errorf("%w: empty label", ErrDomain)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%w: an address without brackets", ErrDomain)
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
