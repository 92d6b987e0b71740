package wire

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
)

// SplitVerb parts a command line. The verb comes in upper case, the argument
// without space around it.
func SplitVerb(line string) (verb, arg string) {
	verb, arg, _ = strings.Cut(line, " ")
	return strings.ToUpper(verb), strings.Trim(arg, " \t")
}

// Limits of command lines, with CRLF.
const (
	baseLine = 512  // RFC 5321 4.5.3.1.4
	mailLine = 1263 // SIZE 26, BODY 17, SMTPUTF8 10, RET and ENVID 115, REQUIRETLS 11, HOLDUNTIL 34, BY 17, and 500 for AUTH to come
	rcptLine = 1056 // NOTIFY and ORCPT (RFC 3461 4)
)

// LineLimit is the longest line of a command with its CRLF: what RFC 5321
// 4.5.3.1.4 gives each, and what the extensions on offer add.
func LineLimit(verb string) int {
	switch verb {
	case "MAIL":
		return mailLine
	case "RCPT":
		return rcptLine
	}
	return baseLine
}

// IsHelo tells whether name can stand in a Received line and a log. It is
// wider than RFC 5321 4.1.2: underscores and names without a dot are common,
// and RFC 6531 3.7.1 has letters beyond ASCII.
func IsHelo(name string) bool {
	if name == "" || len(name) > mail.MaxDomain || !utf8.ValidString(name) {
		return false
	}
	literal := name[0] == '[' && name[len(name)-1] == ']'
	if literal {
		name = name[1 : len(name)-1]
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_':
		case c == ':' && literal:
		case c > unicode.MaxASCII && !literal && (unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsDigit(c)):
		default:
			return false
		}
	}
	return name != ""
}

// ParseChunk reads the argument of BDAT. A number with a sign, with leading
// zeros or out of range is none: two sides that read it in two ways would
// disagree about where commands begin.
func ParseChunk(arg string) (size int64, last, ok bool) {
	num, rest, _ := strings.Cut(arg, " ")
	if rest = strings.TrimLeft(rest, " "); rest != "" {
		if last = strings.EqualFold(rest, "LAST"); !last {
			return 0, false, false
		}
	}
	if num == "" || len(num) > 1 && num[0] == '0' {
		return 0, false, false
	}
	for _, c := range []byte(num) {
		if c < '0' || c > '9' {
			return 0, false, false
		}
	}
	size, err := strconv.ParseInt(num, 10, 64)
	return size, last, err == nil
}
