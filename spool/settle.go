package spool

import (
	"fmt"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// Start is a delivery that has been announced.
type Start struct {
	c     *wal.Commit
	early bool
	err   error
}

// Wait returns when the announcement survives the end of the process. It must
// have returned nil before the final dot is sent: should the process die
// before the result is recorded, the next one then knows that these
// recipients may get the message twice. After a crash of the machine, which may
// lose the announcement, all recipients whose time had come are suspected; so
// for one whose time has not come it waits for the disk.
func (t *Start) Wait() error {
	if t.err == nil && t.early {
		t.err = t.c.WaitDurable()
	} else if t.err == nil {
		t.err = t.c.WaitWritten()
	}
	return t.err
}

// Err is why nothing was announced; a *FinalError names recipients that are
// not to be tried.
func (t *Start) Err() error { return t.err }

// Attempt announces that delivery to these recipients starts. It does not
// wait.
func (s *Spool) Attempt(m *Message, recipients []int) *Start {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, early, err := s.state.Attempt(m, recipients, s.opts.Now())
	if err != nil {
		return &Start{err: err}
	}
	data := record.AppendAttempt(nil, a)
	c, err := s.append(wal.Record{Header: m.Header(record.KindAttempt), Data: [][]byte{data}})
	if err != nil {
		return &Start{err: fmt.Errorf("spool: attempt at message %s: %w", m.ID(), err)}
	}
	s.state.Started(m, recipients, c.Pos(0), wal.RecordSize(len(data)))
	return &Start{c: c, early: early}
}

// Settle records what became of recipients. It returns when that survives the
// end of the process; it is on the disk soon after. Results for recipients
// that have a final one already change nothing. When the last recipient gets
// its final result the message is finished: it leaves the spool.
//
// ErrNoSpace means that nothing was recorded, and that the call is to be made
// again when there is room.
func (s *Spool) Settle(m *Message, results []Result) error {
	c, _, err := s.settle(m, results)
	if err != nil {
		return err
	}
	return c.WaitWritten()
}

// SettleDurable is Settle that waits for the disk and for the other copies:
// what an operator was told has happened must have happened.
func (s *Spool) SettleDurable(m *Message, results []Result) error {
	c, copies, err := s.settle(m, results)
	if err == nil {
		err = c.WaitDurable()
	}
	if err != nil || copies == nil {
		return err
	}
	if err := copies.Wait(); err != nil {
		return fmt.Errorf("spool: copying results of message %s: %w", m.ID(), err)
	}
	return nil
}

// settle appends a result record, if there is anything new to record; else c
// is nil. copies waits for the other members; it is nil when there are none.
func (s *Spool) settle(m *Message, results []Result) (c *wal.Commit, copies Ticket, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, err := s.state.Settle(m, results)
	if rec == nil || err != nil {
		return nil, nil, err
	}
	wr, err := s.record(m, rec)
	if err != nil {
		return nil, nil, err
	}
	return s.last, s.tell(wr), nil
}

// record appends a result record and brings the index up to it. s.mu is held.
func (s *Spool) record(m *Message, rec *record.Result) (wr wal.Record, err error) {
	data := record.AppendResult(make([]byte, 0, recordHint), rec)
	wr = wal.Record{Header: m.Header(record.KindResult), Data: [][]byte{data}}
	c, err := s.append(wr)
	if err != nil {
		return wr, fmt.Errorf("spool: settling message %s: %w", m.ID(), err)
	}
	if rec.Finished && s.state.Owned(m) {
		s.counts.Finished++
	}
	s.state.Settled(m, rec, c.Pos(0), wal.RecordSize(len(data)))
	s.compactor.Wake()
	return wr, nil
}

// tell gives a result or abort, the newest append, to the other members, if
// its segment has any. s.mu is held.
func (s *Spool) tell(wr wal.Record) Ticket {
	if p := s.opts.Placement; p != nil && state.Replicated(wr.Segment) {
		return p.Settled(wr, s.last)
	}
	return nil
}

// append puts records into the log that must get there even when mail is
// refused. s.mu is held.
func (s *Spool) append(recs ...wal.Record) (*wal.Commit, error) {
	if s.closed {
		return nil, wal.ErrClosed
	}
	c, err := s.log.AppendReserved(recs...)
	if err == nil {
		s.wrote(c)
	}
	return c, err
}

// wrote notices an append. s.mu is held.
func (s *Spool) wrote(c *wal.Commit) {
	s.last = c
	s.top = c.Top()
	s.compactor.Wrote(c.Pos(0).File())
}

// recordHint is how long most records are that are not chunks.
const recordHint = 400
