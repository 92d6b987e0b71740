package dnsx

import (
	"fmt"
	"strings"
)

// Limits of RFC 1035 2.3.4, without the root's octet.
const (
	maxName  = 253
	maxLabel = 63
)

// canonical checks a name and gives it in lower case without a dot at its end.
// Letters, digits, hyphens and underscores are taken: what host names consist
// of, and names such as _25._tcp.mx.example.org. Names in other letters are to
// be A-labels (RFC 5890) already.
func canonical(name string) (string, error) {
	s := strings.TrimSuffix(name, ".")
	if s == "" || len(s) > maxName {
		return "", fmt.Errorf("dnsx: %.300q: %w", name, ErrName)
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && label > 0:
			label = 0
			continue
		case c == '-', c == '_', '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		default:
			return "", fmt.Errorf("dnsx: %q: %w", name, ErrName)
		}
		if label++; label > maxLabel {
			return "", fmt.Errorf("dnsx: %q: %w", name, ErrName)
		}
	}
	if label == 0 {
		return "", fmt.Errorf("dnsx: %q: %w", name, ErrName)
	}
	return strings.ToLower(s), nil
}

// isLocalhost tells whether a canonical name is answered by the resolver
// itself (RFC 6761 6.3).
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}
