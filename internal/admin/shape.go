package admin

import (
	"context"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/shape"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func (q *queueService) Shape(ctx context.Context, req *adminv1.ShapeRequest) (*adminv1.ShapeResponse, error) {
	sel, peers, err := q.pick(ctx, req.GetSelector(), req.GetLocal())
	if err != nil {
		return nil, err
	}
	m := shape.NewMatrix(req.GetBy(), q.now())
	theirs := &adminv1.ShapeRequest{Selector: req.GetSelector(), By: req.GetBy(), Local: true}
	answers, err := fleet.AskWhile(ctx, peers, countWait, func(ctx context.Context, p Peer) (*adminv1.ShapeResponse, error) {
		return adminv1.NewQueueServiceClient(p.Conn).Shape(ctx, theirs)
	}, func(ctx context.Context) error { return q.queue.Scan(ctx, sel, m.Add) })
	if err != nil {
		return nil, err
	}
	missing := fleet.Each(answers, m.Merge)
	out := m.Response(req.GetLimit())
	out.MissingNodes = missing
	return out, nil
}

func (q *queueService) Reasons(ctx context.Context, req *adminv1.ReasonsRequest) (*adminv1.ReasonsResponse, error) {
	sel, peers, err := q.pick(ctx, req.GetSelector(), req.GetLocal())
	if err != nil {
		return nil, err
	}
	r := shape.NewReasons(req.GetBy(), len(sel.States) > 0 || req.GetSelector().GetEverything())
	r.Site = q.site
	theirs := &adminv1.ReasonsRequest{Selector: req.GetSelector(), Local: true, By: req.GetBy()}
	answers, err := fleet.AskWhile(ctx, peers, countWait, func(ctx context.Context, p Peer) (*adminv1.ReasonsResponse, error) {
		return adminv1.NewQueueServiceClient(p.Conn).Reasons(ctx, theirs)
	}, func(ctx context.Context) error { return q.queue.List(ctx, sel, r.Add) })
	if err != nil {
		return nil, err
	}
	missing := fleet.Each(answers, r.Merge)
	out := r.Response(req.GetLimit(), req.GetLocal())
	out.MissingNodes = missing
	return out, nil
}
