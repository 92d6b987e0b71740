package dsn

import (
	"bytes"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// ownDiagnostic is the type of a Diagnostic-Code that no server gave but the
// relay itself (RFC 3464 2.3.6).
const ownDiagnostic = "x-clrelay"

func (w *writer) statusType() string {
	if w.global {
		return "message/global-delivery-status"
	}
	return "message/delivery-status"
}

// status writes the fields of RFC 3464 2.2 and 2.3, groups parted by an empty
// line.
func (w *writer) status() []byte {
	var b bytes.Buffer
	field := func(name, value string) { b.WriteString(wrap(name+": ", " ", value)) }
	// Addresses and IDs are not folded and keep their spaces.
	exactly := func(name, value string) {
		if len(name)+len(value) < maxLine-2 {
			b.WriteString(name + ": " + value + "\r\n")
			return
		}
		field(name, value)
	}
	field("Reporting-MTA", "dns; "+w.ReportingMTA)
	if id := exact(w.Envelope.EnvID, false); id != "" {
		exactly("Original-Envelope-Id", id)
	}
	if !w.Envelope.Arrived.IsZero() {
		field("Arrival-Date", date(w.Envelope.Arrived))
	}
	if by := w.Envelope.By.At; !by.IsZero() {
		field("Deliver-By-Date", date(by)) // RFC 2852 5
	}
	for _, rc := range w.Recipients {
		b.WriteString("\r\n")
		rcpt := w.Envelope.Recipients[rc.Outcome.Recipient]
		if rcpt.ORcptType != "" {
			if v := w.originalRecipient(rcpt); v != "" {
				exactly("Original-Recipient", v)
			}
		}
		exactly("Final-Recipient", w.finalRecipient(rcpt.Addr))
		field("Action", w.Kind.String())
		field("Status", w.code(rc).String())
		o := rc.Outcome
		if host := remoteHost(o.Remote); host != "" {
			field("Remote-MTA", "dns; "+host)
		}
		if o.Reply.Code != 0 {
			typ := "smtp"
			if o.Remote == "" {
				typ = ownDiagnostic
			}
			field("Diagnostic-Code", typ+"; "+plain(o.Reply.Line(), w.global))
		}
		if !o.At.IsZero() {
			field("Last-Attempt-Date", date(o.At))
		}
		if !w.Envelope.ID.IsZero() {
			field("Final-Log-ID", w.Envelope.ID.String())
		}
		if w.Kind == Delayed && !rc.WillRetryUntil.IsZero() {
			field("Will-Retry-Until", date(rc.WillRetryUntil))
		}
	}
	return b.Bytes()
}

// originalRecipient gives ORCPT back, decoded as RFC 3464 2.3.1 has it, or in
// the encodings of RFC 6533 3 where the type is utf-8.
func (w *writer) originalRecipient(rcpt mail.Recipient) string {
	enc := mail.FormatORcpt(rcpt.ORcptType, rcpt.ORcpt, w.global)
	typ, enc, ok := strings.Cut(enc, ";")
	if !ok {
		return ""
	}
	if strings.EqualFold(typ, mail.ORcptUTF8) {
		return exact(typ+"; "+enc, w.global)
	}
	return exact(typ+"; "+rcpt.ORcpt, false)
}

func (w *writer) finalRecipient(a mail.Address) string {
	if !a.NeedsUTF8() {
		return "rfc822; " + a.String()
	}
	return strings.Replace(mail.FormatORcpt(mail.ORcptUTF8, a.String(), w.global), ";", "; ", 1)
}

// code is the Status of a recipient: what the next hop said where it fits the
// action, and the class alone, or the relay's own word, where it does not.
func (w *writer) code(rc Recipient) mail.EnhancedCode {
	class := map[Kind]int{Failed: 5, Delayed: 4, Delivered: 2, Relayed: 2}[w.Kind]
	if w.Kind == Failed && rc.Expired {
		if w.overdue() {
			return mail.EnhancedCode{5, 4, 7} // RFC 2852 4.1
		}
		return mail.EnhancedCode{4, 4, 7} // RFC 3463 3.5: delivery time expired
	}
	if e := rc.Outcome.Reply.Enhanced; e[0] == class {
		return e
	}
	return mail.EnhancedCode{class, 0, 0}
}

// remoteHost takes the name, or else the address, out of "name[address]:port".
func remoteHost(remote string) string {
	remote = plain(remote, false)
	name, rest, ok := strings.Cut(remote, "[")
	if name == "" && ok {
		addr, _, _ := strings.Cut(rest, "]")
		return "[" + asciiWord(addr) + "]"
	}
	return asciiWord(name)
}

// overdue tells whether the message was to be given up by now, by its sender's
// wish.
func (w *writer) overdue() bool {
	by := w.Envelope.By
	return by.Return && !w.Now.Before(by.At)
}
