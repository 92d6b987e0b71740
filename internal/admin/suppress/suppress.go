// Package suppress answers the part of the admin API that is about the
// suppression list. Where the list is kept is its Store's matter.
package suppress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	// Batch is how many entries a request may have.
	Batch = control.MaxOps
	// page is how many travel together.
	page = 500
	// commandSize bounds the texts of one change of the Store.
	commandSize = 512 << 10
)

// Store keeps the list.
type Store interface {
	// Suppressed is the list as it is known here.
	Suppressed() *suppressed.Table
	// Suppress changes it, and gives an outcome for each entry. It returns once
	// the list shows the change.
	Suppress(ctx context.Context, c control.SuppressOps) ([]control.OpResult, error)
}

// Service is admin.v1.SuppressionService.
type Service struct {
	adminv1.UnimplementedSuppressionServiceServer
	Store  Store
	Caller func(ctx context.Context) string
	Now    func() time.Time
	// Group tells whether the setting senders has an entry of the name.
	Group func(name string) bool
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// ListSuppressions is of SuppressionService.
func (s *Service) ListSuppressions(req *adminv1.ListSuppressionsRequest, out grpc.ServerStreamingServer[adminv1.ListSuppressionsResponse]) error {
	want, err := s.filter(req)
	if err != nil {
		return err
	}
	var after control.SuppressKey
	left, list := req.GetLimit(), make([]control.Suppression, 0, page)
	for {
		if err := out.Context().Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		list = s.Store.Suppressed().Page(list[:0], after, page)
		if len(list) == 0 {
			return nil
		}
		after = list[len(list)-1].SuppressKey
		piece := &adminv1.ListSuppressionsResponse{}
		for i := range list {
			if !want(&list[i]) {
				continue
			}
			if req.GetLimit() > 0 && left == 0 {
				piece.More = true
				return out.Send(piece)
			}
			left--
			piece.Entries = append(piece.Entries, shown(&list[i]))
		}
		if len(piece.Entries) > 0 {
			if err := out.Send(piece); err != nil {
				return err
			}
		}
	}
}

// filter makes of a request what picks entries.
func (s *Service) filter(req *adminv1.ListSuppressionsRequest) (func(*control.Suppression) bool, error) {
	domain, scope := "", ""
	var err error
	if req.GetDomain() != "" {
		if domain, err = suppressed.ParseScope("@" + strings.TrimPrefix(req.GetDomain(), "@")); err != nil {
			return nil, invalid("the domain %q: %v", req.GetDomain(), err)
		}
	}
	if scope, err = suppressed.ParseScope(req.GetScope()); err != nil {
		return nil, invalid("the scope %q: %v", req.GetScope(), err)
	}
	if req.GetLimit() < 0 {
		return nil, invalid("the limit is below 0")
	}
	now, since := s.Now().UnixMilli(), int64(0)
	if req.GetSince() != nil {
		since = req.GetSince().AsTime().UnixMilli()
	}
	return func(e *control.Suppression) bool {
		return (e.ExpiresMS == 0 || e.ExpiresMS > now) && e.CreatedMS >= since && strings.HasSuffix(e.Address, domain) &&
			(req.Scope == nil || e.Scope == scope) &&
			(len(req.GetReasons()) == 0 || slices.Contains(req.GetReasons(), adminv1.SuppressionReason(e.Reason)))
	}, nil
}

// shown makes of an entry what travels.
func shown(e *control.Suppression) *adminv1.Suppression {
	out := &adminv1.Suppression{
		Address: e.Address, Scope: e.Scope, Reason: adminv1.SuppressionReason(e.Reason), Text: e.Text, Source: e.Source, By: e.By,
		Created: timestamppb.New(time.UnixMilli(e.CreatedMS)),
	}
	if e.ExpiresMS != 0 {
		out.Expires = timestamppb.New(time.UnixMilli(e.ExpiresMS))
	}
	return out
}

// ShowSuppressions is of SuppressionService.
func (s *Service) ShowSuppressions(_ context.Context, req *adminv1.ShowSuppressionsRequest) (*adminv1.ShowSuppressionsResponse, error) {
	address, err := suppressed.ParseAddress(req.GetAddress())
	if err != nil {
		return nil, invalid("the address %q: %v", req.GetAddress(), err)
	}
	out, now := &adminv1.ShowSuppressionsResponse{}, s.Now().UnixMilli()
	for _, e := range s.Store.Suppressed().Get(address) {
		if e.ExpiresMS == 0 || e.ExpiresMS > now {
			out.Entries = append(out.Entries, shown(&e))
		}
	}
	return out, nil
}

// AddSuppressions is of SuppressionService.
func (s *Service) AddSuppressions(ctx context.Context, req *adminv1.AddSuppressionsRequest) (*adminv1.AddSuppressionsResponse, error) {
	switch n := len(req.GetEntries()); {
	case n == 0:
		return nil, invalid("there is no entry to add")
	case n > Batch:
		return nil, invalid("%d entries in one request, and %d are the most", n, Batch)
	}
	by, now := s.Caller(ctx), s.Now()
	var entries []control.Suppression
	for i, x := range req.GetEntries() {
		e, err := s.entry(x, now)
		if err != nil {
			return nil, invalid("entry %d, %q: %v", i+1, x.GetAddress(), err)
		}
		e.By = by
		entries = append(entries, e.Cut())
	}
	out := &adminv1.AddSuppressionsResponse{}
	for len(entries) > 0 {
		n := fits(entries)
		results, err := s.Store.Suppress(ctx, control.SuppressOps{AtMS: now.UnixMilli(), Add: entries[:n]})
		if err != nil {
			return nil, err
		}
		entries = entries[n:]
		for _, r := range results {
			switch r.Code {
			case control.OK:
				out.Changed++
			case control.LimitReached:
				out.Full++
			case control.Unchanged:
				out.Unchanged++
			default:
				return nil, invalid("an entry was refused: %v", r.Code)
			}
		}
	}
	return out, nil
}

// fits counts the entries that one command can carry.
func fits(list []control.Suppression) int {
	size := 0
	for i := range list {
		e := &list[i]
		size += len(e.Address) + len(e.Scope) + len(e.Text) + len(e.Source) + len(e.By) + 64
		if size > commandSize && i > 0 {
			return i
		}
	}
	return len(list)
}

// entry reads an entry, and says what is wrong with it.
func (s *Service) entry(x *adminv1.Suppression, now time.Time) (e control.Suppression, err error) {
	if e.Address, err = suppressed.ParseAddress(x.GetAddress()); err != nil {
		return e, err
	}
	if e.Scope, err = suppressed.ParseScope(x.GetScope()); err != nil {
		return e, fmt.Errorf("the sender %q: %w", x.GetScope(), err)
	}
	e.Reason, e.Text, e.Source, e.CreatedMS = control.SuppressReason(x.GetReason()), x.GetText(), x.GetSource(), now.UnixMilli()
	if e.Reason == 0 {
		e.Reason = control.SuppressOperator
	}
	if x.GetCreated() != nil {
		at := x.GetCreated().AsTime()
		if at.After(now.Add(time.Hour)) || at.UnixMilli() < 0 {
			return e, fmt.Errorf("created at %s is not in the past", at.Format(time.RFC3339))
		}
		e.CreatedMS = at.UnixMilli()
	}
	if x.GetExpires() != nil {
		at := x.GetExpires().AsTime()
		if !at.After(now) {
			return e, fmt.Errorf("it would be over before it begins: it expires at %s", at.Format(time.RFC3339))
		}
		e.ExpiresMS = at.UnixMilli()
	}
	switch {
	case e.Scope != "" && !strings.Contains(e.Scope, "@") && !s.Group(e.Scope):
		return e, fmt.Errorf("the setting senders has no entry %q; a sender is written jane@example.edu, a sender's domain @example.edu", e.Scope)
	case e.Reason > control.SuppressImport:
		return e, fmt.Errorf("the reason %d is unknown", x.GetReason())
	case len(e.Text) > control.MaxSuppressText:
		return e, fmt.Errorf("the text has more than %d octets", control.MaxSuppressText)
	}
	if cut := e.Cut(); !cut.Valid() {
		return e, fmt.Errorf("the address or the sender cannot be kept")
	}
	return e, nil
}

// RemoveSuppressions is of SuppressionService.
func (s *Service) RemoveSuppressions(ctx context.Context, req *adminv1.RemoveSuppressionsRequest) (*adminv1.RemoveSuppressionsResponse, error) {
	switch n := len(req.GetAddresses()); {
	case n == 0:
		return nil, invalid("which address?")
	case n > Batch:
		return nil, invalid("%d addresses in one request, and %d are the most", n, Batch)
	}
	scope, err := suppressed.ParseScope(req.GetScope())
	if err != nil {
		return nil, invalid("the sender %q: %v", req.GetScope(), err)
	}
	out := &adminv1.RemoveSuppressionsResponse{}
	var keys []control.SuppressKey
	for _, text := range req.GetAddresses() {
		address, err := suppressed.ParseAddress(text)
		if err != nil {
			return nil, invalid("the address %q: %v", text, err)
		}
		found := false
		for _, e := range s.Store.Suppressed().Get(address) {
			if req.Scope == nil || e.Scope == scope {
				keys, found = append(keys, e.SuppressKey), true
			}
		}
		if !found {
			out.Missing = append(out.Missing, text)
		}
	}
	for batch := range slices.Chunk(keys, Batch) {
		results, err := s.Store.Suppress(ctx, control.SuppressOps{AtMS: s.Now().UnixMilli(), Remove: batch})
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			if r.Code == control.OK {
				out.Removed++
			}
		}
	}
	return out, nil
}
