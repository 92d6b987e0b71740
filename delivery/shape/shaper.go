package shape

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/proto/control"
)

// Store keeps records for all nodes.
type Store interface {
	// Records gives those whose keys begin with prefix, sorted.
	Records(prefix string) []control.Record
	// PutRecord writes or deletes one by compare-and-swap and gives its version.
	PutRecord(ctx context.Context, c control.RecordPut) (uint64, error)
	// RecordsChanged gives a channel that is closed once one was written.
	RecordsChanged() <-chan struct{}
}

// Setup is what a Shaper needs.
type Setup struct {
	Core  Options // Defaults is not looked at
	Store Store
	Book  *Book
	// Leads tells whether this node removes what has ended: one of all.
	Leads func() bool
	// Obey puts limits into force, all there are: an operator's, those of the
	// Book, and what was learned.
	Obey func([]limit.Definition)
	// Tell is told what this node has learned itself.
	Tell func(Note)
	Log  *slog.Logger
}

const (
	tick     = time.Second
	soon     = 50 * time.Millisecond // while there is something to write
	writeFor = 5 * time.Second       // one record
)

// Shaper runs a Core. It is safe for concurrent use.
type Shaper struct {
	o    Setup
	book atomic.Pointer[Book]
	wake chan struct{}
	lost atomic.Bool // a record could not be written: it may be another than was thought
	end  context.CancelFunc
	done sync.WaitGroup

	mu   sync.Mutex
	core *Core

	// Of the goroutine alone.
	orders   []limit.Definition
	learned  []limit.Definition
	versions map[string]uint64 // of operators' records
	obeyed   *Book             // the book that was handed out
	yielded  time.Time         // when what yields to an operator's limit holds again; zero: nothing does
	ticked   time.Time
}

// Start begins with what the Store holds, and goes on until Close.
func Start(o Setup) *Shaper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Shaper{o: o, wake: make(chan struct{}, 1), end: cancel}
	s.book.Store(o.Book)
	o.Core.Defaults = s.Book
	s.core = New(o.Core)
	changed := o.Store.RecordsChanged()
	s.read(time.Now())
	s.hand()
	s.done.Go(func() { s.run(ctx, changed) })
	return s
}

// Close ends it. What was not written is lost, and is learned again.
func (s *Shaper) Close() {
	s.end()
	s.done.Wait()
}

// Book gives the rules in force.
func (s *Shaper) Book() *Book { return s.book.Load() }

// SetBook puts other rules into force. What older ones did stays until it ends.
func (s *Shaper) SetBook(b *Book) {
	s.book.Store(b)
	s.kick()
}

func (s *Shaper) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Heard takes what a host said. It does not wait for anything.
func (s *Shaper) Heard(w *Word) {
	var r *Rule
	if !w.OK {
		r = s.Book().Match(w.Site, w.Stage, &w.Reply)
	}
	s.mu.Lock()
	s.core.Heard(time.Now(), w, r)
	news := s.core.changed
	s.mu.Unlock()
	if news {
		s.kick()
	}
}

// State gives what is in force for a site.
func (s *Shaper) State(site string) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.State(site)
}

// List gives all sites that something was learned of.
func (s *Shaper) List() []Listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.List()
}

// Suspended counts the sites that nothing goes to.
func (s *Shaper) Suspended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.Suspended()
}

// ConnMessages is how many messages a connection to a site may carry; 0: the
// configuration says it.
func (s *Shaper) ConnMessages(site string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.ConnMessages(site)
}

func (s *Shaper) run(ctx context.Context, changed <-chan struct{}) {
	var writers sync.WaitGroup
	defer writers.Wait()
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			changed = s.o.Store.RecordsChanged()
			s.read(time.Now())
		case <-s.wake:
			if s.lost.Swap(false) {
				s.read(time.Now())
			}
		case <-timer.C:
		}
		now := time.Now()
		s.mu.Lock()
		if now.Sub(s.ticked) >= tick {
			s.ticked = now
			s.core.Tick(now, s.o.Leads())
		}
		due := s.core.Due(now)
		notes := s.core.Notes()
		wait := tick
		if s.core.writes() {
			wait = soon
		}
		s.mu.Unlock()
		s.hand()
		for _, n := range notes {
			s.o.Tell(n)
		}
		for i := range due {
			writers.Go(func() { s.write(ctx, &due[i]) })
		}
		s.sweep(ctx, now, writers.Go)
		timer.Reset(wait)
	}
}

// read takes over what the Store holds.
func (s *Shaper) read(now time.Time) {
	kept := s.o.Store.Records(Space)
	all := make([]Record, 0, len(kept))
	for _, r := range kept {
		all = append(all, Record{Site: strings.TrimPrefix(r.Key, Space), Value: r.Value, Version: r.Version})
	}
	s.mu.Lock()
	s.core.Records(now, all)
	s.mu.Unlock()
	s.readOrders(s.o.Store.Records(Orders))
}

// readOrders takes over what operators have set, if it is other than before.
func (s *Shaper) readOrders(kept []control.Record) {
	same := len(kept) == len(s.versions)
	versions := make(map[string]uint64, len(kept))
	for _, r := range kept {
		versions[r.Key] = r.Version
		same = same && s.versions[r.Key] == r.Version
	}
	if same && s.versions != nil {
		return
	}
	s.versions, s.orders, s.obeyed = versions, nil, nil
	for _, r := range kept {
		d, err := ParseOrder(strings.TrimPrefix(r.Key, Orders), r.Value)
		if err != nil {
			s.o.Log.Error("a limit that an operator has set cannot be read: it limits nothing", "record", r.Key, "error", err)
			continue
		}
		s.orders = append(s.orders, d)
	}
}

// sweep deletes operators' limits that have ended, where this node leads.
func (s *Shaper) sweep(ctx context.Context, now time.Time, start func(func())) {
	for i := range s.orders {
		d := &s.orders[i]
		key := Orders + d.Name
		if d.Until.IsZero() || d.Until.After(now) || s.versions[key] == 0 || !s.o.Leads() {
			continue
		}
		put := control.RecordPut{Key: key, IfVersion: s.versions[key], Delete: true}
		s.versions[key] = 0 // once; a later version of it is read anew
		start(func() {
			ctx, cancel := context.WithTimeout(ctx, writeFor)
			defer cancel()
			if _, err := s.o.Store.PutRecord(ctx, put); err != nil {
				s.lost.Store(true)
				s.o.Log.Debug("a limit that has ended is not deleted yet", "record", put.Key, "error", err)
			}
		})
	}
}

// hand gives the limits out, if they are others than before.
func (s *Shaper) hand() {
	s.mu.Lock()
	learned, changed := s.core.Definitions()
	s.mu.Unlock()
	if changed {
		s.learned = learned
	}
	book, now := s.Book(), time.Now()
	if !changed && book == s.obeyed && (s.yielded.IsZero() || now.Before(s.yielded)) {
		return
	}
	s.obeyed, s.yielded = book, ends(s.orders, now)
	list := slices.Concat(s.orders, yield(book.Definitions(), s.orders, now), yield(s.learned, s.orders, now))
	// One that is none would have all refused.
	s.o.Obey(slices.DeleteFunc(list, func(d limit.Definition) bool { return d.Check() != nil }))
}

// write writes a record.
func (s *Shaper) write(ctx context.Context, a *Action) {
	ctx, cancel := context.WithTimeout(ctx, writeFor)
	defer cancel()
	version, err := s.o.Store.PutRecord(ctx, control.RecordPut{Key: Space + a.Site, Value: a.Value, IfVersion: a.Version, Delete: a.Value == nil})
	s.mu.Lock()
	s.core.Wrote(time.Now(), a, version, err == nil)
	s.mu.Unlock()
	if err != nil {
		s.lost.Store(true)
		s.o.Log.Debug("what was learned of a site is not written yet", "site", a.Site, "error", err)
	}
	s.kick()
}
