package configs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// plane is a cluster's configuration, its records and its clock.
type plane struct {
	versions []Version
	value    []byte
	record   uint64
	changed  chan struct{}
	now      time.Time
	fails    error // of Apply
}

func (p *plane) Get(_ context.Context, n uint64) (Version, error) {
	if n == 0 {
		n = uint64(len(p.versions))
	}
	if n > uint64(len(p.versions)) || p.versions[n-1].Text == nil {
		return Version{}, ErrNotKept
	}
	return p.versions[n-1], nil
}

func (p *plane) History(context.Context) ([]Version, error) { return p.versions, nil }

func (p *plane) Apply(_ context.Context, c Change) (uint64, error) {
	n := uint64(len(p.versions))
	switch {
	case p.fails != nil:
		return 0, p.fails
	case c.IfVersion != 0 && c.IfVersion != n:
		return 0, errors.New("another version")
	}
	p.versions = append(p.versions, Version{Number: n + 1, Text: c.Text, Author: c.Author, Reason: c.Reason})
	return n + 1, nil
}

func (p *plane) Nodes(context.Context) ([]Node, error) { return nil, nil }

func (p *plane) Record(string) ([]byte, uint64) { return p.value, p.record }

func (p *plane) Put(_ context.Context, _ string, value []byte, ifVersion uint64) error {
	if ifVersion != p.record {
		return errors.New("conflict")
	}
	p.value, p.record = value, p.record+1
	if value == nil {
		p.record = 0
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func (p *plane) Changed() <-chan struct{} { return p.changed }

func trying(t *testing.T) (*plane, *Service) {
	p := &plane{changed: make(chan struct{}), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), versions: []Version{{Number: 1, Text: []byte("one")}}}
	s := &Service{Plane: p, Caller: func(context.Context) string { return "jane" }}
	s.Probation = &Probation{Plane: p, Records: p, Leads: func() bool { return true }, Now: func() time.Time { return p.now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	return p, s
}

func (p *plane) apply(t *testing.T, s *Service, text string, after uint64, d time.Duration) error {
	t.Helper()
	req := &adminv1.ConfigServiceApplyRequest{Text: []byte(text), IfVersion: after}
	if d != 0 {
		req.Probation = durationpb.New(d)
	}
	_, err := s.Apply(t.Context(), req)
	return err
}

func (p *plane) want(t *testing.T, text string, versions int) {
	t.Helper()
	if got := p.versions[len(p.versions)-1]; string(got.Text) != text || len(p.versions) != versions {
		t.Errorf("version %d is %q, want %d versions and %q", len(p.versions), got.Text, versions, text)
	}
}

func TestNotConfirmed(t *testing.T) {
	p, s := trying(t)
	if err := p.apply(t, s, "two", 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), &adminv1.ConfigServiceGetRequest{})
	if err != nil || got.GetProbation().GetPrevious() != 1 {
		t.Errorf("%v %v", got, err)
	}
	p.now = p.now.Add(59 * time.Second)
	s.Probation.look(t.Context())
	p.want(t, "two", 2)
	p.now = p.now.Add(time.Second)
	p.fails = errors.New("no leader") // the way back is tried again
	s.Probation.look(t.Context())
	p.want(t, "two", 2)
	p.fails = nil
	s.Probation.look(t.Context())
	p.want(t, "one", 3)
	if r := p.versions[2].Reason; !strings.Contains(r, "version 2 was not confirmed: back to 1") {
		t.Error(r)
	}
	s.Probation.look(t.Context())
	p.want(t, "one", 3)
	if p.record != 0 {
		t.Error("the record is left")
	}
}

func TestConfirmed(t *testing.T) {
	p, s := trying(t)
	if _, err := s.Confirm(t.Context(), &adminv1.ConfigServiceConfirmRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("nothing is on probation: %v", err)
	}
	if err := p.apply(t, s, "two", 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Confirm(t.Context(), &adminv1.ConfigServiceConfirmRequest{Version: 1}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another version: %v", err)
	}
	if res, err := s.Confirm(t.Context(), &adminv1.ConfigServiceConfirmRequest{Version: 2}); err != nil || res.GetVersion() != 2 {
		t.Errorf("%v %v", res, err)
	}
	p.now = p.now.Add(time.Hour)
	s.Probation.look(t.Context())
	p.want(t, "two", 2)
}

// A version that comes after it, or instead of it, is not taken back.
func TestAnotherVersion(t *testing.T) {
	p, s := trying(t)
	if err := p.apply(t, s, "two", 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := p.apply(t, s, "three", 2, 0); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(time.Hour)
	s.Probation.look(t.Context())
	p.want(t, "three", 3)
	if p.record != 0 {
		t.Error("the record is left")
	}

	p, s = trying(t)
	p.fails = errors.New("no outcome")
	if err := p.apply(t, s, "two", 1, time.Minute); err == nil {
		t.Fatal("it was applied")
	}
	p.fails = nil
	if err := p.apply(t, s, "somebody else's", 1, 0); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(time.Hour)
	s.Probation.look(t.Context())
	p.want(t, "somebody else's", 2)
}

// One that follows another that was not confirmed goes back to what was.
func TestTwice(t *testing.T) {
	p, s := trying(t)
	for i, text := range []string{"two", "three"} {
		if err := p.apply(t, s, text, uint64(i+1), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	p.now = p.now.Add(time.Minute)
	s.Probation.look(t.Context())
	p.want(t, "one", 4)
}

func TestNoProbation(t *testing.T) {
	p, s := trying(t)
	for _, d := range []time.Duration{-time.Second, time.Second, 30 * 24 * time.Hour} {
		if err := p.apply(t, s, "two", 1, d); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", d, err)
		}
	}
	if err := p.apply(t, s, "two", 0, time.Minute); status.Code(err) != codes.InvalidArgument {
		t.Errorf("back to what? %v", err)
	}
	s.Probation = nil
	if err := p.apply(t, s, "two", 1, time.Minute); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without: %v", err)
	}
	if _, err := s.Confirm(t.Context(), &adminv1.ConfigServiceConfirmRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("without: %v", err)
	}
	p.want(t, "one", 1)
}
