// Package mask hides whom a text is about: mail addresses and IP addresses
// become marks, equal ones equal marks, so that one can still follow them. The
// domain of an address stays, for it says where mail went.
package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"strings"
)

// Masker masks with a key. Without the key nobody can try addresses out.
type Masker struct{ key []byte }

// New makes a Masker.
func New(key []byte) *Masker { return &Masker{key} }

var (
	// An address: its local part may be quoted, or of any script. The marks of
	// protocols and logs end it.
	address = regexp.MustCompile(`("(?:[^"\\\r\n]|\\.)*"|[^\s<>()\[\]:;,"'=@]+)@([\pL\pN_.-]*[\pL\pN]|\[[^\]\s]*\])`)
	ipv4    = regexp.MustCompile(`\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b`)
	ipv6    = regexp.MustCompile(`[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:\d{1,3}(?:\.\d{1,3}){3})?`)
)

// Text masks what is in a text.
func (m *Masker) Text(s string) string {
	s = address.ReplaceAllStringFunc(s, func(a string) string {
		i := strings.LastIndexByte(a, '@')
		return "user-" + m.mark(strings.ToLower(a)) + a[i:]
	})
	s = ipv6.ReplaceAllStringFunc(s, m.ip)
	return ipv4.ReplaceAllStringFunc(s, m.ip)
}

// ip masks an IP address; those that say nothing of anybody stay.
func (m *Masker) ip(s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsLoopback() || a.IsUnspecified() {
		return s
	}
	return "ip-" + m.mark(a.Unmap().String())
}

func (m *Masker) mark(s string) string {
	h := hmac.New(sha256.New, m.key)
	h.Write([]byte(s))
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// secret is a line of YAML, JSON or a log that holds one.
var secret = regexp.MustCompile(`(?i)((?:pass(?:word)?|secret|token|api[_-]?key|private[_-]?key)["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,}]+)`)

// Secrets hides what stands behind the name of a secret. The name of a file
// that holds one is none.
func Secrets(s string) string { return secret.ReplaceAllString(s, "$1(secret)") }
