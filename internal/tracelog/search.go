package tracelog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
)

// slack is how much later than what it follows an event may be written, or how
// much the clocks of two nodes may differ.
const slack = time.Minute

// Query says what is looked for: the events that have the term, or all of some
// messages.
type Query struct {
	Term         Term
	IDs          []mail.ID
	Since, Until time.Time // of the events; zero: any
	// Messages ends a search for a term when so many messages are found, the
	// newest. Those of the same chunk come with them. 0: all.
	Messages int
	Events   int // at most; 0: all
}

// Result is what was found.
type Result struct {
	Events   []*Event  // in no order
	More     bool      // there were more
	Oldest   time.Time // when what is kept begins; zero: nothing is
	Lost     uint64    // events lost since the process started
	LastLost time.Time
	Damaged  []string // what could not be read, with the file's name
}

// search is one under way.
type search struct {
	s        *store
	q        *Query
	keys     []uint64
	ids      map[mail.ID]bool
	found    map[mail.ID]bool
	nameless int // events without an ID
	out      *Result
	buf      []byte
	raw      []byte
}

// Search looks for events, the newest chunk first. Damage is told, not an
// error; the error is that of ctx.
func (l *Log) Search(ctx context.Context, q Query) (*Result, error) {
	if l == nil {
		return &Result{}, nil
	}
	l.sync(ctx)
	s := &search{s: l.store, q: &q, out: &Result{}, found: map[mail.ID]bool{}}
	s.keys = append(q.Term.Hashes(), record.IDKeys(q.IDs)...)
	if len(q.IDs) > 0 {
		s.ids = map[mail.ID]bool{}
		oldest := q.IDs[0].Time()
		for _, id := range q.IDs {
			s.ids[id] = true
			if t := id.Time(); t.Before(oldest) {
				oldest = t
			}
		}
		if since := oldest.Add(-slack); since.After(q.Since) {
			q.Since = since
		}
	}
	err := s.run(ctx)
	s.out.Oldest = l.store.oldest()
	s.out.Lost, s.out.LastLost = l.Lost()
	slices.Sort(s.out.Damaged)
	return s.out, err
}

// oldest tells when what is kept begins.
func (s *store) oldest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if chunks := s.index(f); len(chunks) > 0 {
			return time.UnixMicro(chunks[0].first).UTC()
		}
	}
	if len(s.pending) > 0 {
		return time.UnixMicro(s.began).UTC()
	}
	return time.Time{}
}

// enough tells whether no more is wanted.
func (s *search) enough() bool {
	if s.q.Events > 0 && len(s.out.Events) >= s.q.Events {
		return true
	}
	return s.q.Messages > 0 && len(s.found)+s.nameless >= s.q.Messages
}

func (s *search) run(ctx context.Context) error {
	s.s.mu.Lock()
	open, files := s.s.pending, slices.Clone(s.s.files)
	s.s.mu.Unlock()
	s.records(open)
	for _, f := range slices.Backward(files) {
		if err := s.file(ctx, f); err != nil {
			return err
		}
		if s.enough() {
			s.out.More = true // or there may be
			return nil
		}
	}
	return nil
}

// damaged notes what can't be read.
func (s *search) damaged(f *file, err error) {
	s.out.Damaged = append(s.out.Damaged, fmt.Sprintf("%s: %v", f.name, err))
}

func (s *search) file(ctx context.Context, f *file) error {
	s.s.mu.Lock()
	chunks := slices.Clone(s.s.index(f))
	damage := f.damage
	s.s.mu.Unlock()
	if damage != nil {
		s.damaged(f, damage)
	}
	if len(chunks) == 0 {
		return ctx.Err()
	}
	h, err := s.s.o.FS.OpenFile(s.s.path(f.name), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was too old meanwhile
	}
	if err != nil {
		s.damaged(f, err)
		return ctx.Err()
	}
	defer func() { _ = h.Close() }() // it was only read
	for i := range slices.Backward(chunks) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.enough() {
			return nil
		}
		c := &chunks[i]
		if !s.q.Since.IsZero() && c.last < s.q.Since.UnixMicro() || !s.q.Until.IsZero() && c.first > s.q.Until.UnixMicro() {
			continue
		}
		if err := s.chunk(c, h); err != nil {
			s.damaged(f, fmt.Errorf("at octet %d: %w", c.at, err))
		}
	}
	return nil
}

func (s *search) chunk(c *chunk, h vfs.File) (err error) {
	if s.buf, err = c.filter(h, s.buf); err != nil {
		return err
	}
	if !has(s.buf[chunkHead:], s.keys) {
		return nil
	}
	s.buf, s.raw, err = s.s.k.unpack(c, h, s.buf, s.raw)
	if err == nil {
		s.records(s.raw)
	}
	return err
}

// records looks at each record.
func (s *search) records(raw []byte) {
	for len(raw) > 0 {
		r, rest, err := record.Next(raw)
		if err != nil {
			return
		}
		raw = rest
		if !s.wanted(r) {
			continue
		}
		e, err := r.Event()
		if err != nil {
			continue
		}
		if s.q.Events > 0 && len(s.out.Events) >= s.q.Events {
			s.out.More = true
			return
		}
		s.out.Events = append(s.out.Events, e)
		if e.ID.IsZero() {
			s.nameless++
		} else {
			s.found[e.ID] = true
		}
	}
}

func (s *search) wanted(r record.Record) bool {
	if at := r.Micros(); !s.q.Since.IsZero() && at < s.q.Since.UnixMicro() || !s.q.Until.IsZero() && at > s.q.Until.UnixMicro() {
		return false
	}
	if s.ids[r.ID()] {
		return true
	}
	if s.ids != nil && r.Kind() == record.Report {
		of := false
		_ = r.Fields(func(field byte, text []byte, _ uint64) { // what can't be read is of nothing
			of = of || field == record.FieldOf && len(text) == len(mail.ID{}) && s.ids[mail.ID(text)]
		})
		return of
	}
	return !s.q.Term.IsZero() && s.q.Term.In(r)
}
