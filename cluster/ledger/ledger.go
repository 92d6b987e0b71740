// Package ledger is what operators keep in the cluster's state, for a node: their
// records and the audit chain. Every change goes through Raft; what is read is
// what this node has applied.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/raftnode"
)

// ErrLevel says that a node of the cluster runs a program that knows neither
// records nor the audit chain: nothing was kept.
var ErrLevel = errors.New("a node of the cluster runs a version of clrelay that does not know how; it works once all are upgraded")

// auditTries is how often an audit entry is appended whose outcome is unknown:
// twice in the chain is better than not at all.
const auditTries = 3

// Options are how a Ledger speaks with Raft.
type Options struct {
	// Propose puts a command into the log and gives its result once it is applied.
	Propose func(context.Context, fsm.Command) (fsm.Result, error)
	// Read calls the function with what is applied, which must not be kept.
	Read func(func(*fsm.State))
	// Refused makes an error of a refusal; nil where it is none.
	Refused func(fsm.Result) error
}

// Ledger keeps the operators' records and the audit chain in the cluster's
// state. It is safe for concurrent use.
type Ledger struct {
	o Options

	mu      sync.Mutex    // taken within Read
	audited chan struct{} // closed, and replaced, with every audit entry
	changed chan struct{} // likewise with every record
}

// New makes one.
func New(o Options) *Ledger {
	return &Ledger{o: o, audited: make(chan struct{}), changed: make(chan struct{})}
}

// Record gives one of the operators' records.
func (l *Ledger) Record(key string) (r fsm.Record, ok bool) {
	l.o.Read(func(s *fsm.State) { r, ok = s.Record(key) })
	return r, ok
}

// Records gives the records whose keys begin with prefix, sorted.
func (l *Ledger) Records(prefix string) (list []fsm.Record) {
	l.o.Read(func(s *fsm.State) { list = s.Records(prefix) })
	return list
}

// RecordsChanged gives a channel that is closed once a record was written. It
// may be closed for nothing.
func (l *Ledger) RecordsChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// PutRecord writes or deletes a record and gives its version, 0 of one that is
// deleted, once it is applied here. It fails with ErrLevel, or with a
// refusal: of code WrongVersion where the record has changed since.
// Where the outcome is unknown the record tells.
func (l *Ledger) PutRecord(ctx context.Context, c fsm.RecordPut) (uint64, error) {
	res, err := l.keep(ctx, c)
	return res.Version, err
}

// AppendAudit appends an entry to the audit chain, cut to the lengths that
// entries may have, and tells where it stands. Below the feature level it fails
// with ErrLevel.
func (l *Ledger) AppendAudit(ctx context.Context, e fsm.AuditEntry) (fsm.AuditMark, error) {
	for try := 1; ; try++ {
		res, err := l.keep(ctx, fsm.AuditAppend{Entry: e.Cut()})
		if try == auditTries || !errors.Is(err, raftnode.ErrUnknownOutcome) || ctx.Err() != nil {
			return res.Audit, err
		}
		select {
		case <-time.After(time.Duration(50+rand.IntN(50)) * time.Millisecond):
		case <-ctx.Done():
			return fsm.AuditMark{}, ctx.Err()
		}
	}
}

// keep proposes what needs the level of records and audits.
func (l *Ledger) keep(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	res, err := l.o.Propose(ctx, c)
	if err == nil && res.Code == fsm.LevelTooLow {
		var level uint32
		l.o.Read(func(s *fsm.State) { level = s.Level() })
		return fsm.Result{}, fmt.Errorf("%w (feature level %d, and %d is needed)", ErrLevel, level, fsm.OperatorLevel)
	}
	if err == nil {
		err = l.o.Refused(res)
	}
	return res, err
}

// Audited gives the place of the last audit entry that is applied here, and a
// channel that is closed once there is another one. It may be closed for
// nothing.
func (l *Ledger) Audited() (head fsm.AuditMark, again <-chan struct{}) {
	l.o.Read(func(s *fsm.State) {
		l.mu.Lock()
		defer l.mu.Unlock()
		head, again = s.Audit(), l.audited
	})
	return head, again
}

// Tell wakes those who wait for audit entries, and for records. It is called
// once one is applied, and does not block.
func (l *Ledger) Tell(audits, records bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if audits {
		close(l.audited)
		l.audited = make(chan struct{})
	}
	if records {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// AuditsAfter gives the audit entries that come after number k, as far as they
// are kept in the State, the oldest first.
func (l *Ledger) AuditsAfter(k uint64) (list []fsm.AuditLine) {
	l.o.Read(func(s *fsm.State) { list = s.AuditsAfter(k) })
	return list
}
