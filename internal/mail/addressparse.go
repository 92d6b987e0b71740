package mail

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxLabel = 63 // RFC 1035 2.3.4
	// A label with non-ASCII characters becomes "xn--" and at least one
	// octet for each character (RFC 3492), so this many fit at most. Whether
	// a given label fits is for the resolver to say.
	maxLabelRunes = maxLabel - len("xn--")

	tagIPv6      = "IPv6:" // RFC 5321 4.1.3, any case
	maxIPv6Short = 6       // groups beside "::", which stands for two or more
)

// ParseMailbox reads "local-part@domain", all of s, by the grammar of RFC 5321
// 4.1.2: no comments, no white space, none of the obsolete forms of RFC 5322.
// With allowUTF8 the extensions of RFC 6531 3.3 count too. The Address shares
// memory with s.
func ParseMailbox(s string, allowUTF8 bool) (Address, error) {
	a, n, err := scanMailbox(s, allowUTF8)
	if err != nil {
		return Address{}, err
	}
	if n != len(s) {
		return Address{}, addressError("unexpected character after the domain")
	}
	return a, nil
}

// ParseReversePath reads the path of MAIL (RFC 5321 4.1.2 Reverse-path), of
// which "<" is the first octet. "<>" gives the null Address. A source route is
// read and forgotten (RFC 5321 appendix C). rest is what follows ">".
func ParseReversePath(s string, allowUTF8 bool) (a Address, rest string, err error) {
	if strings.HasPrefix(s, "<>") {
		return Address{}, s[2:], nil
	}
	return parsePath(s, allowUTF8)
}

// ParseForwardPath reads the path of RCPT (RFC 5321 4.1.1.3), of which "<" is
// the first octet. "<postmaster>" in any case gives an Address without a
// domain. A source route is read and forgotten (RFC 5321 appendix C). rest is
// what follows ">".
func ParseForwardPath(s string, allowUTF8 bool) (a Address, rest string, err error) {
	const end = 1 + len(Postmaster)
	if len(s) > end && s[0] == '<' && s[end] == '>' && strings.EqualFold(s[1:end], Postmaster) {
		return Address{Local: s[1:end]}, s[end+1:], nil
	}
	return parsePath(s, allowUTF8)
}

func parsePath(s string, allowUTF8 bool) (Address, string, error) {
	if s == "" || s[0] != '<' {
		return Address{}, "", addressError("it does not begin with <")
	}
	i := 1
	if len(s) > i && s[i] == '@' {
		n, err := scanRoute(s[i:], allowUTF8)
		if err != nil {
			return Address{}, "", err
		}
		i += n
	}
	a, n, err := scanMailbox(s[i:], allowUTF8)
	if err != nil {
		return Address{}, "", err
	}
	i += n
	if i >= len(s) || s[i] != '>' {
		return Address{}, "", addressError("no > after the domain")
	}
	if i+1 > MaxPath {
		return Address{}, "", addressError("path too long")
	}
	return a, s[i+1:], nil
}

// scanRoute reads "@one,@two:" (RFC 5321 4.1.2 A-d-l).
func scanRoute(s string, allowUTF8 bool) (int, error) {
	for i := 0; ; {
		if i >= len(s) || s[i] != '@' {
			return 0, addressError("bad source route")
		}
		n, err := scanDomain(s[i+1:], allowUTF8)
		if err != nil {
			return 0, err
		}
		i += 1 + n
		if i >= len(s) || s[i] != ',' && s[i] != ':' {
			return 0, addressError("bad source route")
		}
		i++
		if s[i-1] == ':' {
			return i, nil
		}
	}
}

func scanMailbox(s string, allowUTF8 bool) (Address, int, error) {
	local, n, err := scanLocal(s, allowUTF8)
	if err != nil {
		return Address{}, 0, err
	}
	if n > MaxLocal {
		return Address{}, 0, addressError("local part too long")
	}
	if n >= len(s) || s[n] != '@' {
		return Address{}, 0, addressError("no @ after the local part")
	}
	n++
	d, err := scanDomain(s[n:], allowUTF8)
	if err != nil {
		return Address{}, 0, err
	}
	if n+d > MaxPath-2 {
		return Address{}, 0, addressError("address too long")
	}
	return Address{Local: local, Domain: s[n : n+d]}, n + d, nil
}

// scanLocal gives the local part without quotes and its length as written.
func scanLocal(s string, allowUTF8 bool) (local string, n int, err error) {
	if s != "" && s[0] == '"' {
		return scanQuoted(s, allowUTF8)
	}
	dot := true // what stands before is no atom: a dot may not follow
	for n < len(s) {
		c := s[n]
		switch {
		case isAtext(c):
			dot = false
			n++
		case c == '.' && !dot:
			dot = true
			n++
		case c >= utf8.RuneSelf:
			w, err := nonASCII(s[n:], allowUTF8)
			if err != nil {
				return "", 0, err
			}
			dot = false
			n += w
		case c == '.':
			return "", 0, addressError("misplaced dot in the local part")
		default:
			return dotEnd(s[:n], n, dot)
		}
	}
	return dotEnd(s, n, dot)
}

func dotEnd(local string, n int, dot bool) (string, int, error) {
	if n == 0 {
		return "", 0, addressError("no local part")
	}
	if dot {
		return "", 0, addressError("misplaced dot in the local part")
	}
	return local, n, nil
}

// scanQuoted reads a Quoted-string of RFC 5321 4.1.2. A backslash may stand
// before any printable ASCII octet and before nothing else (RFC 6531 extends
// qtextSMTP alone).
func scanQuoted(s string, allowUTF8 bool) (local string, n int, err error) {
	escaped := false
	for n = 1; n < len(s); {
		c := s[n]
		switch {
		case c == '"':
			local = s[1:n]
			if escaped {
				local = unescape(local)
			}
			return local, n + 1, nil
		case c >= utf8.RuneSelf:
			w, err := nonASCII(s[n:], allowUTF8)
			if err != nil {
				return "", 0, err
			}
			n += w
		case c < ' ' || c == 0x7f:
			return "", 0, addressError("control character in the local part")
		case c == '\\':
			if n+1 >= len(s) || s[n+1] < ' ' || s[n+1] >= 0x7f {
				return "", 0, addressError("bad escape in the local part")
			}
			escaped = true
			n += 2
		default:
			n++
		}
	}
	return "", 0, addressError("the quoted local part does not end")
}

func unescape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// nonASCII gives the length of the UTF-8 sequence that s begins with.
func nonASCII(s string, allowUTF8 bool) (int, error) {
	if !allowUTF8 {
		return 0, needsUTF8Error()
	}
	n := runeLen(s)
	if n == 0 {
		return 0, addressError("invalid UTF-8")
	}
	return n, nil
}

func scanDomain(s string, allowUTF8 bool) (n int, err error) {
	if s != "" && s[0] == '[' {
		n, err = scanLiteral(s)
	} else {
		n, err = scanName(s, allowUTF8)
	}
	if err != nil {
		return 0, err
	}
	if n > MaxDomain {
		return 0, addressError("domain too long")
	}
	return n, nil
}

// scanName reads a Domain of RFC 5321 4.1.2, up to the first octet that cannot
// belong to it. Beyond the grammar it takes "_" wherever a letter may stand:
// there are senders and hosts whose names hold it, the DNS carries it, and
// Postfix takes it too, so refusing it would lose real mail and protect
// nothing. An all-numeric top level is taken; whether it exists is for the DNS.
func scanName(s string, allowUTF8 bool) (n int, err error) {
	start, runes := 0, 0 // of the label
	wide := false        // the label has a character beyond ASCII
	for n < len(s) {
		c := s[n]
		switch {
		case isLetDig(c) || c == '-':
			n++
			runes++
		case c == '.':
			if err := checkLabel(s[start:n], runes, wide); err != nil {
				return 0, err
			}
			n++
			start, runes, wide = n, 0, false
		case c >= utf8.RuneSelf:
			w, err := nonASCII(s[n:], allowUTF8)
			if err != nil {
				return 0, err
			}
			if r, _ := utf8.DecodeRuneInString(s[n:]); !isLabelRune(r) {
				return 0, addressError("a character in the domain that no host name has")
			}
			n += w
			runes++
			wide = true
		default:
			return n, checkLabel(s[start:n], runes, wide)
		}
	}
	return n, checkLabel(s[start:n], runes, wide)
}

func checkLabel(l string, runes int, wide bool) error {
	switch {
	case l == "":
		return addressError("empty label in the domain")
	case l[0] == '-' || l[len(l)-1] == '-':
		return addressError("a label of the domain begins or ends with a hyphen")
	case !wide && len(l) > maxLabel || wide && runes > maxLabelRunes:
		return addressError("a label of the domain is too long")
	}
	return nil
}

// isLabelRune keeps out what RFC 5892 allows in no U-label and what would be
// read as something else: spaces, controls, symbols, other forms of the dot.
// It is a superset of what IDNA allows; the resolver has the last word.
func isLabelRune(r rune) bool {
	if unicode.In(r, unicode.L, unicode.M, unicode.N) {
		return true
	}
	switch r { // contextual characters and exceptions, RFC 5892 2.6 and 2.8
	case 0xB7, 0x375, 0x5F3, 0x5F4, 0x6FD, 0x6FE, 0xF0B, 0x200C, 0x200D, 0x30FB:
		return true
	}
	return false
}

// scanLiteral reads an address-literal of RFC 5321 4.1.3. Leading zeros in an
// IPv4 literal are refused although the grammar has them: some read them as
// octal, so they name two hosts. Of the general form, for which no tag but
// IPv6 is registered, the tag begins with a letter, so that a bare IPv6
// address is not taken for one, and "<", ">" and quotes are kept out.
func scanLiteral(s string) (int, error) {
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return 0, addressError("the address literal does not end")
	}
	in := s[1:end]
	if len(in) >= len(tagIPv6) && strings.EqualFold(in[:len(tagIPv6)], tagIPv6) {
		if _, ok := parseIPv6(in[len(tagIPv6):]); !ok {
			return 0, addressError("bad IPv6 address in the address literal")
		}
		return end + 1, nil
	}
	if _, ok := parseIPv4(in); ok {
		return end + 1, nil
	}
	tag, content, ok := strings.Cut(in, ":")
	if !ok || content == "" || !isTag(tag) {
		return 0, addressError("bad address literal")
	}
	for i := range len(content) {
		if !isLiteralChar(content[i]) {
			return 0, addressError("bad address literal")
		}
	}
	if _, err := netip.ParseAddr(in); err == nil {
		return 0, addressError("the address literal lacks the tag IPv6")
	}
	return end + 1, nil
}

// isTag tells whether it is an Ldh-str that begins with a letter.
func isTag(s string) bool {
	if s == "" || !isAlpha(s[0]) || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !isAlpha(s[i]) && !isDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

func parseIPv4(s string) (netip.Addr, bool) {
	if s == "" || !isDigit(s[0]) { // keeps netip from building an error it would throw away
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(s)
	return ip, err == nil && ip.Is4()
}

// parseIPv6 reads IPv6-addr of RFC 5321 4.1.3, which is stricter than most:
// no zone, and "::" stands for at least two groups.
func parseIPv6(s string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(s)
	if err != nil || !ip.Is6() || ip.Zone() != "" {
		return netip.Addr{}, false
	}
	if !strings.Contains(s, "::") {
		return ip, true
	}
	groups := 0
	for g := range strings.SplitSeq(s, ":") {
		switch {
		case g == "":
		case strings.IndexByte(g, '.') >= 0:
			groups += 2
		default:
			groups++
		}
	}
	return ip, groups <= maxIPv6Short
}
