// Package certs answers the part of the admin API that is about the nodes'
// certificates: tokens for new machines, renewal, and the replacement of the
// authority.
package certs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster/enroll"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// decideWait is how long the cluster may take for a decision: about twice what
// the election of a leader takes.
const decideWait = 15 * time.Second

// Plane is what a node of a cluster has for it.
type Plane struct {
	Tokens *enroll.Tokens
	Desk   *enroll.Desk
	Keeper *enroll.Keeper
	// Addresses gives the cluster ports of nodes.
	Addresses func(nodes []string) []string
}

// Service serves a Plane; nil on a single machine.
type Service struct {
	adminv1.UnimplementedCertServiceServer
	Plane *Plane
	// Caller names who calls, for the record.
	Caller func(ctx context.Context) string
}

// Tokens is Service for the tokens.
type Tokens struct {
	adminv1.UnimplementedJoinTokenServiceServer
	*Service
}

// Register puts both services of a Plane on a server.
func Register(r grpc.ServiceRegistrar, p *Plane, caller func(ctx context.Context) string) {
	s := &Service{Plane: p, Caller: caller}
	adminv1.RegisterCertServiceServer(r, s)
	adminv1.RegisterJoinTokenServiceServer(r, &Tokens{Service: s})
}

var errAlone = status.Error(codes.FailedPrecondition, "this relay is not part of a cluster")

// failure gives an error the code that the caller acts on; what it does not
// know is left to the one who serves.
func failure(err error) error {
	var no enroll.RefusedError
	switch {
	case errors.Is(err, enroll.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, enroll.ErrNoToken):
		return status.Error(codes.NotFound, err.Error())
	case errors.As(err, &no):
		return status.Error(codes.FailedPrecondition, no.Error())
	case errors.Is(err, enroll.ErrConflict):
		return status.Error(codes.Aborted, "it was changed by somebody else meanwhile: try again")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.Unavailable, "the cluster did not decide in time: "+err.Error())
	}
	return err
}

func tokenOut(e *enroll.Entry) *adminv1.JoinToken {
	out := &adminv1.JoinToken{
		Id: e.ID, Node: e.Node, Uses: int32(e.Uses), Left: int32(e.Left()), Author: e.Author,
		Created: timestamppb.New(e.Created), Expires: timestamppb.New(e.Expires),
	}
	for _, u := range e.Used {
		out.Used = append(out.Used, &adminv1.JoinTokenUse{Node: u.Node, At: timestamppb.New(u.At)})
	}
	return out
}

// Create is of adminv1.JoinTokenServiceServer.
func (s *Tokens) Create(ctx context.Context, req *adminv1.JoinTokenServiceCreateRequest) (*adminv1.JoinTokenServiceCreateResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	if req.GetTtlSeconds() < 1 || req.GetTtlSeconds() > int64(enroll.MaxTTL/time.Second) {
		return nil, status.Errorf(codes.InvalidArgument, "a token lives from 1 second to %d days", enroll.MaxTTL/(24*time.Hour))
	}
	ca, signers, err := s.Plane.Desk.Signers()
	if err != nil {
		return nil, failure(err)
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	t, e, err := s.Plane.Tokens.Create(ctx, enroll.Wanted{
		CA: ca, Node: req.GetNode(), Uses: int(req.GetUses()), TTL: time.Duration(req.GetTtlSeconds()) * time.Second, Author: s.Caller(ctx),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &adminv1.JoinTokenServiceCreateResponse{Text: t.Text(), Token: tokenOut(&e), Addresses: s.Plane.Addresses(signers)}, nil
}

// List is of adminv1.JoinTokenServiceServer.
func (s *Tokens) List(context.Context, *adminv1.JoinTokenServiceListRequest) (*adminv1.JoinTokenServiceListResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	out := &adminv1.JoinTokenServiceListResponse{}
	for _, e := range s.Plane.Tokens.List() {
		out.Tokens = append(out.Tokens, tokenOut(&e))
	}
	return out, nil
}

// Revoke is of adminv1.JoinTokenServiceServer.
func (s *Tokens) Revoke(ctx context.Context, req *adminv1.JoinTokenServiceRevokeRequest) (*adminv1.JoinTokenServiceRevokeResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	if err := s.Plane.Tokens.Revoke(ctx, req.GetId()); err != nil {
		return nil, failure(err)
	}
	return &adminv1.JoinTokenServiceRevokeResponse{}, nil
}

// Nodes is of adminv1.CertServiceServer.
func (s *Service) Nodes(context.Context, *adminv1.CertServiceNodesRequest) (*adminv1.CertServiceNodesResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	k := s.Plane.Keeper
	c := k.Change()
	out := &adminv1.CertServiceNodesResponse{Step: c.Step, OldAuthority: c.Old, NewAuthority: c.New, Author: c.Author, Waiting: k.Waiting()}
	if !c.At.IsZero() {
		out.At = timestamppb.New(c.At)
	}
	said := map[string]enroll.Standing{}
	for _, n := range enroll.Standings(k.Records) {
		said[n.Node] = n
	}
	for _, name := range k.Members() {
		n := &adminv1.NodeCert{Node: name}
		if st, ok := said[name]; ok {
			n.Until, n.Issuer, n.Trusts, n.Signs, n.Problem = timestamppb.New(st.Until), st.Issuer, st.Trusts, st.Signs, st.Problem
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out, nil
}

// Renew is of adminv1.CertServiceServer.
func (s *Service) Renew(ctx context.Context, _ *adminv1.CertServiceRenewRequest) (*adminv1.CertServiceRenewResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	k := s.Plane.Keeper
	if err := k.Renew(ctx); err != nil {
		return nil, status.Error(codes.FailedPrecondition, enroll.Plain(err))
	}
	return &adminv1.CertServiceRenewResponse{Node: k.Self, Until: timestamppb.New(k.Identity.Standing().Cert.NotAfter)}, nil
}

// Sign is of adminv1.CertServiceServer.
func (s *Service) Sign(ctx context.Context, req *adminv1.CertServiceSignRequest) (*adminv1.CertServiceSignResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	p, ok := peer.FromContext(ctx)
	info, tls := credentials.TLSInfo{}, false
	if ok {
		info, tls = p.AuthInfo.(credentials.TLSInfo)
	}
	if !tls || len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.PermissionDenied, "a node alone can ask for this, by its certificate")
	}
	cert, err := s.Plane.Keeper.SignFor(info.State.PeerCertificates[0], req.GetRequest())
	if errors.Is(err, enroll.ErrInvalid) {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, enroll.Plain(err))
	}
	return &adminv1.CertServiceSignResponse{Cert: cert}, nil
}

// Rotate is of adminv1.CertServiceServer.
func (s *Service) Rotate(ctx context.Context, req *adminv1.CertServiceRotateRequest) (*adminv1.CertServiceRotateResponse, error) {
	if s.Plane == nil {
		return nil, errAlone
	}
	switch req.GetStep() {
	case enroll.StepTrust, enroll.StepIssue, enroll.StepDrop, enroll.StepAbort:
	default:
		return nil, status.Error(codes.InvalidArgument, fmt.Sprintf("%q is no step: they are trust, issue, drop and abort", req.GetStep()))
	}
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	c, err := s.Plane.Keeper.Rotate(ctx, req.GetStep(), s.Caller(ctx))
	if err != nil {
		return nil, failure(err)
	}
	return &adminv1.CertServiceRotateResponse{Step: c.Step}, nil
}
