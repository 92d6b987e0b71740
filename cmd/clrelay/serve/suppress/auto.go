package suppress

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	// flushEvery is how often what came together goes onto the list: one command
	// for all of it.
	flushEvery = time.Second
	// maxWaiting bounds what waits to go there, and what is counted.
	maxWaiting = 10_000
	maxCounted = 100_000
	// putWait is how long the cluster may take for it.
	putWait = 10 * time.Second
)

// Settings say how addresses come onto the list by themselves.
type Settings struct {
	On        bool
	PerSender bool          // for the envelope sender alone
	After     int           // bounces
	Within    time.Duration // of each other
	Expire    time.Duration // 0: never

	Complaints time.Duration // how long one that complained stays; 0: complaints put nobody there
}

// Trouble is a recipient whose mail should not be sent again.
type Trouble struct {
	ID        mail.ID // of the message
	From, To  mail.Address
	Text      string // what a next hop said, or what kind of complaint it is
	Complaint bool   // it bounced otherwise
}

// Store is where the list is kept.
type Store interface {
	Suppress(ctx context.Context, c control.SuppressOps) ([]control.OpResult, error)
}

// Auto puts addresses on the list by the rules of the Settings: with Bounced,
// which never blocks, within a second; with Add, which waits for it, at once.
type Auto struct {
	Store    Store
	Settings func() Settings
	Ours     func(domain string) bool
	Now      func() time.Time
	Log      *slog.Logger

	mu      sync.Mutex
	waiting map[control.SuppressKey]control.Suppression
	counted map[control.SuppressKey][]once
	lost    int
	begun   int // flushes; written with turn held as well

	turn   sync.Mutex // of the one who flushes; before mu
	failed error      // what the last of them said
}

// once is a message that bounced.
type once struct {
	atMS int64 // Unix time in milliseconds
	id   mail.ID
}

// Bounced takes in a recipient that a next hop refused for good.
func (a *Auto) Bounced(b Trouble) {
	if set := a.Settings(); set.On {
		_, _ = a.note(&b, set) // what is too much is counted
	}
}

// errFull says that more came at once than the list takes in.
var errFull = errors.New("too many addresses wait to get onto the suppression list")

// Add is of returns.Suppressor: it takes in what came back later, and returns
// when that is on the list or need not be.
func (a *Auto) Add(ctx context.Context, s returns.Suppression) error {
	set := a.Settings()
	if s.Complaint {
		set.On, set.After, set.Expire = set.Complaints > 0, 1, set.Complaints
	}
	if !set.On {
		return nil
	}
	key, err := a.note(&Trouble{ID: s.Of, From: s.Sender, To: s.Address, Text: s.Reason, Complaint: s.Complaint}, set)
	for err == nil {
		begun, waits := a.state(key)
		if !waits {
			return nil
		}
		err = a.flushAfter(ctx, begun)
	}
	return err
}

// state tells how many flushes have begun, and whether a key waits for one.
func (a *Auto) state(key control.SuppressKey) (begun int, waits bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, waits = a.waiting[key]
	return a.begun, waits
}

// flushAfter flushes, unless a flush that began after so many others has failed
// already: many who wait together fail together.
func (a *Auto) flushAfter(ctx context.Context, begun int) error {
	a.turn.Lock()
	defer a.turn.Unlock()
	if a.failed != nil && a.begun > begun {
		return a.failed
	}
	err := a.flush(ctx)
	if a.failed = err; ctx.Err() != nil {
		a.failed = nil // no fault of the list's
	}
	return err
}

// note has an address put on the list at the next flush, if the Settings want it
// there. The key is the zero one, which never waits, if they do not.
func (a *Auto) note(b *Trouble, set Settings) (key control.SuppressKey, err error) {
	if a.Ours(b.To.Domain) || set.PerSender && b.From.IsNull() {
		return key, nil
	}
	var none control.SuppressKey
	var ok bool
	if key.Address, ok = suppressed.Key(b.To); !ok {
		return none, nil
	}
	if set.PerSender {
		if key.Scope, ok = suppressed.Key(b.From); !ok {
			return none, nil
		}
	}
	now := a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.often(key, set, once{now.UnixMilli(), b.ID}) {
		return none, nil
	}
	if _, there := a.waiting[key]; !there && len(a.waiting) >= maxWaiting {
		a.lost++
		return none, errFull
	}
	e := control.Suppression{SuppressKey: key, Reason: control.SuppressHardBounce, Text: b.Text, Source: b.ID.String(), CreatedMS: now.UnixMilli()}
	if b.Complaint {
		e.Reason = control.SuppressComplaint
	}
	if set.Expire > 0 {
		e.ExpiresMS = now.Add(set.Expire).UnixMilli()
	}
	if a.waiting == nil {
		a.waiting = map[control.SuppressKey]control.Suppression{}
	}
	a.waiting[key] = e.Cut()
	return key, nil
}

// often counts a bounce, and tells whether it is one too many. One message
// counts once, however often it is told of. It is called with mu held.
func (a *Auto) often(key control.SuppressKey, set Settings, now once) bool {
	if set.After <= 1 {
		return true
	}
	from := now.atMS - set.Within.Milliseconds()
	if a.counted == nil || len(a.counted) >= maxCounted && a.counted[key] == nil {
		a.counted = map[control.SuppressKey][]once{} // to forget all is better than to grow
	}
	times := slices.DeleteFunc(a.counted[key], func(o once) bool { return o.atMS <= from || o.id == now.id })
	times = append(times, now)
	if len(times) < set.After {
		a.counted[key] = times
		return false
	}
	delete(a.counted, key)
	return true
}

// Run puts what has bounced on the list, until ctx ends.
func (a *Auto) Run(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for warned := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		begun, _ := a.state(control.SuppressKey{})
		err := a.flushAfter(ctx, begun)
		if err != nil && !warned && ctx.Err() == nil {
			a.Log.Warn("addresses that bounced do not get onto the suppression list for now", "error", err)
		}
		warned = err != nil
	}
}

// flush puts what waits on the list. What cannot be put there waits on.
func (a *Auto) flush(ctx context.Context) error {
	a.mu.Lock()
	a.begun++
	list := make([]control.Suppression, 0, min(len(a.waiting), control.MaxOps/2)) // a command of the longest texts fits
	for _, e := range a.waiting {
		if len(list) == cap(list) {
			break
		}
		list = append(list, e)
	}
	lost := a.lost
	a.lost = 0
	a.mu.Unlock()
	if lost > 0 {
		a.Log.Warn("more addresses bounced than the suppression list could take in: some are not on it", "addresses", lost)
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b control.Suppression) int { return a.Compare(b.SuppressKey) })
	ctx, cancel := context.WithTimeout(ctx, putWait)
	defer cancel()
	results, err := a.Store.Suppress(ctx, control.SuppressOps{AtMS: a.Now().UnixMilli(), Add: list})
	if err != nil {
		return err
	}
	full := 0
	for _, r := range results {
		if r.Code == control.LimitReached {
			full++
		}
	}
	if full > 0 {
		a.Log.Error("the suppression list is full: addresses that bounced are not on it", "addresses", full)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range list {
		if a.waiting[e.SuppressKey] == e {
			delete(a.waiting, e.SuppressKey)
		}
	}
	return nil
}

// observer tells an Auto of recipients that a next hop refused because they are
// not there, and then next of all that happens.
func observer(to *Auto, next queue.Observer) queue.Observer { return &ear{next, to} }

type ear struct {
	queue.Observer
	to *Auto
}

// Recipient is of queue.Observer.
func (e *ear) Recipient(ev *queue.Event) {
	if ev.Kind == queue.Bounced && ev.Tried && ev.Outcome.Remote != "" && !ev.Outcome.OfMail && bounce.Of(&ev.Outcome.Reply).Hard {
		e.to.Bounced(Trouble{ID: ev.ID, From: ev.From, To: ev.To, Text: ev.Outcome.Reply.Line()})
	}
	e.Observer.Recipient(ev)
}
