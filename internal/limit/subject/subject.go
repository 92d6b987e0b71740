// Package subject makes what limits look at of what mail is made of, in the one
// form that all nodes compare: small letters, and domains in A-labels.
package subject

import (
	"strings"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
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

// Domain is a domain, or an address literal, as limits compare it.
func Domain(d string) string { return names.Fold(d) }
