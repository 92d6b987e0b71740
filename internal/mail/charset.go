package mail

import "unicode/utf8"

// The octets of atext (RFC 5322 3.2.3) as two sets of 64 bits.
const (
	atextLow  = digits | bits33to47
	atextHigh = letters | 1<<('^'-64) | 1<<('_'-64) | 1<<('`'-64) | 1<<('{'-64) | 1<<('|'-64) | 1<<('}'-64) | 1<<('~'-64)

	digits     = uint64(1<<10-1) << '0'
	bits33to47 = uint64(1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' | 1<<'-' | 1<<'/' | 1<<'=' | 1<<'?')
	letters    = uint64(1<<26-1)<<('A'-64) | uint64(1<<26-1)<<('a'-64)
)

func inSet(c byte, low, high uint64) bool {
	switch {
	case c < 64:
		return low>>c&1 != 0
	case c < 128:
		return high>>(c-64)&1 != 0
	}
	return false
}

func isAtext(c byte) bool { return inSet(c, atextLow, atextHigh) }

func isAlpha(c byte) bool { return inSet(c, 0, letters) }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isLetDig has "_" among the letters; scanName says why.
func isLetDig(c byte) bool { return inSet(c, digits, letters|1<<('_'-64)) }

func isNameChar(c byte) bool { return isLetDig(c) || c == '-' || c == '.' }

// isLiteralChar is dcontent of RFC 5321 4.1.3 without the octets that mean
// something to whoever reads a path.
func isLiteralChar(c byte) bool {
	switch c {
	case '<', '>', '"', '[', '\\', ']':
		return false
	}
	return c > ' ' && c < 0x7f
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isPlainASCII tells whether s is a Dot-string of ASCII: the common case of a
// local part.
func isPlainASCII(s string) bool {
	dot := true
	for i := range len(s) {
		switch {
		case isAtext(s[i]):
			dot = false
		case s[i] == '.' && !dot:
			dot = true
		default:
			return false
		}
	}
	return !dot
}

// isDotString tells whether s needs no quotes as a local part.
func isDotString(s string) bool {
	_, n, err := scanLocal(s, true)
	return err == nil && n == len(s) && s[0] != '"'
}

// isNameASCII tells whether s holds nothing but octets of an ASCII domain name.
func isNameASCII(s string) bool {
	for i := range len(s) {
		if !isNameChar(s[i]) {
			return false
		}
	}
	return s != ""
}
