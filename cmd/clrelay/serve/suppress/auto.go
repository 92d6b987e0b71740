package suppress

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/delivery/queue"
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
}

// Suppressor hears of recipients that a next hop does not know.
type Suppressor interface{ Bounced(b Bounce) }

// Bounce is one such recipient.
type Bounce struct {
	ID       mail.ID
	From, To mail.Address
	Reply    mail.Reply
}

// Store is where the list is kept.
type Store interface {
	Suppress(ctx context.Context, c control.SuppressOps) ([]control.OpResult, error)
}

// Auto puts addresses on the list by the rules of the Settings. It is a
// Suppressor, and never blocks.
type Auto struct {
	Store    Store
	Settings func() Settings
	Ours     func(domain string) bool
	Now      func() time.Time
	Log      *slog.Logger

	mu      sync.Mutex
	waiting map[control.SuppressKey]control.Suppression
	counted map[control.SuppressKey][]int64 // when it bounced, Unix time in milliseconds
	lost    int
}

// Bounced is of Suppressor.
func (a *Auto) Bounced(b Bounce) {
	set := a.Settings()
	if !set.On || a.Ours(b.To.Domain) || set.PerSender && b.From.IsNull() {
		return
	}
	key := control.SuppressKey{}
	var ok bool
	if key.Address, ok = suppressed.Key(b.To); !ok {
		return
	}
	if set.PerSender {
		if key.Scope, ok = suppressed.Key(b.From); !ok {
			return
		}
	}
	now := a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.often(key, set, now.UnixMilli()) {
		return
	}
	if len(a.waiting) >= maxWaiting {
		a.lost++
		return
	}
	e := control.Suppression{SuppressKey: key, Reason: control.SuppressHardBounce, Text: b.Reply.Line(), Source: b.ID.String(), CreatedMS: now.UnixMilli()}
	if set.Expire > 0 {
		e.ExpiresMS = now.Add(set.Expire).UnixMilli()
	}
	if a.waiting == nil {
		a.waiting = map[control.SuppressKey]control.Suppression{}
	}
	a.waiting[key] = e.Cut()
}

// often counts a bounce, and tells whether it is one too many. It is called with
// mu held.
func (a *Auto) often(key control.SuppressKey, set Settings, nowMS int64) bool {
	if set.After <= 1 {
		return true
	}
	from := nowMS - set.Within.Milliseconds()
	if a.counted == nil || len(a.counted) >= maxCounted && a.counted[key] == nil {
		a.counted = map[control.SuppressKey][]int64{} // to forget all is better than to grow
	}
	times := slices.DeleteFunc(a.counted[key], func(at int64) bool { return at <= from })
	times = append(times, nowMS)
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
		err := a.flush(ctx)
		if err != nil && !warned && ctx.Err() == nil {
			a.Log.Warn("addresses that bounced do not get onto the suppression list for now", "error", err)
		}
		warned = err != nil
	}
}

// flush puts what waits on the list. What cannot be put there waits on.
func (a *Auto) flush(ctx context.Context) error {
	a.mu.Lock()
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

// Observer tells a Suppressor of recipients that a next hop does not know, and
// then next of all that happens.
func Observer(s Suppressor, next queue.Observer) queue.Observer { return &ear{next, s} }

type ear struct {
	queue.Observer
	to Suppressor
}

// Recipient is of queue.Observer.
func (e *ear) Recipient(ev *queue.Event) {
	if ev.Kind == queue.Bounced && ev.Tried && ev.Outcome.Remote != "" && noMailbox(&ev.Outcome.Reply) {
		e.to.Bounced(Bounce{ID: ev.ID, From: ev.From, To: ev.To, Reply: ev.Outcome.Reply})
	}
	e.Observer.Recipient(ev)
}

// noMailbox tells whether a reply says for good that there is no such mailbox:
// it is unknown, has moved without a new address, or is disabled (RFC 3463 3.2,
// 3.3). A reply without an enhanced code says too little.
func noMailbox(r *mail.Reply) bool {
	switch r.Enhanced {
	case mail.EnhancedCode{5, 1, 1}, mail.EnhancedCode{5, 1, 2}, mail.EnhancedCode{5, 1, 6}, mail.EnhancedCode{5, 2, 1}:
		return r.Permanent()
	}
	return false
}
