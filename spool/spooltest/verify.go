package spooltest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Verify opens a spool, compares what it holds with the ledger, resolves what
// the crash left open in the ledger, and gives the spool. lost says that the
// crash may have lost what was written and not synced, and that the spool has
// been told so by Options.Boot. For every message:
//
//   - acknowledged and unfinished: it is there, with the same envelope and
//     content, octet by octet;
//   - there: it was asked for, whole, and had not been gone before;
//   - each recipient stands where it was put at some time, and nowhere before
//     the newest result known to be durable: a final one never comes back;
//   - one whose delivery had been announced and that is not final is counted
//     as a possible duplicate.
func Verify(o spool.Options, l *Ledger, lost bool) (*spool.Spool, error) {
	s, rec, err := spool.Open(o)
	if err != nil {
		return nil, err
	}
	if len(rec.Damage) > 0 {
		return s, fmt.Errorf("recovery found damage: %w", rec.Damage[0])
	}
	// A copy, because who watches the file system may ask the ledger while the
	// spool waits for it.
	known := l.Snapshot()
	there := map[mail.ID][]Standing{}
	var errs []error
	err = s.Each(func(m *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
		if there[m.ID()] != nil {
			errs = append(errs, fmt.Errorf("message %s is there twice", m.ID()))
		}
		errs = append(errs, known.compare(s, m, env, states))
		for _, st := range states {
			there[m.ID()] = append(there[m.ID()], standing(st))
		}
	})
	errs = append(errs, err)
	if len(there) != rec.Messages {
		errs = append(errs, fmt.Errorf("recovery speaks of %d messages, Each of %d", rec.Messages, len(there)))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	unsure := 0
	for id, e := range l.all {
		states := there[id]
		if states == nil && !e.mayBeGone() {
			errs = append(errs, fmt.Errorf("message %s was acknowledged and is lost", id))
		}
		for i, h := range e.Rcpts {
			if states != nil && h.Tried && !states[i].State.Final() {
				unsure++
			}
		}
		l.resolve(id, e, states)
	}
	if rec.PossibleDuplicates < unsure {
		errs = append(errs, fmt.Errorf("%d recipients may have been delivered to, %d are counted", unsure, rec.PossibleDuplicates))
	}
	return s, errors.Join(errs...)
}

func standing(st spool.RecipientState) Standing {
	out := Standing{State: st.State, Attempts: st.Attempts, Orders: st.Orders}
	if !st.Next.IsZero() {
		out.Next = st.Next.Unix()
	}
	return out
}

// compare holds one message that is there against its entry.
func (l *Ledger) compare(s *spool.Spool, m *spool.Message, env *mail.Envelope, states []spool.RecipientState) error {
	id := m.ID()
	e := l.all[id]
	switch {
	case l.gone[id]:
		return fmt.Errorf("message %s was gone and is back", id)
	case e == nil:
		return fmt.Errorf("message %s comes from nowhere", id)
	case e.mustBeGone():
		return fmt.Errorf("message %s was finished or given up, durably, and is back", id)
	case !reflect.DeepEqual(env, e.Env):
		return fmt.Errorf("message %s: envelope %+v, want %+v", id, env, e.Env)
	}
	body, err := Read(s, m)
	if err != nil || !bytes.Equal(body, e.Body) {
		return fmt.Errorf("message %s: content of %d octets, want %d: %w", id, len(body), len(e.Body), err)
	}
	full, err := s.States(m)
	if err != nil {
		return fmt.Errorf("message %s: %w", id, err)
	}
	for i, h := range e.Rcpts {
		if got := standing(states[i]); !slices.Contains(h.States[h.Durable:], got) || got != standing(full[i]) {
			return fmt.Errorf("message %s, recipient %d: %+v (on disk %+v), want one of %+v", id, i, got, full[i], h.States[h.Durable:])
		}
	}
	return nil
}

// resolve puts what a restart has decided into the ledger.
func (l *Ledger) resolve(id mail.ID, e *Entry, states []Standing) {
	if states == nil {
		delete(l.all, id)
		l.gone[id] = true
		return
	}
	e.Acked = true // the restart stands for it now
	for i := range e.Rcpts {
		e.Rcpts[i] = History{States: []Standing{states[i]}}
	}
}

// Read reads a message's content.
func Read(s *spool.Spool, m *spool.Message) ([]byte, error) {
	r, err := s.Content(m).Open()
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return body, errors.Join(err, r.Close())
}
