// Package holding brings the hold rules from the operators' records to the queue,
// and answers the admin API about them.
package holding

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/rules"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// space is that of the records.
const space = "rule/"

// Records keep small values by key.
type Records interface {
	Records(prefix string) []fsm.Record
	PutRecord(ctx context.Context, c fsm.RecordPut) (uint64, error)
	// RecordsChanged gives a channel that is closed once one was written.
	RecordsChanged() <-chan struct{}
}

// Queue goes by rules.
type Queue interface{ SetRules(list []queue.Rule) }

// Rules is a rules.Store whose rules a queue goes by.
type Rules struct {
	records Records
	queue   Queue
	log     *slog.Logger
	end     context.CancelFunc
	ended   sync.WaitGroup

	mu   sync.Mutex
	seen []fsm.Record // as the queue was told
}

// New lets a queue go by the rules that there are, and from now on by every
// change of them, until Close.
func New(r Records, q Queue, log *slog.Logger) *Rules {
	ctx, cancel := context.WithCancel(context.Background())
	h := &Rules{records: r, queue: q, log: log, end: cancel}
	changed := r.RecordsChanged()
	h.look()
	h.ended.Go(func() {
		for {
			select {
			case <-changed:
				changed = r.RecordsChanged()
				h.look()
			case <-ctx.Done():
				return
			}
		}
	})
	return h
}

// Close ends that.
func (h *Rules) Close() {
	h.end()
	h.ended.Wait()
}

// look tells the queue of the rules if they have changed.
func (h *Rules) look() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.records.Records(space)
	if slices.EqualFunc(now, h.seen, func(a, b fsm.Record) bool { return a.Key == b.Key && a.Version == b.Version }) {
		return
	}
	h.seen = now
	var list []queue.Rule
	for _, rec := range now {
		rule, err := read(rec)
		if err != nil {
			h.log.Error("a hold rule cannot be read: it holds nothing", "record", rec.Key, "error", err)
			continue
		}
		list = append(list, *rule)
	}
	h.log.Info("hold rules", "rules", len(list))
	h.queue.SetRules(list)
}

// read makes a rule of a record. What it has that this program does not know is
// an error: without it the rule would hold more than it is to.
func read(rec fsm.Record) (*queue.Rule, error) {
	var r adminv1.Rule
	if err := protojson.Unmarshal(rec.Value, &r); err != nil {
		return nil, err
	}
	sel, err := picks.New(r.GetSelector())
	if err != nil {
		return nil, err
	}
	out := &queue.Rule{ID: r.GetId(), Selector: sel, Reason: r.GetReason()}
	if r.GetUntil() != nil {
		out.Until = r.GetUntil().AsTime()
	}
	return out, nil
}

// List gives the rules.
func (h *Rules) List(context.Context) ([]*adminv1.Rule, error) {
	var out []*adminv1.Rule
	for _, rec := range h.records.Records(space) {
		r := &adminv1.Rule{}
		if err := protojson.Unmarshal(rec.Value, r); err != nil {
			h.log.Error("a hold rule cannot be read", "record", rec.Key, "error", err)
			r = &adminv1.Rule{Reason: "this rule cannot be read: " + err.Error()}
		}
		r.Id = strings.TrimPrefix(rec.Key, space)
		out = append(out, r)
	}
	return out, nil
}

// Put adds a rule.
func (h *Rules) Put(ctx context.Context, r *adminv1.Rule) error {
	value, err := protojson.Marshal(r)
	if err != nil {
		return fmt.Errorf("hold rule: %w", err)
	}
	return h.change(ctx, fsm.RecordPut{Key: space + r.GetId(), Value: value})
}

// Delete removes a rule.
func (h *Rules) Delete(ctx context.Context, id string) error {
	for _, rec := range h.records.Records(space) {
		if rec.Key == space+id {
			return h.change(ctx, fsm.RecordPut{Key: rec.Key, IfVersion: rec.Version, Delete: true})
		}
	}
	return rules.ErrNoRule
}

func (h *Rules) change(ctx context.Context, c fsm.RecordPut) error {
	_, err := h.records.PutRecord(ctx, c)
	h.look()
	var refused *cluster.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ledger.ErrLevel):
		return admin.RefusedError(err.Error())
	case errors.As(err, &refused) && refused.Code == fsm.WrongVersion:
		return admin.RefusedError("the rules were changed by somebody else meanwhile: look at them and try again")
	case errors.As(err, &refused):
		return admin.RefusedError("the cluster does not keep the rule: " + refused.Text)
	case errors.Is(err, raftnode.ErrNoLeader), errors.Is(err, raftnode.ErrUnknownOutcome), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the cluster did not decide; clrelay queue rule list shows what holds: %w", admin.ErrUnavailable, err)
	}
	return err
}
