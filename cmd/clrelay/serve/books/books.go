// Package books opens the audit log and the operators' records of a relay: those
// of the cluster where it is a node of one, else those of the machine alone.
package books

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster"
	cluledger "github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/ledger"
	"github.com/clrelay/clrelay/proto/control"
)

// folder of the audit log in data_dir.
const folder = "audit"

// Records keep what operators set up: jobs, rules, tokens.
type Records interface {
	// Record gives one record.
	Record(key string) (control.Record, bool)
	// Records gives those whose keys begin with prefix, sorted.
	Records(prefix string) []control.Record
	// PutRecord writes or deletes a record by compare-and-swap and gives its
	// version.
	PutRecord(ctx context.Context, c control.RecordPut) (uint64, error)
	// RecordsChanged gives a channel that is closed once one was written.
	RecordsChanged() <-chan struct{}
}

// Books are the audit log and the records.
type Books struct {
	Log      *audit.Log
	Recorder *audit.Recorder
	Records  Records

	files *ledger.Files
	stop  context.CancelFunc
	group sync.WaitGroup
}

// Options say whose they are.
type Options struct {
	DataDir string
	Node    string
	Member  *cluster.Node // nil on a machine that is alone
	Log     *slog.Logger
}

// Open opens them. On a node of a cluster it begins to write down what the
// cluster agrees about.
func Open(o Options) (*Books, error) {
	files, err := ledger.Open(filepath.Join(o.DataDir, folder))
	if err != nil {
		return nil, fmt.Errorf("data_dir: the audit log: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &Books{files: files, stop: stop, Recorder: &audit.Recorder{Node: o.Node, Log: o.Log, Now: time.Now}}
	if o.Member != nil {
		b.Records, b.Recorder.Keeper = o.Member, keeper{o.Member}
		b.Log = &audit.Log{Files: files, Chain: o.Member}
		b.group.Go(func() { ledger.Follow(ctx, files, o.Member, o.Log) })
		return b, nil
	}
	local, err := ledger.OpenLocal(o.DataDir, files)
	if err != nil {
		stop()
		return nil, errors.Join(err, files.Close())
	}
	b.Records, b.Recorder.Keeper = local, local
	b.Log = &audit.Log{Files: files, Chain: local}
	return b, nil
}

// Close ends the writing.
func (b *Books) Close() error {
	b.stop()
	b.group.Wait()
	return b.files.Close()
}

// keeper keeps the audit log in Raft, and says in an operator's words why it
// cannot.
type keeper struct{ node *cluster.Node }

// AppendAudit is of audit.Keeper.
func (k keeper) AppendAudit(ctx context.Context, e control.AuditEntry) (control.AuditMark, error) {
	mark, err := k.node.AppendAudit(ctx, e)
	switch {
	case errors.Is(err, cluledger.ErrLevel):
		err = audit.ErrNotYet
	case errors.Is(err, raftnode.ErrNoLeader):
		err = errors.New("the cluster has no leader")
	case errors.Is(err, raftnode.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("the cluster does not answer: %w", err)
	}
	return mark, err
}
