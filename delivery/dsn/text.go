package dsn

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// maxNamed is how many recipients the text names; the second part names all.
const maxNamed = 50

// text is the part for people. Its words are chosen for someone who sends
// mail and has never seen a reply code.
func (w *writer) text() (part, error) {
	var b bytes.Buffer
	para := func(s string) { b.WriteString(wrap("", "", s) + "\r\n") }
	para("This is the mail system at " + w.ReportingMTA + ".")
	para(w.opening())
	for i, rc := range w.Recipients {
		if i == maxNamed {
			para(fmt.Sprintf("And %d more, which the second part of this report names.", len(w.Recipients)-maxNamed))
			break
		}
		w.recipientText(&b, rc)
	}
	if w.Kind == Failed {
		para("If you need help, forward this whole report to your postmaster.")
	}
	b.WriteString("The message:\r\n\r\n")
	item := func(name, value string) { b.WriteString(wrap("  "+name+": ", "    ", value)) }
	if w.subject != "" {
		item("Subject", w.subject)
	}
	if !w.Envelope.Arrived.IsZero() {
		item("Taken", date(w.Envelope.Arrived))
	}
	if !w.Envelope.ID.IsZero() {
		item("ID in our log", w.Envelope.ID.String())
	}
	enc, content, err := encode(b.Bytes(), w.global)
	charset := "utf-8"
	if isASCII(b.Bytes()) {
		charset = "us-ascii"
	}
	return part{mediaType: "text/plain; charset=" + charset, encoding: enc, content: content}, err
}

func (w *writer) opening() string {
	whose, whom := "Your message", "the recipient below"
	if w.Envelope.From.IsNull() {
		whose = "A message with the empty sender address, which cannot be told,"
	} else if !w.To.IsNull() && w.To != w.Envelope.From {
		whose = "A message from " + w.Envelope.From.String()
	}
	if len(w.Recipients) > 1 {
		whom = fmt.Sprintf("the %d recipients below", len(w.Recipients))
	}
	switch w.Kind {
	case Failed:
		return whose + " could not be delivered to " + whom + ". It will not be tried again."
	case Delayed:
		return whose + " has not reached " + whom + " yet. You need not do anything, and need not send it again: it is still being tried."
	case Delivered:
		return whose + " was delivered to " + whom + ", as you asked to be told."
	}
	return whose + " was passed on towards " + whom + ", as you asked to be told. The mail server that took it does not confirm delivery: you will hear of it again only if something goes wrong."
}

func (w *writer) recipientText(b *bytes.Buffer, rc Recipient) {
	line := func(indent, s string) { b.WriteString(wrap(indent, indent, s)) }
	o := rc.Outcome
	b.WriteString("  <" + exact(w.Envelope.Recipients[o.Recipient].Addr.String(), true) + ">\r\n")
	reply, remote := plain(o.Reply.Line(), true), plain(o.Remote, false)
	switch {
	case o.Reply.Code == 0:
	case remote != "" && w.Kind == Failed && rc.Expired:
		line("    ", "The last answer of the mail server "+remote+":")
		line("      ", reply)
	case remote != "":
		line("    ", "The mail server "+remote+" said:")
		line("      ", reply)
	default:
		line("    ", "The reason:")
		line("      ", reply)
	}
	switch {
	case w.Kind != Failed || !rc.Expired:
	case w.overdue():
		line("    ", "It was not delivered by "+date(w.Envelope.By.At)+", the time that it was sent with, and is of no use later.")
	default:
		line("    ", "It was tried again and again until the time for it ran out.")
	}
	if o.Unsure {
		line("    ", "The connection broke after the message was sent: the recipient may have it all the same.")
	}
	if w.Kind == Delayed && !rc.WillRetryUntil.IsZero() {
		line("    ", "It will be tried until "+date(rc.WillRetryUntil)+". You will be told if it fails.")
	}
	if w.Kind == Failed {
		line("    ", "What you can do: "+advice(w.code(rc)))
	}
	b.WriteString("\r\n")
}

// advice says what a sender can do about a Status (RFC 3463 3).
func advice(c mail.EnhancedCode) string {
	switch {
	case c == mail.EnhancedCode{5, 6, 7}:
		return "the mail system of this recipient does not take addresses with international letters. Ask for another address."
	case c[1] == 1 && (c[2] == 7 || c[2] == 8): // bad sender
		return "your own address was refused as sender. Check how it is set in your mail program."
	case c[1] == 1:
		return "check the address for typing errors, or ask the recipient for the right one."
	case c == mail.EnhancedCode{5, 2, 2}:
		return "the mailbox is full. Reach the recipient in another way, and send again later."
	case c == mail.EnhancedCode{5, 2, 3}, c == mail.EnhancedCode{5, 3, 4}:
		return "the message is too large for this recipient. Send a smaller one, or a link."
	case c[1] == 2:
		return "the mailbox cannot take mail now. Reach the recipient in another way."
	case c[1] == 7:
		return "the other side refused the message by its rules. Its answer above may say why and whom to ask."
	case c[0] == 4 || c[1] == 4:
		return "the other side cannot be reached or does not take mail now. Check the part of the address after the @, or send again later."
	}
	return "the answer above says why. If it tells you nothing, ask your postmaster or reach the recipient in another way."
}

// subjectOf finds the subject in a header, decoded and made harmless.
func subjectOf(header []byte, decode func(string) (string, error)) string {
	var value strings.Builder
	found := false
	for line := range bytes.Lines(header) {
		if found {
			if line[0] != ' ' && line[0] != '\t' {
				break
			}
			value.Write(line)
			continue
		}
		if name, rest, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(bytes.TrimSpace(name), []byte("subject")) {
			found = true
			value.Write(rest)
		}
	}
	s := plain(value.String(), true) // one line, before and after decoding
	if decoded, err := decode(s); err == nil {
		s = decoded
	}
	if s = plain(s, true); len(s) > maxSubject {
		s = cut(s, maxSubject) + "..."
	}
	return s
}

const maxSubject = 200
