package bounce

import (
	"bytes"
	"strings"
)

// gap is how far apart the two halves of a phrase with ".." in it may stand.
const gap = 80

// rule is a class and the phrases that mean it. A phrase begins at a word and
// is in lower case; its last word may go on: "exceed" is in "exceeded". ".."
// stands for up to gap octets of anything.
type rule struct {
	class   Class
	strong  bool // believed before the enhanced status code
	phrases []string
}

// phrase is one of them, ready to be looked for.
type phrase struct {
	head   string
	tail   []byte
	rank   int // of the rule: less is believed first
	strong bool
	dotted bool // has a part of a name or a link in it
}

// index holds phrases by their first three octets, of which 5 bits count: at
// knows the list of each such key, and list 0 is empty.
type index struct {
	rules []rule
	at    [1 << 15]uint16
	lists [][]phrase
}

func key(head []byte) int {
	return int(head[0]&31)<<10 | int(head[1]&31)<<5 | int(head[2]&31)
}

func compile(rules []rule) *index {
	x := &index{rules: rules, lists: make([][]phrase, 1)}
	for rank, r := range rules {
		for _, p := range r.phrases {
			head, tail, _ := strings.Cut(p, "..")
			at := &x.at[key([]byte(head))]
			if *at == 0 {
				*at = uint16(len(x.lists))
				x.lists = append(x.lists, nil)
			}
			x.lists[*at] = append(x.lists[*at], phrase{head, []byte(tail), rank, r.strong, strings.ContainsAny(head, "./=")})
		}
	}
	return x
}

// find gives the classes of the first strong and the first weak rule that have
// a phrase in text, Other for none.
func (x *index) find(text string) (strong, weak Class) {
	var buf [MaxText]byte
	low := lower(buf[:0], text)
	best := [2]int{len(x.rules), len(x.rules)}
	inWord, end, what := false, 0, plainWord
	for i := 0; i+3 <= len(low); i++ {
		if i >= end {
			end, what = token(low, i)
		}
		was := inWord
		inWord = isWord(low[i])
		if was || !inWord || what == mailName {
			continue
		}
		list := x.lists[x.at[key(low[i:])]]
		for j := range list {
			p := &list[j]
			if p.rank > best[0] {
				break // the list is in the order of the rules
			}
			if what == hostName && !p.dotted {
				continue
			}
			at := &best[1]
			if p.strong {
				at = &best[0]
			}
			if p.rank < *at && p.in(low[i:]) {
				*at = p.rank
			}
		}
	}
	return x.class(best[0]), x.class(best[1])
}

// The kinds of token. What stands in an address or the name of a host is no
// word: spam@example.org may well be unknown.
const (
	plainWord = iota
	hostName
	mailName
)

// token gives the end of what begins at i and goes to the next space or
// bracket, and its kind.
func token(low []byte, i int) (end, what int) {
	for end = i; end < len(low); end++ {
		switch c := low[end]; c {
		case ' ', '<', '>', '(', ')', '[', ']', ',', ';':
			return end + 1, what
		case '@':
			what = mailName
		case '.':
			if end > i && end+1 < len(low) && 'a' <= low[end+1] && low[end+1] <= 'z' {
				what = max(what, hostName)
			}
		}
	}
	return end, what
}

func (x *index) class(rank int) Class {
	if rank == len(x.rules) {
		return Other
	}
	return x.rules[rank].class
}

func (p *phrase) in(low []byte) bool {
	if len(low) < len(p.head) || string(low[:len(p.head)]) != p.head {
		return false
	}
	rest := low[len(p.head):]
	return len(p.tail) == 0 || bytes.Contains(rest[:min(len(rest), gap)], p.tail)
}

// lower appends text in lower case, with one space for each run of white space
// and without quotes.
func lower(dst []byte, text string) []byte {
	space := true
	for i := range len(text) {
		c := text[i]
		switch {
		case c <= ' ' || c == 0x7f:
			if !space {
				dst = append(dst, ' ')
			}
			space = true
			continue
		case c == '"' || c == '\'' || c == '`':
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		space = false
		dst = append(dst, c)
	}
	return dst
}

func isWord(c byte) bool { return 'a' <= c && c <= 'z' || isDigit(c) || c >= 0x80 }
