package configs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Records keeps what is on probation, in a cluster through Raft.
type Records interface {
	// Record gives one, with its version; 0 where there is none.
	Record(key string) (value []byte, version uint64)
	// Put writes a record whose version still is ifVersion, 0 where there must
	// be none, or deletes it where value is nil.
	Put(ctx context.Context, key string, value []byte, ifVersion uint64) error
	// Changed gives a channel that is closed once any record may have changed.
	Changed() <-chan struct{}
}

const (
	probationKey = "config/probation"
	probationMin = 10 * time.Second
	probationMax = 7 * 24 * time.Hour
	// lookEvery is how often it is looked whether a probation is over.
	lookEvery = time.Second
	// backWait is how long the way back may take before it is tried again.
	backWait = 15 * time.Second
)

// Probation sees that a version which nobody confirms does not stay: should it
// have shut its operator out, he need only wait.
type Probation struct {
	Plane   Plane
	Records Records
	Leads   func() bool // this node is the one that sees to it
	Now     func() time.Time
	Log     *slog.Logger
}

// trial is what is on probation.
type trial struct{ *adminv1.ConfigProbation }

// of tells whether a version is the one on probation.
func (t trial) of(v *Version) bool {
	sum := sha256.Sum256(v.Text)
	return t.ConfigProbation != nil && t.GetVersion() == v.Number && bytes.Equal(t.GetSha256(), sum[:])
}

// get gives what is on probation, and its record's version, 0 where there is
// none.
func (p *Probation) get() (trial, uint64) {
	value, version := p.Records.Record(probationKey)
	if version == 0 {
		return trial{}, 0
	}
	out := &adminv1.ConfigProbation{}
	if err := proto.Unmarshal(value, out); err != nil {
		return trial{}, version
	}
	return trial{out}, version
}

// begin puts a change on probation, before it is made. Where the version that it
// replaces is on probation itself, that one's previous comes back.
func (p *Probation) begin(ctx context.Context, c *Change, d time.Duration) error {
	switch {
	case p == nil:
		return status.Error(codes.FailedPrecondition, "this relay cannot put a configuration on probation")
	case c.IfVersion == 0:
		return status.Error(codes.InvalidArgument, "a probation needs the version that it goes back to")
	case d < probationMin || d > probationMax:
		return status.Errorf(codes.InvalidArgument, "a probation lasts from %v to %v", probationMin, probationMax)
	}
	previous := c.IfVersion
	was, version := p.get()
	if replaced, err := p.Plane.Get(ctx, c.IfVersion); err == nil && was.of(&replaced) {
		previous = was.GetPrevious()
	}
	sum := sha256.Sum256(c.Text)
	value, err := proto.Marshal(&adminv1.ConfigProbation{
		Version: c.IfVersion + 1, Previous: previous, Until: timestamppb.New(p.Now().Add(d)), Author: c.Author, Sha256: sum[:],
	})
	if err != nil {
		return fmt.Errorf("configs: %w", err)
	}
	return p.Records.Put(ctx, probationKey, value, version)
}

// drop ends a probation; nothing more happens.
func (p *Probation) drop(ctx context.Context, version uint64) error {
	return p.Records.Put(ctx, probationKey, nil, version)
}

// confirm ends the probation of a version, 0 for whichever is on it.
func (p *Probation) confirm(ctx context.Context, want uint64) (uint64, error) {
	if p == nil {
		return 0, status.Error(codes.NotFound, "no version is on probation")
	}
	now, version := p.get()
	newest, err := p.Plane.Get(ctx, 0)
	switch {
	case err != nil:
		return 0, failure(err)
	case !now.of(&newest):
		return 0, status.Error(codes.NotFound, "no version is on probation")
	case want != 0 && want != now.GetVersion():
		return 0, status.Errorf(codes.FailedPrecondition, "version %d is on probation, not %d", now.GetVersion(), want)
	}
	return now.GetVersion(), p.drop(ctx, version)
}

// Run sees to it until ctx ends.
func (p *Probation) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := p.Records.Changed()
		var tick <-chan time.Time
		if _, version := p.get(); version != 0 {
			if p.Leads() {
				p.look(ctx)
			}
			tick = time.After(lookEvery)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick:
		}
	}
}

// look ends a probation that is over, or that another version has ended.
func (p *Probation) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	now, version := p.get()
	newest, err := p.Plane.Get(ctx, 0)
	if version == 0 || err != nil {
		return
	}
	on := now.of(&newest)
	over := !p.Now().Before(now.GetUntil().AsTime())
	switch {
	case !over && (on || newest.Number < now.GetVersion()): // it may be on its way
		return
	case on:
		if err := p.back(ctx, now.ConfigProbation); err != nil {
			p.Log.Error("a configuration that was not confirmed cannot be taken back yet", "version", now.GetVersion(), "error", err)
			return
		}
	}
	if err := p.drop(ctx, version); err != nil {
		p.Log.Warn("the end of a probation is not written down yet", "error", err)
	}
}

// back makes the text of the version before the newest one.
func (p *Probation) back(ctx context.Context, now *adminv1.ConfigProbation) error {
	old, err := p.Plane.Get(ctx, now.GetPrevious())
	if err != nil {
		if errors.Is(err, ErrNotKept) {
			p.Log.Error("a configuration was not confirmed and stays, for the one before is not kept any more", "version", now.GetVersion(), "previous", now.GetPrevious())
			return nil
		}
		return err
	}
	to, err := p.Plane.Apply(ctx, Change{
		Text: old.Text, IfVersion: now.GetVersion(), Author: "the cluster",
		Reason: fmt.Sprintf("version %d was not confirmed: back to %d", now.GetVersion(), now.GetPrevious()),
	})
	if err == nil {
		p.Log.Warn("a configuration was not confirmed and was taken back", "version", now.GetVersion(), "author", now.GetAuthor(), "previous", now.GetPrevious(), "now", to)
	}
	return err
}
