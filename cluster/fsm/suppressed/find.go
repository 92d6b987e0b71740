package suppressed

import (
	"errors"
	"strings"

	"golang.org/x/net/idna"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

// Query is a recipient of a message that is asked about.
type Query struct {
	To    mail.Address
	From  mail.Address // the envelope sender
	Group string       // the entry of the setting senders that its client is in; empty too where the recipient's domain is our own
	NowMS int64        // Unix time in milliseconds
}

// Find gives the entry by which mail is not sent. Mail that is taken because the
// recipient's domain is our own (Group is empty) is stopped by an operator's
// word alone, given for everybody's mail: an automatic entry must not shut a
// mailbox of ours.
func (t *Table) Find(q *Query) (s control.Suppression, ok bool) {
	if t.n.Load() == 0 {
		return s, false
	}
	var buf [control.MaxSuppressAddress]byte
	key, ok := appendKey(buf[:0], q.To)
	if !ok {
		return s, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.by[string(key)]; e != nil; e = e.next {
		if !e.over(q.NowMS) && e.meant(q) {
			return e.full(), true
		}
	}
	return s, false
}

// meant tells whether an entry of the recipient's address is about the mail.
func (e *entry) meant(q *Query) bool {
	scope := e.of()
	switch {
	case q.Group == "":
		return scope == "" && e.reason == control.SuppressOperator
	case scope == "" || scope == q.Group:
		return true
	}
	at := strings.LastIndexByte(scope, '@')
	if at < 0 {
		return false
	}
	var buf [control.MaxSuppressAddress]byte
	from, ok := appendKey(buf[:0], q.From)
	if !ok {
		return false
	}
	if at == 0 {
		return len(from) > len(scope) && string(from[len(from)-len(scope):]) == scope
	}
	return string(from) == scope
}

// appendKey appends an address as the list compares it: the domain as A-labels,
// everything in lower case. It is false for what no entry can be about.
func appendKey(dst []byte, a mail.Address) ([]byte, bool) {
	if a.Domain == "" {
		return nil, false
	}
	if key, ok := appendPlain(dst, a); ok {
		return key, len(key) <= control.MaxSuppressAddress
	}
	if a.NeedsUTF8() {
		if domain, err := idna.Lookup.ToASCII(a.Domain); err == nil {
			a.Domain = domain
		}
		a = mail.Address{Local: mail.FoldLocal(a.Local), Domain: strings.ToLower(a.Domain)}
	}
	dst = a.Append(dst)
	for i, c := range dst {
		if c >= 'A' && c <= 'Z' {
			dst[i] = c + 'a' - 'A'
		}
	}
	return dst, len(dst) <= control.MaxSuppressAddress
}

// appendPlain is appendKey for the many addresses that need no quotes and are
// ASCII.
func appendPlain(dst []byte, a mail.Address) ([]byte, bool) {
	dot := true // a local part in quotes may begin with one, or have two in a row
	for i := range len(a.Local) {
		c := a.Local[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '+' || c == '=':
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '.' && !dot:
		default:
			return dst, false
		}
		dot = c == '.'
		dst = append(dst, c)
	}
	dst = append(dst, '@')
	for i := range len(a.Domain) {
		c := a.Domain[i]
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_':
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		default:
			return dst, false
		}
		dst = append(dst, c)
	}
	return dst, !dot
}

// Key gives an address as the list compares it.
func Key(a mail.Address) (string, bool) {
	key, ok := appendKey(nil, a)
	return string(key), ok
}

// ParseAddress reads an address as a human writes it.
func ParseAddress(text string) (string, error) {
	a, err := mail.ParseMailbox(strings.TrimSpace(text), true)
	if err != nil {
		return "", err
	}
	if key, ok := Key(a); ok {
		return key, nil
	}
	return "", errors.New("an address with a domain is needed")
}

// ParseScope reads whose mail is meant: an address, "@" and a domain, the name
// of an entry of senders, or nothing for everybody.
func ParseScope(text string) (string, error) {
	text = strings.TrimSpace(text)
	switch at := strings.LastIndexByte(text, '@'); {
	case at < 0:
		return text, nil
	case at > 0:
		return ParseAddress(text)
	}
	key, err := ParseAddress("x" + text)
	return strings.TrimPrefix(key, "x"), err
}
