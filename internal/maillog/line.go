package maillog

import (
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
)

// maxText is where foreign text is cut, in octets before escaping.
const maxText = 1000

// line builds one line at the end of a buffer.
type line struct {
	b    []byte
	json bool
	more bool // a key was written
}

func (l *line) key(k string) {
	if l.json {
		if l.more {
			l.b = append(l.b, ',')
		}
		l.b = append(l.b, '"')
		l.b = append(l.b, k...)
		l.b = append(l.b, '"', ':')
	} else {
		if l.more {
			l.b = append(l.b, ' ')
		}
		l.b = append(l.b, k...)
		l.b = append(l.b, '=')
	}
	l.more = true
}

func (l *line) finish() []byte {
	if l.json {
		l.b = append(l.b, '}')
	}
	return append(l.b, '\n')
}

// word writes a value of ours that needs no escapes.
func (l *line) word(k, v string) {
	l.key(k)
	if l.json {
		l.b = append(l.b, '"')
	}
	l.b = append(l.b, v...)
	if l.json {
		l.b = append(l.b, '"')
	}
}

// str writes any text; an empty one leaves the key out.
func (l *line) str(k, v string) {
	if v == "" {
		return
	}
	l.key(k)
	if !l.json && plain(v) {
		l.b = append(l.b, v...)
		return
	}
	l.quote(v)
}

func (l *line) num(k string, n int64) {
	l.key(k)
	l.b = strconv.AppendInt(l.b, n, 10)
}

func (l *line) millis(k string, d time.Duration) { l.num(k, d.Milliseconds()) }

func (l *line) id(k string, id mail.ID) {
	if id.IsZero() {
		return
	}
	l.key(k)
	if l.json {
		l.b = append(l.b, '"')
	}
	l.b = id.Append(l.b)
	if l.json {
		l.b = append(l.b, '"')
	}
}

// addr writes an address. The null reverse-path is "<>" in text, where an
// empty value would be overlooked, and "" in JSON.
func (l *line) addr(k string, a mail.Address) {
	if a.IsNull() {
		l.key(k)
		if l.json {
			l.b = append(l.b, `""`...)
		} else {
			l.b = append(l.b, "<>"...)
		}
		return
	}
	var room [mail.MaxPath * 2]byte
	text := a.Append(room[:0])
	l.key(k)
	if !l.json && plain(text) {
		l.b = append(l.b, text...)
		return
	}
	l.quote(string(text))
}

// time writes a time in UTC to the millisecond; the zero time leaves the key
// out.
func (l *line) time(k string, t time.Time) {
	if t.IsZero() {
		return
	}
	l.key(k)
	if l.json {
		l.b = append(l.b, '"')
	}
	l.b = appendTime(l.b, t)
	if l.json {
		l.b = append(l.b, '"')
	}
}

// reply writes what a peer said: its code, its enhanced code and its text as
// one line.
func (l *line) reply(r *mail.Reply) {
	if r.Code != 0 {
		l.num("code", int64(r.Code))
	}
	if r.Enhanced != (mail.EnhancedCode{}) {
		l.key("enhanced")
		if l.json {
			l.b = append(l.b, '"')
		}
		for i, n := range r.Enhanced {
			if i > 0 {
				l.b = append(l.b, '.')
			}
			l.b = strconv.AppendInt(l.b, int64(n), 10)
		}
		if l.json {
			l.b = append(l.b, '"')
		}
	}
}

// appendTime is t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z"), three
// times as fast.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, sec := t.Clock()
	b = pad(b, year, 1000)
	b = append(b, '-')
	b = pad(b, int(month), 10)
	b = append(b, '-')
	b = pad(b, day, 10)
	b = append(b, 'T')
	b = pad(b, hour, 10)
	b = append(b, ':')
	b = pad(b, minute, 10)
	b = append(b, ':')
	b = pad(b, sec, 10)
	b = append(b, '.')
	b = pad(b, t.Nanosecond()/1e6, 100)
	return append(b, 'Z')
}

// pad appends n with as many digits as unit has.
func pad(b []byte, n, unit int) []byte {
	for ; unit > 0; unit /= 10 {
		b = append(b, byte('0'+n/unit%10))
	}
	return b
}

// plain tells whether a value can stand in a logfmt line without quotes.
func plain[T string | []byte](s T) bool {
	if len(s) > maxText {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\' {
			return false
		}
	}
	return true
}

const hex = "0123456789abcdef"

// quote appends s in quotes: with JSON's escapes, or in a text line with those
// of a Go string, which are the same but for octets that are not UTF-8 and
// characters beyond 16 bits.
func (l *line) quote(s string) {
	cut := len(s) > maxText
	if cut {
		s = s[:maxText]
	}
	b := append(l.b, '"')
	for i := 0; i < len(s); {
		run := i
		for i < len(s) && s[i] >= ' ' && s[i] < 0x7f && s[i] != '"' && s[i] != '\\' {
			i++
		}
		if b = append(b, s[run:i]...); i == len(s) {
			break
		}
		c := s[i]
		if c < utf8.RuneSelf {
			b = escapeASCII(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1 && cut && len(s)-i < utf8.UTFMax && !utf8.FullRuneInString(s[i:]):
			n = len(s) - i // the cut went through a character
		case r == utf8.RuneError && n == 1 && l.json:
			b = append(b, `\ufffd`...)
		case r == utf8.RuneError && n == 1:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		case unicode.IsPrint(r):
			b = append(b, s[i:i+n]...)
		case r > 0xffff && !l.json:
			b = append(b, '\\', 'U', '0', '0')
			b = append(b, hex[r>>20&15], hex[r>>16&15])
			b = appendHex(b, r)
		case r > 0xffff: // as a pair of surrogates
			r -= 0x10000
			b = appendU(b, 0xd800+r>>10)
			b = appendU(b, 0xdc00+r&0x3ff)
		default:
			b = appendU(b, r)
		}
		i += n
	}
	if cut {
		b = append(b, "..."...)
	}
	l.b = append(b, '"')
}

func escapeASCII(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return appendU(b, rune(c))
}

func appendU(b []byte, r rune) []byte { return appendHex(append(b, '\\', 'u'), r) }

// appendHex appends the lowest 16 bits of r.
func appendHex(b []byte, r rune) []byte {
	return append(b, hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
