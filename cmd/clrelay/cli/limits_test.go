package cli_test

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// throttle is a LimitService with invented limits.
type throttle struct {
	adminv1.UnimplementedLimitServiceServer
	limits []*adminv1.Limit
}

func newThrottle() *throttle {
	site := func(s string) []*adminv1.LimitMatch {
		return []*adminv1.LimitMatch{{Field: "site", Values: []string{s}}}
	}
	return &throttle{limits: []*adminv1.Limit{
		{Name: "campus", Side: "delivery", Origin: "configured", Per: []string{"sender"}, Count: "recipients", Rate: "100/m", Burst: 10},
		{
			Name: "shaping:google.com", Side: "delivery", Origin: "learned", Author: "shaping", Match: site("google.com"), Count: "messages", Connections: 3,
			Reason: "421 4.7.0 too many connections (rule too-many-connections)", Until: timestamppb.New(now().Add(6 * time.Hour)),
		},
		{
			Name: "shaping:google.com:google-reputation:suspend", Side: "delivery", Origin: "learned", Author: "shaping", Match: site("google.com"), Count: "messages", Suspended: true,
			Reason: "421 4.7.0 suspicious (rule google-reputation)", Until: timestamppb.New(now().Add(34 * time.Minute)),
		},
		{Name: "site:google.com", Side: "delivery", Origin: "shipped", Author: "shaping", Match: site("google.com"), Count: "messages", Connections: 50, ConnectionMessages: 100},
	}}
}

func (s *throttle) find(name string) int {
	return slices.IndexFunc(s.limits, func(l *adminv1.Limit) bool { return l.GetName() == name })
}

func (s *throttle) ListLimits(context.Context, *adminv1.ListLimitsRequest) (*adminv1.ListLimitsResponse, error) {
	return &adminv1.ListLimitsResponse{Limits: s.limits}, nil
}

func (s *throttle) SetLimit(_ context.Context, req *adminv1.SetLimitRequest) (*adminv1.SetLimitResponse, error) {
	l := req.GetLimit()
	if len(l.GetMatch()) > 0 && l.GetMatch()[0].GetValues()[0] == "gmail.com" {
		return nil, admin.InvalidError("gmail.com is no site: its mail goes to the hosts of google.com")
	}
	l.Side, l.Count, l.Origin, l.Author, l.Reason = "delivery", "messages", "set", "jane", req.GetReason()
	if h := req.GetHold(); h != nil {
		l.Until = timestamppb.New(now().Add(h.AsDuration()))
	}
	i := s.find(l.GetName())
	if i >= 0 {
		s.limits[i] = l
	} else {
		s.limits = append(s.limits, l)
	}
	out := &adminv1.SetLimitResponse{Limit: l, Replaced: i >= 0}
	if slices.ContainsFunc(l.GetMatch(), func(m *adminv1.LimitMatch) bool { return m.GetField() == "user" }) {
		out.Warnings = []string{"counts by user"}
	}
	if l.GetName() == "newsletter" {
		out.Instead = s.limits[0]
	}
	return out, nil
}

func (s *throttle) ClearLimit(_ context.Context, req *adminv1.ClearLimitRequest) (*adminv1.ClearLimitResponse, error) {
	i := s.find(req.GetName())
	switch {
	case i < 0:
		return nil, status.Error(codes.NotFound, "there is no limit of that name")
	case s.limits[i].GetOrigin() == "configured":
		return nil, admin.RefusedError("campus is of the cluster's configuration")
	}
	s.limits = slices.Delete(s.limits, i, i+1)
	return &adminv1.ClearLimitResponse{Names: []string{req.GetName()}}, nil
}

func (s *throttle) LimitUsage(_ context.Context, req *adminv1.LimitUsageRequest) (*adminv1.LimitUsageResponse, error) {
	if req.GetName() != "" && s.find(req.GetName()) < 0 {
		return nil, status.Error(codes.NotFound, "there is no limit of that name")
	}
	out := &adminv1.LimitUsageResponse{Uses: []*adminv1.LimitUse{
		{Limit: "campus", Kind: "rate", Key: "sender=bulk@example.edu", Node: "mx1", Used: 3, Share: 3, Of: 10, Rate: "100/m", Pace: 32.7, PaceShare: 33, Waiting: 12, Denied: 99, Next: timestamppb.New(now().Add(2 * time.Second))},
		{Limit: "campus", Kind: "rate", Key: "sender=bulk@example.edu", Node: "mx3", Of: 10, Rate: "100/m", PaceShare: 0.5, Silent: true},
		{Limit: "shaping:google.com", Kind: "connections", Node: "mx1", Used: 1, Share: 1, Of: 3},
	}}
	if req.GetName() == "campus" {
		out.Uses, out.MissingNodes = out.Uses[:1], []string{"mx3"}
	}
	return out, nil
}

func (s *throttle) ExplainLimits(_ context.Context, req *adminv1.ExplainLimitsRequest) (*adminv1.ExplainLimitsResponse, error) {
	switch req.GetDestination() {
	case "nowhere.example":
		return &adminv1.ExplainLimitsResponse{Node: "mx1", Domain: "nowhere.example", Reply: "550 5.4.4 no route to the recipient's domain", Summary: "Mail for nowhere.example goes nowhere: no route leads there, and its senders are told: 550 5.4.4 no route to the recipient's domain"}, nil
	case "@":
		return nil, admin.InvalidError(`"@" is neither a domain nor an address`)
	}
	var missing []string
	if req.GetFrom() != "" {
		missing = []string{"mx3"}
	}
	return &adminv1.ExplainLimitsResponse{
		MissingNodes: missing,
		Node:         "mx1", Domain: "gmail.com", Site: "google.com", Route: "routes[0]", Lane: "mx:gmail.com", State: "limited", Most: 20, Recipients: 1204,
		Mail: &adminv1.DestinationMail{
			Recipients: 1204, Deferred: 4, Reply: "451 4.7.1 later", Replied: 3, NextTry: timestamppb.New(now().Add(time.Minute)),
			Holds: []*adminv1.LimitHold{{Limit: s.limits[2].GetName(), Kind: "suspended", Recipients: 1200, Until: timestamppb.New(now().Add(34 * time.Minute)), Why: "suspended by it"}},
		},
		Summary: "Mail for gmail.com, which is served by google.com, is suspended. Limit shaping:google.com:google-reputation:suspend holds 1200 recipients: nothing is sent; learned from the reply: 421 4.7.0 suspicious (rule google-reputation); it ends in 34 min (to end it now: clrelay limit clear shaping:google.com:google-reputation:suspend). Queued for it: 1207 recipients (mx1 1204, mx2 3); deliveries under way: 1. Deferred: 4 recipients, the first tried again in 60 s; the commonest last reply, to 3 of them: 451 4.7.1 later.",
		Verdicts: []*adminv1.LimitVerdict{
			{Limit: s.limits[2], Wait: durationpb.New(34 * time.Minute), Use: &adminv1.LimitUse{Kind: "suspended"}},
			{Limit: s.limits[1], Allows: true, Use: &adminv1.LimitUse{Kind: "connections", Node: "mx1", Used: 1, Share: 2, Of: 3}},
		},
		Others: []*adminv1.ExplainLimitsResponse{{
			Node: "mx2", State: "proven", Most: 20, Recipients: 3, Running: 1, Mail: &adminv1.DestinationMail{Recipients: 3},
			Verdicts: []*adminv1.LimitVerdict{{Limit: s.limits[1], Wait: durationpb.New(500 * time.Millisecond), Use: &adminv1.LimitUse{Kind: "connections", Node: "mx2", Used: 1, Share: 1, Of: 3}}},
		}},
	}, nil
}

// signposts is a RouteService with two routes.
type signposts struct {
	adminv1.UnimplementedRouteServiceServer
}

func (signposts) ListRoutes(_ context.Context, req *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	list := []*adminv1.RouteEntry{
		{Name: "campus", Setting: "routes[0]", Domains: []string{"example.edu", "*.example.edu"}, Kind: "smarthost", Hosts: []string{"mail.example.edu:25"}, Tls: "verify", Recipients: 3, Destinations: 1, Down: 1},
		{Name: "routes[1]", Setting: "routes[1]", Kind: "mx", Tls: "opportunistic", Recipients: 120400, Destinations: 311},
	}
	switch {
	case req.GetName() == "campus", req.GetDomain() == "example.edu":
		return &adminv1.ListRoutesResponse{Routes: list[:1]}, nil
	case req.GetName() != "":
		return nil, status.Error(codes.NotFound, "there is no route of that name")
	case req.GetDomain() != "":
		return &adminv1.ListRoutesResponse{Reply: "550 5.4.4 no route to the recipient's domain"}, nil
	}
	return &adminv1.ListRoutesResponse{Routes: list}, nil
}
