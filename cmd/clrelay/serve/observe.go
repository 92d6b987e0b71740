package serve

import (
	"time"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/maillog"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/smtpd"
)

// sessions writes what the SMTP server tells into log and figures.
type sessions struct {
	log *maillog.Log
	m   *metrics.SMTP
}

func (s *sessions) Accepted(env *mail.Envelope, size int64, took time.Duration) {
	s.m.AcceptDuration.Observe(took)
	s.m.MessageSize.Observe(size)
	s.log.Accepted(env, size, took)
}

func (s *sessions) Rejected(c *mail.Client, from, to string, r *mail.Reply) {
	s.m.Rejected.Inc(rejection(from, to, r))
	s.log.Rejected(*c, from, to, r)
}

func (s *sessions) Closed(c *mail.Client, sum smtpd.Summary) {
	s.m.SessionsTotal.Inc()
	s.m.Commands.Add(float64(sum.Commands))
	s.m.CommandErrors.Add(float64(sum.Errors))
	s.log.Disconnected(*c, sum.End, sum.Duration)
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

// deliveries writes what the queue tells into log and figures.
type deliveries struct {
	log        *maillog.Log
	m          *metrics.Queue
	duplicates *metrics.Counter
}

func (d *deliveries) Recipient(e *queue.Event) {
	d.count(e)
	line := maillog.Delivery{ID: e.ID, From: e.From, To: e.To, Outcome: e.Outcome, Attempt: e.Attempt, Delay: e.Delay, Next: e.Next}
	switch e.Kind {
	case queue.Delivered:
		d.log.Delivered(line)
	case queue.Deferred:
		d.log.Deferred(line)
	case queue.Bounced:
		d.log.Bounced(line)
	case queue.Expired:
		d.log.Expired(line)
	case queue.DoubleBounce:
		d.log.DoubleBounce(line)
	case queue.Held:
		d.log.Held(e.ID, e.From, e.To, e.Reason)
	case queue.Released:
		d.log.Released(e.ID, e.From, e.To, e.Reason)
	case queue.Dropped:
		d.log.Dropped(e.ID, e.From, e.To, e.Reason)
	}
}

func (d *deliveries) count(e *queue.Event) {
	result := ""
	switch e.Kind {
	case queue.Delivered:
		result = "delivered"
		d.m.Delivered.Inc()
		d.m.DeliveryLatency.Observe(e.Delay)
	case queue.Deferred:
		result = "deferred"
	case queue.Bounced:
		result = "bounced"
		d.m.Bounced.Inc()
	case queue.Expired:
		result = "bounced"
		d.m.Bounced.Inc()
		d.m.Expired.Inc()
	case queue.DoubleBounce:
		d.m.DoubleBounces.Inc()
	case queue.Dropped:
		d.m.Dropped.Inc()
	}
	if e.Tried && result != "" {
		d.m.Attempts.Inc(result)
		if e.Outcome.Unsure { // the next attempt, or the report of a failure, may be one too many
			d.duplicates.Inc()
		}
	}
}

func (d *deliveries) Reported(id, of mail.ID, kind dsn.Kind) {
	word := reportKind(kind)
	d.m.DSNs.Inc(word)
	d.log.DSN(id, of, word)
}

// Postponed needs no line: each of those recipients keeps its last one.
func (d *deliveries) Postponed(string, int, *mail.Reply) {}

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
