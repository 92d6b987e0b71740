package mail

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrParam is wrapped by every error of the parsers of MAIL and RCPT
// parameter values. A client is told 501 5.5.4.
var ErrParam = errors.New("bad parameter value")

// Octet limits of parameter values: RFC 3461 4.2 and 4.4.
const (
	MaxEnvID = 100
	MaxORcpt = 500
)

// The address types of ORCPT that the relay itself understands; any other is
// kept and passed on.
const (
	ORcptRFC822 = "rfc822"
	ORcptUTF8   = "utf-8"
)

const upperHex = "0123456789ABCDEF"

func paramError(what string) error { return fmt.Errorf("%w: %s", ErrParam, what) }

// ParseXText takes xtext (RFC 3461 4) apart. The value must be printable
// ASCII, as sections 4.2 and 4.4 there ask: a value that could break a line of
// a report is refused here.
func ParseXText(s string) (string, error) {
	if isPlainXText(s) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			var ok bool
			if c, ok = hexPair(s[i+1:]); !ok {
				return "", paramError("+ without two hexadecimal digits")
			}
			if c < ' ' || c >= 0x7f {
				return "", paramError("encoded character that is not printable ASCII")
			}
			i += 2
		} else if !isXChar(c) {
			return "", paramError("character that xtext does not have")
		}
		b = append(b, c)
	}
	return string(b), nil
}

// XText encodes any octets as xtext (RFC 3461 4).
func XText(s string) string {
	if isPlainXText(s) {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if isXChar(s[i]) {
			b = append(b, s[i])
			continue
		}
		b = append(b, '+', upperHex[s[i]>>4], upperHex[s[i]&15])
	}
	return string(b)
}

func isXChar(c byte) bool { return c > ' ' && c < 0x7f && c != '+' && c != '=' }

func isPlainXText(s string) bool {
	for i := range len(s) {
		if !isXChar(s[i]) {
			return false
		}
	}
	return true
}

func hexPair(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	hi, ok1 := hexDigit(s[0])
	lo, ok2 := hexDigit(s[1])
	return hi<<4 | lo, ok1 && ok2
}

// hexDigit takes lower case too, which RFC 3461 does not have: nothing else
// can be meant.
func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// ParseEnvID reads the value of ENVID (RFC 3461 4.4).
func ParseEnvID(s string) (string, error) {
	if len(s) > MaxEnvID {
		return "", paramError("ENVID too long")
	}
	if s == "" {
		return "", paramError("empty ENVID")
	}
	return ParseXText(s)
}

// ParseORcpt reads the value of ORCPT (RFC 3461 4.2, RFC 6533 3): an address
// type, ";" and the encoded address. Octets beyond ASCII are taken for the
// type utf-8 with allowUTF8 alone.
func ParseORcpt(s string, allowUTF8 bool) (typ, addr string, err error) {
	if len(s) > MaxORcpt {
		return "", "", paramError("ORCPT too long")
	}
	typ, enc, ok := strings.Cut(s, ";")
	if !ok || !isAddrType(typ) || enc == "" {
		return "", "", paramError("ORCPT is not type;address")
	}
	if strings.EqualFold(typ, ORcptUTF8) {
		addr, err = parseUniText(enc, allowUTF8)
	} else {
		addr, err = ParseXText(enc)
	}
	if err != nil {
		return "", "", err
	}
	return typ, addr, nil
}

// FormatORcpt gives the value of ORCPT for a next hop, in the encoding that
// the hop can take: utf8Peer says that SMTPUTF8 is in force. It gives "" for a
// recipient without ORCPT. Any octets in addr come out harmless.
func FormatORcpt(typ, addr string, utf8Peer bool) string {
	if !isAddrType(typ) {
		return ""
	}
	if strings.EqualFold(typ, ORcptUTF8) {
		return typ + ";" + uniText(addr, utf8Peer)
	}
	return typ + ";" + XText(addr)
}

// isAddrType tells whether it is an atom (RFC 3461 4.2), which an xtext
// parameter value can hold: "+" and "=" are kept out.
func isAddrType(s string) bool {
	for i := range len(s) {
		if !isAtext(s[i]) || s[i] == '+' || s[i] == '=' {
			return false
		}
	}
	return s != ""
}

// parseUniText reads utf-8-addr-xtext and utf-8-addr-unitext (RFC 6533 3). The
// encoding of xtext is taken beside \x{HEX}: "+" can be nothing else there.
func parseUniText(s string, allowUTF8 bool) (string, error) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\':
			r, n := hexPoint(s[i:])
			if n == 0 {
				return "", paramError(`\ without x{HEX}`)
			}
			b = utf8.AppendRune(b, r)
			i += n
		case c == '+':
			v, ok := hexPair(s[i+1:])
			if !ok || v < ' ' || v >= 0x7f {
				return "", paramError("+ without the digits of a printable ASCII character")
			}
			b = append(b, v)
			i += 3
		case c >= utf8.RuneSelf:
			n := runeLen(s[i:])
			if n == 0 || !allowUTF8 || isC1(s[i:]) {
				return "", paramError("octets that cannot stand here unencoded")
			}
			b = append(b, s[i:i+n]...)
			i += n
		case isXChar(c):
			b = append(b, c)
			i++
		default:
			return "", paramError("character that has to be encoded")
		}
	}
	return string(b), nil
}

// hexPoint reads EmbeddedUnicodeChar, \x{HEX}; n is 0 when s does not begin
// with one that stands for a printable character.
func hexPoint(s string) (r rune, n int) {
	if !strings.HasPrefix(s, `\x{`) {
		return 0, 0
	}
	end := strings.IndexByte(s, '}')
	if end < 0 || end-3 > 6 {
		return 0, 0
	}
	v, err := strconv.ParseUint(s[3:end], 16, 32)
	if err != nil || !utf8.ValidRune(rune(v)) || v < ' ' || v >= 0x7f && v < 0xa0 {
		return 0, 0
	}
	return rune(v), end + 1
}

func isC1(s string) bool { return s[0] == 0xc2 && len(s) > 1 && s[1] < 0xa0 }

func uniText(s string, utf8Peer bool) string {
	b := make([]byte, 0, len(s)+8)
	for i := 0; i < len(s); {
		if isXChar(s[i]) && s[i] != '\\' {
			b = append(b, s[i])
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0 || n == 1 && r == utf8.RuneError:
			b = append(b, '?')
		case utf8Peer && n > 1:
			b = append(b, s[i:i+n]...)
		default:
			b = append(b, `\x{`...)
			b = append(b, strings.ToUpper(strconv.FormatInt(int64(r), 16))...)
			b = append(b, '}')
		}
		i += n
	}
	return string(b)
}

// ParseNotify reads the value of NOTIFY (RFC 3461 4.1): NEVER alone, or a list
// of SUCCESS, FAILURE and DELAY, in any case.
func ParseNotify(s string) (Notify, error) {
	if strings.EqualFold(s, "NEVER") {
		return NotifyNever, nil
	}
	var n Notify
	for word := range strings.SplitSeq(s, ",") {
		switch {
		case strings.EqualFold(word, "SUCCESS"):
			n |= NotifySuccess
		case strings.EqualFold(word, "FAILURE"):
			n |= NotifyFailure
		case strings.EqualFold(word, "DELAY"):
			n |= NotifyDelay
		default:
			return 0, paramError("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY")
		}
	}
	return n, nil
}

// String gives the value of NOTIFY, "" when none was given.
func (n Notify) String() string {
	if n&NotifyNever != 0 {
		return "NEVER"
	}
	b := make([]byte, 0, len(",SUCCESS,FAILURE,DELAY"))
	for _, w := range [...]struct {
		bit  Notify
		word string
	}{{NotifySuccess, ",SUCCESS"}, {NotifyFailure, ",FAILURE"}, {NotifyDelay, ",DELAY"}} {
		if n&w.bit != 0 {
			b = append(b, w.word...)
		}
	}
	if len(b) == 0 {
		return ""
	}
	return string(b[1:])
}

// ParseReturn reads the value of RET (RFC 3461 4.3).
func ParseReturn(s string) (Return, error) {
	switch {
	case strings.EqualFold(s, "FULL"):
		return ReturnFull, nil
	case strings.EqualFold(s, "HDRS"):
		return ReturnHeaders, nil
	}
	return ReturnUnset, paramError("RET is FULL or HDRS")
}

// String gives the value of RET, "" when none was given.
func (r Return) String() string {
	switch r {
	case ReturnFull:
		return "FULL"
	case ReturnHeaders:
		return "HDRS"
	}
	return ""
}

// ParseBody reads the value of BODY (RFC 6152, RFC 3030).
func ParseBody(s string) (BodyType, error) {
	switch {
	case strings.EqualFold(s, "7BIT"):
		return Body7Bit, nil
	case strings.EqualFold(s, "8BITMIME"):
		return Body8BitMIME, nil
	case strings.EqualFold(s, "BINARYMIME"):
		return BodyBinaryMIME, nil
	}
	return Body7Bit, paramError("BODY is 7BIT, 8BITMIME or BINARYMIME")
}

// String gives the value of BODY.
func (b BodyType) String() string {
	switch b {
	case Body8BitMIME:
		return "8BITMIME"
	case BodyBinaryMIME:
		return "BINARYMIME"
	}
	return "7BIT"
}

// ParseSize reads the value of SIZE (RFC 1870): one to twenty digits. A
// number beyond what fits comes out as the greatest that does: no limit lets
// it pass.
func ParseSize(s string) (int64, error) {
	if s == "" || len(s) > 20 {
		return 0, paramError("SIZE is a number")
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, paramError("SIZE is a number")
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil { // out of range is all that is left
		return 1<<63 - 1, nil
	}
	return n, nil
}
