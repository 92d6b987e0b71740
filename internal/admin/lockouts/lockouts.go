// Package lockouts answers the part of the admin API that is about clients that
// misbehave: who is kept waiting or locked out, as all nodes know it, and to let
// somebody in again at all of them. Each node has a Table of its own; who is in it
// is its matter.
package lockouts

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/limit"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	askWait   = 5 * time.Second // less than abuse.Deaf
	usual     = 100             // clients that are listed
	most      = 1000
	maxNamed  = 100 // clients or networks in a request
	maxReason = 500
)

// Table is a node's own; internal/abuse's.
type Table interface {
	Standings(all bool, max int, pick func(netip.Addr) bool) (list []abuse.Standing, more bool)
	Lift(clients []netip.Addr) []abuse.Standing
}

// Service is the LockoutService of a node.
type Service struct {
	adminv1.UnimplementedLockoutServiceServer
	Node    string
	Table   Table
	Trusted func(netip.Addr) bool // who is let in whatever was counted before
	Fleet   fleet.Fleet
	Now     func() time.Time // time.Now when nil
	Log     *slog.Logger
}

// Register puts it on a server.
func Register(to grpc.ServiceRegistrar, s *Service) {
	if s.Now == nil {
		s.Now = time.Now
	}
	adminv1.RegisterLockoutServiceServer(to, s)
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// ListLockouts is of LockoutService.
func (s *Service) ListLockouts(ctx context.Context, req *adminv1.ListLockoutsRequest) (*adminv1.ListLockoutsResponse, error) {
	pick, err := s.pick(req.GetWithin())
	if err != nil {
		return nil, err
	}
	n := int(req.GetLimit())
	switch {
	case n < 0 || n > most:
		return nil, invalid("a limit of %d: from 1 to %d; to find a client name its network", n, most)
	case n == 0:
		n = usual
	}
	m := merged{byNetwork: map[string]*adminv1.Lockout{}}
	theirs := &adminv1.ListLockoutsRequest{All: req.GetAll(), Within: req.GetWithin(), Limit: int64(n), Local: true}
	answers, err := fleet.AskWhile(ctx, s.Fleet.Others(ctx, req.GetLocal()), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.ListLockoutsResponse, error) {
		return adminv1.NewLockoutServiceClient(p.Conn).ListLockouts(ctx, theirs)
	}, func(context.Context) error { return m.add(s.own(req.GetAll(), n, pick)) })
	if err != nil {
		return nil, err
	}
	missing := fleet.Each(answers, m.add)
	out := m.response(n)
	out.MissingNodes = missing
	return out, nil
}

// pick makes of networks what picks clients.
func (s *Service) pick(within []string) (func(netip.Addr) bool, error) {
	if len(within) > maxNamed {
		return nil, invalid("%d networks in one request, and %d are the most", len(within), maxNamed)
	}
	var list []netip.Prefix
	for _, text := range within {
		p, err := limit.ParseNetwork(text)
		if err != nil {
			return nil, invalid("%v", err)
		}
		if p.Addr().Is6() && p.Bits() > 64 { // it counts as
			p = netip.PrefixFrom(limit.Network(p.Addr()), 64)
		}
		list = append(list, p)
	}
	return func(a netip.Addr) bool {
		return (len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })) && !s.Trusted(a)
	}, nil
}

// own is what this node says.
func (s *Service) own(all bool, n int, pick func(netip.Addr) bool) *adminv1.ListLockoutsResponse {
	list, more := s.Table.Standings(all, n, pick)
	out := &adminv1.ListLockoutsResponse{More: more}
	for i := range list {
		at := s.here(&list[i])
		c := &adminv1.Lockout{Network: limit.NetworkText(list[i].Client), State: at.GetState(), Why: at.GetWhy(), Until: at.GetUntil(), Nodes: []*adminv1.LockoutAtNode{at}}
		for k, threshold := range list[i].Threshold {
			if threshold > 0 {
				c.Scores = append(c.Scores, &adminv1.LockoutScore{Kind: abuse.Kind(k).String(), Score: float64(list[i].Score[k]), Threshold: int64(threshold)})
			}
		}
		out.Clients = append(out.Clients, c)
	}
	return out
}

// here is how a client stands at this node.
func (s *Service) here(st *abuse.Standing) *adminv1.LockoutAtNode {
	at := &adminv1.LockoutAtNode{Node: s.Node, State: st.State.String()}
	if st.State != abuse.Unnoticed {
		at.Why = st.Why.String()
	}
	if st.Out > 0 {
		at.Until = timestamppb.New(s.Now().Add(st.Out))
	}
	return at
}

// LiftLockouts is of LockoutService.
func (s *Service) LiftLockouts(ctx context.Context, req *adminv1.LiftLockoutsRequest) (*adminv1.LiftLockoutsResponse, error) {
	clients, err := named(req)
	if err != nil {
		return nil, err
	}
	own := &adminv1.LiftLockoutsResponse{}
	theirs := &adminv1.LiftLockoutsRequest{Clients: req.GetClients(), Reason: req.GetReason(), Local: true}
	answers, err := fleet.AskWhile(ctx, s.Fleet.Others(ctx, req.GetLocal()), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.LiftLockoutsResponse, error) {
		return adminv1.NewLockoutServiceClient(p.Conn).LiftLockouts(ctx, theirs)
	}, func(context.Context) error {
		was := s.Table.Lift(clients)
		for i := range was {
			own.Clients = append(own.Clients, s.lifted(&was[i], req.GetReason()))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	own.MissingNodes = fleet.Each(answers, func(r *adminv1.LiftLockoutsResponse) error {
		for i, c := range own.GetClients() {
			if i < len(r.GetClients()) {
				c.Nodes = append(c.Nodes, r.GetClients()[i].GetNodes()...)
			}
		}
		return nil
	})
	for _, c := range own.GetClients() {
		sortNodes(c.GetNodes())
	}
	return own, nil
}

// named reads the clients of a request, each once.
func named(req *adminv1.LiftLockoutsRequest) (list []netip.Addr, err error) {
	switch n := len(req.GetClients()); {
	case n == 0:
		return nil, invalid("which client?")
	case n > maxNamed:
		return nil, invalid("%d clients in one request, and %d are the most", n, maxNamed)
	case strings.TrimSpace(req.GetReason()) == "":
		return nil, invalid("a reason is missing: it is in the log and in the audit log")
	case len(req.GetReason()) > maxReason:
		return nil, invalid("the reason has more than %d octets", maxReason)
	}
	for _, text := range req.GetClients() {
		a, err := abuse.ParseClient(text)
		if err != nil {
			return nil, invalid("%v", err)
		}
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list, nil
}

// lifted tells of a client that was lifted here, and has it in the log.
func (s *Service) lifted(was *abuse.Standing, reason string) *adminv1.LiftedLockout {
	network, at := limit.NetworkText(was.Client), s.here(was)
	if was.State != abuse.Unnoticed {
		s.Log.Info("what was counted of a client is taken away", "client", network, "was", at.GetState(), "because of", at.GetWhy(), "reason", reason)
	}
	return &adminv1.LiftedLockout{Network: network, Nodes: []*adminv1.LockoutAtNode{at}}
}
