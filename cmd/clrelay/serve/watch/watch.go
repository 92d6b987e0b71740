// Package watch counts who sends most, and remembers what became of the last
// recipients, so that an operator can see it without a search of the log. It
// stands between the relay's parts and their observers, passes everything on,
// and keeps nothing on disk.
package watch

import (
	"cmp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin/shape"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tally"
	"github.com/clrelay/clrelay/smtpd"
)

const (
	// backlog is how many messages may wait to be counted. When more come at
	// once, the rest is in no row: mail waits for nothing here.
	backlog = 8192
	// remembered is how many outcomes are.
	remembered = 4096
)

// Watch counts. Close ends its goroutine.
type Watch struct {
	senders, domains, clients, reasons *tally.Tally

	accepted, rejected, delivered, putOff, bounced, uncounted atomic.Int64

	waits chan seen
	done  chan struct{}
	group sync.WaitGroup

	mu    sync.Mutex
	last  [remembered]outcome // a ring
	count int                 // outcomes so far
}

// seen is something to be counted: a message, or what was said to an attempt.
type seen struct {
	env   *mail.Envelope
	reply mail.Reply
}

// outcome is what happened to a recipient.
type outcome struct {
	id            mail.ID
	to            mail.Address
	kind          queue.EventKind
	at            time.Time
	attempts      int
	reply         mail.Reply
	remote, cause string
}

// New makes a Watch that counts.
func New() *Watch {
	w := &Watch{
		senders: tally.New(), domains: tally.New(), clients: tally.New(), reasons: tally.New(),
		waits: make(chan seen, backlog), done: make(chan struct{}),
	}
	w.group.Go(w.run)
	return w
}

// Close ends the counting.
func (w *Watch) Close() {
	close(w.done)
	w.group.Wait()
}

func (w *Watch) run() {
	for {
		select {
		case s := <-w.waits:
			w.tally(&s)
		case <-w.done:
			return
		}
	}
}

func (w *Watch) tally(s *seen) {
	now := time.Now()
	if s.env == nil {
		w.reasons.Add(now, reason(&s.reply), 1)
		return
	}
	w.senders.Add(now, cmp.Or(strings.ToLower(s.env.From.String()), nullSender), 1)
	if a := s.env.Client.Addr; a.IsValid() {
		w.clients.Add(now, a.Unmap().String(), 1)
	}
	domain, n := "", int64(0)
	for i := range s.env.Recipients {
		d := s.env.Recipients[i].Addr.Domain
		if d != domain && n > 0 {
			w.domains.Add(now, strings.ToLower(domain), n)
			n = 0
		}
		domain, n = d, n+1
	}
	w.domains.Add(now, cmp.Or(strings.ToLower(domain), "-"), n)
}

// reason is the reply without what differs from one to the next. Its codes do
// not.
func reason(r *mail.Reply) string {
	var b []byte
	if r.Code != 0 {
		b = strconv.AppendInt(b, int64(r.Code), 10)
		b = append(b, ' ')
	}
	if e := r.Enhanced.String(); e != "" {
		b = append(append(b, e...), ' ')
	}
	return cmp.Or(strings.TrimSpace(string(b)+string(shape.AppendNormal(nil, r.Text))), "-")
}

// nullSender is the name of the null reverse-path: a name is never empty.
const nullSender = "<>"

func (w *Watch) put(s seen) {
	select {
	case w.waits <- s:
	default:
		w.uncounted.Add(1)
	}
}

// Server observes the SMTP server, and tells next.
func (w *Watch) Server(next smtpd.Observer) smtpd.Observer { return &server{next, w} }

type server struct {
	smtpd.Observer
	w *Watch
}

// Accepted is of smtpd.Observer.
func (s *server) Accepted(env *mail.Envelope, size int64, took time.Duration) {
	s.w.accepted.Add(1)
	s.w.put(seen{env: env})
	s.Observer.Accepted(env, size, took)
}

// Rejected is of smtpd.Observer.
func (s *server) Rejected(c *mail.Client, from, to string, r *mail.Reply) {
	s.w.rejected.Add(1)
	s.Observer.Rejected(c, from, to, r)
}

// Queue observes the queue, and tells next.
func (w *Watch) Queue(next queue.Observer) queue.Observer { return &deliveries{next, w} }

type deliveries struct {
	next queue.Observer
	w    *Watch
}

// Recipient is of queue.Observer.
func (d *deliveries) Recipient(e *queue.Event) {
	d.w.note(e)
	d.next.Recipient(e)
}

// Reported is of queue.Observer.
func (d *deliveries) Reported(id, of mail.ID, kind dsn.Kind) { d.next.Reported(id, of, kind) }

// Postponed is of queue.Observer.
func (d *deliveries) Postponed(lane string, n int, why *mail.Reply) {
	d.w.putOff.Add(int64(n))
	d.next.Postponed(lane, n, why)
}

// Limited is of queue.Observer.
func (d *deliveries) Limited(lane string, why *allow.Denied) { d.next.Limited(lane, why) }

func (w *Watch) note(e *queue.Event) {
	switch e.Kind {
	case queue.Delivered:
		w.delivered.Add(1)
	case queue.Deferred:
		w.putOff.Add(1)
		w.put(seen{reply: e.Outcome.Reply})
	case queue.Bounced, queue.Expired:
		w.bounced.Add(1)
		w.put(seen{reply: e.Outcome.Reply})
	case queue.DoubleBounce, queue.Released:
		return // another outcome stands beside it, or follows
	}
	o := outcome{
		id: e.ID, to: e.To, kind: e.Kind, at: e.Outcome.At, attempts: e.Attempt,
		reply: e.Outcome.Reply, remote: e.Outcome.Remote, cause: e.Reason,
	}
	if !e.Tried || o.at.IsZero() {
		o.at = time.Now()
	}
	w.mu.Lock()
	w.last[w.count%remembered] = o
	w.count++
	w.mu.Unlock()
}

// of gives the last outcome of each recipient of a message.
func (w *Watch) of(id mail.ID) []outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []outcome
	for i := max(0, w.count-remembered); i < w.count; i++ {
		o := &w.last[i%remembered]
		if o.id != id {
			continue
		}
		again := false
		for k := range out {
			if out[k].to == o.to {
				out[k], again = *o, true
			}
		}
		if !again {
			out = append(out, *o)
		}
	}
	return out
}

// word names an outcome as the log does.
func (o *outcome) word() string {
	switch o.kind {
	case queue.Delivered:
		return "delivered"
	case queue.Deferred:
		return "deferred"
	case queue.Bounced:
		return "bounced"
	case queue.Expired:
		return "expired"
	case queue.Held:
		return "held"
	case queue.Dropped:
		return "dropped"
	}
	return "unknown"
}
