// Package keys gives senders and domains the small numbers by which the queue
// tells them apart.
package keys

import (
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// senderLocal bounds how much of a local part tells senders apart.
const senderLocal = 24

// Sender gives mail of one sender one number. Bulk senders give each
// message a reverse-path of its own (VERP: bounces+user=example.org@...), and
// must not gain a turn for each: the local part counts only up to the first
// "+" or "=", or up to the second "-" where a number or a recipient follows.
// Two senders that fall together share turns, which does no harm, but a limit
// of one keeps what the other has behind it in the same lane: names that people
// give to addresses are told apart.
func Sender(a mail.Address) uint32 {
	h := uint32(2166136261) // FNV-1a
	add := func(c byte) {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint32(c)) * 16777619
	}
	dashes := 0
	for i := 0; i < min(len(a.Local), senderLocal); i++ {
		c := a.Local[i]
		if c == '-' {
			dashes++
		}
		if c == '+' || c == '=' || c == '-' && dashes == 2 && strings.ContainsAny(a.Local[i:], "=0123456789") {
			break
		}
		add(c)
	}
	add('@')
	for i := 0; i < len(a.Domain); i++ {
		add(a.Domain[i])
	}
	return h
}

// Domain gives a domain a number that is the same for all its forms. The
// queue knows no more of a domain than that: what it rules out need not be
// read.
func Domain(domain string) uint16 {
	if strings.HasPrefix(domain, "[") || !isASCII(domain) {
		if n, err := names.Normalize(domain); err == nil {
			domain = n
		}
	}
	domain = strings.TrimSuffix(domain, ".")
	h := uint32(2166136261) // FNV-1a
	for i := range len(domain) {
		c := domain[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint32(c)) * 16777619
	}
	return uint16(h ^ h>>16)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
