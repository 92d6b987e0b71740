package shape

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxNormal is how long a normal form can be: what two replies have in
	// common is at their beginning.
	maxNormal = 256
	// maxText is how much of a text is looked at, and maxIPv6 of an address: a
	// next hop says what it likes, and each word may be looked at to its end
	// more than once.
	maxText = 1024
	maxIPv6 = 45
	// longID is from how many letters on a word may be an ID without a digit.
	longID = 8
	// longBase64 is from how many octets on a word may be base64.
	longBase64 = 16
)

// AppendNormal appends the text of a reply with placeholders for what differs
// from one message, host or client to the next: # for numbers and IDs, <addr>,
// <host>, <ip> and <url>. What it appends is UTF-8 in one line, and the same
// for all texts that differ in these alone.
//
// It goes by form, without lists of words: what has a digit is a number or an
// ID, what has a dot before a last part of letters is a host.
func AppendNormal(dst []byte, text string) []byte {
	text = text[:min(len(text), maxText)]
	n := normal{dst: dst, from: len(dst), text: text}
	for n.at < len(text) && !n.full {
		n.next()
	}
	if own := n.dst[n.from:]; len(own) > 0 && own[len(own)-1] == ' ' {
		n.dst = n.dst[:len(n.dst)-1]
	}
	return n.dst
}

// normal is a text on its way to its normal form.
type normal struct {
	dst  []byte
	from int // where the normal form begins in dst
	text string
	at   int // what comes next of text
	full bool
}

// next takes a delimiter or a word.
func (n *normal) next() {
	rest := n.text[n.at:]
	c := rest[0]
	switch {
	case c <= ' ' || c == 0x7f:
		n.at++
		n.space()
		return
	case c == '<':
		if l := pathLen(rest); l > 0 {
			n.take(l, "<addr>")
			return
		}
	case c == ':' && (n.at == 0 || !isAlnum(n.text[n.at-1])):
		if l := ipv6Len(rest); l > 0 {
			n.take(l, "<ip>")
			return
		}
	}
	switch l := wordLen(rest, false); {
	case l == 0:
		n.at++
		n.put(rest[:1])
	case isPlain(rest, l): // most are
		n.at += l
		n.put(rest[:l])
	default:
		n.word(rest[:l])
	}
}

// word takes a word, or what it is the beginning of. Its separators are those
// of words in which an address may stand.
func (n *normal) word(w string) {
	rest := n.text[n.at:]
	if l := urlLen(rest, len(w)); l > 0 {
		n.take(l, "<url>")
		return
	}
	if l := tagLen(rest); l > 0 { // of an address literal
		n.at += l
		return
	}
	if l := ipv6Len(rest); l > 0 {
		n.take(l, "<ip>")
		return
	}
	if l := addrLen(rest, w); l > 0 {
		n.take(l, "<addr>")
		return
	}
	if isBase64(w) {
		n.take(len(w), "#")
		return
	}
	w = w[:wordLen(w, true)]
	if w == "" { // it begins with a break
		n.at++
		n.put(rest[:1])
		return
	}
	from, to := 0, len(trimmed(w))
	for from < to && (isAround(w[from]) || w[from] == '#') {
		from++
	}
	n.at += from
	n.put(w[:from])
	if kind := kindOf(w[from:to]); kind != "" {
		n.take(to-from, kind)
	} else {
		n.at += to - from
		n.put(w[from:to])
	}
	n.at += len(w) - to
	n.put(w[to:])
}

// isAround tells what is around a word and no part of it.
func isAround(c byte) bool {
	switch c {
	case '.', '-', '_', '+', '*', '!', '?', '~':
		return true
	}
	return false
}

// trimmed gives a word without what is behind it.
func trimmed(w string) string {
	for len(w) > 0 && isAround(w[len(w)-1]) {
		w = w[:len(w)-1]
	}
	return w
}

// take puts a placeholder in place of the next l octets. Numbers that only
// punctuation parts, as those of a time, are one.
func (n *normal) take(l int, placeholder string) {
	n.at += l
	if own := n.dst[n.from:]; placeholder == "#" && len(own) >= 2 && own[len(own)-2] == '#' && strings.IndexByte(",.:/-=+", own[len(own)-1]) >= 0 {
		n.dst = n.dst[:len(n.dst)-1]
		return
	}
	n.put(placeholder)
}

// put appends text that is not to be changed, as far as there is room.
func (n *normal) put(s string) {
	i := 0
	for room := maxNormal - (len(n.dst) - n.from); i < min(len(s), room) && ' ' < s[i] && s[i] < 0x7f; i++ {
	}
	n.dst = append(n.dst, s[:i]...)
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			n.space()
			continue
		}
		if len(n.dst)-n.from+utf8.RuneLen(r) > maxNormal {
			n.full = true
			return
		}
		n.dst = utf8.AppendRune(n.dst, r)
	}
}

// space appends one, but none at the beginning and none after another.
func (n *normal) space() {
	if own := n.dst[n.from:]; len(own) > 0 && own[len(own)-1] != ' ' {
		n.dst = append(n.dst, ' ')
	}
	n.full = n.full || len(n.dst)-n.from >= maxNormal
}

// kindOf gives the placeholder for a word, "" for one that stays as it is.
func kindOf(w string) string {
	switch {
	case isIPv4(w):
		return "<ip>"
	case isHost(w):
		return "<host>"
	case hasDigit(w) || isLetterID(w):
		return "#"
	}
	return ""
}

// ends tells where a word ends: any, or one that is no address.
func ends(c byte, noAddress bool) bool {
	switch c {
	case '<', '>', '(', ')', '[', ']', '{', '}', ',', ';', ':', '"', '`', '|', '\\', 0x7f:
		return true
	case '/', '=', '&', '@':
		return noAddress
	}
	return c <= ' '
}

// wordLen is the length of the word that s begins with. An apostrophe is a part
// of it between letters and digits alone.
func wordLen(s string, noAddress bool) int {
	for i := range len(s) {
		c := s[i]
		if isLetter(c) {
			continue
		}
		if ends(c, noAddress) || c == '\'' && !(i > 0 && isAlnum(s[i-1]) && i+1 < len(s) && isAlnum(s[i+1])) {
			return i
		}
	}
	return len(s)
}

// isPlain tells whether the first word of s, which has l octets, is one that
// stays as it is. It may be wrong about a word that does, not about others.
func isPlain(s string, l int) bool {
	if l < len(s) && s[l] == ':' && (l+1 < len(s) && s[l+1] > ' ') { // a URL, an IPv6 address
		return false
	}
	for i := range l {
		if !isLetter(s[i]) {
			return false
		}
	}
	return !isLetterID(s[:l])
}

// pathLen is the length of the path in angle brackets that s begins with, 0
// when there is none.
func pathLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '<':
			return 0
		case '>':
			if strings.IndexByte(s[1:i], '@') < 0 {
				return 0
			}
			return i + 1
		}
	}
	return 0
}

// addrLen is the length of the address that s begins with, whose first word is
// w; 0 when there is none.
func addrLen(s, w string) int {
	at := strings.LastIndexByte(w, '@')
	if at <= 0 {
		return 0
	}
	if at == len(w)-1 { // an address literal may follow
		if end := strings.IndexByte(s, ']'); len(s) > len(w) && s[len(w)] == '[' && end > 0 {
			return end + 1
		}
		return 0
	}
	l := len(trimmed(w))
	if l <= at+1 {
		return 0
	}
	return l
}

// urlLen is the length of the URL that s begins with, the first word of which
// has w octets; 0 when it begins with none.
func urlLen(s string, w int) int {
	if !strings.HasPrefix(s[w:], "://") {
		return 0
	}
	for i := range w {
		if !isLetter(s[i]) {
			return 0
		}
	}
	end := w
	for end < len(s) && s[end] > ' ' && strings.IndexByte("<>\"`|\\\x7f", s[end]) < 0 {
		end++
	}
	for end > w && strings.IndexByte(".,;:!?'()[]{}", s[end-1]) >= 0 {
		end--
	}
	return end
}

// tagLen is the length of the tag of an IPv6 address literal.
func tagLen(s string) int {
	if len(s) > 5 && strings.EqualFold(s[:3], "IPv") && isDigit(s[3]) && s[4] == ':' && (s[5] == ':' || isHex(s[5])) {
		return 5
	}
	return 0
}

// ipv6Len is the length of the IPv6 address that s begins with, 0 when it
// begins with none. It goes by form: a time has two colons, and not in a row.
func ipv6Len(s string) int {
	s = s[:min(len(s), maxIPv6+1)] // with a colon behind it
	l, colons, run, double, hex := 0, 0, 0, false, false
	for ; l < len(s); l++ {
		c := s[l]
		switch {
		case c == ':':
			double = double || l > 0 && s[l-1] == ':'
			colons++
			run = 0
		case isHex(c):
			hex = true
			if run++; run > 4 {
				return 0
			}
		case c == '.' && colons >= 2 && l+1 < len(s) && isDigit(s[l+1]):
			run = 0
		default:
			if isAlnum(c) || c == '_' || c == '@' {
				return 0
			}
			return ipv6End(s[:l], colons, double && hex)
		}
	}
	return ipv6End(s, colons, double && hex)
}

// ipv6End leaves a colon behind an address out.
func ipv6End(s string, colons int, double bool) int {
	l := len(s)
	if l > 1 && s[l-1] == ':' && s[l-2] != ':' {
		l--
		colons--
	}
	if !double && colons < 6 {
		return 0
	}
	return l
}

// isIPv4 goes by form, so that any number will do.
func isIPv4(w string) bool {
	parts, digits := 1, 0
	for i := range len(w) {
		switch c := w[i]; {
		case isDigit(c):
			if digits++; digits > 3 {
				return false
			}
		case c == '.' && digits > 0:
			parts++
			digits = 0
		default:
			return false
		}
	}
	return parts == 4 && digits > 0
}

// isHost tells whether a word is a domain name of two or more labels, the last
// of which begins with a letter and has another character.
func isHost(w string) bool {
	dot := strings.LastIndexByte(w, '.')
	if dot <= 0 || len(w)-dot <= 2 || !isLetter(w[dot+1]) && w[dot+1] < utf8.RuneSelf {
		return false
	}
	label := 0
	for i := range len(w) {
		switch c := w[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case isAlnum(c) || c == '-' || c == '_' || c >= utf8.RuneSelf:
			label++
		default:
			return false
		}
	}
	return true
}

// isBase64 tells whether a word is one that other rules would part.
func isBase64(w string) bool {
	upper, lower, digit := false, false, false
	w = strings.TrimRight(w, "=")
	for i := range len(w) {
		switch c := w[i]; {
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z':
			lower = true
		case isDigit(c):
			digit = true
		case strings.IndexByte("+/_-", c) < 0:
			return false
		}
	}
	return upper && lower && digit && len(w) >= longBase64
}

// isLetterID tells whether a word of letters is an ID all the same: without
// vowels, as those of Postfix; with upper-case hexadecimal digits alone; or
// with upper and lower case in turns.
func isLetterID(w string) bool {
	if len(w) < longID {
		return false
	}
	vowels, hex, turns := 0, true, 0
	for i := range len(w) {
		c := w[i]
		if !isLetter(c) {
			return false
		}
		if strings.IndexByte("aeiouAEIOU", c) >= 0 {
			vowels++
		}
		hex = hex && c <= 'F'
		if i > 0 && c <= 'Z' && w[i-1] >= 'a' {
			turns++
		}
	}
	return vowels == 0 || hex || turns >= 2 && len(w) > longID
}

func hasDigit(w string) bool {
	for i := range len(w) {
		if isDigit(w[i]) {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isAlnum(c byte) bool  { return isDigit(c) || isLetter(c) }
func isHex(c byte) bool    { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
