// Package spooltest holds a spool to its word. A Ledger notes what was asked
// of a spool and what it acknowledged; a Workload keeps a spool busy by seed
// and fills a ledger; Verify opens what a crash left and compares.
//
// It is made for tests alone: those of the spool, of whatever is put under it
// (vfs) or beside it (a Placement). A Ledger may be used from any goroutine;
// it is locked for moments only, so it may be asked from the watcher of a
// vfs.Mem. Whatever is found wrong is an error that says what; nothing panics.
package spooltest

import (
	"maps"
	"slices"
	"sync"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Entry is what a ledger knows of one message.
type Entry struct {
	Env   *mail.Envelope
	Body  []byte
	Acked bool // Accept has returned nil
	// Left says that the client's side failed: the message must not appear.
	Left  bool
	Rcpts []History
}

// History is what happened to one recipient.
type History struct {
	States  []Standing // the first one is that of a new recipient
	Durable int        // index of the newest one known to be durable
	Tried   bool       // an attempt was announced since the newest result
}

// Standing is a recipient's state as far as a restart gives it back.
type Standing struct {
	State    mail.State
	Attempts uint32
	Next     int64 // Unix time in seconds
	Orders   spool.Orders
}

// Ledger is what a spool was asked and what it acknowledged.
type Ledger struct {
	mu   sync.Mutex
	all  map[mail.ID]*Entry
	gone map[mail.ID]bool // were not there after a restart, and must not come back
}

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{all: map[mail.ID]*Entry{}, gone: map[mail.ID]bool{}} }

// Asked notes that Accept is about to be called; left says that its content
// will fail.
func (l *Ledger) Asked(env *mail.Envelope, body []byte, left bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &Entry{Env: env, Body: body, Left: left, Rcpts: make([]History, len(env.Recipients))}
	for i := range e.Rcpts {
		e.Rcpts[i].States = make([]Standing, 1)
	}
	l.all[env.ID] = e
}

// Acked notes that Accept has returned nil. Everything before it in the log
// is durable, too.
func (l *Ledger) Acked(id mail.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[id].Acked = true
	l.durable()
}

// Settling notes that results are about to be recorded.
func (l *Ledger) Settling(id mail.ID, to map[int]Standing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, st := range to {
		h := &l.all[id].Rcpts[i]
		h.States = append(h.States, st)
		h.Tried = false // the log may know better now
	}
}

// Tried notes that an attempt at a recipient is announced.
func (l *Ledger) Tried(id mail.ID, rcpt int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[id].Rcpts[rcpt].Tried = true
}

// Durable notes that all that was recorded is durable.
func (l *Ledger) Durable() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable()
}

// durable is right because nobody else is recording: a Workload does one
// thing at a time.
func (l *Ledger) durable() {
	for _, e := range l.all {
		for i := range e.Rcpts {
			e.Rcpts[i].Durable = len(e.Rcpts[i].States) - 1
		}
	}
}

// Snapshot copies the ledger as it is now.
func (l *Ledger) Snapshot() *Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &Ledger{all: make(map[mail.ID]*Entry, len(l.all)), gone: maps.Clone(l.gone)}
	for id, e := range l.all {
		c := *e
		c.Rcpts = slices.Clone(e.Rcpts)
		out.all[id] = &c
	}
	return out
}

// Until gives a ledger for a crash at some moment between the snapshots l and
// later: acknowledged is what was so before it, asked for may be all that was
// asked for after it.
func (l *Ledger) Until(later *Ledger) *Ledger {
	out := later.Snapshot()
	for id, e := range out.all {
		was := l.all[id]
		e.Acked = was != nil && was.Acked
		for i := range e.Rcpts {
			h := &e.Rcpts[i]
			if was == nil {
				h.Durable, h.Tried = 0, false
				continue
			}
			// A restart between the two leaves one state of several.
			h.Durable = min(was.Rcpts[i].Durable, len(h.States)-1)
			h.Tried = was.Rcpts[i].Tried && h.Tried
		}
	}
	return out
}

// Open lists the messages that are acknowledged and have a recipient left.
func (l *Ledger) Open() []mail.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []mail.ID
	for id, e := range l.all {
		if e.Acked && !e.finished() {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b mail.ID) int { return slices.Compare(a[:], b[:]) })
	return out
}

// Entry gives a message's entry, to be read only while nothing is recorded.
func (l *Ledger) Entry(id mail.ID) *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[id]
}

// finished tells whether each recipient's newest result is final.
func (e *Entry) finished() bool {
	for _, h := range e.Rcpts {
		if !h.States[len(h.States)-1].State.Final() {
			return false
		}
	}
	return true
}

// mayBeGone tells whether a restart may not know the message any more: it was
// not acknowledged, or a final result was at least asked for everybody.
func (e *Entry) mayBeGone() bool { return !e.Acked || e.finished() }

// mustBeGone tells whether a restart must not know it any more.
func (e *Entry) mustBeGone() bool {
	if e.Left {
		return true
	}
	for _, h := range e.Rcpts {
		if !h.States[h.Durable].State.Final() {
			return false
		}
	}
	return true
}
