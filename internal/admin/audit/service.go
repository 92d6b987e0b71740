package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/ledger"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	// batch is how many entries travel together.
	batch = 100
	// verifyWait is how long a node may take to read all of its files.
	verifyWait = 2 * time.Minute
	// maxLimit bounds how many entries are held to find the last ones.
	maxLimit = 1 << 16
)

// Log is the audit log of this node: its files, and the chain that they follow.
type Log struct {
	Files *ledger.Files
	Chain ledger.Source
}

// Service answers for a Log; nil where there is none.
type Service struct {
	adminv1.UnimplementedAuditServiceServer
	Log   *Log
	Node  string
	Fleet fleet.Fleet
}

var errNone = status.Error(codes.Unavailable, "this node keeps no audit log")

// picks says whether a filter picks an entry.
func picks(f *adminv1.AuditFilter, e *control.AuditEntry) bool {
	at := time.UnixMilli(e.AtMS)
	has := func(text, part string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(part)) }
	return (f.GetSince() == nil || !at.Before(f.GetSince().AsTime())) && (f.GetUntil() == nil || at.Before(f.GetUntil().AsTime())) &&
		has(e.Who, f.GetWho()) && (has(e.Method, f.GetMethod()) || has(e.Action, f.GetMethod()))
}

func out(l *ledger.Line) *adminv1.AuditEntry {
	e := &l.Entry
	m := &adminv1.AuditEntry{
		Sequence: l.Sequence, At: timestamppb.New(time.UnixMilli(e.AtMS)), Kind: adminv1.AuditKind(e.Kind), Call: e.Call, Node: e.Node, Who: e.Who, Role: e.Role,
		Method: e.Method, Action: e.Action, Target: e.Target, Reason: e.Reason, Of: e.Of, Code: e.Code, Text: e.Text, Hash: fmt.Sprintf("%x", l.Stated),
	}
	for _, c := range e.Counts {
		m.Counts = append(m.Counts, &adminv1.AuditCount{Name: c.Name, N: c.N})
	}
	return m
}

// List is of the API.
func (s *Service) List(req *adminv1.AuditServiceListRequest, stream adminv1.AuditService_ListServer) error {
	if s.Log == nil {
		return errNone
	}
	if req.GetLimit() < 0 || req.GetLimit() > maxLimit {
		return status.Errorf(codes.InvalidArgument, "a limit of %d: from 0, which is all, to %d", req.GetLimit(), maxLimit)
	}
	ledger.Settle(stream.Context(), s.Log.Files, s.Log.Chain)
	var list []*adminv1.AuditEntry
	send := func(least int) error {
		for len(list) >= max(least, 1) {
			n := min(len(list), batch)
			if err := stream.Send(&adminv1.AuditServiceListResponse{Entries: list[:n]}); err != nil {
				return err
			}
			list = list[n:]
		}
		return nil
	}
	err := s.Log.Files.Each(func(l *ledger.Line) error {
		if !picks(req.GetFilter(), &l.Entry) {
			return stream.Context().Err()
		}
		list = append(list, out(l))
		if limit := int(req.GetLimit()); limit > 0 {
			if len(list) > limit {
				list = list[1:]
			}
			return stream.Context().Err()
		}
		return send(batch)
	})
	if err != nil {
		return err
	}
	return send(1)
}

// Tail is of the API.
func (s *Service) Tail(req *adminv1.AuditServiceTailRequest, stream adminv1.AuditService_TailServer) error {
	if s.Log == nil {
		return errNone
	}
	head, changed := s.Log.Chain.Audited()
	for last := head.Sequence; ; {
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if head, changed = s.Log.Chain.Audited(); head.Sequence < last {
			last = 0 // another chain
		}
		m := &adminv1.AuditServiceTailResponse{}
		for _, l := range s.Log.Chain.AuditsAfter(last) {
			last = l.Sequence
			if p, err := ledger.Read(&l); err == nil && picks(req.GetFilter(), &p.Entry) {
				m.Entries = append(m.Entries, out(p))
			}
		}
		if len(m.GetEntries()) > 0 {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

// Verify is of the API.
func (s *Service) Verify(ctx context.Context, req *adminv1.AuditServiceVerifyRequest) (*adminv1.AuditServiceVerifyResponse, error) {
	if s.Log == nil {
		return nil, errNone
	}
	ask := func(ctx context.Context, p fleet.Peer) (*adminv1.AuditServiceVerifyResponse, error) {
		return adminv1.NewAuditServiceClient(p.Conn).Verify(ctx, &adminv1.AuditServiceVerifyRequest{Local: true})
	}
	m := &adminv1.AuditServiceVerifyResponse{}
	answers, err := fleet.AskWhile(ctx, s.Fleet.Others(ctx, req.GetLocal()), verifyWait, ask, func(ctx context.Context) error {
		n, err := s.own(ctx)
		m.Nodes = append(m.Nodes, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.MissingNodes = fleet.Each(answers, func(a *adminv1.AuditServiceVerifyResponse) error {
		if len(a.GetNodes()) != 1 {
			return errors.New("audit: an answer for several nodes")
		}
		m.Nodes = append(m.Nodes, a.GetNodes()...)
		return nil
	})
	slices.SortFunc(m.GetNodes(), func(a, b *adminv1.AuditNode) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	return m, nil
}

func (s *Service) own(ctx context.Context) (*adminv1.AuditNode, error) {
	ledger.Settle(ctx, s.Log.Files, s.Log.Chain)
	r, err := s.Log.Files.Check(s.Log.Chain)
	if err != nil {
		return nil, err
	}
	n := &adminv1.AuditNode{Node: s.Node, Entries: r.Entries, First: r.First, Last: r.Last, Head: r.Head}
	for _, f := range r.Findings {
		n.Findings = append(n.Findings, &adminv1.AuditFinding{File: f.File, Line: int64(f.Line), Text: strings.ToValidUTF8(f.Text, "\uFFFD")})
	}
	return n, nil
}
