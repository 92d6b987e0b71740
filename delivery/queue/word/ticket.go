package word

import (
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/spool"
)

// Ticket follows one word until whoever said it has left and the last recipient
// that it met is recorded. What changes is guarded by its user.
type Ticket struct {
	Said    Said          // it never changes
	Left    bool          // nobody waits for it any more
	Working int           // recipients whose change is being recorded
	Waiting int           // recipients whose delivery must end first
	Changed int           // recipients that are recorded
	Signal  chan struct{} // gets one when anything has changed
}

// NewTicket makes one of a word.
func NewTicket(s Said) *Ticket { return &Ticket{Said: s, Signal: make(chan struct{}, 1)} }

// Answer notes what the scheduler made of the word. Nobody's Ticket is nil.
func (t *Ticket) Answer(a *sched.Action[*spool.Message]) {
	if t == nil {
		return
	}
	switch {
	case a.Kind == sched.Overtaken:
		t.Waiting -= a.Count
	case a.Kind == sched.Operate: // a delivery ended, its recipients' turn has come
		t.Waiting -= len(a.Items)
		t.Working += len(a.Items)
	case t.Said.Op == sched.Retry:
		t.Changed += a.Count
	default:
		t.Working += a.Count
		t.Waiting += a.Waiting
	}
	t.Wake()
}

// Wake tells whoever waits that something has changed.
func (t *Ticket) Wake() {
	select {
	case t.Signal <- struct{}{}:
	default:
	}
}
