package rules_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/rules"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func now() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// store keeps rules in memory; it plays the queue's service as well.
type store struct {
	list     []*adminv1.Rule
	held     *adminv1.Change
	released *adminv1.Change
	there    int // rules when something was released
}

func (s *store) List(context.Context) ([]*adminv1.Rule, error) { return slices.Clone(s.list), nil }

func (s *store) Put(_ context.Context, r *adminv1.Rule) error {
	s.list = append(s.list, r)
	return nil
}

func (s *store) Delete(_ context.Context, id string) error {
	n := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(r *adminv1.Rule) bool { return r.GetId() == id })
	if n == len(s.list) {
		return rules.ErrNoRule
	}
	return nil
}

func (s *store) Hold(_ context.Context, req *adminv1.HoldRequest) (*adminv1.HoldResponse, error) {
	s.held = req.GetChange()
	return &adminv1.HoldResponse{Result: &adminv1.ChangeResult{Recipients: 7, MissingNodes: []string{"mx3"}}}, nil
}

func (s *store) Release(_ context.Context, req *adminv1.ReleaseRequest) (*adminv1.ReleaseResponse, error) {
	s.released, s.there = req.GetChange(), len(s.list)
	return &adminv1.ReleaseResponse{Result: &adminv1.ChangeResult{Recipients: 5}}, nil
}

func service(s *store) *rules.Service {
	return &rules.Service{Store: s, Queue: s, Now: now, Caller: func(context.Context) string { return "ops" }, Settle: time.Nanosecond}
}

func TestAddListRemove(t *testing.T) {
	s := &store{}
	v := service(s)
	sel := &adminv1.Selector{Domains: []string{"x.org"}}
	dry, err := v.AddRule(t.Context(), &adminv1.AddRuleRequest{Rule: &adminv1.Rule{Selector: sel}, DryRun: true})
	if err != nil || dry.GetRecipients() != 7 || dry.GetRule().GetId() != "" || len(s.list) != 0 {
		t.Fatalf("%v, %v, %d rules", dry, err, len(s.list))
	}
	added, err := v.AddRule(t.Context(), &adminv1.AddRuleRequest{Rule: &adminv1.Rule{Selector: sel, Id: "forged", By: "forged", Until: timestamppb.New(now().Add(time.Hour))}})
	if err != nil {
		t.Fatal(err)
	}
	r := added.GetRule()
	if r.GetBy() != "ops" || !r.GetAdded().AsTime().Equal(now()) || !strings.HasPrefix(r.GetId(), "r-") || len(added.GetMissingNodes()) != 1 {
		t.Errorf("%v", added)
	}
	if !s.held.GetDryRun() {
		t.Error("adding a rule held mail at once")
	}
	second, err := v.AddRule(t.Context(), &adminv1.AddRuleRequest{Rule: &adminv1.Rule{Selector: &adminv1.Selector{Everything: true}}})
	if err != nil || second.GetRule().GetId() == r.GetId() {
		t.Fatalf("%v, %v", second, err)
	}
	if l, err := v.ListRules(t.Context(), &adminv1.ListRulesRequest{}); err != nil || len(l.GetRules()) != 2 {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := v.RemoveRule(t.Context(), &adminv1.RemoveRuleRequest{Id: r.GetId()}); err != nil || s.released != nil {
		t.Errorf("%v, released %v", err, s.released)
	}
	res, err := v.RemoveRule(t.Context(), &adminv1.RemoveRuleRequest{Id: second.GetRule().GetId(), Release: true})
	if err != nil || res.GetResult().GetRecipients() != 5 {
		t.Errorf("%v, %v", res, err)
	}
	// What a rule that still stands would hold again must not be released.
	if got := s.released.GetSelector().GetRules(); len(got) != 1 || got[0] != second.GetRule().GetId() || s.there != 0 {
		t.Errorf("released %v while %d rules stood", s.released, s.there)
	}
}

func TestBadRules(t *testing.T) {
	v := service(&store{})
	for want, r := range map[string]*adminv1.Rule{
		"a selector is needed":        {},
		"of no use":                   {Selector: &adminv1.Selector{Nodes: []string{"mx1"}}},
		"by ID, states":               {Selector: &adminv1.Selector{States: []adminv1.RecipientState{adminv1.RecipientState_RECIPIENT_STATE_HELD}}},
		"not an enhanced status code": {Selector: &adminv1.Selector{Dsns: []string{"x"}}},
		"more than 500 octets":        {Selector: &adminv1.Selector{Everything: true}, Reason: strings.Repeat("x", 501)},
		"over before it begins":       {Selector: &adminv1.Selector{Everything: true}, Until: timestamppb.New(now())},
		"longer than":                 {Selector: &adminv1.Selector{Replies: slices.Repeat([]string{strings.Repeat("x", 100)}, 500)}},
	} {
		_, err := v.AddRule(t.Context(), &adminv1.AddRuleRequest{Rule: r})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", r.GetSelector(), err, want)
		}
	}
	full := &store{}
	for range rules.Max {
		full.list = append(full.list, &adminv1.Rule{})
	}
	if _, err := service(full).AddRule(t.Context(), &adminv1.AddRuleRequest{Rule: &adminv1.Rule{Selector: &adminv1.Selector{Everything: true}}}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("one too many: %v", err)
	}
}

func TestWithoutAStore(t *testing.T) {
	v := &rules.Service{}
	if _, err := v.AddRule(t.Context(), &adminv1.AddRuleRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if l, err := v.ListRules(t.Context(), &adminv1.ListRulesRequest{}); err != nil || len(l.GetRules()) != 0 {
		t.Errorf("%v, %v", l, err)
	}
}
