package dsn

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxLine    = 998  // RFC 5322 2.1.1, without CRLF
	foldWidth  = 74   // what quoted-printable need not break
	maxForeign = 2048 // octets of a reply that a report shows
)

// plain makes one line of foreign text: runs of white space and controls
// become one space, everything that visible refuses becomes "?".
func plain(s string, wide bool) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			space = true
			continue
		}
		r = visible(r, wide)
		n := utf8.RuneLen(r)
		if space && b.Len() > 0 {
			n++
		}
		if b.Len()+n > maxForeign {
			b.WriteString("...")
			break
		}
		if space && b.Len() > 0 {
			b.WriteByte(' ')
		}
		space = false
		b.WriteRune(r)
	}
	return b.String()
}

// exact is plain for what must not be changed without need: it keeps spaces.
func exact(s string, wide bool) string {
	return strings.Map(func(r rune) rune { return visible(r, wide) }, s)
}

// visible gives "?" for what may not stand in a report: controls, separators
// of lines, what turns the direction of writing, what is not UTF-8, and, where
// wide is false, all beyond ASCII.
func visible(r rune, wide bool) rune {
	switch {
	case unicode.IsControl(r), r >= utf8.RuneSelf && !wide, r == utf8.RuneError,
		r >= 0x2028 && r <= 0x202E, r >= 0x2066 && r <= 0x2069, r == 0x200E, r == 0x200F, r == 0xFEFF:
		return '?'
	}
	return r
}

// asciiWord makes one word without spaces, brackets and quotes: a host name,
// or what is left of it.
func asciiWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;\"`, r) {
			return '?'
		}
		return r
	}, s)
}

// wrap breaks a line of words, made by plain, so that no line is longer than
// foldWidth where its words allow it, and none longer than maxLine. first
// stands before the first line, and rest before each of the others.
func wrap(first, rest, s string) string {
	var b strings.Builder
	b.WriteString(first)
	col, begun := len(first), false
	for word := range strings.FieldsSeq(s) {
		for {
			limit := maxLine - len(rest) - len(first)
			head := word
			if len(head) > limit {
				head = cut(head, limit)
			}
			switch {
			case begun && col+1+len(head) > foldWidth:
				b.WriteString("\r\n" + rest)
				col = len(rest)
			case begun:
				b.WriteByte(' ')
				col++
			}
			b.WriteString(head)
			col += len(head)
			begun = true
			if word = word[len(head):]; word == "" {
				break
			}
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// cut shortens s to at most n octets without cutting a character.
func cut(s string, n int) string {
	for n > 0 && n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:min(n, len(s))]
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// longestLine is without its line end.
func longestLine(s []byte) int {
	longest := 0
	for line := range bytes.Lines(s) {
		longest = max(longest, len(bytes.TrimRight(line, "\r\n")))
	}
	return longest
}

// encode picks the plainest encoding that carries content: 7bit, 8bit where it
// may be used, or quoted-printable.
func encode(content []byte, eightBit bool) (encoding string, out []byte, err error) {
	if longestLine(content) <= maxLine {
		if isASCII(content) {
			return "7bit", content, nil
		}
		if eightBit && utf8.Valid(content) {
			return "8bit", content, nil
		}
	}
	var b bytes.Buffer
	qp := quotedprintable.NewWriter(&b)
	if _, err := qp.Write(content); err != nil {
		return "", nil, err
	}
	if err := qp.Close(); err != nil {
		return "", nil, err
	}
	return "quoted-printable", b.Bytes(), nil
}
