// Package suppress keeps mail from addresses on the suppression list: it refuses
// them at RCPT, fails what is queued for them without a connection, and puts
// addresses there that a next hop does not know.
package suppress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/proto/control"
	"github.com/clrelay/clrelay/smtpd"
)

// List answers whether mail may go to somebody.
type List struct {
	Table *suppressed.Table
	// Ours tells whether a domain is one of the setting domains. Mail for these
	// is stopped by what operators put on the list for everybody, and by nothing
	// else.
	Ours    func(domain string) bool
	Now     func() time.Time
	Metrics *metrics.SMTP // nil: nothing is counted
}

func (l *List) count(stage string) {
	if l.Metrics != nil {
		l.Metrics.Suppressed.Inc(stage)
	}
}

// maxShown is how much of an entry's text a reply shows.
const maxShown = 160

// find gives the reply by which a recipient is refused, nil when it is not.
func (l *List) find(from, to mail.Address, group string) *mail.Reply {
	if l.Table.Len() == 0 {
		return nil
	}
	q := suppressed.Query{To: to, From: from, NowMS: l.Now().UnixMilli()}
	if !l.Ours(to.Domain) {
		q.Group = group
	}
	e, ok := l.Table.Find(&q)
	if !ok {
		return nil
	}
	return refusal(&e, to)
}

// refusal says what stands on the list, so that whoever reads the bounce knows
// whom to ask for what.
func refusal(e *control.Suppression, to mail.Address) *mail.Reply {
	why := map[control.SuppressReason]string{
		control.SuppressHardBounce: "hard bounce", control.SuppressComplaint: "complaint",
		control.SuppressOperator: "put there by the operator", control.SuppressImport: "imported",
	}[e.Reason]
	text := fmt.Sprintf("<%s> is on the suppression list: %s on %s", to, why, time.UnixMilli(e.CreatedMS).UTC().Format(time.DateOnly))
	if e.Text != "" {
		said := strings.NewReplacer(`"`, "'", "\n", " ", "\r", " ").Replace(e.Text)
		if len(said) > maxShown {
			said = strings.ToValidUTF8(said[:maxShown], "") + "..."
		}
		text += ` ("` + said + `")`
	}
	return mail.NewReply(550, "5.1.1", ascii(text)+"; ask the operator of this relay to take it off")
}

// ascii makes a text fit for a reply to a client without SMTPUTF8.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x7f || r < ' ' {
			return '?'
		}
		return r
	}, s)
}

// Policy is a server's policy with the list behind it: who may not send to a
// recipient at all is told so.
func (l *List) Policy(next smtpd.Policy) smtpd.Policy { return &door{next, l} }

type door struct {
	smtpd.Policy
	list *List
}

// Recipient is of smtpd.Policy.
func (d *door) Recipient(c *mail.Client, from mail.Address, to *mail.Recipient) mail.Verdict {
	if v := d.Policy.Recipient(c, from, to); v != nil {
		return v
	}
	reply := d.list.find(from, to.Addr, c.Sender)
	if reply != nil {
		d.list.count("rcpt")
	}
	return reply
}

// Deliverer delivers to those who are not on the list, and fails the others: mail
// that was queued before they came there.
func (l *List) Deliverer(next queue.Deliverer) queue.Deliverer { return &exit{next, l} }

type exit struct {
	queue.Deliverer
	list *List
}

// Deliver is of queue.Deliverer.
func (x *exit) Deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	if x.list.Table.Len() == 0 {
		return x.Deliverer.Deliver(ctx, hop, at)
	}
	var out []mail.Outcome
	open := slices.DeleteFunc(slices.Clone(at.Recipients), func(i int) bool {
		if i < 0 || i >= len(at.Envelope.Recipients) {
			return false
		}
		reply := x.list.find(at.Envelope.From, at.Envelope.Recipients[i].Addr, at.Envelope.Client.Sender)
		if reply != nil {
			x.list.count("delivery")
			out = append(out, mail.Outcome{Recipient: i, Reply: *reply, At: x.list.Now()})
		}
		return reply != nil
	})
	switch {
	case len(out) == 0:
		return x.Deliverer.Deliver(ctx, hop, at)
	case len(open) == 0:
		return out
	}
	rest := *at
	rest.Recipients = open
	return append(x.Deliverer.Deliver(ctx, hop, &rest), out...)
}
