package limit

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// A key in words is the fields that a limit counts by, "site=google.com" or
// "sender=a@example.org,domain=example.net", in the order of Per. A Key is the
// limit's name, #, the kind, and the words after another comma:
// "per-site#rate,site=google.com". In values a backslash stands before commas
// and backslashes, and octets that are no UTF-8 or control characters are
// written as \xNN, so that a Key can be sent, shown and taken apart.

// Others are the words for all values of a limit beyond the number that a node
// tells apart.
const Others = "*"

// Value is what s is in the field f, as text; Client has none.
func (s *Subject) Value(f Field) string {
	switch f {
	case Sender:
		return s.Sender
	case SenderDomain:
		return s.SenderDomain
	case User:
		return s.User
	case Group:
		return s.Group
	case RecipientDomain:
		return s.Domain
	case Site:
		return s.Site
	case Source:
		return s.Source
	case Route:
		return s.Route
	}
	return ""
}

// Has tells whether s is known in the field f.
func (s *Subject) Has(f Field) bool {
	if f == Client {
		return s.Client.IsValid()
	}
	return s.Value(f) != ""
}

// Set makes s be v in the field f; Client is set by itself.
func (s *Subject) Set(f Field, v string) {
	switch f {
	case Sender:
		s.Sender = v
	case SenderDomain:
		s.SenderDomain = v
	case User:
		s.User = v
	case Group:
		s.Group = v
	case RecipientDomain:
		s.Domain = v
	case Site:
		s.Site = v
	case Source:
		s.Source = v
	case Route:
		s.Route = v
	}
}

// Words is the key of s under a limit that counts by per, in words.
func (s *Subject) Words(per []Field) string {
	var b strings.Builder
	for i, f := range per {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(f.String())
		b.WriteByte('=')
		if f == Client {
			b.WriteString(NetworkText(s.Client))
		} else {
			escape(&b, s.Value(f))
		}
	}
	return b.String()
}

func escape(b *strings.Builder, v string) {
	const hex = "0123456789abcdef"
	for i := 0; i < len(v); {
		r, size := utf8.DecodeRuneInString(v[i:])
		switch {
		case r == utf8.RuneError && size == 1, r < ' ', r == 0x7f:
			b.WriteString(`\x`)
			b.WriteByte(hex[v[i]>>4])
			b.WriteByte(hex[v[i]&15])
		case r == ',', r == '\\':
			b.WriteByte('\\')
			b.WriteByte(v[i])
		default:
			b.WriteString(v[i : i+size])
		}
		i += size
	}
}

// KeyOf is the Key of a part of the limit with this name, and of what it counts
// by in words.
func KeyOf(name string, kind Kind, words string) Key {
	k := name + "#" + kind.String()
	if words != "" {
		k += "," + words
	}
	return Key(k)
}

// Parts takes a Key apart: the limit's name, the kind, and what it counts by in
// words. ok is false if it is none.
func (k Key) Parts() (name string, kind Kind, words string, ok bool) {
	name, rest, ok := strings.Cut(string(k), "#")
	part, words, _ := strings.Cut(rest, ",")
	for _, kind := range []Kind{KindRate, KindConnections, KindBudget} {
		if ok && part == kind.String() {
			return name, kind, words, name != ""
		}
	}
	return "", 0, "", false
}

// ParseWords reads what Words writes for the same fields.
func ParseWords(per []Field, words string) (Subject, bool) {
	var s Subject
	for i, f := range per {
		if i > 0 {
			if !strings.HasPrefix(words, ",") {
				return s, false
			}
			words = words[1:]
		}
		rest, ok := strings.CutPrefix(words, f.String()+"=")
		if !ok {
			return s, false
		}
		v, rest, ok := unescape(rest)
		if !ok || v == "" || strings.IndexByte(v, 0) >= 0 {
			return s, false
		}
		if f == Client {
			p, err := ParseNetwork(v)
			if err != nil {
				return s, false
			}
			s.Client = p.Addr()
		} else {
			s.Set(f, v)
		}
		words = rest
	}
	return s, words == ""
}

// unescape reads a value up to the next comma.
func unescape(v string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		switch {
		case v[i] == ',':
			return b.String(), v[i:], true
		case v[i] != '\\':
			b.WriteByte(v[i])
		case i+1 < len(v) && (v[i+1] == ',' || v[i+1] == '\\'):
			i++
			b.WriteByte(v[i])
		case i+3 < len(v) && v[i+1] == 'x':
			n, err := strconv.ParseUint(v[i+2:i+4], 16, 8)
			if err != nil {
				return "", "", false
			}
			b.WriteByte(byte(n))
			i += 3
		default:
			return "", "", false
		}
	}
	return b.String(), "", true
}
