package returns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/dsn/received"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
)

const (
	// patience is how long something that came back waits for nodes that may
	// know its original, and for the suppression list. Then it goes on without:
	// it must not expire, for nobody would be told of it.
	patience = 24 * time.Hour
	maxText  = 1000 // octets of a diagnostic that are handed on
)

// back works on what came to return paths.
func (r *Returns) back(ctx context.Context, s *Settings, at *delivery.Attempt) []mail.Outcome {
	var out []mail.Outcome
	var others []int
	for _, rcpt := range at.Recipients {
		to := at.Envelope.Recipients[rcpt].Addr
		if s == nil || !s.Keys.Has(to) {
			others = append(others, rcpt)
			continue
		}
		o := mail.Outcome{Recipient: rcpt, Remote: "returns", At: r.o.Now(), Reply: *mail.NewReply(250, "2.0.0", "noted")}
		if !named(at.Envelope.Recipients[:rcpt], to) {
			if reply := r.take(ctx, s, at, to); reply != nil {
				o.Reply = *reply
			}
		}
		out = append(out, o)
	}
	if len(others) > 0 {
		out = append(out, r.elsewhere(ctx, s, at, others)...)
	}
	return out
}

// named tells whether a return path is one of those before it in its message. It
// is worked on once then: whoever has one could name it a thousand times, and have
// a thousand copies stored and handed on of what he sent once.
func named(before []mail.Recipient, path mail.Address) bool {
	return slices.ContainsFunc(before, func(r mail.Recipient) bool { return r.Addr.SameMailbox(path) })
}

// elsewhere delivers other mail for the domain, to where it goes without
// return paths.
func (r *Returns) elsewhere(ctx context.Context, s *Settings, at *delivery.Attempt, rcpts []int) []mail.Outcome {
	hop, reply := r.o.Route(at.Envelope.Recipients[rcpts[0]].Addr.Domain)
	if reply != nil {
		out := make([]mail.Outcome, len(rcpts))
		for i, rcpt := range rcpts {
			out[i] = mail.Outcome{Recipient: rcpt, Reply: *reply, At: r.o.Now()}
		}
		return out
	}
	rest := *at
	rest.Recipients = rcpts
	if s == nil || !s.covers(at.Envelope) {
		return r.o.Next.Deliver(ctx, hop, &rest)
	}
	return r.away(ctx, s, hop, &rest)
}

// take works on one return. What may be done twice comes first, then what may
// not: the copy for the sender. nil means that all is done.
func (r *Returns) take(ctx context.Context, s *Settings, at *delivery.Attempt, to mail.Address) *mail.Reply {
	ref, refusal := r.open(s, to)
	if refusal != nil {
		return refusal
	}
	back, err := r.read(ctx, at, ref)
	if err != nil {
		return later(err)
	}
	if at.BeforeDot != nil { // the message must be this node's, and the next start know that it was begun
		if err := at.BeforeDot(); err != nil {
			return later(err)
		}
	}
	if err := r.suppress(ctx, at, back); err != nil {
		return later(err)
	}
	if s.Forward {
		if err := r.forward(ctx, at, back.From); err != nil {
			return later(err)
		}
	}
	r.o.Observer.Returned(back)
	return nil
}

func later(err error) *mail.Reply {
	return mail.NewReply(451, "4.3.0", "what came back could not be worked on now").WithCause(err)
}

// read finds out what came back, and for whom.
func (r *Returns) read(ctx context.Context, at *delivery.Attempt, ref Ref) (*Return, error) {
	content, err := at.Content.Open()
	if err != nil {
		return nil, err
	}
	report, err := received.Read(content)
	if err := errors.Join(err, content.Close()); err != nil {
		return nil, err
	}
	origin, err := r.o.Origins.Origin(ctx, ref.ID)
	if err != nil && !r.waitedLong(at) {
		return nil, err
	}
	out := &Return{ID: at.Envelope.ID, Of: ref, Kind: report.Kind, From: origin.From, Text: report.Feedback}
	if ref.Recipient < len(origin.Recipients) {
		out.To = origin.Recipients[ref.Recipient]
	}
	if report.Kind == received.Bounce || report.Kind == received.Delayed {
		one := about(report, out.To)
		out.Kind, out.Verdict, out.Code, out.Text = one.Kind, one.Verdict, one.Code, cut(bare(one))
	}
	return out, nil
}

// about picks the recipient of a report that a return path stands for: the one
// of that address, or else the first that failed. A report that names another
// address, behind which the recipient's mail was sent on, is about him all the
// same.
func about(report *received.Report, to mail.Address) *received.Recipient {
	best := &report.Recipients[0]
	for i := range report.Recipients {
		one := &report.Recipients[i]
		if strings.EqualFold(one.Address, to.String()) {
			return one
		}
		if best.Kind != received.Bounce && one.Kind == received.Bounce {
			best = one
		}
	}
	return best
}

// bare gives a diagnostic without the codes that it begins with.
func bare(one *received.Recipient) string {
	text, ok := strings.CutPrefix(one.Text, strconv.Itoa(one.Code))
	if !ok {
		return one.Text
	}
	text = strings.TrimLeft(text, " -")
	return strings.TrimSpace(strings.TrimPrefix(text, one.Verdict.Status.String()+" "))
}

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

func (r *Returns) waitedLong(at *delivery.Attempt) bool {
	return r.o.Now().Sub(at.Envelope.Arrived) > patience
}

// suppress offers the recipient of the original, as it is remembered, to the
// list: what the report names is anybody's word.
func (r *Returns) suppress(ctx context.Context, at *delivery.Attempt, back *Return) error {
	if r.o.Suppress == nil || back.To.IsNull() {
		return nil
	}
	add := Suppression{Of: back.Of.ID, Address: back.To, Sender: back.From, Reason: back.Text}
	switch {
	case back.Kind == received.Complaint && back.Text != "not-spam" && back.Text != "auth-failure": // the latter is the word of a machine
		add.Complaint = true
	case back.Kind == received.Bounce && back.Verdict.Hard:
		add.Reason = (&mail.Reply{Code: back.Code, Enhanced: back.Verdict.Status, Text: back.Text}).Line()
	default:
		return nil
	}
	err := r.o.Suppress.Add(ctx, add)
	if err != nil && r.waitedLong(at) {
		r.o.Log.Warn("an address is not on the suppression list, for that cannot be written", "id", back.Of.ID.String(), "error", err)
		return nil
	}
	return err
}

// forward hands what came back on, as it is, to the sender of the original; to
// the postmaster where nobody remembers him. It has no sender itself, so that
// nothing comes back for it.
func (r *Returns) forward(ctx context.Context, at *delivery.Attempt, to mail.Address) error {
	if to.IsNull() {
		to = r.o.Postmaster()
	}
	content, err := at.Content.Open()
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // reading is all there was
	now := r.o.Now()
	env := &mail.Envelope{
		ID: mail.NewID(now), Arrived: now, Recipients: []mail.Recipient{{Addr: to}}, Body: at.Envelope.Body,
		SMTPUTF8: at.Envelope.SMTPUTF8 || to.NeedsUTF8(), MessageID: at.Envelope.MessageID, Client: mail.Client{Protocol: "LOCAL"},
	}
	if err := r.o.Accept(ctx, env, content); err != nil {
		return fmt.Errorf("handing on what came back: %w", err)
	}
	return nil
}

// Class is what the log calls a return: the class of a bounce.
func (b *Return) Class() string {
	if b.Verdict.Class == bounce.None {
		return ""
	}
	return b.Verdict.Class.String()
}
