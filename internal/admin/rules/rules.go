// Package rules answers the part of the admin API that is about hold rules: by
// these all nodes hold mail back before its next attempt. It knows no queue and
// no store: the rules are kept by a Store, what they would hold is counted by
// the service of the queue, and whoever delivers reads the Store by itself.
package rules

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// Max is how many rules there may be: each is held against each attempt.
	Max = 200
	// MaxSize bounds a rule as a Store keeps it.
	MaxSize = 16 << 10
	// maxReason bounds a reason.
	maxReason = 500
)

// Known is how soon after a change of a Store all nodes that are well act by it.
const Known = time.Second

// Store keeps the rules of all nodes.
type Store interface {
	// List gives the rules in any order.
	List(ctx context.Context) ([]*adminv1.Rule, error)
	// Put adds a rule whose ID is new.
	Put(ctx context.Context, r *adminv1.Rule) error
	// Delete removes a rule. One that is not there is ErrNoRule.
	Delete(ctx context.Context, id string) error
}

// ErrNoRule says that there is no rule of that ID.
var ErrNoRule = errors.New("admin: no hold rule with this ID; clrelay queue rule list shows those there are")

// Queue is the part of the queue's service that is needed.
type Queue interface {
	Hold(ctx context.Context, req *adminv1.HoldRequest) (*adminv1.HoldResponse, error)
	Release(ctx context.Context, req *adminv1.ReleaseRequest) (*adminv1.ReleaseResponse, error)
}

// Service is admin.v1.RuleService. Its Store is nil where no rules can be kept.
type Service struct {
	adminv1.UnimplementedRuleServiceServer
	Store  Store
	Queue  Queue
	Caller func(ctx context.Context) string
	Now    func() time.Time
	// Settle is how long RemoveRule waits before it releases, so that no node
	// holds again what it released; 0: Known.
	Settle time.Duration
}

var errNone = status.Error(codes.FailedPrecondition, "this relay keeps no hold rules")

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// AddRule adds a rule, or counts what it would hold.
func (s *Service) AddRule(ctx context.Context, req *adminv1.AddRuleRequest) (*adminv1.AddRuleResponse, error) {
	if s.Store == nil {
		return nil, errNone
	}
	rule := proto.CloneOf(req.GetRule())
	if rule == nil {
		rule = &adminv1.Rule{}
	}
	if err := s.check(rule); err != nil {
		return nil, err
	}
	counted, err := s.Queue.Hold(ctx, &adminv1.HoldRequest{Change: &adminv1.Change{Selector: rule.GetSelector(), DryRun: true}})
	if err != nil {
		return nil, err
	}
	out := &adminv1.AddRuleResponse{Rule: rule, Recipients: counted.GetResult().GetRecipients(), MissingNodes: counted.GetResult().GetMissingNodes()}
	rule.Id, rule.By, rule.Added = "", s.Caller(ctx), timestamppb.New(s.Now())
	if req.GetDryRun() {
		return out, nil
	}
	rule.Id = "r-" + strings.ToLower(rand.Text()[:8])
	if proto.Size(rule) > MaxSize {
		return nil, invalid("the rule is longer than %d octets: make several of it", MaxSize)
	}
	there, err := s.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	if len(there) >= Max {
		return nil, status.Errorf(codes.FailedPrecondition, "there are %d rules already, and more are not allowed: remove one", Max)
	}
	return out, s.Store.Put(ctx, rule)
}

// check refuses rules that mean nothing.
func (s *Service) check(r *adminv1.Rule) error {
	sel, err := picks.New(r.GetSelector())
	var bad picks.Invalid
	switch {
	case errors.As(err, &bad):
		return invalid("%s", bad.Error())
	case err != nil:
		return invalid("selector: %v", err)
	case !sel.Given():
		return invalid("a selector is needed; everything stands for all mail")
	case len(sel.IDs)+len(sel.States)+len(sel.Nodes)+len(r.GetSelector().GetRules()) > 0:
		return invalid("a rule picks mail by what it is: messages by ID, states, nodes and other rules are of no use in one. For what is in the queue there is hold")
	case len(r.GetReason()) > maxReason:
		return invalid("the reason has more than %d octets", maxReason)
	case r.GetUntil() != nil && !r.GetUntil().AsTime().After(s.Now()):
		return invalid("the rule would be over before it begins")
	}
	return nil
}

// ListRules lists the rules.
func (s *Service) ListRules(ctx context.Context, _ *adminv1.ListRulesRequest) (*adminv1.ListRulesResponse, error) {
	if s.Store == nil {
		return &adminv1.ListRulesResponse{}, nil
	}
	list, err := s.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b *adminv1.Rule) int {
		if c := a.GetAdded().AsTime().Compare(b.GetAdded().AsTime()); c != 0 {
			return c
		}
		return strings.Compare(a.GetId(), b.GetId())
	})
	return &adminv1.ListRulesResponse{Rules: list}, nil
}

// RemoveRule removes a rule, and releases what it holds if that is wanted.
func (s *Service) RemoveRule(ctx context.Context, req *adminv1.RemoveRuleRequest) (*adminv1.RemoveRuleResponse, error) {
	if s.Store == nil {
		return nil, errNone
	}
	if req.GetId() == "" {
		return nil, invalid("which rule? Its ID is missing")
	}
	if err := s.Store.Delete(ctx, req.GetId()); err != nil {
		return nil, err
	}
	if !req.GetRelease() {
		return &adminv1.RemoveRuleResponse{Result: &adminv1.ChangeResult{}}, nil
	}
	wait := s.Settle
	if wait == 0 {
		wait = Known
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	res, err := s.Queue.Release(ctx, &adminv1.ReleaseRequest{Change: &adminv1.Change{
		Selector: &adminv1.Selector{Rules: []string{req.GetId()}}, Reason: reason(req),
	}})
	if err != nil {
		return nil, fmt.Errorf("the rule is removed; what it holds could not be released: %w", err)
	}
	return &adminv1.RemoveRuleResponse{Result: res.GetResult()}, nil
}

func reason(req *adminv1.RemoveRuleRequest) string {
	if req.GetReason() != "" {
		return req.GetReason()
	}
	return "rule " + req.GetId() + " is removed"
}
