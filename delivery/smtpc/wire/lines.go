package wire

import (
	"bytes"
	"errors"
)

// Errors of CheckLines.
var (
	ErrBareCR = errors.New("content has a CR without LF")
	ErrBareLF = errors.New("content has a LF without CR")
)

// CheckLines makes sure that lines end in CRLF and nothing else: a bare CR or
// LF would be the end of a line, and perhaps of the message, to some host
// further on. The relay takes no such content; this is the last door. It also
// tells whether a line after the first begins with a dot. last is the octet
// before p.
func CheckLines(p []byte, last byte) (dots bool, err error) {
	if len(p) == 0 {
		return false, nil
	}
	crs := bytes.Count(p, []byte{'\r'})
	if last == '\r' {
		crs++
	}
	if p[len(p)-1] == '\r' {
		crs-- // its LF may come with the next slice
	}
	lfs := 0
	for i := 0; ; i++ {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			break
		}
		i += n
		lfs++
		if i > 0 {
			last = p[i-1]
		}
		if last != '\r' {
			return false, ErrBareLF
		}
		if i+1 < len(p) && p[i+1] == '.' {
			dots = true
		}
	}
	// Each LF has its CR before it, so more CRs than LFs is all that can be.
	if crs != lfs {
		return false, ErrBareCR
	}
	return dots, nil
}

// NextDot finds the first dot behind a LF, or gives -1.
func NextDot(p []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 || i+n+1 >= len(p) {
			return -1
		}
		i += n + 1
		if p[i] == '.' {
			return i
		}
	}
}

// ErrKnown is what a Scanner ends a copy with when it needs to see no more.
var ErrKnown = errors.New("seen enough")

// Scanner is written content to and looks for an octet beyond ASCII.
type Scanner struct {
	HeaderOnly bool // look at the header alone
	Found      bool

	blank int // octets of the empty line that ends the header, just seen
}

// Write takes a slice of content; its error is ErrKnown.
func (s *Scanner) Write(p []byte) (int, error) {
	for i, b := range p {
		switch {
		case b >= 0x80:
			s.Found = true
			return i, ErrKnown
		case !s.HeaderOnly:
		case b == "\r\n\r\n"[s.blank]:
			if s.blank++; s.blank == 4 {
				return i, ErrKnown
			}
		case b == '\r':
			s.blank = 1
		default:
			s.blank = 0
		}
	}
	return len(p), nil
}
