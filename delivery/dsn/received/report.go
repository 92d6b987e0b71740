package received

import (
	"io"
	"strings"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
)

// Kind says what a message is.
type Kind uint8

// The kinds.
const (
	Unknown   Kind = iota // for a person to read
	Bounce                // a recipient did not get it
	Delayed               // a recipient did not get it yet
	Success               // a recipient got it
	Complaint             // somebody calls it spam (RFC 5965), or another kind of feedback
	AutoReply             // a machine answers for a person (RFC 3834)
)

// String gives "bounce", "complaint" and so on.
func (k Kind) String() string {
	switch k {
	case Bounce:
		return "bounce"
	case Delayed:
		return "delayed"
	case Success:
		return "success"
	case Complaint:
		return "complaint"
	case AutoReply:
		return "auto_reply"
	}
	return "unknown"
}

// Report is what a message says. Everything in it was written by others.
type Report struct {
	Kind       Kind
	Recipients []Recipient // of a bounce at least one; of others often none
	EnvelopeID string      // ENVID of the original
	MessageID  string      // of the original, without brackets
	Feedback   string      // of a complaint: "abuse", "fraud", "auth-failure", lower case
	Source     string      // of a complaint: the address that the original came from
}

// Recipient is what a report says of one recipient.
type Recipient struct {
	Address string // empty where none was found: redacted, or not told
	Code    int    // reply code, 0 where none was told
	Text    string // the diagnostic, in one line
	Verdict bounce.Verdict
	Kind    Kind // Bounce, Delayed or Success
}

// maxText is how much of a diagnostic is kept.
const maxText = bounce.MaxText

// Read reads a message.
func Read(r io.Reader) (*Report, error) {
	c, err := collect(r)
	if err != nil {
		return nil, err
	}
	out := &Report{MessageID: id(c.original.get("message-id"))}
	switch {
	case c.feedback != nil:
		c.complaint(out)
	case c.status != nil:
		c.structured(out)
	case c.isAutoReply():
		out.Kind = AutoReply
	default:
		c.prose(out)
	}
	return out, nil
}

func id(s string) string {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "<") {
		if end := strings.IndexByte(s, '>'); end > 0 {
			s = s[1:end]
		}
	}
	return s
}

// complaint reads RFC 5965 3. Providers redact what names a person, mostly
// Original-Rcpt-To; then the return path alone tells whom it is about.
func (c *collected) complaint(out *Report) {
	out.Kind = Complaint
	out.Feedback = strings.ToLower(strings.TrimSpace(c.feedback.get("feedback-type")))
	if out.Feedback == "" {
		out.Feedback = "abuse"
	}
	out.Source = strings.TrimSpace(c.feedback.get("source-ip"))
	out.EnvelopeID = c.feedback.get("original-envelope-id")
	for _, v := range c.feedback.all("original-rcpt-to") {
		if a := address(v); a != "" && len(out.Recipients) < maxRecipients {
			out.Recipients = append(out.Recipients, Recipient{Address: a, Kind: Complaint})
		}
	}
}

// structured reads RFC 3464. Where a diagnostic says nothing to programs, what
// the report tells people decides.
func (c *collected) structured(out *Report) {
	out.EnvelopeID = c.status.EnvelopeID
	told := c.told()
	said, whole := blocks(told), oneLine(told)
	for i := range c.status.Recipients {
		rs := &c.status.Recipients[i]
		r := Recipient{Address: address(rs.Final.Value), Kind: action(rs), Text: oneLine(rs.Diagnostic.Value)}
		if r.Address == "" {
			r.Address = address(rs.Original.Value)
		}
		_, r.Code = bounce.FindCode(r.Text)
		r.Verdict = judge(mail.ParseEnhancedCode(rs.Status), r.Text)
		if r.Kind != Success && (r.Text == "" || unclear(r.Verdict.Class)) {
			r.ask(textOf(said, r.Address))
		}
		if r.Kind != Success && unclear(r.Verdict.Class) {
			r.ask(whole)
		}
		r.settle()
		out.Recipients = append(out.Recipients, r)
		if out.Kind == Unknown || r.Kind == Bounce {
			out.Kind = r.Kind
		}
	}
}

// ask takes the class, and a status where there is none that says anything,
// from another text.
func (r *Recipient) ask(text string) {
	if text == "" {
		return
	}
	v := judge(r.Verdict.Status, text)
	if r.Text == "" {
		r.Text = text
		_, r.Code = bounce.FindCode(text)
		r.Verdict.Status = v.Status
	}
	if !unclear(v.Class) || r.Verdict.Class == bounce.Other {
		r.Verdict = v
	}
}

// settle makes status and verdict fit the kind of the report.
func (r *Recipient) settle() {
	first := map[Kind]int{Bounce: 5, Delayed: 4, Success: 2}[r.Kind]
	if r.Verdict.Status[0] == 0 {
		r.Verdict.Status = mail.EnhancedCode{first, 0, 0}
		r.Verdict.Hard = bounce.Classify(100*first, r.Verdict.Status, r.Text).Hard
	}
	if r.Kind != Bounce {
		r.Verdict.Hard = false
	}
}

// unclear tells that another text may know more: that something was tried for
// too long is no cause.
func unclear(c bounce.Class) bool { return c == bounce.Other || c == bounce.Expired }

// judge classifies a diagnostic. What stands behind the first reply code is the
// other side's word and counts before the words of the system that reports it.
func judge(status mail.EnhancedCode, text string) bounce.Verdict {
	at, code := bounce.FindCode(text)
	whole := bounce.Classify(code, status, text)
	if at == 0 {
		return whole
	}
	if v := bounce.Classify(code, whole.Status, text[at:]); !unclear(v.Class) {
		return v
	}
	return whole
}

// action goes by the field Action, and without one by the status.
func action(r *dsn.RecipientStatus) Kind {
	switch r.Action {
	case "failed", "expired":
		return Bounce
	case "delayed":
		return Delayed
	case "delivered", "relayed", "expanded":
		return Success
	}
	switch {
	case strings.HasPrefix(r.Status, "2"):
		return Success
	case strings.HasPrefix(r.Status, "4"):
		return Delayed
	}
	return Bounce
}

// address takes a mailbox out of a field: "rfc822; <a@example.org> (x)".
func address(s string) string {
	if _, rest, ok := strings.Cut(s, ";"); ok && strings.Contains(rest, "@") {
		s = rest
	}
	for word := range strings.FieldsSeq(s) {
		word = strings.Trim(word, "<>()[],;:\"'")
		if at := strings.LastIndexByte(word, '@'); at > 0 && at < len(word)-1 && len(word) <= maxAddress {
			return word
		}
	}
	return ""
}

const maxAddress = mail.MaxLocal + 1 + mail.MaxDomain

// oneLine makes one line of a text, of maxText octets at most.
func oneLine(s string) string {
	var b strings.Builder
	for word := range strings.FieldsSeq(s) {
		if b.Len()+1+len(word) > maxText {
			break
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	return strings.ToValidUTF8(b.String(), "\ufffd")
}
