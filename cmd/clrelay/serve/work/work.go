// Package work gives jobs what they need of a cluster: the records that they are
// kept in, and who owns what.
package work

import (
	"context"
	"errors"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/internal/admin/jobs"
)

// Cluster is a node as jobs see it.
type Cluster struct {
	Node *cluster.Node
	// Refusal makes errors of the cluster those of the admin API.
	Refusal func(err error, what string) error
}

// Records is of jobs.Records.
func (c *Cluster) Records(prefix string) (list []jobs.Record) {
	for _, r := range c.Node.Records(prefix) {
		list = append(list, jobs.Record{Key: r.Key, Value: r.Value, Version: r.Version})
	}
	return list
}

// Put is of jobs.Records.
func (c *Cluster) Put(ctx context.Context, key string, value []byte, ifVersion uint64) error {
	_, err := c.Node.PutRecord(ctx, fsm.RecordPut{Key: key, Value: value, IfVersion: ifVersion, Delete: value == nil})
	var refused *cluster.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == fsm.WrongVersion:
		return jobs.ErrConflict
	case errors.Is(err, ledger.ErrLevel):
		return jobs.ErrLevel
	}
	return c.Refusal(err, "the job is not kept")
}

// Changed is of jobs.Records.
func (c *Cluster) Changed() <-chan struct{} { return c.Node.RecordsChanged() }

// Leads is of jobs.Ground.
func (c *Cluster) Leads() bool { return c.Node.Leads() }

// Claimed is of jobs.Ground.
func (c *Cluster) Claimed() map[uint64]uint64 { return c.Node.Claimed() }

// Segments is of jobs.Ground.
func (c *Cluster) Segments() (list []jobs.Segment) {
	c.Node.Read(func(s *fsm.State) {
		lost := map[fsm.SegmentID]bool{}
		for _, g := range s.Lost() {
			lost[g.ID] = true
		}
		for _, g := range s.Segments() {
			list = append(list, jobs.Segment{ID: uint64(g.ID), Owner: g.Owner.Node, Lost: lost[g.ID]})
		}
	})
	return list
}
