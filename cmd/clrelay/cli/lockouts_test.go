package cli_test

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/lockouts"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// doorman is the LockoutService of mx1, which knows mx2. mx3 says nothing when it is
// asked about 198.51.100.0/24, or in an INC-3.
type doorman struct {
	*lockouts.Service
}

func newDoorman() *doorman {
	own, other := desk("mx1"), desk("mx2")
	did := func(s *lockouts.Service, client string, k abuse.Kind, times int) {
		for range times {
			s.Table.(*abuse.Table).Count(netip.MustParseAddr(client), k)
		}
	}
	for _, s := range []*lockouts.Service{own, other} {
		did(s, "192.0.2.7", abuse.Unknown, 15)
		did(s, "192.0.2.7", abuse.Refused, 3)
		did(s, "2001:db8::1", abuse.Refused, 12)
	}
	did(own, "198.51.100.9", abuse.Unknown, 15)
	did(other, "198.51.100.9", abuse.Unknown, 7)
	did(own, "203.0.113.4", abuse.Refused, 6)
	own.Fleet.Peers = colleagues{{Name: "mx2", Conn: wire{other}}}
	return &doorman{Service: own}
}

// desk is the service of a node whose table does not move in time.
func desk(node string) *lockouts.Service {
	t := abuse.New(func() time.Duration { return time.Minute }, 0)
	t.Configure(abuse.Rules{Window: time.Hour, Most: [abuse.Kinds]int{abuse.Refused: 10, abuse.Unknown: 5}, Hold: time.Second, Lockout: 10 * time.Minute})
	return &lockouts.Service{
		Node: node, Table: t, Trusted: func(netip.Addr) bool { return false }, Now: now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

type colleagues []fleet.Peer

func (c colleagues) Others(context.Context) []fleet.Peer { return c }
func (colleagues) Knows(string) bool                     { return true }

// wire leads to another node.
type wire struct{ to *lockouts.Service }

func (w wire) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) (err error) {
	var res proto.Message
	switch req := args.(type) {
	case *adminv1.ListLockoutsRequest:
		res, err = w.to.ListLockouts(ctx, req)
	case *adminv1.LiftLockoutsRequest:
		res, err = w.to.LiftLockouts(ctx, req)
	}
	if err == nil {
		proto.Merge(reply.(proto.Message), res)
	}
	return err
}

func (wire) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, io.ErrUnexpectedEOF
}

func (d *doorman) ListLockouts(ctx context.Context, req *adminv1.ListLockoutsRequest) (*adminv1.ListLockoutsResponse, error) {
	res, err := d.Service.ListLockouts(ctx, req)
	if slices.Contains(req.GetWithin(), "198.51.100.0/24") && err == nil {
		res.MissingNodes = []string{"mx3"}
	}
	return res, err
}

func (d *doorman) LiftLockouts(ctx context.Context, req *adminv1.LiftLockoutsRequest) (*adminv1.LiftLockoutsResponse, error) {
	res, err := d.Service.LiftLockouts(ctx, req)
	if strings.Contains(req.GetReason(), "INC-3") && err == nil {
		res.MissingNodes = []string{"mx3"}
	}
	return res, err
}
