// Package jobs carries out changes of the queue that take long. A job is a
// record that the cluster keeps; the leader drives it, each node does its part
// on the mail that it owns, and whoever leads next goes on from the record.
//
// Every verb of a job may be repeated: it picks what it has not been done to.
// So the leader sends nodes to work until all segments have been looked at by
// the node that owns them at the end. A segment that goes to another node
// meanwhile, for its owner died or was drained, is looked at there once more.
// What arrives later than the job is none of its business.
//
// Jobs are worked off one after the other, the oldest first, so that a release
// that follows a hold stays the last word.
package jobs

import (
	"context"
	"errors"
	"time"
)

// Record is a job as it is kept.
type Record struct {
	Key     string
	Value   []byte
	Version uint64
}

// Records keeps jobs, in a cluster through Raft.
type Records interface {
	// Records gives those whose keys begin with prefix.
	Records(prefix string) []Record
	// Put writes a record whose version still is ifVersion, 0 where there must
	// be none, or deletes it where value is nil. It fails with ErrConflict
	// where it is another one.
	Put(ctx context.Context, key string, value []byte, ifVersion uint64) error
	// Changed gives a channel that is closed once any record may have changed.
	Changed() <-chan struct{}
}

// ErrConflict says that somebody else wrote the record.
var ErrConflict = errors.New("jobs: the record has changed")

// ErrLevel says that a node of the cluster runs a program that does not know of
// jobs.
var ErrLevel = errors.New("jobs: not all nodes of the cluster know of jobs yet")

// Ground is what a cluster knows of who owns what; nil on a single machine.
type Ground interface {
	// Leads tells whether this node drives jobs.
	Leads() bool
	// Segments are those of the cluster that have mail, or may.
	Segments() []Segment
	// Claimed are the segments all of whose mail is in this node's queue. The
	// number is another one after each time that it was not.
	Claimed() map[uint64]uint64
}

// Segment is a part of the cluster's mail.
type Segment struct {
	ID    uint64
	Owner string
	Lost  bool // there is no copy of it
}

// Bounds of jobs.
const (
	prefix    = "job/"
	keepEnded = 100                    // jobs that are kept when they have ended
	maxRecord = 48 << 10               // octets of one when it is made; shares and notes come on top
	lookEvery = time.Second            // between looks whether this node leads, while there is work
	tellEvery = time.Second            // between records of how far a job is
	passEvery = 300 * time.Millisecond // between tries to find the rest of the mail
	stirEvery = 250 * time.Millisecond // between a node's words about how far it is
	hangs     = 30 * time.Second       // a node that says nothing for so long is gone
	maxOdd    = 5                      // errors that nobody has foreseen end a job
	late      = time.Second            // mail that arrived so long after the job may belong to it: clocks differ
)
