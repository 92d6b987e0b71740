package queue_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// hops is a Router: each domain is its own next hop, unless said otherwise.
type hops struct {
	mu    sync.Mutex
	other map[string]string // domain -> key
}

func (h *hops) Route(_, domain string) (mail.NextHop, *mail.Reply) {
	if domain == "nowhere.test" {
		return mail.NextHop{}, mail.NewReply(550, "5.4.4", "no route")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if key := h.other[domain]; key != "" {
		hop := mail.NextHop{Key: key, Domain: domain}
		if strings.HasPrefix(key, "smarthost:") {
			hop.Kind = mail.HopSmarthost
		}
		return hop, nil
	}
	return mail.NextHop{Key: "mx:" + domain, Domain: domain}, nil
}

func (h *hops) Via(to, _, domain string) (mail.NextHop, *mail.Reply) {
	if to == "mx" {
		return mail.NextHop{Key: "mx:" + domain, Domain: domain}, nil
	}
	return mail.NextHop{Key: "smarthost:" + to, Domain: to}, nil
}

func (h *hops) set(domain, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.other[domain] = key
}

// deliverFunc is a Deliverer.
type deliverFunc func(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome

func (f deliverFunc) Deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	return f(ctx, hop, at)
}

// world is a spool in memory with a Runner on it, in which the local part of
// a recipient says what its next hop does: "ok", "fail", "later" and so on.
type world struct {
	t       testing.TB
	fs      vfs.FS
	opts    queue.Options
	sp      *spool.Spool
	r       *queue.Runner
	route   *hops
	special deliverFunc   // asked first; nil outcomes: go on by local part
	lazy    time.Duration // how long results may stay unsynced
	doubts  int           // possible duplicates, as recoveries counted them

	mu      sync.Mutex
	life    int      // power failures so far
	dead    bool     // the power failed: nothing that goes on has happened
	sent    []string // "local@domain" of each delivery that was taken
	tries   int
	bodies  map[string]string
	events  []string
	reports []string
}

func newWorld(t testing.TB, o queue.Options) *world {
	w := &world{t: t, fs: vfs.NewMem(), opts: o, route: &hops{other: map[string]string{}}, bodies: map[string]string{}}
	w.start()
	return w
}

func (w *world) start() {
	w.t.Helper()
	o := w.opts
	o.Router, o.Deliverer, o.Observer, o.Hostname = w.route, deliverFunc(w.deliver), w, "relay.test"
	o.Rand = rand.NewPCG(1, 1)
	w.r = queue.New(o)
	sp, rec, err := spool.Open(spool.Options{
		FS: w.fs, Dir: "/data", Node: "mx1", FileSize: 1 << 20, Boot: fmt.Sprint("boot ", w.life), Reserve: 1 << 20,
		SyncEvery: w.lazy, HangLimit: time.Hour, Accepted: w.r.Enqueue, Fatal: func(err error) { w.t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.sp = sp
	w.doubts += rec.PossibleDuplicates
	if err := w.r.Start(sp); err != nil {
		w.t.Fatal(err)
	}
}

// stop shuts everything down as a SIGTERM would.
func (w *world) stop(patience time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = w.r.Shutdown(ctx) // that time was up is no failure
	if err := w.sp.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.stop(time.Minute)
	w.start()
}

func (w *world) deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	w.mu.Lock()
	w.tries++
	special, dead := w.special, w.dead
	w.mu.Unlock()
	if dead {
		<-ctx.Done()
		return nil
	}
	if special != nil {
		if outs := special(ctx, hop, at); outs != nil {
			return outs
		}
	}
	return w.byName(at)
}

// behave sets what is asked before the local parts.
func (w *world) behave(f deliverFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.special = f
}

func (w *world) tried() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tries
}

func (w *world) body(to string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bodies[to]
}

func (w *world) byName(at *delivery.Attempt) []mail.Outcome {
	outs := make([]mail.Outcome, len(at.Recipients))
	taken := false
	for i, rc := range at.Recipients {
		a := at.Envelope.Recipients[rc].Addr
		outs[i] = mail.Outcome{Recipient: rc, Remote: "mx." + a.Domain + "[192.0.2.1]:25", At: time.Now()}
		word, _, _ := strings.Cut(a.Local, ".")
		switch word {
		case "fail":
			outs[i].Reply = *mail.NewReply(550, "5.1.1", "no such user")
		case "later":
			outs[i].Reply = *mail.NewReply(450, "4.2.0", "greylisted")
		case "grey":
			outs[i].Reply, outs[i].Wait = *mail.NewReply(450, "4.7.1", "greylisted for 6m"), 6*time.Minute
		case "dead":
			outs[i].Reply, outs[i].Remote = *mail.NewReply(451, "4.4.1", "connection refused"), ""
		case "dsn":
			outs[i].Reply, outs[i].DSNPassed = *mail.NewReply(250, "2.0.0", "ok"), true
			taken = true
		default:
			outs[i].Reply = *mail.NewReply(250, "2.0.0", "ok")
			taken = true
		}
	}
	if !taken {
		return outs
	}
	body, err := read(at.Content)
	if err == nil {
		err = at.BeforeDot()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range outs {
		if !outs[i].Reply.Positive() {
			continue
		}
		if err != nil {
			outs[i].Reply = *mail.NewReply(451, "4.3.0", "aborted").WithCause(err)
			continue
		}
		to := at.Envelope.Recipients[outs[i].Recipient].Addr.String()
		w.sent = append(w.sent, to)
		w.bodies[to] = body
	}
	return outs
}

func read(c delivery.Content) (string, error) {
	rc, err := c.Open()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	_, err = io.Copy(&b, rc)
	if cerr := rc.Close(); err == nil {
		err = cerr
	}
	return b.String(), err
}

// Recipient, Reported and Postponed make the world an Observer.
func (w *world) Recipient(e *queue.Event) {
	names := map[queue.EventKind]string{queue.Delivered: "delivered", queue.Deferred: "deferred", queue.Bounced: "bounced", queue.Expired: "expired", queue.DoubleBounce: "double", queue.Held: "held", queue.Released: "released", queue.Dropped: "dropped", queue.Trashed: "trashed", queue.Undropped: "undropped"}
	s := fmt.Sprintf("%s %s #%d", names[e.Kind], e.To.String(), e.Attempt)
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	if e.Kind == queue.Deferred && (e.Next.IsZero() || !e.Next.After(time.Now())) {
		w.t.Errorf("%s, next %s", s, e.Next)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dead {
		w.events = append(w.events, s)
	}
}

func (w *world) Reported(_, _ mail.ID, kind dsn.Kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, kind.String())
}

func (w *world) Limited(string, *allow.Denied) {}

func (w *world) Postponed(lane string, n int, why *mail.Reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("postponed %s %d", lane, n))
}

func envelope(from string, to ...string) *mail.Envelope {
	env := &mail.Envelope{ID: mail.NewID(time.Now()), From: address(from), Arrived: time.Now().Truncate(time.Millisecond), Client: mail.Client{Protocol: "ESMTP"}}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: address(a)})
	}
	return env
}

func address(s string) mail.Address {
	local, domain, _ := strings.Cut(s, "@")
	return mail.Address{Local: local, Domain: domain}
}

const text = "From: a@b\r\nSubject: hello\r\n\r\nHello.\r\n"

func (w *world) send(env *mail.Envelope) *spool.Message {
	w.t.Helper()
	m, err := w.sp.Accept(context.Background(), env, strings.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) look(list *[]string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(*list)
	slices.Sort(out)
	return out
}

func (w *world) want(what string, list *[]string, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	if got := w.look(list); !slices.Equal(got, want) {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
	w.mu.Lock()
	*list = nil
	w.mu.Unlock()
}

// everything is a Selector of all, of one state, or of one sender or domain.
type selector struct {
	state    []mail.State
	from, to string
	ids      []mail.ID
	rule     string // held by it
	reply    string // a part of the last one
	lane     string
}

func (s selector) MatchMessage(id mail.ID, _ time.Time, _ int64) bool {
	return s.ids == nil || slices.Contains(s.ids, id)
}
func (s selector) MatchRecipient(st mail.State, _ uint32, lane string) bool {
	return (s.state == nil && st != mail.StateTrashed || slices.Contains(s.state, st)) && (s.lane == "" || s.lane == lane)
}
func (s selector) Needs() (envelope, reply bool) { return s.from != "" || s.to != "", s.reply != "" }
func (s selector) MatchStored(env *mail.Envelope, rcpt int, last *mail.Reply, rule string) bool {
	if s.rule != "" && s.rule != rule || s.reply != "" && !strings.Contains(last.Line(), s.reply) {
		return false
	}
	if s.from == "" && s.to == "" {
		return true
	}
	return env != nil && (s.from == "" || s.from == env.From.String()) && (s.to == "" || s.to == env.Recipients[rcpt].Addr.Domain)
}
func (s selector) Domains() []string {
	if s.to == "" {
		return nil
	}
	return []string{s.to}
}

// rows lists the queue, one line a recipient.
func (w *world) rows() []string {
	w.t.Helper()
	return w.listed(w.r.List)
}

func (w *world) listed(list func(context.Context, queue.Selector, func(*queue.Row) error) error) []string {
	w.t.Helper()
	out := []string{}
	err := list(context.Background(), selector{}, func(r *queue.Row) error {
		s := fmt.Sprintf("%s %s #%d", r.To.String(), r.State, r.Attempts)
		if !r.Next.IsZero() {
			s += " in " + time.Until(r.Next).Round(time.Minute).String()
		}
		if r.LastReply.Code != 0 {
			s += ": " + r.LastReply.Line()
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// wantRows sees that the queue lists these, and the same without the replies
// in a scan.
func (w *world) wantRows(want ...string) {
	w.t.Helper()
	slices.Sort(want)
	if got := w.rows(); !slices.Equal(got, want) {
		w.t.Errorf("queue: %q, want %q", got, want)
	}
	bare := []string{}
	for _, row := range want {
		row, _, _ = strings.Cut(row, ": ")
		bare = append(bare, row)
	}
	slices.Sort(bare)
	if got := w.listed(w.r.Scan); !slices.Equal(got, bare) {
		w.t.Errorf("a scan of the queue: %q, want %q", got, bare)
	}
}

func (w *world) change(op sched.Op, sel selector) queue.Changed {
	w.t.Helper()
	c, err := w.r.Change(context.Background(), queue.Change{Op: op, Selector: sel, Reason: "why"})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}
