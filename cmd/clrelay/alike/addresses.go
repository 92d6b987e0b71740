package alike

import "strings"

// addresses reads a list of addresses as it stands in a header field (RFC 5322
// 3.4) or on a command line. Names, comments and groups are left out. It takes
// what programs write for "user of this machine", a local part alone, which
// net/mail does not.
func addresses(list string) []string {
	var out []string
	s := lister{}
	done := func() {
		if a := s.address(); a != "" {
			out = append(out, a)
		}
		s = lister{}
	}
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case s.quoted:
			s.add(c)
			switch {
			case c == '\\' && i+1 < len(list):
				i++
				s.add(list[i])
			case c == '"':
				s.quoted = false
			}
		case s.depth > 0: // a comment
			switch c {
			case '\\':
				i++
			case '(':
				s.depth++
			case ')':
				s.depth--
			}
		case c == '(':
			s.depth++
		case c == '"':
			s.quoted = true
			s.add(c)
		case c == '[':
			s.literal = true
			s.add(c)
		case c == ']':
			s.literal = false
			s.add(c)
		case c == '<' && !s.angle:
			s.angle, s.word = true, s.word[:0]
		case c == '>' && s.angle:
			s.closed = true
		case (c == ',' || c == ';') && (!s.angle || s.closed):
			done()
		case c == ':' && !s.literal: // the name of a group before it, or a route (RFC 5322 4.4)
			s.word = s.word[:0]
		case s.closed || c == ' ' || c == '\t' || c == '\r' || c == '\n':
		default:
			s.add(c)
		}
	}
	done()
	return out
}

// lister is what was read of an address.
type lister struct {
	word    []byte
	depth   int  // of comments
	quoted  bool // inside of a quoted string
	literal bool // inside of a domain literal
	angle   bool // after "<"
	closed  bool // after its ">"
}

func (s *lister) add(c byte) {
	if !s.closed {
		s.word = append(s.word, c)
	}
}

func (s *lister) address() string { return strings.TrimSpace(string(s.word)) }
