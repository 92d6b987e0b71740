// Package subject makes what limits look at of what mail is made of, in the one
// form that all nodes compare: small letters, and domains in A-labels.
package subject

import (
	"strings"

	"golang.org/x/net/idna"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Null is the sender of bounces.
const Null = "<>"

// From puts an envelope sender into s.
func From(s *limit.Subject, a mail.Address) {
	if a.IsNull() {
		s.Sender, s.SenderDomain = Null, ""
		return
	}
	s.SenderDomain = Domain(a.Domain)
	s.Sender = mail.Address{Local: strings.ToLower(a.Local), Domain: s.SenderDomain}.String()
}

// Of gives what is known of a message before it is sent anywhere.
func Of(env *mail.Envelope) limit.Subject {
	s := limit.Subject{Group: env.Client.Sender, Client: env.Client.Addr}
	From(&s, env.From)
	return s
}

// Domain is a domain, or an address literal, as limits compare it. What is no
// domain name is taken as it is.
func Domain(d string) string {
	for i := range len(d) {
		if d[i] >= 0x80 {
			if a, err := idna.Lookup.ToASCII(d); err == nil {
				d = a
			}
			break
		}
	}
	return strings.ToLower(d)
}
