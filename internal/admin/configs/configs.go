// Package configs answers the part of the admin API that is about the
// configuration which all nodes of a cluster share: its versions, who may
// replace which, and where the newest is in force.
package configs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// decideWait is how long the cluster may take for a decision: about twice
	// what the election of a leader takes.
	decideWait = 15 * time.Second
	// askWait is how long a node may take to say which version it has in force.
	askWait = 2 * time.Second
)

// Plane keeps the versions.
type Plane interface {
	// Get gives a version, the newest for 0. ErrNotKept says that there is none
	// of that number, ErrAlone that there are none at all.
	Get(ctx context.Context, version uint64) (Version, error)
	// History gives all versions that are kept, the oldest first.
	History(ctx context.Context) ([]Version, error)
	// Apply makes a text the newest version and returns its number; in a dry
	// run it returns that of the newest.
	Apply(ctx context.Context, c Change) (uint64, error)
	// Nodes gives the nodes that belong to the cluster.
	Nodes(ctx context.Context) ([]Node, error)
}

// Version is a version of the configuration.
type Version struct {
	Number         uint64 // 0 on a relay that is alone
	Text           []byte // cluster.yaml
	Author, Reason string
	Applied        time.Time // zero when that is not known
}

// Change is what is to be the newest version.
type Change struct {
	Text           []byte
	IfVersion      uint64 // that it is to replace; 0 stands for any
	Author, Reason string
	DryRun         bool
}

// Node is a node that is to have the newest version in force.
type Node struct {
	Name  string
	State adminv1.NodeState
	Self  bool
	Conn  grpc.ClientConnInterface // nil when it cannot be asked
}

var (
	// ErrNotKept says that there is no such version, or no more.
	ErrNotKept = errors.New("no such version")
	// ErrAlone says that the relay is no part of a cluster.
	ErrAlone = errors.New("this relay is not part of a cluster: its configuration is the file that cluster_config in node.yaml names; change it there and reload")
)

// Service serves a Plane; without one the relay is alone and shows nothing.
type Service struct {
	adminv1.UnimplementedConfigServiceServer
	Plane Plane
	// Probation is nil where no version can be on it.
	Probation *Probation
	// Caller names who calls, for the record.
	Caller func(ctx context.Context) string
	// Self tells how this node does.
	Self func(ctx context.Context, req *adminv1.StatusRequest) (*adminv1.StatusResponse, error)
}

// failure gives an error the code that the caller acts on; what it does not
// know is left to the one who serves.
func failure(err error) error {
	switch {
	case errors.Is(err, ErrAlone):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, ErrNotKept):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.Unavailable, "the configuration was not decided about in time; whether it was applied, config history tells: "+err.Error())
	}
	return err
}

// Get is of adminv1.ConfigServiceServer.
func (s *Service) Get(ctx context.Context, req *adminv1.ConfigServiceGetRequest) (*adminv1.ConfigServiceGetResponse, error) {
	if s.Plane == nil {
		return nil, failure(ErrAlone)
	}
	v, err := s.Plane.Get(ctx, req.GetVersion())
	if err != nil {
		return nil, failure(err)
	}
	out := &adminv1.ConfigServiceGetResponse{
		Version: v.Number, Text: v.Text, Author: text(v.Author), Reason: text(v.Reason), Applied: stamp(v.Applied),
	}
	if s.Probation != nil {
		if now, _ := s.Probation.get(); now.of(&v) {
			out.Probation = now.ConfigProbation
		}
	}
	return out, nil
}

// Confirm is of adminv1.ConfigServiceServer.
func (s *Service) Confirm(ctx context.Context, req *adminv1.ConfigServiceConfirmRequest) (*adminv1.ConfigServiceConfirmResponse, error) {
	if s.Plane == nil {
		return nil, failure(ErrAlone)
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	version, err := s.Probation.confirm(ctx, req.GetVersion())
	if err != nil {
		return nil, failure(err)
	}
	return &adminv1.ConfigServiceConfirmResponse{Version: version}, nil
}

// History is of adminv1.ConfigServiceServer.
func (s *Service) History(ctx context.Context, _ *adminv1.ConfigServiceHistoryRequest) (*adminv1.ConfigServiceHistoryResponse, error) {
	if s.Plane == nil {
		return nil, failure(ErrAlone)
	}
	list, err := s.Plane.History(ctx)
	if err != nil {
		return nil, failure(err)
	}
	out := &adminv1.ConfigServiceHistoryResponse{}
	for i := len(list) - 1; i >= 0; i-- {
		v := &list[i]
		out.Versions = append(out.Versions, &adminv1.ConfigVersion{
			Version: v.Number, Applied: stamp(v.Applied), Author: text(v.Author), Reason: text(v.Reason), Size: int64(len(v.Text)),
		})
	}
	return out, nil
}

// Apply is of adminv1.ConfigServiceServer.
func (s *Service) Apply(ctx context.Context, req *adminv1.ConfigServiceApplyRequest) (*adminv1.ConfigServiceApplyResponse, error) {
	switch {
	case s.Plane == nil:
		return nil, failure(ErrAlone)
	case len(req.GetText()) == 0:
		return nil, status.Error(codes.InvalidArgument, "a configuration is needed")
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	c := Change{Text: req.GetText(), IfVersion: req.GetIfVersion(), Author: s.Caller(ctx), Reason: req.GetReason(), DryRun: req.GetDryRun()}
	if req.GetProbation() != nil && !req.GetDryRun() {
		if err := s.Probation.begin(ctx, &c, req.GetProbation().AsDuration()); err != nil {
			return nil, failure(err)
		}
	}
	version, err := s.Plane.Apply(ctx, c)
	if err != nil { // what is on probation then is no version's text, and Probation sees that
		return nil, failure(err)
	}
	return &adminv1.ConfigServiceApplyResponse{Version: version}, nil
}

// Nodes is of adminv1.ConfigServiceServer.
func (s *Service) Nodes(ctx context.Context, _ *adminv1.ConfigServiceNodesRequest) (*adminv1.ConfigServiceNodesResponse, error) {
	if s.Plane == nil {
		return nil, failure(ErrAlone)
	}
	nodes, err := s.Plane.Nodes(ctx)
	if err != nil {
		return nil, failure(err)
	}
	out := &adminv1.ConfigServiceNodesResponse{Nodes: make([]*adminv1.ConfigNode, len(nodes))}
	var group sync.WaitGroup
	for i := range nodes {
		group.Go(func() { out.Nodes[i] = s.inForce(ctx, &nodes[i]) })
	}
	group.Wait()
	return out, nil
}

// inForce asks a node which version it has in force.
func (s *Service) inForce(ctx context.Context, n *Node) *adminv1.ConfigNode {
	out := &adminv1.ConfigNode{Name: n.Name, State: n.State}
	ask := s.Self
	switch {
	case n.Self:
	case n.Conn == nil:
		out.Error = "it cannot be reached"
		return out
	default:
		ask = func(ctx context.Context, req *adminv1.StatusRequest) (*adminv1.StatusResponse, error) {
			return adminv1.NewNodeServiceClient(n.Conn).Status(ctx, req)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	st, err := ask(ctx, &adminv1.StatusRequest{})
	if err != nil {
		out.Error = text(status.Convert(err).Message())
		return out
	}
	version := st.GetConfigVersion()
	out.Version, out.Rejected, out.Error = &version, st.GetConfigRejected(), st.GetConfigError()
	return out
}

// text makes a string of foreign origin fit for protobuf, which refuses what
// is not UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
