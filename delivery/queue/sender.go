package queue

import "github.com/clrelay/clrelay/internal/mail"

// senderLocal bounds how much of a local part tells senders apart.
const senderLocal = 24

// senderKey gives mail of one sender one number. Bulk senders give each
// message a reverse-path of its own (VERP: bounces+user=example.org@...), and
// must not gain a turn for each: the local part counts only up to the first
// "+" or "=" or the second "-". Two senders that fall together share turns,
// which does no harm.
func senderKey(a mail.Address) uint32 {
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
		if c == '+' || c == '=' || dashes == 2 {
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
