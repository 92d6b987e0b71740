package smtpd

import (
	"net/netip"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// maxTraceRcpt is the longest recipient that goes into a Received line.
const maxTraceRcpt = 200

// protocol names how the message comes (RFC 3848, RFC 6531 4.3).
func protocol(s *session, env *mail.Envelope) string {
	if !s.ehlo {
		return "SMTP"
	}
	p := "ESMTP"
	if env.SMTPUTF8 {
		p = "UTF8SMTP"
	}
	if s.client.TLS != "" {
		p += "S"
	}
	return p
}

// receivedLine builds the trace (RFC 5321 4.4). A recipient is named when it
// is the only one: naming one of several would tell the others.
func (s *session) receivedLine(env *mail.Envelope, now time.Time) []byte {
	b := make([]byte, 0, 320)
	b = append(b, "Received: from "...)
	name, literal := s.client.Helo, addressLiteral(s.client.Addr)
	_, isIP := mail.Address{Domain: name}.IP()
	if name[0] == '[' && !isIP || !env.SMTPUTF8 && !isASCII(name) {
		name = literal
	}
	b = append(append(b, name...), " ("...)
	b = append(append(b, literal...), ')')
	b = append(append(b, "\r\n\tby "...), s.srv.hostname...)
	b = append(append(b, " (clrelay) with "...), env.Client.Protocol...)
	if s.client.TLS != "" {
		b = append(append(append(b, " ("...), s.client.TLS...), ')')
	}
	b = append(b, "\r\n\tid "...)
	b = env.ID.Append(b)
	if len(env.Recipients) == 1 {
		a := env.Recipients[0].Addr
		text := a.String()
		if a.Domain != "" && len(text) <= maxTraceRcpt && (env.SMTPUTF8 || isASCII(text)) {
			b = append(append(append(b, "\r\n\tfor <"...), text...), '>')
		}
	}
	b = append(b, "; "...)
	b = now.AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(b, "\r\n"...)
}

// addressLiteral gives an address in the form of RFC 5321 4.1.3.
func addressLiteral(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "unknown"
	case a.Is4():
		return "[" + a.String() + "]"
	}
	return "[IPv6:" + a.WithZone("").String() + "]"
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
