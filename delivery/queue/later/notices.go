package later

import (
	"container/heap"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Notices wait for the times by which senders want to be told if their mail is
// not delivered. They are in memory alone: the next process makes them of the
// messages that are still there.
type Notices struct {
	// Alive tells whether a message is still this node's to deliver.
	Alive func(m *spool.Message) bool
	// Tell tells the sender. It is called from one goroutine at a time.
	Tell func(m *spool.Message)

	mu      sync.Mutex
	due     byTime
	known   map[*spool.Message]struct{}
	sweepAt int
	timer   *time.Timer
	armed   time.Time // for when the timer is set; zero: it is not
	running sync.WaitGroup
	stopped bool
}

const (
	sweepMin = 1024        // so many are kept without a look whether they are still needed
	nap      = time.Minute // the longest sleep: the wall clock may be set meanwhile
)

// Add waits for a message, if its sender wants to be told while it may still be
// queued, which ends at end.
func (n *Notices) Add(m *spool.Message, env *mail.Envelope, end time.Time) {
	at := env.By.At
	if at.IsZero() || env.By.Return || !at.Before(end) || !at.After(time.Now()) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.known[m]; ok || n.stopped {
		return
	}
	if len(n.due) >= max(sweepMin, n.sweepAt) {
		n.sweep()
	}
	if n.known == nil {
		n.known = map[*spool.Message]struct{}{}
	}
	n.known[m] = struct{}{}
	heap.Push(&n.due, entry{at, m})
	n.arm()
}

// sweep forgets what has ended meanwhile. n.mu is held.
func (n *Notices) sweep() {
	kept := n.due[:0]
	for _, e := range n.due {
		if n.Alive(e.m) {
			kept = append(kept, e)
		} else {
			delete(n.known, e.m)
		}
	}
	clear(n.due[len(kept):])
	n.due = kept
	heap.Init(&n.due)
	n.sweepAt = 2 * len(kept)
}

// arm sets the timer for the first that is due. n.mu is held.
func (n *Notices) arm() {
	if len(n.due) == 0 || n.stopped || !n.armed.IsZero() && !n.due[0].at.Before(n.armed) {
		return
	}
	wait := min(max(time.Until(n.due[0].at), time.Millisecond), nap)
	n.armed = time.Now().Add(wait)
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, n.fire)
		return
	}
	n.timer.Reset(wait)
}

// fire tells of all that are due.
func (n *Notices) fire() {
	n.mu.Lock()
	if n.stopped {
		n.mu.Unlock()
		return
	}
	n.running.Add(1)
	defer n.running.Done()
	for len(n.due) > 0 && !n.due[0].at.After(time.Now()) && !n.stopped {
		e := heap.Pop(&n.due).(entry)
		delete(n.known, e.m)
		n.mu.Unlock()
		if n.Alive(e.m) {
			n.Tell(e.m)
		}
		n.mu.Lock()
	}
	n.armed = time.Time{}
	n.arm()
	n.mu.Unlock()
}

// Stop ends it, after what is being told.
func (n *Notices) Stop() {
	n.mu.Lock()
	n.stopped = true
	if n.timer != nil {
		n.timer.Stop()
	}
	n.mu.Unlock()
	n.running.Wait()
}

type entry struct {
	at time.Time
	m  *spool.Message
}

type byTime []entry

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push and Pop are for package heap.
func (h *byTime) Push(x any) { *h = append(*h, x.(entry)) }

// Pop gives the last.
func (h *byTime) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = entry{}
	*h = (*h)[:last]
	return e
}
