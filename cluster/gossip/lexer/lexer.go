// Package lexer looks at messages of memberlist before its decoder does, and
// refuses those that would make it take memory.
package lexer

import (
	"errors"
	"fmt"
)

// Bounds of a msgpack message of memberlist. Its decoder makes room for what
// a length says before the octets are there: with an extension of an unknown
// field six octets take 4 GB.
const (
	MaxRaw    = 16 << 10 // octets of a string
	maxItems  = 256      // of a map or list
	maxCounts = 4096     // nodes, or octets of state, that an exchange announces
)

// ErrMessage says that it is no message of a member.
var ErrMessage = errors.New("not a message of a member")

// Lexer reads msgpack token by token, in pieces as they come, and refuses
// what our nodes never send. Where a token begins does not depend on how they
// nest, so it keeps no stack.
type Lexer struct {
	Counts int    // so many first tokens hold no number above maxCounts
	skip   int    // octets of a string to come
	need   int    // octets of a length or number to come
	value  uint64 // of them, as far as read
	kind   byte   // what they are: 'n' number, 's' string, 'c' count of a map or list, 'x' anything
}

// ExchangeHead is how many tokens the head of an exchange has: a map of three.
const ExchangeHead = 7

// Take reads a piece.
func (l *Lexer) Take(b []byte) error {
	for len(b) > 0 {
		if l.skip > 0 {
			n := min(l.skip, len(b))
			l.skip -= n
			b = b[n:]
			continue
		}
		c := b[0]
		b = b[1:]
		if l.need == 0 {
			if err := l.begin(c); err != nil {
				return err
			}
			continue
		}
		l.value = l.value<<8 | uint64(c)
		if l.need--; l.need == 0 {
			if err := l.end(l.kind, l.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin reads the first octet of a token.
func (l *Lexer) begin(c byte) error {
	l.value = 0
	switch {
	case c <= 0x7f: // a small number
		return l.end('n', uint64(c))
	case c <= 0x9f: // a small map or list
		return l.end('c', uint64(c&0x0f))
	case c <= 0xbf: // a short string
		return l.end('s', uint64(c&0x1f))
	case c == 0xc0, c == 0xc2, c == 0xc3, c >= 0xe0: // nil, false, true, a small negative number
		return l.end('x', 0)
	case c >= 0xc4 && c <= 0xc6: // octets
		l.kind, l.need = 's', 1<<(c-0xc4)
	case c == 0xca, c == 0xcb: // floating point
		l.kind, l.need = 'x', 4<<(c-0xca)
	case c >= 0xcc && c <= 0xd3: // with and without a sign
		l.kind, l.need = 'n', 1<<(c&3)
	case c >= 0xd9 && c <= 0xdb:
		l.kind, l.need = 's', 1<<(c-0xd9)
	case c == 0xdc, c == 0xdd, c == 0xde, c == 0xdf:
		l.kind, l.need = 'c', 2<<(c&1)
	default: // extensions, and one that has no meaning
		return fmt.Errorf("%w: token %#x", ErrMessage, c)
	}
	return nil
}

// end has all of a token but the octets of a string.
func (l *Lexer) end(kind byte, v uint64) error {
	bad := kind == 's' && v > MaxRaw || kind == 'c' && v > maxItems || kind == 'n' && l.Counts > 0 && v > maxCounts
	if bad {
		return fmt.Errorf("%w: a size of %d", ErrMessage, v)
	}
	if kind == 's' {
		l.skip = int(v)
	}
	l.Counts = max(0, l.Counts-1)
	return nil
}
