package content

import (
	"errors"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// States reads where each recipient of a message stands, with its last reply.
func (s *Source) States(m *state.Message) ([]record.RecipientState, error) {
	s.Mu.Lock()
	at := s.State.Standings(m, nil)
	s.Mu.Unlock()
	out := make([]record.RecipientState, len(at))
	for i := range at {
		out[i] = at[i].RecipientState
	}
	err := s.eachResult(m, at, func(o *record.Settled) {
		out[o.Recipient] = record.RecipientState{
			State: o.State, Version: o.Version, Attempts: o.Attempts,
			Next: fromMillis(o.NextMS), At: fromMillis(o.AtMS), Reply: o.Reply, Remote: o.Remote, Orders: o.Orders,
		}
	})
	if err != nil {
		return nil, fmt.Errorf("spool: state of message %s: %w", m.ID(), err)
	}
	return out, nil
}

// eachResult reads the newest result of each recipient that has one.
func (s *Source) eachResult(m *state.Message, at []state.Standing, visit func(o *record.Settled)) error {
	var rec record.Result
	var have wal.Pos // what rec is
	for i := range at {
		if at[i].Pos == 0 {
			continue
		}
		if at[i].Pos != have {
			_, data, err := s.read(at[i].Pos, func() wal.Pos { return s.State.ResultAt(m, i) }, hint, nil)
			if err == nil {
				err = record.ParseResult(data, &rec)
			}
			if errors.Is(err, record.ErrPayload) {
				err = &record.DamageError{Place: s.Place(at[i].Pos), What: "result", Err: err}
			}
			if err != nil {
				return err
			}
			have = at[i].Pos
		}
		for j := range rec.Settled {
			if o := &rec.Settled[j]; int(o.Recipient) == i {
				visit(o)
			}
		}
	}
	return nil
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Envelope reads a message's envelope.
func (s *Source) Envelope(m *state.Message) (*mail.Envelope, error) {
	env := &mail.Envelope{}
	if err := s.readCommit(m, &record.Commit{}, env); err != nil {
		return nil, fmt.Errorf("spool: envelope of message %s: %w", m.ID(), err)
	}
	return env, nil
}

// Checksum gives the CRC-32C that the content had when it was accepted. The
// log checks each of its records by itself; this is for those who look at the
// whole.
func (s *Source) Checksum(m *state.Message) (uint32, error) {
	var c record.Commit
	if err := s.readCommit(m, &c, &mail.Envelope{}); err != nil {
		return 0, fmt.Errorf("spool: checksum of message %s: %w", m.ID(), err)
	}
	return c.CRC32C, nil
}

func (s *Source) readCommit(m *state.Message, c *record.Commit, env *mail.Envelope) error {
	where := func() wal.Pos { return s.State.Commit(m) }
	s.Mu.Lock()
	pos := where()
	s.Mu.Unlock()
	_, data, err := s.read(pos, where, hint, nil)
	if err == nil {
		err = record.ParseCommit(data, c, env)
	}
	if errors.Is(err, record.ErrPayload) {
		err = &record.DamageError{Place: s.Place(pos), What: "envelope", Err: err}
	}
	return err
}
