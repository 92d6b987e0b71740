package limits

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/delivery/queue"
	queuelimits "github.com/clrelay/clrelay/delivery/queue/limits"
	"github.com/clrelay/clrelay/internal/limit"
	who "github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// maxSample is how many recipients of a domain are looked at, and sampleWait
	// for how long.
	maxSample  = 10_000
	sampleWait = 3 * time.Second
	// maxAsked is for how many of those that wait the limits are asked.
	maxAsked = 8
)

// Queue lists what is queued; delivery/queue's Runner.
type Queue interface {
	List(ctx context.Context, sel queue.Selector, visit func(*queue.Row) error) error
}

// domain picks the recipients of a domain that are not in the trash.
type domain string

func (domain) MatchMessage(mail.ID, time.Time, int64) bool           { return true }
func (domain) MatchRecipient(st mail.State, _ uint32, _ string) bool { return st != mail.StateTrashed }
func (domain) Needs() (envelope, reply bool)                         { return true, false }
func (d domain) Domains() []string                                   { return []string{string(d)} }
func (d domain) MatchStored(e *mail.Envelope, n int, _ *mail.Reply, _ string) bool {
	return e != nil && who.Domain(e.Recipients[n].Addr.Domain) == string(d)
}

// sample is what of a domain is queued.
type sample struct {
	about   limit.Subject // what was asked about; with a sender: its mail alone
	rows    int64
	cut     bool
	held    int64
	late    int64 // deferred
	next    time.Time
	replies map[string]int64
	holds   map[key]*hold
	due     map[limit.Subject]int64 // what may go as far as the queue knows
	lanes   map[string]bool
}

// key is a part of a limit, and what it counts by there.
type key struct{ limit, kind, words string }

// hold is what waits for a part of a limit.
type hold struct {
	key
	n     int64
	until time.Time
	why   string
	one   limit.Subject // of one that waits
}

var errEnough = errors.New("limits: enough was seen")

// look takes a sample of what is queued for the domain of about: the oldest.
func (s *Service) look(ctx context.Context, about *limit.Subject) (*sample, error) {
	m := &sample{about: *about, replies: map[string]int64{}, holds: map[key]*hold{}, due: map[limit.Subject]int64{}, lanes: map[string]bool{}}
	ctx, cancel := context.WithTimeout(ctx, sampleWait)
	defer cancel()
	seen := 0
	err := s.Queue.List(ctx, domain(about.Domain), func(r *queue.Row) error {
		if seen++; seen > maxSample {
			return errEnough
		}
		m.add(r)
		return nil
	})
	if errors.Is(err, errEnough) || errors.Is(err, context.DeadlineExceeded) {
		m.cut, err = true, nil
	}
	return m, err
}

func (m *sample) add(r *queue.Row) {
	one := m.about
	who.From(&one, r.From)
	if m.about.Sender != "" && one.Sender != m.about.Sender {
		return
	}
	m.rows++
	m.lanes[r.Lane] = true
	switch {
	case r.State == mail.StateHeld:
		m.held++
	case r.State == mail.StateDeferred:
		m.deferred(r)
	case r.Limit != nil || r.Next.IsZero(): // else its lane is down
		one.Group, one.Client = r.Client.Sender, r.Client.Addr
		m.waits(r, one)
	}
}

// deferred counts one. What was said to others of its destination is nothing
// that was said to one that never was tried.
func (m *sample) deferred(r *queue.Row) {
	m.late++
	if m.next.IsZero() || r.Next.Before(m.next) {
		m.next = r.Next
	}
	if r.Attempts > 0 && r.LastReply.Code != 0 {
		m.replies[r.LastReply.Line()]++
	}
}

// waits counts one that is due, by the limit that it waits for.
func (m *sample) waits(r *queue.Row, one limit.Subject) {
	if r.Limit == nil {
		if _, known := m.due[one]; known || len(m.due) < maxSample/10 {
			m.due[one]++
		}
		return
	}
	k := key{}
	if d := queuelimits.Of(r.Limit); d != nil {
		k = key{d.Limit, d.Kind.String(), d.Key}
	}
	h := m.holds[k]
	if h == nil {
		h = &hold{key: k, one: one, why: r.Limit.Text}
		m.holds[k] = h
	}
	h.n++
	if r.Next.After(h.until) {
		h.until = r.Next
	}
}

// most gives the holds, those that hold most first.
func (m *sample) most() (list []*hold) {
	for _, h := range m.holds {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.limit, b.limit), cmp.Compare(a.kind, b.kind), cmp.Compare(a.words, b.words))
	})
	return list
}

// travels makes of it what travels.
func (m *sample) travels(known func(string) bool) *adminv1.DestinationMail {
	out := &adminv1.DestinationMail{Recipients: m.rows, Cut: m.cut, Held: m.held, Deferred: m.late}
	if !m.next.IsZero() {
		out.NextTry = timestamppb.New(m.next)
	}
	for line, n := range m.replies {
		if n > out.GetReplied() || n == out.GetReplied() && text(line) < out.GetReply() {
			out.Reply, out.Replied = text(line), n
		}
	}
	for _, h := range m.most() {
		w := &adminv1.LimitHold{Kind: h.kind, Key: text(h.words), Recipients: h.n, Why: text(h.why)}
		if known(h.limit) {
			w.Limit = text(h.limit)
		}
		if !h.until.IsZero() {
			w.Until = timestamppb.New(h.until)
		}
		out.Holds = append(out.Holds, w)
	}
	return out
}

// subjects are those for whom the limits are to be asked: of what waits for
// them, and of what may go, where that is most.
func (m *sample) subjects(definition func(string) (limit.Definition, bool)) (waiting, due []limit.Subject) {
	for _, h := range m.most() {
		if len(waiting) == maxAsked {
			break
		}
		if d, ok := definition(h.limit); ok {
			waiting = append(waiting, h.subject(&d))
		}
	}
	for s := range m.due {
		due = append(due, s)
	}
	slices.SortFunc(due, func(a, b limit.Subject) int {
		return cmp.Or(cmp.Compare(m.due[b], m.due[a]), strings.Compare(a.Sender, b.Sender), strings.Compare(a.Group, b.Group), a.Client.Compare(b.Client))
	})
	return waiting, due[:min(len(due), maxAsked)]
}

// subject is what the limit has refused: also the source, which only an attempt
// knows.
func (h *hold) subject(d *limit.Definition) limit.Subject {
	s := h.one
	if from := d.Match[limit.Source]; len(from) > 0 {
		s.Source = from[0]
	}
	if was, ok := limit.ParseWords(d.Per, h.words); ok {
		s.Source, s.Site = cmp.Or(was.Source, s.Source), cmp.Or(was.Site, s.Site)
	}
	return s
}
