package cli_test

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// everyday are the further services of the invented relay.
func everyday() []func(grpc.ServiceRegistrar, fleet.Fleet) {
	return []func(grpc.ServiceRegistrar, fleet.Fleet){func(r grpc.ServiceRegistrar, _ fleet.Fleet) {
		adminv1.RegisterTestServiceServer(r, trials{})
		adminv1.RegisterDoctorServiceServer(r, practice{})
		adminv1.RegisterTopServiceServer(r, &meter{})
		adminv1.RegisterLimitServiceServer(r, newThrottle())
		adminv1.RegisterRouteServiceServer(r, signposts{})
		adminv1.RegisterLockoutServiceServer(r, newDoorman())
	}}
}

// trials knows a partner, a stranger's address, one that is limited, and a domain
// without a host.
type trials struct {
	adminv1.UnimplementedTestServiceServer
}

func (trials) Address(_ context.Context, req *adminv1.AddressRequest) (*adminv1.AddressResponse, error) {
	out := &adminv1.AddressResponse{
		Node: "mx1", Rcpt: req.GetAddress(), Config: "cluster configuration 7",
		Admission: &adminv1.Admission{Allowed: true, Setting: "senders[0]", Name: "campus", Line: 2},
		Route:     &adminv1.RouteChoice{Setting: "routes[1]", Line: 9, Kind: "mx", Destination: "mx:partner.example"},
		Hosts: []*adminv1.NextHost{
			{Name: "mx1.partner.example", Address: "203.0.113.9:25", Preference: 10, Source: "out1",
				Greeting: durationpb.New(31 * time.Millisecond), Refused: 0.3},
			{Name: "mx2.partner.example", Address: "203.0.113.10:25", Preference: 20, Silent: true, Plain: true},
		},
		Pool: &adminv1.PoolChoice{Name: "bulk", Setting: "senders[0].pool", Line: 2, Spread: "message", Members: []*adminv1.PoolMember{
			{Name: "out1", Weight: 3, Address: "192.0.2.10", Hello: "out1.example.edu"},
			{Name: "new1", Weight: 1, Address: "192.0.2.11", WarmUp: "day 3 of 14 of the warm-up of new1: 400 messages for each site"},
			{Name: "out9", Weight: 1},
		}},
		Tls: "opportunistic", TlsReason: "the default",
		Destination: &adminv1.Destination{Name: "mx:partner.example", State: "down", Running: 1, Limit: 3, Max: 100, Waiting: 2, Recipients: 7,
			Reason: "451 4.4.1 connection refused", NextTry: timestamppb.New(now().Add(time.Minute))},
	}
	switch req.GetAddress() {
	case "not an address":
		return nil, admin.InvalidError(`the address "not an address": bad address`)
	case "x@stranger.example":
		out.Admission = &adminv1.Admission{Reply: "550 5.7.1 Relaying denied"}
	case "x@slow.example":
		out.Destination.State, out.Destination.Reason = "limited", "451 4.3.2 rate of limit slow"
	case "x@nowhere.example":
		out.Hosts, out.Notes = nil, []string{"550 5.1.2 domain nowhere.example does not exist"}
	}
	if req.GetProbe() {
		out.Probe = &adminv1.HopProbe{Remote: "mx1.partner.example[203.0.113.9]:25", Extensions: []string{"PIPELINING", "STARTTLS"}, Tls: "TLSv1.3 verified", Rcpt: "accepted"}
		if req.GetFrom() == "refused@example.edu" {
			out.Probe.Rcpt = "550 5.1.1 no such user"
		}
	}
	return out, nil
}

// practice finds something of each kind on mx1; mx2 is well, and mx4 silent.
type practice struct {
	adminv1.UnimplementedDoctorServiceServer
}

func (practice) Examine(_ context.Context, req *adminv1.ExamineRequest) (*adminv1.ExamineResponse, error) {
	well := []*adminv1.Finding{
		{Level: adminv1.FindingLevel_FINDING_LEVEL_OK, Node: "mx2", Check: "disk", Text: "80 GiB of 100 GiB free"},
		{Level: adminv1.FindingLevel_FINDING_LEVEL_OK, Node: "mx2", Check: "fsync", Text: "1ms"},
	}
	switch req.GetNode() {
	case "mx2":
		return &adminv1.ExamineResponse{Findings: well}, nil
	case "mx4":
		return &adminv1.ExamineResponse{MissingNodes: []string{"mx4"}}, nil
	case "":
		return &adminv1.ExamineResponse{Findings: append([]*adminv1.Finding{
			{Level: adminv1.FindingLevel_FINDING_LEVEL_OK, Check: "quorum", Text: "3 of 3 voters are there"},
			{Level: adminv1.FindingLevel_FINDING_LEVEL_WARN, Node: "mx1", Check: "disk", Text: "10 GiB of 100 GiB free", Fix: "make room"},
			{Level: adminv1.FindingLevel_FINDING_LEVEL_FAIL, Node: "mx1", Check: "dns", Text: "no answer", Fix: "see dns.servers"},
			{Level: adminv1.FindingLevel_FINDING_LEVEL_UNKNOWN, Node: "mx1", Check: "ntp", Text: "the kernel does not tell"},
		}, well...)}, nil
	}
	return nil, admin.ErrNoNode
}

// meter is of a cluster of two nodes that takes 50 messages a second and
// delivers 40, from each look to the next, which are ten seconds apart; mx3
// does not answer.
type meter struct {
	adminv1.UnimplementedTopServiceServer
	looks atomic.Int64
}

func (m *meter) Stats(_ context.Context, req *adminv1.StatsRequest) (*adminv1.StatsResponse, error) {
	n := m.looks.Add(1)
	out := &adminv1.StatsResponse{
		Nodes: []*adminv1.NodeStats{
			{Node: "mx1", Uptime: durationpb.New(time.Hour + time.Duration(n)*10*time.Second), Ready: true, Sessions: 12, Running: 3, Active: 5, Deferred: 1200, Held: 1,
				Oldest: durationpb.New(3*time.Hour + 12*time.Minute), Accepted: 500 * n, Delivered: 400 * n, PutOff: 5 * n, Bounced: 10 * n, Rejected: 7},
			{Node: "mx2", Uptime: durationpb.New(time.Duration(n) * time.Second), Accepted: 3},
		},
		Destinations: []*adminv1.Destination{
			{Name: "mx:partner.example", Node: "mx1", State: "down", Recipients: 1100, Waiting: 0, Running: 1, Limit: 1, Reason: "451 4.4.1 connection refused", NextTry: timestamppb.New(now().Add(time.Minute))},
		},
	}
	if n%2 == 0 {
		out.MissingNodes = []string{"mx3"}
	}
	window := "hour"
	if req.GetWindow().AsDuration() == 24*time.Hour {
		window = "day"
	}
	switch req.GetBy() {
	case adminv1.TopBy_TOP_BY_SENDER:
		out.Rows = []*adminv1.TopRow{{Name: "payroll@example.edu", Count: 31204}, {Name: "<>", Count: 300, Error: 20}}
	case adminv1.TopBy_TOP_BY_DOMAIN:
		out.Rows = []*adminv1.TopRow{{Name: window + ".example", Count: 5}}
	}
	return out, nil
}
