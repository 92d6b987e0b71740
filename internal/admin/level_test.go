package admin

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// asked is a queue that remembers what it was asked.
type asked struct {
	Queue
	last *Change
}

func (a *asked) Change(_ context.Context, c *Change) (Changed, error) {
	a.last = c
	return Changed{Recipients: 1, Kept: time.Hour}, nil
}

func (a *asked) Status(context.Context) Status { return Status{Node: "mx1"} }

// TestOlderNodesAreNotMisled: below the level that all nodes need to know what
// is new, what they would overlook is refused.
func TestOlderNodesAreNotMisled(t *testing.T) {
	level := uint32(2)
	a := &asked{}
	q := &queueService{queue: a, node: a, level: func() uint32 { return level }}
	domain := &adminv1.Change{Selector: &adminv1.Selector{Domains: []string{"x.org"}}}
	sender := &adminv1.Change{Selector: &adminv1.Selector{Domains: []string{"x.org"}, Senders: []string{"payroll"}}}
	try := map[string]func() error{
		"undrop": func() error { _, err := q.Undrop(t.Context(), &adminv1.UndropRequest{Change: domain}); return err },
		"reroute": func() error {
			_, err := q.Reroute(t.Context(), &adminv1.RerouteRequest{Change: domain, To: "mx"})
			return err
		},
		"expire": func() error {
			_, err := q.Expire(t.Context(), &adminv1.ExpireRequest{Change: domain, At: timestamppb.Now()})
			return err
		},
		"selector": func() error { _, err := q.Drop(t.Context(), &adminv1.DropRequest{Change: sender}); return err },
	}
	for name, f := range try {
		var refused RefusedError
		if err := f(); !errors.As(err, &refused) || a.last != nil {
			t.Errorf("%s at level %d: %v", name, level, err)
		}
	}
	if _, err := q.Hold(t.Context(), &adminv1.HoldRequest{Change: domain}); err != nil || a.last == nil {
		t.Errorf("what is not new is refused: %v", err)
	}
	level = 3
	for name, f := range try {
		a.last = nil
		if err := f(); err != nil || a.last == nil {
			t.Errorf("%s at level %d: %v", name, level, err)
		}
	}
}

func TestTheTrashIsForUndropAlone(t *testing.T) {
	a := &asked{}
	q := &queueService{queue: a, node: a}
	change := func(states ...adminv1.RecipientState) *adminv1.Change {
		return &adminv1.Change{Selector: &adminv1.Selector{Domains: []string{"x.org"}, States: states}}
	}
	const trash, held = adminv1.RecipientState_RECIPIENT_STATE_TRASH, adminv1.RecipientState_RECIPIENT_STATE_HELD
	if _, err := q.Undrop(t.Context(), &adminv1.UndropRequest{Change: change()}); err != nil || !a.last.Selector.MatchRecipient(mail.StateTrashed, 0, "") {
		t.Errorf("undrop does not look into the trash: %v", err)
	}
	for name, f := range map[string]func() error{
		"undrop of held ones": func() error {
			_, err := q.Undrop(t.Context(), &adminv1.UndropRequest{Change: change(held)})
			return err
		},
		"hold": func() error { _, err := q.Hold(t.Context(), &adminv1.HoldRequest{Change: change(trash)}); return err },
		"drop": func() error { _, err := q.Drop(t.Context(), &adminv1.DropRequest{Change: change(trash)}); return err },
	} {
		var bad InvalidError
		if err := f(); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	res, err := q.Drop(t.Context(), &adminv1.DropRequest{Change: change(trash), Now: true})
	if err != nil || !a.last.Now || res.GetResult().GetKept().AsDuration() != time.Hour {
		t.Errorf("drop now: %v, %v", res, err)
	}
	if _, err := q.Hold(t.Context(), &adminv1.HoldRequest{Change: &adminv1.Change{Selector: &adminv1.Selector{Nodes: []string{"mx7"}}}}); err == nil {
		t.Error("a node that there is not was asked")
	}
}
