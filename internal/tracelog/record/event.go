// Package record is what the traces of messages are made of: an event as the
// octets that lie in memory and on disks, and what it can be found by. It
// knows nothing of files.
package record

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Kind says what happened.
type Kind uint8

// What can happen. The values are on disks: never renumber them.
const (
	Accepted     Kind = 1 + iota // a message is on stable storage
	Rejected                     // a connection or a step of a transaction was refused
	Delivered                    // a next hop took it for a recipient
	Deferred                     // an attempt failed, there will be another
	Bounced                      // a recipient failed for good
	Expired                      // its time ran out
	DoubleBounce                 // a report that could not be delivered ends here
	Held                         // an operator keeps it, or it can't be read
	Released                     // no longer
	Dropped                      // an operator dropped it
	Report                       // a report about a message was written
	TakenOver                    // this node delivers a message that another one had
	Returned                     // something came back to a message's return path
	last
)

// String gives the word that the log of messages uses.
func (k Kind) String() string {
	switch k {
	case Accepted:
		return "accepted"
	case Rejected:
		return "rejected"
	case Delivered:
		return "delivered"
	case Deferred:
		return "deferred"
	case Bounced:
		return "bounced"
	case Expired:
		return "expired"
	case DoubleBounce:
		return "double_bounce"
	case Held:
		return "held"
	case Released:
		return "released"
	case Dropped:
		return "dropped"
	case Report:
		return "dsn"
	case TakenOver:
		return "taken_over"
	case Returned:
		return "returned"
	}
	return "unknown"
}

// Kinds lists the words.
func Kinds() (out []string) {
	for k := Accepted; k < last; k++ {
		out = append(out, k.String())
	}
	return out
}

// Event is something that happened, as it is read back. What is not known is
// left zero.
type Event struct {
	Time       time.Time // to the microsecond
	Kind       Kind
	ID         mail.ID // of the message; zero for what was refused before it had one
	Of         mail.ID // Report: the message that it is about; Returned: what came back
	Report     string  // its kind: failure, delay, success or relayed; Returned: bounce, complaint and so on
	Class      string  // Returned: of a bounce
	From       string  // sender; empty for the null reverse-path
	To         []string
	Recipients int // of the message; To may have fewer
	MessageID  string
	Client     mail.Client
	Size       int64
	Took       time.Duration // Accepted: from the end of the content on
	Arrived    time.Time     // TakenOver: when the message was accepted
	Copies     []string      // nodes that have it
	Relay, TLS string        // the next hop
	Source     string        // name of the own address that it was spoken to from
	Reply      mail.Reply    // without its cause, which is in Reason
	Reason     string
	Attempt    int
	Delay      time.Duration // since the message was accepted
	Next       time.Time     // of the next attempt
}

// Fields of a record. A number follows where numeric is set, else a length and
// as many octets. Unknown ones are skipped, so fields may be added; they are
// on disks, so none may change its meaning.
const (
	numeric = 0x80

	FieldFrom      = 1
	FieldTo        = 2
	FieldMessageID = 3
	FieldClient    = 4
	FieldHelo      = 5
	FieldProtocol  = 6
	FieldClientTLS = 7
	FieldSender    = 8
	FieldRelay     = 9
	FieldTLS       = 10
	FieldText      = 11
	FieldReason    = 12
	FieldReport    = 13
	FieldOf        = 14
	FieldCopy      = 15
	FieldClass     = 16
	FieldSource    = 17

	FieldAttempt    = numeric | 1
	FieldCode       = numeric | 2
	FieldEnhanced   = numeric | 3 // three octets, the highest first
	FieldDelay      = numeric | 4 // milliseconds
	FieldNext       = numeric | 5 // Unix time in milliseconds
	FieldSize       = numeric | 6
	FieldRecipients = numeric | 7
	FieldTook       = numeric | 8 // microseconds
	FieldSegment    = numeric | 9
	FieldArrived    = numeric | 10 // Unix time in milliseconds
)

const (
	// LengthSize is the number of octets of a record's length, which stands in
	// front of it and is not counted in it.
	LengthSize = 4
	recordHead = 1 + 8 + 16 // kind, time in microseconds, ID
	maxRecord  = 256 << 10  // further recipients are left out
	maxText    = 1000       // where foreign text is cut
)

// Writer appends one record to a buffer.
type Writer struct {
	B     []byte // what it is appended to
	start int
}

// Begin starts a record; End must follow.
func Begin(b []byte, k Kind, at time.Time, id mail.ID) Writer {
	w := Writer{b, len(b)}
	w.B = append(w.B, 0, 0, 0, 0, byte(k))
	w.B = binary.LittleEndian.AppendUint64(w.B, uint64(at.UnixMicro()))
	w.B = append(w.B, id[:]...)
	return w
}

// End gives the buffer with the whole record.
func (w *Writer) End() []byte {
	binary.LittleEndian.PutUint32(w.B[w.start:], uint32(len(w.B)-w.start-LengthSize))
	return w.B
}

// Full tells whether the record must not grow any more.
func (w *Writer) Full() bool { return len(w.B)-w.start > maxRecord-4*maxText }

// Str adds a text; an empty one is left out.
func (w *Writer) Str(field byte, s string) {
	if s == "" {
		return
	}
	s = s[:min(len(s), maxText)]
	w.B = binary.AppendUvarint(append(w.B, field), uint64(len(s)))
	w.B = append(w.B, s...)
}

// Num adds a number above 0.
func (w *Writer) Num(field byte, n int64) {
	if n > 0 {
		w.B = binary.AppendUvarint(append(w.B, field), uint64(n))
	}
}

// Uint adds a number, 0 too.
func (w *Writer) Uint(field byte, n uint64) {
	w.B = binary.AppendUvarint(append(w.B, field), n)
}

// Addr writes an address in place: its length takes two octets, which is not
// the shortest form of a small number, but one.
func (w *Writer) Addr(field byte, a mail.Address) {
	if a.IsNull() {
		return
	}
	w.B = append(w.B, field, 0, 0)
	at := len(w.B)
	w.B = a.Append(w.B)
	if len(w.B)-at > maxText {
		w.B = w.B[:at+maxText]
	}
	n := len(w.B) - at
	w.B[at-2], w.B[at-1] = byte(n)|0x80, byte(n>>7)
}

// Client adds where a message came from.
func (w *Writer) Client(c *mail.Client) {
	if c.Addr.IsValid() {
		w.B = append(w.B, FieldClient, 0)
		at := len(w.B)
		a := c.Addr.Unmap().WithZone("")
		if a.Is4() {
			ip := a.As4()
			w.B = append(w.B, ip[:]...)
		} else {
			ip := a.As16()
			w.B = append(w.B, ip[:]...)
		}
		w.B[at-1] = byte(len(w.B) - at)
	}
	w.Str(FieldHelo, c.Helo)
	w.Str(FieldProtocol, c.Protocol)
	w.Str(FieldClientTLS, c.TLS)
	w.Str(FieldSender, c.Sender)
}

// Reply adds what a peer said.
func (w *Writer) Reply(r *mail.Reply) {
	w.Num(FieldCode, int64(r.Code))
	w.Num(FieldEnhanced, int64(r.Enhanced[0])<<20|int64(r.Enhanced[1])<<10|int64(r.Enhanced[2]))
	w.Str(FieldText, r.Text)
	if r.Cause != nil {
		w.Str(FieldReason, r.Cause.Error())
	}
}

// Envelope adds what an envelope tells.
func (w *Writer) Envelope(env *mail.Envelope, size int64) {
	w.Addr(FieldFrom, env.From)
	w.Str(FieldMessageID, env.MessageID)
	w.Client(&env.Client)
	w.Num(FieldSize, size)
	w.Num(FieldRecipients, int64(len(env.Recipients)))
	for i := range env.Recipients {
		if w.Full() {
			break
		}
		w.Addr(FieldTo, env.Recipients[i].Addr)
	}
}

// Stamp adds a time to the millisecond.
func (w *Writer) Stamp(field byte, t time.Time) {
	if !t.IsZero() {
		w.Num(field, t.UnixMilli())
	}
}

// errRecord says that octets are no record.
var errRecord = errors.New("record: not a record")

// Record is one, without its length.
type Record []byte

// Next cuts the first record off.
func Next(b []byte) (r Record, rest []byte, err error) {
	if len(b) < LengthSize {
		return nil, nil, errRecord
	}
	n := binary.LittleEndian.Uint32(b)
	if n < recordHead || uint64(n) > uint64(len(b)-LengthSize) {
		return nil, nil, errRecord
	}
	return Record(b[LengthSize : LengthSize+n]), b[LengthSize+n:], nil
}

// Kind says what happened.
func (r Record) Kind() Kind { return Kind(r[0]) }

// Micros is when, in Unix time.
func (r Record) Micros() int64 { return int64(binary.LittleEndian.Uint64(r[1:])) }

// ID is that of the message.
func (r Record) ID() mail.ID { return mail.ID(r[9:recordHead]) }

// Fields calls visit for each field: text is nil for a number.
func (r Record) Fields(visit func(field byte, text []byte, n uint64)) error {
	for b := []byte(r[recordHead:]); len(b) > 0; {
		field := b[0]
		n, size := binary.Uvarint(b[1:])
		if size <= 0 {
			return errRecord
		}
		b = b[1+size:]
		if field&numeric != 0 {
			visit(field, nil, n)
			continue
		}
		if n > uint64(len(b)) {
			return errRecord
		}
		visit(field, b[:n:n], 0)
		b = b[n:]
	}
	return nil
}

// Event reads a record.
func (r Record) Event() (*Event, error) {
	e := &Event{Kind: r.Kind(), Time: time.UnixMicro(r.Micros()).UTC(), ID: r.ID()}
	err := r.Fields(func(field byte, text []byte, n uint64) {
		if field&numeric != 0 {
			e.number(field, n)
		} else {
			e.text(field, text)
		}
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Event) text(field byte, text []byte) {
	s := strings.ToValidUTF8(string(text), "\ufffd")
	switch field {
	case FieldFrom:
		e.From = s
	case FieldTo:
		e.To = append(e.To, s)
	case FieldMessageID:
		e.MessageID = s
	case FieldClient:
		e.Client.Addr, _ = netip.AddrFromSlice(text) // of any other length it is none
	case FieldHelo:
		e.Client.Helo = s
	case FieldProtocol:
		e.Client.Protocol = s
	case FieldClientTLS:
		e.Client.TLS = s
	case FieldSender:
		e.Client.Sender = s
	case FieldRelay:
		e.Relay = s
	case FieldTLS:
		e.TLS = s
	case FieldText:
		e.Reply.Text = s
	case FieldReason:
		e.Reason = s
	case FieldReport:
		e.Report = s
	case FieldOf:
		if len(text) == len(e.Of) {
			e.Of = mail.ID(text)
		}
	case FieldClass:
		e.Class = s
	case FieldSource:
		e.Source = s
	case FieldCopy:
		e.Copies = append(e.Copies, s)
	}
}

func (e *Event) number(field byte, n uint64) {
	switch field {
	case FieldAttempt:
		e.Attempt = int(n)
	case FieldCode:
		e.Reply.Code = int(n)
	case FieldEnhanced:
		e.Reply.Enhanced = mail.EnhancedCode{int(n >> 20), int(n >> 10 & 1023), int(n & 1023)}
	case FieldDelay:
		e.Delay = time.Duration(n) * time.Millisecond
	case FieldNext:
		e.Next = time.UnixMilli(int64(n)).UTC()
	case FieldSize:
		e.Size = int64(n)
	case FieldRecipients:
		e.Recipients = int(n)
	case FieldTook:
		e.Took = time.Duration(n) * time.Microsecond
	case FieldArrived:
		e.Arrived = time.UnixMilli(int64(n)).UTC()
	}
}
