package received

import (
	"bufio"
	"strings"

	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
)

// maxRecipients bounds what is taken out of a text for people.
const maxRecipients = 100

// isAutoReply goes by RFC 3834 5 and by what was used before it.
func (c *collected) isAutoReply() bool {
	auto := strings.ToLower(c.header.get("auto-submitted"))
	if end := strings.IndexAny(auto, "; \t("); end >= 0 {
		auto = auto[:end]
	}
	precedence := strings.ToLower(strings.TrimSpace(c.header.get("precedence")))
	if auto == "auto-replied" && !c.fromDaemon() || c.header.get("x-autoreply") != "" || c.header.get("x-autorespond") != "" ||
		precedence == "auto_reply" || precedence == "auto-reply" {
		return c.header.get("x-failed-recipients") == "" && !(c.fromDaemon() && failureSubject(c.header.get("subject")))
	}
	return begins(strings.ToLower(c.header.get("subject")), "out of office", "out of the office", "automatic reply", "auto reply", "autoreply", "auto:", "auto-reply", "vacation")
}

// fromDaemon tells whether a mail system says it wrote the message.
func (c *collected) fromDaemon() bool {
	from := strings.ToLower(c.header.get("from"))
	for _, name := range []string{"mailer-daemon", "post_master", "mailerdaemon", "postmaster", "mail delivery", "mail-daemon", "mailadmin", "mdaemon", "mail system", "no-reply", "noreply", "auto-notify"} {
		if strings.Contains(from, name) {
			return true
		}
	}
	return strings.TrimSpace(c.header.get("return-path")) == "<>"
}

// failureSubject tells whether a subject is one of those that mail systems
// write over bad news.
func failureSubject(s string) bool {
	s = strings.ToLower(s)
	for _, part := range []string{
		"failure", "undeliver", "returned mail", "returned to sender", "delivery status", "delivery fail", "delivery error", "delivery report", "delivery problem", "could not be delivered", "returning message",
		"not delivered", "unable to deliver", "mail error", "mail system error", "mail delivery", "message delay", "delayed", "warning: ", "error sending", "non delivery", "nondeliverable", "rejected", "bounce", "problem", "not be sent", "permanent error", "delivery notification", "failed",
	} {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

// prose reads a report in words. Without a mail system's name and without a
// subject of bad news a text is none.
func (c *collected) prose(out *Report) {
	failed := c.header.get("x-failed-recipients")
	daemon, subject := c.fromDaemon(), failureSubject(c.header.get("subject"))
	if failed == "" && !daemon && !subject {
		return
	}
	text, original := beforeOriginal(string(c.text))
	if len(c.original.names) == 0 {
		c.original = readHeader(bufio.NewReader(strings.NewReader(strings.TrimLeft(original, "\r\n"))))
		out.MessageID = id(c.original.get("message-id"))
	}
	whole := oneLine(text)
	found := blocks(text)
	if len(found) == 0 && failed != "" {
		for a := range strings.SplitSeq(failed, ",") {
			found = append(found, block{address: address(a)})
		}
	}
	if len(found) == 0 && (daemon && subject || judge(mail.EnhancedCode{}, whole).Class != bounce.Other) {
		found = append(found, block{address: address(whole)})
	}
	for _, b := range found[:min(len(found), maxRecipients)] {
		r := b.recipient(whole)
		out.Recipients = append(out.Recipients, r)
		if out.Kind == Unknown || r.Kind == Bounce {
			out.Kind = r.Kind
		}
	}
}

// block is an address and what is said of it.
type block struct {
	address string
	text    string
}

// recipient classifies what is said of an address, or where that is nothing,
// what is said at all.
func (b *block) recipient(whole string) Recipient {
	r := Recipient{Address: b.address, Text: oneLine(b.text), Kind: Bounce}
	_, r.Code = bounce.FindCode(r.Text)
	r.Verdict = judge(mail.EnhancedCode{}, r.Text)
	if r.Text == "" || unclear(r.Verdict.Class) {
		r.ask(whole)
	}
	if delayed(whole) {
		r.Kind = Delayed
		if r.Verdict.Status[0] != 4 {
			r.Verdict.Status = mail.EnhancedCode{}
		}
	}
	r.settle()
	return r
}

// textOf gives what is said of an address.
func textOf(said []block, addr string) string {
	for i := range said {
		if strings.EqualFold(said[i].address, addr) {
			return oneLine(said[i].text)
		}
	}
	return ""
}

// delayed tells whether a text is about mail that is still tried.
func delayed(whole string) bool {
	low := strings.ToLower(whole)
	for _, part := range []string{"will be retried", "will continue to be attempted", "will keep trying", "will continue trying", "you do not need to resend", "no action is required", "still trying", "this is a warning message only"} {
		if strings.Contains(low, part) {
			return true
		}
	}
	return false
}

// blocks finds the addresses that stand at the beginning of a line, as mail
// systems write those that they could not deliver to.
func blocks(text string) []block {
	var out []block
	seen := map[string]int{}
	at := -1
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if a, rest, ok := heads(trimmed); ok {
			key := strings.ToLower(a)
			i, known := seen[key]
			if !known {
				if len(out) >= maxRecipients {
					break
				}
				i = len(out)
				seen[key] = i
				out = append(out, block{address: a})
			}
			at = i
			if trimmed = rest; rest == "" {
				continue
			}
		}
		if at >= 0 && trimmed == "" && out[at].text != "" {
			at = -1 // what follows is said of nobody
		}
		if at >= 0 && len(out[at].text) < maxText {
			out[at].text += trimmed + "\n"
		}
	}
	return out
}

// heads tells whether a line begins with an address that is alone, in angle
// brackets or followed by a colon, and gives what follows.
func heads(line string) (addr, rest string, ok bool) {
	for _, label := range []string{"recipient:", "recipient address:", "recipient(s):", "failed recipient:", "final-recipient: rfc822;", "-"} {
		if len(line) > len(label) && strings.EqualFold(line[:len(label)], label) {
			line = strings.TrimSpace(line[len(label):])
		}
	}
	if strings.HasPrefix(line, "<") {
		end := strings.IndexByte(line, '>')
		if end < 0 {
			return "", "", false
		}
		addr, rest = line[1:end], line[end+1:]
	} else if code, at, isCode := strings.Cut(line, " <"); isCode && len(code) < 12 && bounceCode(code) {
		// "550 <a@example.org>... User unknown", as sendmail writes: the code belongs to the text.
		a, _, closed := strings.Cut(at, ">")
		if a = address(a); closed && a != "" {
			return a, line, true
		}
		return "", "", false
	} else {
		end := strings.IndexAny(line, " \t:;,")
		if end < 0 {
			end = len(line)
		}
		addr, rest = line[:end], line[end:]
		if rest != "" && rest[0] != ':' && strings.TrimSpace(rest) != "" && !strings.HasPrefix(strings.TrimSpace(rest), "(") && !strings.HasPrefix(strings.TrimSpace(rest), "...") {
			return "", "", false
		}
	}
	addr = strings.TrimPrefix(strings.ToLower(addr[:min(len(addr), 7)]), "mailto:") + addr[min(len(addr), 7):]
	addr = address(strings.TrimPrefix(addr, "mailto:"))
	return addr, strings.TrimLeft(rest, ":. \t"), addr != ""
}

func bounceCode(s string) bool {
	at, code := bounce.FindCode(s)
	return code != 0 && at == 0
}

// beforeOriginal cuts a text where the returned message begins.
func beforeOriginal(text string) (report, original string) {
	at := 0
	for line := range strings.Lines(text) {
		if at > 0 && isMarker(strings.ToLower(strings.TrimSpace(line))) {
			return text[:at], text[at+len(line):]
		}
		at += len(line)
	}
	return text, ""
}

// isMarker tells whether a line, in lower case, stands in front of a returned
// message, or is its first.
func isMarker(line string) bool {
	if begins(line, "received:", "return-path:", "x-envelope-from:", "mime-version:", "message-id:", "delivered-to:") {
		return true
	}
	bare := strings.Trim(line, "-=*_#+ :.")
	dressed := len(bare) < len(line)-3 || bare+":" == line
	if begins(bare, "below this line is a copy", "this is a copy of", "below is a copy", "a copy of the original message", "original message follows", "original message header", "message header follows", "message headers follow", "the header of the original message", "your original message", "undelivered message", "enclosed is the original", "headers of the original", "the following is a copy", "here is a copy of", "start of your message", "text of your message", "returned message follows", "copy of your message", "the original message", "original mail") {
		return true
	}
	return dressed && begins(bare, "original message", "returned message", "unsent message", "message header", "returned mail", "start of message", "copy of message", "message headers", "header", "included", "rejected message", "undeliverable message", "message text", "message content")
}

func begins(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
