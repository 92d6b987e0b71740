package ledger

import (
	"context"
	"log/slog"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/proto/control"
)

// Source is the chain as a cluster agrees about it.
type Source interface {
	// Audited gives the place of the last entry, and a channel that is closed
	// once there may be another one.
	Audited() (control.AuditMark, <-chan struct{})
	// AuditsAfter gives the entries that come after number n, as far as they are
	// kept.
	AuditsAfter(n uint64) []control.AuditLine
}

// Follow writes the entries of a chain into the files until ctx ends. It never
// holds up the source: what it has missed it finds there later, and what is
// not kept any more it notes as missing.
func Follow(ctx context.Context, f *Files, src Source, log *slog.Logger) {
	w := follower{f: f, src: src, log: log}
	for warned := false; ; {
		head, changed := src.Audited()
		err := w.catchUp(head)
		if err != nil && !warned {
			log.Error("the audit log of this node cannot be written; the cluster has it still", "error", err)
		}
		warned = err != nil
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// follower writes a chain into files.
type follower struct {
	f   *Files
	src Source
	log *slog.Logger
	// past is what the files hold, by number, while the source is behind them.
	past map[uint64][32]byte
}

// behind tells whether the files hold the source's last entry: it is of the same
// chain, and has not come as far as it was. So it is at each start, when Raft
// applies again what it has applied before.
func (w *follower) behind(head control.AuditMark) (bool, error) {
	if head.Sequence == 0 {
		return true, nil
	}
	if w.past == nil {
		w.past = map[uint64][32]byte{}
		err := w.f.Each(func(l *Line) error {
			w.past[l.Sequence] = l.Stated // of several chains the last one
			return nil
		})
		if err != nil {
			w.past = nil
			return false, err
		}
	}
	hash, ok := w.past[head.Sequence]
	return ok && hash == head.Hash, nil
}

// catchUp writes what the files lack.
func (w *follower) catchUp(head control.AuditMark) error {
	f, src, log := w.f, w.src, w.log
	last := f.Last()
	if head == last {
		w.past = nil
		return nil
	}
	if head.Sequence <= last.Sequence {
		if ok, err := w.behind(head); ok || err != nil {
			return err
		}
	}
	w.past = nil // it changes
	list := src.AuditsAfter(last.Sequence)
	if len(list) > 0 && list[0].Sequence == last.Sequence+1 && prevOf(&list[0]) == last.Hash {
		return f.Append(list...)
	}
	all := src.AuditsAfter(0)
	if len(all) == 0 {
		return nil // of an older state that was restored: there will be an entry
	}
	n := Note{AtMS: now(), From: last.Sequence + 1, To: all[0].Sequence - 1}
	switch {
	case last.Sequence == 0 && all[0].Sequence > 1:
		n.Begins, n.Text = true, "this node came to the cluster behind them"
	case last.Sequence == 0:
		return f.Append(all...)
	case all[0].Sequence > last.Sequence:
		n.Text = "this node was away for so long that the cluster does not keep them any more; other nodes have them in their files"
	default:
		n.From, n.To, n.Restarts = all[0].Sequence, last.Sequence, true
		n.Text = "what stands above is of another chain: the cluster was restored from a backup, or founded anew"
	}
	log.Warn("the audit log of this node has a gap", "from", n.From, "to", n.To, "reason", n.Text)
	if err := f.Note(n); err != nil {
		return err
	}
	return f.Append(all...)
}

// settleWait is how long Settle waits.
const settleWait = 2 * time.Second

// Settle waits until the files have come to the head of the source, or not
// for long.
func Settle(ctx context.Context, f *Files, src Source) control.AuditMark {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	head, _ := src.Audited()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for f.Last().Sequence < head.Sequence {
		select {
		case <-t.C:
		case <-ctx.Done():
			return head
		}
	}
	return head
}

// prevOf reads the hash that an entry holds of the one before it.
func prevOf(l *control.AuditLine) [32]byte {
	p, err := audit.Parse(l.Text)
	if err != nil {
		return [32]byte{}
	}
	return p.Prev
}
