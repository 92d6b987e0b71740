// Package rescue answers the part of the admin API that is for the day on which
// a cluster has lost too much: it hands out the control plane, and gives up
// segments that no disk is left of.
package rescue

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Plane is the control plane of the cluster, as this node has it.
type Plane interface {
	// Backup never needs a leader.
	Backup(ctx context.Context) (Backup, error)
	// WriteOff gives segments up, all or, with an error, none that it knows
	// of. One that changed meanwhile says so in Refused.
	WriteOff(ctx context.Context, w WriteOff) ([]Segment, error)
}

// Backup is a control plane and what is to be known of it.
type Backup struct {
	Node       string
	Generation uint32
	Term       uint64
	Index      uint64
	Leader     string // empty when none is known
	Quorum     bool
	Nodes      []string // that belong to the cluster
	Segments   int
	State      []byte
}

// WriteOff says which segments are to be given up.
type WriteOff struct {
	Segments []string
	Lost     bool // all that no disk is left of
	DryRun   bool
	Expect   *int64 // how many; nil is any
	Reason   string
}

// Segment is one that no disk is left of.
type Segment struct {
	ID      string
	Owner   string // the last one
	Members []string
	End     uint64
	EndSet  bool
	Refused string // why it is as it was
}

// piece is how many octets travel together.
const piece = 256 << 10

// Service serves a Plane; nil on a single machine.
type Service struct {
	adminv1.UnimplementedRescueServiceServer
	Plane Plane
}

var errAlone = status.Error(codes.FailedPrecondition, "this relay is not part of a cluster")

// Backup is of adminv1.RescueServiceServer.
func (s *Service) Backup(_ *adminv1.BackupRequest, stream adminv1.RescueService_BackupServer) error {
	if s.Plane == nil {
		return errAlone
	}
	b, err := s.Plane.Backup(stream.Context())
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b.State)
	head := &adminv1.BackupHead{
		Node: b.Node, Generation: b.Generation, Term: b.Term, Index: b.Index, Leader: b.Leader, Quorum: b.Quorum,
		Nodes: b.Nodes, Segments: int64(b.Segments), Size: int64(len(b.State)), Sha256: sum[:],
	}
	if err := stream.Send(&adminv1.BackupResponse{Head: head}); err != nil {
		return err
	}
	for rest := b.State; len(rest) > 0; {
		n := min(len(rest), piece)
		if err := stream.Send(&adminv1.BackupResponse{Data: rest[:n]}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// WriteOff is of adminv1.RescueServiceServer.
func (s *Service) WriteOff(ctx context.Context, req *adminv1.WriteOffRequest) (*adminv1.WriteOffResponse, error) {
	switch {
	case s.Plane == nil:
		return nil, errAlone
	case req.GetLost() == (len(req.GetSegments()) > 0):
		return nil, status.Error(codes.InvalidArgument, "either segments are named or all lost ones are meant")
	}
	list, err := s.Plane.WriteOff(ctx, WriteOff{
		Segments: req.GetSegments(), Lost: req.GetLost(), DryRun: req.GetDryRun(), Expect: req.Expect, Reason: req.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	out := &adminv1.WriteOffResponse{}
	for i := range list {
		g := &list[i]
		x := &adminv1.LostSegment{Id: g.ID, Owner: g.Owner, Members: g.Members, Refused: g.Refused}
		if g.EndSet {
			x.End = &g.End
		}
		out.Segments = append(out.Segments, x)
	}
	return out, nil
}
