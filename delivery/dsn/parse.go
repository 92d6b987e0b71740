package dsn

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
)

// Bounds of what Parse reads of a report. More is an error.
const (
	maxReport     = 8 << 20 // octets up to the end of the second part
	maxStatusLine = 64 << 10
	maxRecipients = 10000
)

// ErrNotReport is wrapped by the errors of Parse about a message that is no
// delivery status notification.
var ErrNotReport = errors.New("dsn: not a delivery status notification")

// Typed is a value with its type: "rfc822; a@example.org", "smtp; 550 ...".
type Typed struct {
	Type  string // lower case, empty where none was given
	Value string
}

// Status is what a report says to programs (RFC 3464 2.2).
type Status struct {
	Global       bool // RFC 6533: message/global-delivery-status
	ReportingMTA Typed
	EnvelopeID   string
	ArrivalDate  string
	Recipients   []RecipientStatus
}

// RecipientStatus is what a report says of one recipient (RFC 3464 2.3).
// Fields that were not there are empty.
type RecipientStatus struct {
	Original       Typed
	Final          Typed
	Action         string // lower case
	Status         string // "5.1.1", without what else stood there
	RemoteMTA      Typed
	Diagnostic     Typed
	LastAttempt    string
	WillRetryUntil string
	LogID          string
}

// Parse reads a whole message and finds its delivery status.
func Parse(r io.Reader) (*Status, error) {
	msg, err := mail.ReadMessage(io.LimitReader(r, maxReport))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReport, err)
	}
	typ, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(typ, "multipart/") || params["boundary"] == "" {
		return nil, fmt.Errorf("%w: not a multipart message", ErrNotReport)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		p, err := parts.NextRawPart()
		if err != nil {
			return nil, fmt.Errorf("%w: no part tells the status: %w", ErrNotReport, err)
		}
		// A broken Content-Type ends in the type alone, or in none.
		typ, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if typ != "message/delivery-status" && typ != "message/global-delivery-status" {
			continue
		}
		s, err := ParseStatus(Decoded(p, p.Header.Get("Content-Transfer-Encoding")))
		if err != nil {
			return nil, err
		}
		s.Global = typ == "message/global-delivery-status"
		return s, nil
	}
}

// Decoded takes off the content transfer encoding of a body part; one that it
// does not know is as good as none.
func Decoded(r io.Reader, encoding string) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

// ParseStatus reads the content of a message/delivery-status part. Fields that
// it does not know and lines that are no fields are passed over. Values come
// unfolded and otherwise as they stand.
func ParseStatus(r io.Reader) (*Status, error) {
	p := statusParser{status: &Status{}}
	lines := bufio.NewScanner(io.LimitReader(r, maxReport))
	lines.Buffer(make([]byte, 0, 4<<10), maxStatusLine)
	for lines.Scan() {
		if err := p.line(bytes.TrimRight(lines.Bytes(), " \t\r")); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReport, err)
	}
	if err := p.endField(); err != nil {
		return nil, err
	}
	if len(p.status.Recipients) == 0 {
		return nil, fmt.Errorf("%w: it names no recipient", ErrNotReport)
	}
	return p.status, nil
}

// statusParser holds the field and the group that are being read.
type statusParser struct {
	status *Status
	name   string // lower case; empty between fields
	value  []byte
	open   bool // the last recipient belongs to the group that is being read
}

func (p *statusParser) line(line []byte) error {
	if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		if len(p.value)+len(line) <= maxStatusLine {
			p.value = append(append(p.value, ' '), bytes.TrimLeft(line, " \t")...)
		}
		return nil
	}
	if err := p.endField(); err != nil {
		return err
	}
	if len(line) == 0 {
		p.open = false
		return nil
	}
	if name, value, ok := bytes.Cut(line, []byte(":")); ok {
		p.name = strings.ToLower(string(bytes.TrimSpace(name)))
		p.value = append(p.value[:0], bytes.TrimSpace(value)...)
	}
	return nil
}

// endField gives the field that was read to its group. The first field of a
// recipient opens one, whatever group it stands in: some write no empty line
// between the fields of the message and those of the recipient. So does a second
// Final-Recipient: some write none between two recipients either.
func (p *statusParser) endField() error {
	name, value := p.name, string(p.value)
	p.name = ""
	if name == "" || p.status.perMessage(name, value) {
		return nil
	}
	if p.open && (name != "final-recipient" || p.status.Recipients[len(p.status.Recipients)-1].Final.Value == "") {
		p.status.Recipients[len(p.status.Recipients)-1].set(name, value)
		return nil
	}
	var r RecipientStatus
	if !r.set(name, value) {
		return nil
	}
	if len(p.status.Recipients) >= maxRecipients {
		return fmt.Errorf("%w: more than %d recipients", ErrNotReport, maxRecipients)
	}
	p.status.Recipients = append(p.status.Recipients, r)
	p.open = true
	return nil
}

// perMessage takes a field of RFC 3464 2.2; it is false for others.
func (s *Status) perMessage(name, value string) bool {
	switch name {
	case "reporting-mta":
		s.ReportingMTA = typed(value)
	case "original-envelope-id":
		s.EnvelopeID = value
	case "arrival-date":
		s.ArrivalDate = value
	default:
		return false
	}
	return true
}

// set takes a field of RFC 3464 2.3; it is false for others.
func (r *RecipientStatus) set(name, value string) bool {
	switch name {
	case "original-recipient":
		r.Original = typed(value)
	case "final-recipient":
		r.Final = typed(value)
	case "action":
		word, _, _ := strings.Cut(value, " ")
		r.Action = strings.ToLower(word)
	case "status":
		r.Status = statusCode(value)
	case "remote-mta":
		r.RemoteMTA = typed(value)
	case "diagnostic-code":
		r.Diagnostic = typed(value)
	case "last-attempt-date":
		r.LastAttempt = value
	case "will-retry-until":
		r.WillRetryUntil = value
	case "final-log-id":
		r.LogID = value
	default:
		return false
	}
	return true
}

// typed reads "type; value". Where there is no type, all is value.
func typed(s string) Typed {
	typ, value, ok := strings.Cut(s, ";")
	typ = strings.TrimSpace(typ)
	if !ok || typ == "" || strings.ContainsAny(typ, " \t@<") {
		return Typed{Value: s}
	}
	return Typed{Type: strings.ToLower(typ), Value: strings.TrimSpace(value)}
}

// statusCode reads "class.subject.detail" (RFC 3463 2), with the comment or
// text that some put behind it left out; "" when there is none.
func statusCode(s string) string {
	n := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if n >= 0 {
		s = s[:n]
	}
	if strings.Count(s, ".") != 2 || len(s) > len("5.999.999") {
		return ""
	}
	for f := range strings.SplitSeq(s, ".") {
		if f == "" {
			return ""
		}
	}
	return s
}
