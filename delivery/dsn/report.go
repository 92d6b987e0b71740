package dsn

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Kind says what a report tells of its recipients. The zero value stands for
// no report.
type Kind uint8

// The kinds of report. Names of RFC 3464 2.3.3.
const (
	None      Kind = iota
	Failed         // given up, by a permanent answer or after all tries
	Delayed        // still tried
	Delivered      // taken by the last hop, which gives no reports (LMTP)
	Relayed        // taken by a next hop that gives no reports
)

// String gives the word of the Action field (RFC 3464 2.3.3).
func (k Kind) String() string {
	switch k {
	case Failed:
		return "failed"
	case Delayed:
		return "delayed"
	case Delivered:
		return "delivered"
	case Relayed:
		return "relayed"
	}
	return "none"
}

// ForOutcome says what kind of report an attempt calls for, should the sender
// want it: see Wanted. A temporary outcome calls for none by itself: delay and
// expiry are the queue's to tell. A next hop that took the parameters of RFC
// 3461 reports success itself (RFC 3461 5.2).
func ForOutcome(o mail.Outcome, hop mail.HopKind) Kind {
	switch {
	case o.Reply.Permanent():
		return Failed
	case !o.Reply.Positive() || o.DSNPassed:
		return None
	case hop == mail.HopLMTP:
		return Delivered
	}
	return Relayed
}

// Wanted tells whether the sender of env is to get a report of that kind about
// the recipient: by NOTIFY (RFC 3461 4.1), and never when the reverse-path is
// null, so that no report is ever written about a report (RFC 5321 4.5.5).
func Wanted(env *mail.Envelope, recipient int, kind Kind) bool {
	if env.From.IsNull() {
		return false
	}
	n := env.Recipients[recipient].Notify
	if n&mail.NotifyNever != 0 {
		return false
	}
	switch kind {
	case Failed:
		return n == 0 || n&mail.NotifyFailure != 0
	case Delayed:
		return n == 0 || n&mail.NotifyDelay != 0
	case Relayed:
		return n&mail.NotifySuccess != 0 || env.By.Trace // RFC 2852 4
	case Delivered:
		return n&mail.NotifySuccess != 0
	}
	return false
}

// Recipient is one recipient of the original that a report tells of.
type Recipient struct {
	Outcome        mail.Outcome // of the last attempt; Outcome.Recipient says which recipient it is
	Expired        bool         // Failed: every answer was temporary until time ran out
	WillRetryUntil time.Time    // Delayed: when it will be given up; zero when unknown
}

// Report holds the facts of one report. All its recipients met the same fate.
type Report struct {
	Kind       Kind
	ID         mail.ID        // of the report; made from Now when zero
	Envelope   *mail.Envelope // of the original; not changed
	Recipients []Recipient    // those that Wanted speaks for
	To         mail.Address   // who gets it; the original's sender when zero

	ReportingMTA string       // the relay's host name
	From         mail.Address // the author in the header; MAILER-DAEMON at ReportingMTA when zero

	// Original is the original's content. Without it the report has no third
	// part. It is read to the end of the header by Build, and on by the
	// reader that Build gives where the whole message goes back.
	Original io.Reader
	Size     int64 // of the original's content
	MaxFull  int64 // a greater original goes back as its header alone

	Now time.Time
}

// ErrReport is wrapped by errors of Build about facts that make no report.
var ErrReport = errors.New("dsn: no report can be made")

// Build gives the envelope and the content of a report. The content is read
// once; the original's body streams through it.
func Build(r Report) (*mail.Envelope, io.Reader, error) {
	w, err := newWriter(r)
	if err != nil {
		return nil, nil, err
	}
	orig, err := w.original()
	if err != nil {
		return nil, nil, err
	}
	text, err := w.text()
	if err != nil {
		return nil, nil, err
	}
	w.header(orig)
	w.part(text)
	w.part(part{mediaType: w.statusType(), encoding: w.plainEncoding(), content: w.status()})
	body := io.Reader(strings.NewReader(""))
	if orig != nil {
		w.part(*orig)
		if orig.stream != nil {
			body = orig.stream
		}
	}
	end := strings.NewReader("\r\n--" + w.boundary + "--\r\n")
	return w.envelope(orig), io.MultiReader(&w.out, body, end), nil
}

// part is one body part of a report.
type part struct {
	mediaType string
	encoding  string // Content-Transfer-Encoding
	content   []byte
	stream    io.Reader // follows content; nil when that is all
}

// writer puts a report together.
type writer struct {
	Report
	to       mail.Address
	global   bool // UTF-8 in header fields: the report itself needs SMTPUTF8
	boundary string
	subject  string // of the original, made harmless; may be empty
	out      bytes.Buffer
}

func newWriter(r Report) (*writer, error) {
	w := &writer{Report: r, to: r.To}
	if r.Kind < Failed || r.Kind > Relayed || len(r.Recipients) == 0 || r.Envelope == nil {
		return nil, fmt.Errorf("%w: nothing to tell", ErrReport)
	}
	for _, rc := range r.Recipients {
		if i := rc.Outcome.Recipient; i < 0 || i >= len(r.Envelope.Recipients) {
			return nil, fmt.Errorf("%w: no recipient %d", ErrReport, i)
		}
	}
	if w.to.IsNull() {
		w.to = r.Envelope.From
	}
	if w.to.IsNull() {
		return nil, fmt.Errorf("%w: nobody to tell", ErrReport)
	}
	if len(w.to.String()) > mail.MaxPath {
		return nil, fmt.Errorf("%w: the address to tell is too long", ErrReport)
	}
	w.ReportingMTA = cut(asciiWord(r.ReportingMTA), mail.MaxDomain)
	// Only a sender with a non-ASCII address gets a report that needs
	// SMTPUTF8 all the way: the way back to others may lack it, and a report
	// that cannot be delivered tells nobody.
	w.global = w.to.NeedsUTF8()
	if w.From.IsNull() || w.From.NeedsUTF8() && !w.global || len(w.From.String()) > mail.MaxPath {
		w.From = mail.Address{Local: "MAILER-DAEMON", Domain: w.ReportingMTA}
	}
	if w.ID.IsZero() {
		w.ID = mail.NewID(r.Now)
	}
	// 128 random bits occur in no original, so none can end a part early.
	var random [16]byte
	rand.Read(random[:]) // never fails (Go 1.24)
	w.boundary = "=_" + hex.EncodeToString(random[:])
	return w, nil
}

func (w *writer) envelope(orig *part) *mail.Envelope {
	env := &mail.Envelope{
		ID:         w.ID,
		Recipients: []mail.Recipient{{Addr: w.to, Notify: mail.NotifyNever}},
		SMTPUTF8:   w.global,
		RequireTLS: w.Envelope.RequireTLS, // RFC 8689 5: protected as the original was
		Arrived:    w.Now,
		Client:     mail.Client{Protocol: "LOCAL"},
		MessageID:  w.messageID(),
	}
	if w.encoding(orig) == "8bit" {
		env.Body = mail.Body8BitMIME
	}
	return env
}

// encoding is that of the whole report.
func (w *writer) encoding(orig *part) string {
	if w.global || orig != nil && orig.encoding == "8bit" {
		return "8bit"
	}
	return "7bit"
}

// plainEncoding is that of parts which hold octets beyond ASCII only in a
// report that needs SMTPUTF8.
func (w *writer) plainEncoding() string { return w.encoding(nil) }

func (w *writer) header(orig *part) {
	title := map[Kind]string{
		Failed: "Undeliverable mail", Delayed: "Mail is delayed, still trying",
		Delivered: "Mail was delivered", Relayed: "Mail was passed on",
	}[w.Kind]
	for _, f := range [...][2]string{
		{"From", "Mail Delivery System <" + w.From.String() + ">"},
		{"To", "<" + w.to.String() + ">"},
		{"Subject", title},
		{"Date", date(w.Now)},
		{"Message-ID", "<" + w.messageID() + ">"},
		{"MIME-Version", "1.0"},
		{"Auto-Submitted", "auto-replied"}, // RFC 3834 5
		// The same type for message/global-delivery-status (RFC 6533 4).
		{"Content-Type", "multipart/report; report-type=delivery-status;\r\n boundary=\"" + w.boundary + "\""},
		{"Content-Transfer-Encoding", w.encoding(orig)},
	} {
		w.out.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	w.out.WriteString("\r\nThis is a report in MIME format.\r\n")
}

func (w *writer) part(p part) {
	w.out.WriteString("\r\n--" + w.boundary + "\r\nContent-Type: " + p.mediaType + "\r\n")
	if p.encoding != "7bit" {
		w.out.WriteString("Content-Transfer-Encoding: " + p.encoding + "\r\n")
	}
	w.out.WriteString("\r\n")
	w.out.Write(p.content)
}

func date(t time.Time) string { return t.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700") }

func (w *writer) messageID() string { return w.ID.String() + "@" + w.ReportingMTA }
