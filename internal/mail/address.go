package mail

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Address is a mailbox (RFC 5321 4.1.2, RFC 6531 3.3). The zero value is the
// null reverse-path. Local is without quotes and escapes; String puts them
// back where they are needed. Domain is as the client gave it, a domain name
// or an address literal with its brackets, and empty only for <postmaster>.
type Address struct {
	Local  string
	Domain string
}

// ErrAddress is wrapped by every error of the address parsers.
var ErrAddress = errors.New("bad address")

// ErrNeedsUTF8 is wrapped, beside ErrAddress, by the error of a parser that
// met a non-ASCII octet where the client had not asked for SMTPUTF8.
var ErrNeedsUTF8 = errors.New("a non-ASCII address needs SMTPUTF8")

// Octet limits of RFC 5321 4.5.3.1.1 to 4.5.3.1.3. They count what is written
// on the wire, quotes and escapes included.
const (
	MaxLocal  = 64
	MaxDomain = 255
	MaxPath   = 256 // with "<" and ">", so a mailbox has at most two fewer
)

// Postmaster is the one local part that stands without a domain (RFC 5321
// 4.5.1).
const Postmaster = "postmaster"

// IsNull tells whether it is the null reverse-path.
func (a Address) IsNull() bool { return a == Address{} }

// IsPostmaster tells whether mail to it must always be taken as far as the
// local part goes: "postmaster" in any case, with or without a domain
// (RFC 5321 4.5.1).
func (a Address) IsPostmaster() bool { return FoldLocal(a.Local) == Postmaster }

// SameMailbox tells whether two addresses are one, where case does not count.
func (a Address) SameMailbox(b Address) bool {
	return strings.EqualFold(a.Local, b.Local) && strings.EqualFold(a.Domain, b.Domain)
}

// FoldLocal gives the form in which local parts are compared where case does not
// count. A letter beyond ASCII never becomes one of ASCII, as the Kelvin sign and
// the dotted capital I do in Unicode's small letters: such an address is another
// than that of plain letters, and what is known of it is not known of that.
func FoldLocal(local string) string {
	if isASCII(local) {
		return strings.ToLower(local)
	}
	return strings.Map(func(r rune) rune {
		if low := unicode.ToLower(r); r < utf8.RuneSelf || low >= utf8.RuneSelf {
			return low
		}
		return r
	}, local)
}

// NeedsUTF8 tells whether only a next hop with SMTPUTF8 can be given it.
func (a Address) NeedsUTF8() bool { return !isASCII(a.Local) || !isASCII(a.Domain) }

// IP gives the address of an IPv4 or IPv6 address literal; ok is false for
// everything else.
func (a Address) IP() (ip netip.Addr, ok bool) {
	d := a.Domain
	if len(d) < 2 || d[0] != '[' || d[len(d)-1] != ']' {
		return netip.Addr{}, false
	}
	if d = d[1 : len(d)-1]; len(d) > len(tagIPv6) && strings.EqualFold(d[:len(tagIPv6)], tagIPv6) {
		return parseIPv6(d[len(tagIPv6):])
	}
	return parseIPv4(d)
}

// String gives the address as it stands between "<" and ">" in a command:
// "" for the null reverse-path, the local part alone when there is no domain.
// What it gives never ends a path, a parameter or a line early, whatever the
// fields hold: octets that no parser lets in come out as "?".
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	if isPlainASCII(a.Local) && isNameASCII(a.Domain) {
		return a.Local + "@" + a.Domain
	}
	return string(a.Append(make([]byte, 0, len(a.Local)+len(a.Domain)+8)))
}

// Append appends what String gives to dst.
func (a Address) Append(dst []byte) []byte {
	if a.IsNull() {
		return dst
	}
	if isDotString(a.Local) {
		dst = append(dst, a.Local...)
	} else {
		dst = appendQuoted(dst, a.Local)
	}
	if a.Domain == "" {
		return dst
	}
	dst = append(dst, '@')
	literal := a.Domain[0] == '[' && a.Domain[len(a.Domain)-1] == ']' && len(a.Domain) > 1
	if !literal {
		return appendSafe(dst, a.Domain, isNameChar)
	}
	dst = append(dst, '[')
	dst = appendSafe(dst, a.Domain[1:len(a.Domain)-1], isLiteralChar)
	return append(dst, ']')
}

// appendQuoted writes a quoted string with no more escapes than needed, so
// that it is never longer than what was parsed.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < ' ' || c == 0x7f:
				dst = append(dst, '?')
			default:
				dst = append(dst, c)
			}
			i++
			continue
		}
		n := runeLen(s[i:])
		dst = appendRune(dst, s[i:], n)
		i += max(n, 1)
	}
	return append(dst, '"')
}

// appendSafe writes s with "?" for each ASCII octet that ok refuses and for
// each octet that is not UTF-8.
func appendSafe(dst []byte, s string, ok func(byte) bool) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if !ok(c) {
				c = '?'
			}
			dst = append(dst, c)
			i++
			continue
		}
		n := runeLen(s[i:])
		dst = appendRune(dst, s[i:], n)
		i += max(n, 1)
	}
	return dst
}

func appendRune(dst []byte, s string, n int) []byte {
	if n == 0 {
		return append(dst, '?')
	}
	return append(dst, s[:n]...)
}

// runeLen is the length of the UTF-8 sequence that s begins with, 0 when it
// begins with none.
func runeLen(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n <= 1 {
		return 0
	}
	return n
}

func addressError(what string) error { return fmt.Errorf("%w: %s", ErrAddress, what) }

func needsUTF8Error() error { return fmt.Errorf("%w: %w", ErrAddress, ErrNeedsUTF8) }
