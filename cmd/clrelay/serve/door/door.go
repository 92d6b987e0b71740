// Package door guards the SMTP server: it holds clients to the limits of what is
// received, keeps those waiting or out that misbehave, and sends mail away for
// later when there is too much to do. What it says to clients names the limit,
// whom it counts, and when to come again.
package door

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/overload"
	"github.com/clrelay/clrelay/smtpd/guard"
)

// Options are the parts of a Door. All are required but Pause.
type Options struct {
	Limits  *local.Limiter
	Abuse   *abuse.Table
	Gate    *overload.Gate
	Entry   func(netip.Addr) string // names the entry of senders that a client is in
	Log     *slog.Logger
	Metrics *metrics.Door
	Pause   func(time.Duration) // time.Sleep if nil
}

// Door is a guard.Guard.
type Door struct {
	Options
	rules atomic.Pointer[Rules]
	held  atomic.Int64 // sessions whose replies are held back
}

// Rules are the settings that a Door looks at itself.
type Rules struct {
	Classes map[string]overload.Class // of the entries of senders
	Exempt  []netip.Prefix            // their behaviour is not counted
}

// maxHeld is how many sessions may be held back at a time.
const maxHeld = 500

// New returns a Door without Rules.
func New(o Options) *Door {
	if o.Pause == nil {
		o.Pause = time.Sleep
	}
	d := &Door{Options: o}
	d.rules.Store(&Rules{})
	return d
}

// Configure sets the rules.
func (d *Door) Configure(r Rules) { d.rules.Store(&r) }

// visit is one session.
type visit struct {
	door    *Door
	subject limit.Subject
	class   overload.Class
	trusted bool // its behaviour is not counted
	slot    local.Slot
	end     func()

	message  local.Ticket // of the open transaction
	declared int64        // or unheld
	rcpts    []local.Ticket
	messages int  // that came whole
	held     bool // its reply is being held back
}

// Enter implements guard.Guard.
func (d *Door) Enter(c *mail.Client, end func()) (guard.Visit, *mail.Reply) {
	v := &visit{door: d, end: end, class: overload.Normal}
	v.subject = limit.Subject{Client: c.Addr, Group: d.Entry(c.Addr)}
	if class, ok := d.rules.Load().Classes[v.subject.Group]; ok {
		v.class = class
	}
	v.trusted = d.trusts(c.Addr, v.subject.Group)
	if !v.trusted {
		if out := d.Abuse.Look(c.Addr); out.Out > 0 {
			return nil, locked(421, "4.7.0", c.Addr, out)
		}
	}
	slot, denied := d.Limits.Open(limit.Receive, &v.subject, func(bool) { end() })
	if denied != nil {
		return nil, d.deny(421, "4.7.0", denied)
	}
	v.slot = slot
	return v, nil
}

// Trusts tells whether the behaviour of a client is not counted.
func (d *Door) Trusts(a netip.Addr) bool { return d.trusts(a, d.Entry(a)) }

func (d *Door) trusts(a netip.Addr, entry string) bool {
	return entry != "" || !a.IsValid() || contains(d.rules.Load().Exempt, a)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// Ask implements guard.Visit.
func (v *visit) Ask(step guard.Step, q *guard.Question) *mail.Reply {
	switch step {
	case guard.Mail:
		return v.mail(q)
	case guard.Recipient:
		return v.recipient(q)
	}
	return v.content(q)
}

// mail asks whether a message may come, which counts when it has come.
func (v *visit) mail(q *guard.Question) *mail.Reply {
	v.forget()
	d := v.door
	if !v.trusted {
		if out := d.Abuse.Look(v.subject.Client); out.Out > 0 {
			return locked(450, "4.7.1", v.subject.Client, out)
		}
	}
	if d.Gate.Sheds(v.class) {
		d.Metrics.Shed.Inc(v.class.String())
		return mail.NewReply(451, "4.3.2", "Too much to do at the moment, "+v.class.String()+" mail has to wait: try again in some minutes")
	}
	subject.From(&v.subject, q.From)
	t, denied := d.reserve(&v.subject, limit.Amount{Messages: 1, Octets: q.Size})
	if denied != nil {
		return d.deny(450, "4.7.1", denied)
	}
	v.message, v.declared = t, q.Size
	if v.subject.Group == "" {
		v.message.Cancel()
		v.declared = unheld
	}
	return nil
}

// unheld is the size of a message for which nothing is reserved. What strangers
// announce is asked for and not kept for them: who says MAIL with a large SIZE,
// and nothing more, would keep everybody else from a limit that they share.
const unheld = -1

// How long a client waits for its node's first part of a budget.
const (
	partEvery = 100 * time.Millisecond
	partTries = 10
)

// reserve asks the limits. Of a budget that was not used here lately the node has
// nothing yet, and gets its part within a moment if something is left: the client
// waits so long, since many do not come again.
func (d *Door) reserve(s *limit.Subject, n limit.Amount) (local.Ticket, *limit.Denied) {
	t, denied := d.Limits.Reserve(limit.Receive, s, n)
	for tries := 0; denied != nil && denied.Kind == limit.KindBudget && denied.Left < time.Second && tries < partTries; tries++ {
		if d.held.Add(1) > maxHeld {
			d.held.Add(-1)
			break
		}
		d.Pause(partEvery)
		d.held.Add(-1)
		t, denied = d.Limits.Reserve(limit.Receive, s, n)
	}
	return t, denied
}

func (v *visit) recipient(q *guard.Question) *mail.Reply {
	s := v.subject
	s.Domain = subject.Domain(q.To.Domain)
	t, denied := v.door.reserve(&s, limit.Amount{Recipients: 1})
	if denied != nil {
		return v.door.deny(450, "4.7.1", denied)
	}
	if !t.Free() {
		v.rcpts = append(v.rcpts, t)
	}
	return nil
}

// content counts the message, with the octets that have come.
func (v *visit) content(q *guard.Question) *mail.Reply {
	d := v.door
	if q.Size != v.declared {
		v.message.Cancel()
		t, denied := d.reserve(&v.subject, limit.Amount{Messages: 1, Octets: q.Size})
		if denied != nil {
			v.forget()
			return d.deny(450, "4.7.1", denied)
		}
		v.message = t
	}
	wait := v.message.Use()
	for i := range v.rcpts {
		if wait == 0 {
			wait = v.rcpts[i].Use()
		}
	}
	v.forget()
	if wait > 0 {
		t, denied := d.Limits.Reserve(limit.Receive, &v.subject, limit.Amount{Messages: 1, Octets: q.Size})
		if denied != nil {
			return d.deny(450, "4.7.1", denied)
		}
		t.Cancel()
		return mail.NewReply(450, "4.7.1", "a limit has become narrower meanwhile; try again in "+span(wait))
	}
	v.messages++
	return nil
}

// forget gives up what was reserved.
func (v *visit) forget() {
	v.message.Cancel()
	for i := range v.rcpts {
		v.rcpts[i].Cancel()
	}
	v.rcpts = v.rcpts[:0]
}

// Answered implements guard.Visit: what was refused for good counts.
func (v *visit) Answered(r *mail.Reply) time.Duration {
	v.Rested()
	if v.trusted || !r.Permanent() {
		return 0
	}
	kind := abuse.Refused
	if r.Enhanced == (mail.EnhancedCode{5, 1, 1}) {
		kind = abuse.Unknown
	}
	d := v.door
	judged := d.Abuse.Count(v.subject.Client, kind)
	d.tell(v.subject.Client, judged)
	if judged.Out > 0 {
		v.end()
	}
	if judged.Hold == 0 || d.held.Add(1) > maxHeld {
		if judged.Hold > 0 {
			d.held.Add(-1)
		}
		return 0
	}
	v.held = true
	d.Metrics.Held.Inc()
	return judged.Hold
}

// Rested implements guard.Visit: another session may be held back. One that is
// idle afterwards, for minutes perhaps, takes nobody's place.
func (v *visit) Rested() {
	if v.held {
		v.held = false
		v.door.held.Add(-1)
	}
}

// Leave implements guard.Visit.
func (v *visit) Leave() {
	v.Rested()
	v.forget()
	v.slot.Close()
	if !v.trusted && v.messages == 0 {
		v.door.tell(v.subject.Client, v.door.Abuse.Count(v.subject.Client, abuse.Fruitless))
	}
}

// tell writes down that a client was locked out by what it did here.
func (d *Door) tell(client netip.Addr, v abuse.Verdict) {
	if v.News {
		d.Metrics.Lockouts.Inc()
		lockedOut(d.Log, client, v)
	}
}

// lockedOut has it in the log that a client is, and how it is let in again.
func lockedOut(log *slog.Logger, client netip.Addr, v abuse.Verdict) {
	log.Warn("a client is locked out", "client", client.String(), "for", v.Out, "because of", v.Why.String(),
		"to let it in", "clrelay limit lockout lift "+limit.NetworkText(client)+" --reason TEXT")
}
