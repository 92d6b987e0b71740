// Package work gives jobs what they need of the relay: the records that they are
// kept in, and who owns what.
package work

import (
	"context"
	"errors"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	cluledger "github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/internal/admin/jobs"
	"github.com/clrelay/clrelay/internal/ledger"
	"github.com/clrelay/clrelay/proto/control"
)

// Kept are records of the cluster, or of a machine that is alone.
type Kept interface {
	Record(key string) (control.Record, bool)
	Records(prefix string) []control.Record
	PutRecord(ctx context.Context, c control.RecordPut) (uint64, error)
	RecordsChanged() <-chan struct{}
}

// Records are Kept as jobs want them.
type Records struct {
	Kept Kept
	// Refusal makes errors of the cluster those of the admin API.
	Refusal func(err error, what string) error
}

// Records is of jobs.Records.
func (r *Records) Records(prefix string) (list []jobs.Record) {
	for _, k := range r.Kept.Records(prefix) {
		list = append(list, jobs.Record{Key: k.Key, Value: k.Value, Version: k.Version})
	}
	return list
}

// Record is of configs.Records.
func (r *Records) Record(key string) (value []byte, version uint64) {
	k, _ := r.Kept.Record(key)
	return k.Value, k.Version
}

// Put is of jobs.Records.
func (r *Records) Put(ctx context.Context, key string, value []byte, ifVersion uint64) error {
	_, err := r.Kept.PutRecord(ctx, control.RecordPut{Key: key, Value: value, IfVersion: ifVersion, Delete: value == nil})
	var refused *cluster.RefusedError
	var alone *ledger.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == control.WrongVersion, errors.As(err, &alone) && alone.Code == control.WrongVersion:
		return jobs.ErrConflict
	case errors.Is(err, cluledger.ErrLevel):
		return jobs.ErrLevel
	}
	return r.Refusal(err, "it is not kept")
}

// Changed is of jobs.Records.
func (r *Records) Changed() <-chan struct{} { return r.Kept.RecordsChanged() }

// Ground is a node as jobs see it.
type Ground struct{ Node *cluster.Node }

// Leads is of jobs.Ground.
func (g Ground) Leads() bool { return g.Node.Leads() }

// Claimed is of jobs.Ground.
func (g Ground) Claimed() map[uint64]uint64 { return g.Node.Claimed() }

// Segments is of jobs.Ground.
func (g Ground) Segments() (list []jobs.Segment) {
	g.Node.Read(func(s *fsm.State) {
		lost := map[fsm.SegmentID]bool{}
		for _, l := range s.Lost() {
			lost[l.ID] = true
		}
		for _, seg := range s.Segments() {
			list = append(list, jobs.Segment{ID: uint64(seg.ID), Owner: seg.Owner.Node, Lost: lost[seg.ID]})
		}
	})
	return list
}
