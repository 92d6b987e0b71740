// Package observe is told what happens in a running relay, by the SMTP server,
// the spool and the queue, and hands it on to those who remember: the log of
// messages, their traces, and the figures.
package observe

import (
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/maillog"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/smtpd"
)

// Sessions writes what the SMTP server tells into log and figures.
type Sessions struct {
	Log     *maillog.Log
	Traces  *tracelog.Log
	Metrics *metrics.SMTP
	Stored  func(took time.Duration) // is told how long storing a message took
}

// Accepted tells of a message that is safe.
func (s *Sessions) Accepted(env *mail.Envelope, size int64, took time.Duration) {
	s.Stored(took)
	s.Metrics.AcceptDuration.Observe(took)
	s.Metrics.MessageSize.Observe(size)
	s.Log.Accepted(env, size, took)
}

// Rejected tells of a refusal.
func (s *Sessions) Rejected(c *mail.Client, from, to string, r *mail.Reply) {
	s.Metrics.Rejected.Inc(rejection(from, to, r))
	s.Log.Rejected(*c, from, to, r)
	s.Traces.Rejected(c, from, to, r)
}

// Closed tells of the end of a session.
func (s *Sessions) Closed(c *mail.Client, sum smtpd.Summary) {
	s.Metrics.SessionsTotal.Inc()
	s.Metrics.Commands.Add(float64(sum.Commands))
	s.Metrics.CommandErrors.Add(float64(sum.Errors))
	s.Log.Disconnected(*c, sum.End, sum.Duration)
}

// rejection sorts a refusal into one of the label's values, by its enhanced
// code (RFC 3463) and the step it was given at.
func rejection(from, to string, r *mail.Reply) string {
	switch r.Enhanced {
	case mail.EnhancedCode{5, 7, 1}:
		return "relay"
	case mail.EnhancedCode{5, 3, 4}:
		return "size"
	case mail.EnhancedCode{4, 3, 1}, mail.EnhancedCode{5, 3, 1}:
		return "space"
	case mail.EnhancedCode{5, 4, 6}:
		return "loop"
	case mail.EnhancedCode{5, 5, 2}:
		return "line_end"
	case mail.EnhancedCode{4, 4, 2}:
		return "timeout"
	case mail.EnhancedCode{4, 3, 0}, mail.EnhancedCode{4, 3, 2}:
		return "unavailable"
	}
	switch {
	case r.Enhanced[1] == 5 && r.Enhanced[2] == 3, r.Enhanced[1] == 7:
		return "limit"
	case r.Enhanced[1] == 5:
		return "syntax"
	case to != "":
		return "recipient"
	case from != "":
		return "sender"
	}
	return "limit"
}

// Deliveries writes what the queue tells into log and figures.
type Deliveries struct {
	Log        *maillog.Log
	Traces     *tracelog.Log
	Metrics    *metrics.Queue
	Duplicates *metrics.Counter

	limited limited
}

// Recipient tells what happened to a recipient.
func (d *Deliveries) Recipient(e *queue.Event) {
	class := bounce.None
	if e.Kind != queue.Delivered {
		class = bounce.Of(&e.Outcome.Reply).Class
	}
	d.count(e, class)
	d.trace(e)
	line := maillog.Delivery{ID: e.ID, From: e.From, To: e.To, Outcome: e.Outcome, Attempt: e.Attempt, Delay: e.Delay, Next: e.Next}
	if class != bounce.None {
		line.Class = class.String()
	}
	switch e.Kind {
	case queue.Delivered:
		d.Log.Delivered(line)
	case queue.Deferred:
		d.Log.Deferred(line)
	case queue.Bounced:
		d.Log.Bounced(line)
	case queue.Expired:
		d.Log.Expired(line)
	case queue.DoubleBounce:
		d.Log.DoubleBounce(line)
	case queue.Held:
		d.Log.Held(e.ID, e.From, e.To, e.Reason)
	case queue.Released:
		d.Log.Released(e.ID, e.From, e.To, e.Reason)
	case queue.Trashed:
		d.Log.Trashed(e.ID, e.From, e.To, e.Reason)
	case queue.Undropped:
		d.Log.Undropped(e.ID, e.From, e.To, e.Reason)
	case queue.Dropped:
		d.Log.Dropped(e.ID, e.From, e.To, e.Reason)
	}
}

// trace gives an event to the traces.
func (d *Deliveries) trace(e *queue.Event) {
	kind := [...]record.Kind{
		queue.Delivered: record.Delivered, queue.Deferred: record.Deferred, queue.Bounced: record.Bounced, queue.Expired: record.Expired,
		queue.DoubleBounce: record.DoubleBounce, queue.Held: record.Held, queue.Released: record.Released, queue.Dropped: record.Dropped,
		queue.Trashed: record.Held, queue.Undropped: record.Released, // as which it stands in the spool
	}[e.Kind]
	reason := e.Reason
	switch e.Kind {
	case queue.Trashed:
		reason = "dropped, and in the trash: " + reason
	case queue.Undropped:
		reason = "back from the trash: " + reason
	}
	d.Traces.Recipient(&tracelog.Fate{Kind: kind, ID: e.ID, From: e.From, To: e.To, Outcome: &e.Outcome, Attempt: e.Attempt, Delay: e.Delay, Next: e.Next, Reason: reason})
}

func (d *Deliveries) count(e *queue.Event, class bounce.Class) {
	result := ""
	switch e.Kind {
	case queue.Delivered:
		result = "delivered"
		d.Metrics.Delivered.Inc()
		d.Metrics.DeliveryLatency.Observe(e.Delay)
	case queue.Deferred:
		result = "deferred"
	case queue.Bounced:
		result = "bounced"
		d.Metrics.Bounced.Inc()
		d.Metrics.Bounces.Inc(class.String())
	case queue.Expired:
		result = "bounced"
		d.Metrics.Bounced.Inc()
		d.Metrics.Bounces.Inc(class.String())
		d.Metrics.Expired.Inc()
	case queue.DoubleBounce:
		d.Metrics.DoubleBounces.Inc()
	case queue.Dropped:
		d.Metrics.Dropped.Inc()
	}
	if e.Tried && result != "" {
		d.Metrics.Attempts.Inc(result)
		if e.Outcome.Unsure { // the next attempt, or the report of a failure, may be one too many
			d.Duplicates.Inc()
		}
	}
}

// Reported tells of a report that was written.
func (d *Deliveries) Reported(id, of mail.ID, kind dsn.Kind) {
	word := reportKind(kind)
	d.Metrics.DSNs.Inc(word)
	d.Log.DSN(id, of, word)
	d.Traces.Reported(id, of, word)
}

// Postponed needs no line: each of those recipients keeps its last one.
func (d *Deliveries) Postponed(string, int, *mail.Reply) {}

// Limited writes one line a minute for each limit that mail waits for.
func (d *Deliveries) Limited(lane string, why *allow.Denied) {
	if n := d.limited.count(why.Where(), time.Now()); n > 0 {
		d.Log.Limited(lane, why.Error(), n, max(why.Wait, why.Left))
	}
}

func reportKind(k dsn.Kind) string {
	switch k {
	case dsn.Delayed:
		return "delay"
	case dsn.Delivered:
		return "success"
	case dsn.Relayed:
		return "relayed"
	default:
		return "failure"
	}
}
