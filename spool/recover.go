package spool

import (
	"errors"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/compact"
	"github.com/clrelay/clrelay/spool/content"
	"github.com/clrelay/clrelay/spool/datadir"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
	"github.com/clrelay/clrelay/spool/wal/buffers"
)

// Recovery says what Open found.
type Recovery struct {
	Messages, Recipients int // unfinished
	// PossibleDuplicates counts recipients that may get a message twice,
	// because nobody knows how their last delivery ended.
	PossibleDuplicates int
	Damage             []*DamageError
	Duration           time.Duration
}

// recover reads the log and fills the index, and puts what it has decided into
// the log.
func (s *Spool) recover() (*Recovery, error) {
	found, err := s.load(s.walOptions())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextSegment = max(s.nextSegment, found.LastID+1)
	rec := &Recovery{
		Messages: s.state.Messages(), Recipients: found.Recipients, Damage: found.Damage,
		PossibleDuplicates: s.state.PossibleDuplicates(found, s.store.UnsyncedLost(), s.opts.Now()),
	}
	s.counts.Recovered = uint64(rec.Messages)
	s.suspect = len(rec.Damage) > 0
	if err := s.mend(); err != nil {
		return nil, fmt.Errorf("spool: recording the recovery: %w", err)
	}
	m := s.opts.Metrics
	m.Recovered.Add(float64(rec.Messages))
	m.Damaged.Add(float64(len(rec.Damage)))
	m.PossibleDuplicates.Add(float64(rec.PossibleDuplicates))
	return rec, nil
}

// load opens the log and fills the index.
func (s *Spool) load(o wal.Options) (*state.Recovered, error) {
	f := state.NewReplay(s.place)
	var report *wal.Report
	var err error
	if s.log, report, err = wal.Open(o, f.Visit); err != nil {
		return nil, fmt.Errorf("spool: opening the log in %s: %w", o.Dir, err)
	}
	s.limit = int(min(int64(buffers.Largest()), s.log.MaxAppend()/2))
	s.read = &content.Source{Log: s.log, Dir: o.Dir, Place: s.place, Mu: &s.mu, State: s.state}
	s.mu.Lock()
	defer s.mu.Unlock()
	head := uint32(0)
	for _, file := range s.log.Files() {
		s.state.HasFile(file.Number)
		head = file.Number + 1
		s.top = wal.Pos(head) << 32
	}
	s.compactor = compact.New(compact.Options{
		Log: s.log, Mu: &s.mu, State: s.state, FileSize: s.opts.FileSize, Limit: s.limit,
		Append: s.append, Header: s.putHeader, Logger: s.opts.Log,
	}, head)
	return s.state.Load(f, report.Damage), nil
}

// mend puts into the log what recovery has decided, so that the next one
// finds it: segments are sealed, and messages that have nothing left to do are
// finished. s.mu is held.
func (s *Spool) mend() error {
	var errs []error
	done, open := s.state.Leftovers()
	for _, m := range done {
		_, err := s.record(m, &record.Result{ID: m.ID(), Finished: true, Victim: s.state.Commit(m).File()})
		errs = append(errs, err)
	}
	for _, g := range open {
		if !g.Empty() {
			self := s.self()
			g.State, g.End, g.Owner, g.Members = record.SegmentSealed, g.Last, self, []record.Member{self}
			errs = append(errs, s.putHeader(g))
		}
	}
	err := errors.Join(errs...)
	if errors.Is(err, wal.ErrNoSpace) {
		// Nothing of it is needed for mail to be safe: the next start tries again.
		s.opts.Log.Warn("no space to record the recovery", "err", err)
		return nil
	}
	return err
}

// place names a record for a human.
func (s *Spool) place(pos wal.Pos) string {
	if s.log != nil {
		for _, f := range s.log.Files() {
			if f.Number == pos.File() {
				return fmt.Sprintf("%s:%d", f.Path, pos.Offset())
			}
		}
	}
	return fmt.Sprintf("%s: log file %d, offset %d", datadir.LogDir(s.opts.Dir), pos.File(), pos.Offset())
}

// Visit is told an unfinished message.
//
// env is valid during the call alone, and so are its slices; whoever keeps a
// text of it clones it, because all texts of an envelope share memory.
type Visit func(m *Message, env *mail.Envelope, states []RecipientState)

// Each visits the messages that Open found, in the order of the log, which is
// that of arrival but for messages that compaction has moved. It has to be
// called once, whatever was found: space is reclaimed only from then on.
func (s *Spool) Each(visit Visit) error {
	if s.readOnly {
		return s.eachOneByOne(visit)
	}
	if s.counts.Recovered > 0 {
		if err := s.compactor.Still(func() error { return s.each(visit) }); err != nil {
			return err
		}
	}
	s.compactor.Start()
	return nil
}

func (s *Spool) each(visit Visit) error {
	var c record.Commit
	var env mail.Envelope
	var at []state.Standing
	var states []RecipientState
	for _, f := range s.log.Files() {
		if !f.Sealed {
			continue // begun after Open
		}
		err := s.log.Scan(f.Number, func(pos wal.Pos, h wal.Header, data []byte) error {
			if uint8(h.Kind) != record.KindCommit || h.Segment>>32 >= uint64(s.store.Now.Count) {
				return nil
			}
			if record.ParseCommit(data, &c, &env) != nil {
				return nil // Open has reported it
			}
			s.mu.Lock()
			m := s.state.At(h.Segment, c.First)
			if m == nil || s.state.Commit(m) != pos {
				s.mu.Unlock()
				return nil
			}
			at = s.state.Standings(m, at[:0])
			s.mu.Unlock()
			states = states[:0]
			for i := range at {
				states = append(states, at[i].RecipientState)
			}
			visit(m, &env, states)
			return nil
		})
		if err != nil {
			return fmt.Errorf("spool: reading the log again: %w", err)
		}
	}
	return nil
}

// eachOneByOne is Each for a spool that is only looked at: its last log file
// may not be complete, and what counts is to get at everything.
func (s *Spool) eachOneByOne(visit Visit) error {
	for _, m := range s.state.All() {
		if err := s.visit(m, visit); err != nil {
			return err
		}
	}
	return nil
}

// visit reads a message's envelope and visits it.
func (s *Spool) visit(m *Message, visit Visit) error {
	env, err := s.Envelope(m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	at := s.state.Standings(m, nil)
	finished := s.state.Commit(m) == 0
	s.mu.Unlock()
	if finished {
		return ErrFinished
	}
	states := make([]RecipientState, len(at))
	for i := range at {
		states[i] = at[i].RecipientState
	}
	visit(m, env, states)
	return nil
}
