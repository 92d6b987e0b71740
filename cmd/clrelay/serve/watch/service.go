package watch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/explain"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tally"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	askWait = 5 * time.Second
	// rows is how many of its names a node tells others about, so that little
	// is lost where they are added up.
	rows = 512
	// most bounds what a caller may ask for.
	most = 500
)

// Queue is what is asked of the queue; delivery/queue's Runner.
type Queue interface {
	Counts() queue.Counts
	Destinations(visit func(*queue.Lane))
}

// Service is the TopService of a node.
type Service struct {
	adminv1.UnimplementedTopServiceServer
	Node     string
	Watch    *Watch
	Queue    Queue
	Started  time.Time
	Ready    func() bool
	Sessions func() int
	Fleet    fleet.Fleet
}

// Stats is of TopService.
func (s *Service) Stats(ctx context.Context, req *adminv1.StatsRequest) (*adminv1.StatsResponse, error) {
	limit := int(req.GetLimit())
	if limit < 0 || limit > most {
		return nil, admin.InvalidError(fmt.Sprintf("limit %d: from 0 to %d", limit, most))
	}
	limit = cmp.Or(limit, 20)
	theirs := &adminv1.StatsRequest{By: req.GetBy(), Window: req.GetWindow(), Limit: req.GetLimit(), Local: true}
	out, lists := &adminv1.StatsResponse{}, [][]tally.Row(nil)
	add := func(r *adminv1.StatsResponse) error {
		out.Nodes = append(out.Nodes, r.GetNodes()...)
		out.Destinations = append(out.Destinations, r.GetDestinations()...)
		var list []tally.Row
		for _, row := range r.GetRows() {
			list = append(list, tally.Row{Name: row.GetName(), Count: row.GetCount(), Error: row.GetError()})
		}
		lists = append(lists, list)
		return nil
	}
	answers := fleet.Ask(ctx, s.Fleet.Others(ctx, req.GetLocal()), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.StatsResponse, error) {
		return adminv1.NewTopServiceClient(p.Conn).Stats(ctx, theirs)
	})
	own := s.own(req, limit)
	if req.GetLocal() {
		return own, nil
	}
	_ = add(own) // it takes everything
	out.MissingNodes = fleet.Each(answers, add)
	slices.SortFunc(out.Nodes, func(a, b *adminv1.NodeStats) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	slices.SortStableFunc(out.Destinations, func(a, b *adminv1.Destination) int {
		return cmp.Compare(b.GetRecipients(), a.GetRecipients())
	})
	out.Destinations = out.Destinations[:min(limit, len(out.Destinations))]
	for _, r := range tally.Merge(limit, lists...) {
		out.Rows = append(out.Rows, &adminv1.TopRow{Name: r.Name, Count: r.Count, Error: r.Error})
	}
	return out, nil
}

// own is this node's part.
func (s *Service) own(req *adminv1.StatsRequest, limit int) *adminv1.StatsResponse {
	now, c := time.Now(), s.Queue.Counts()
	w := s.Watch
	n := &adminv1.NodeStats{
		Node: s.Node, At: timestamppb.New(now), Uptime: durationpb.New(now.Sub(s.Started)), Ready: s.Ready(), Sessions: int64(s.Sessions()),
		Running: int64(c.Running), Active: int64(c.Active), Deferred: int64(c.Deferred), Held: int64(c.Held),
		Accepted: w.accepted.Load(), Rejected: w.rejected.Load(), Delivered: w.delivered.Load(),
		PutOff: w.putOff.Load(), Bounced: w.bounced.Load(), Uncounted: w.uncounted.Load(),
	}
	if !c.Oldest.IsZero() {
		n.Oldest = durationpb.New(max(0, now.Sub(c.Oldest)))
	}
	out := &adminv1.StatsResponse{Nodes: []*adminv1.NodeStats{n}}
	lanes := busiest(s.Queue, limit)
	for i := range lanes {
		d := explain.Destination(&lanes[i])
		d.Node = s.Node
		out.Destinations = append(out.Destinations, d)
	}
	by := map[adminv1.TopBy]*tally.Tally{
		adminv1.TopBy_TOP_BY_SENDER: w.senders, adminv1.TopBy_TOP_BY_DOMAIN: w.domains,
		adminv1.TopBy_TOP_BY_CLIENT: w.clients, adminv1.TopBy_TOP_BY_REASON: w.reasons,
	}[req.GetBy()]
	if by == nil {
		return out
	}
	for _, r := range by.Top(now, req.GetWindow().AsDuration(), rows) {
		out.Rows = append(out.Rows, &adminv1.TopRow{Name: strings.ToValidUTF8(r.Name, "\ufffd"), Count: r.Count, Error: r.Error})
	}
	return out
}

// busiest gives the destinations with most recipients, n at most, these first.
func busiest(q Queue, n int) (out []queue.Lane) {
	q.Destinations(func(l *queue.Lane) {
		if l.Recipients == 0 || len(out) == n && l.Recipients <= out[n-1].Recipients {
			return
		}
		at, _ := slices.BinarySearchFunc(out, l.Recipients, func(o queue.Lane, r int) int { return cmp.Compare(r, o.Recipients) })
		out = slices.Insert(out, at, *l)
		out = out[:min(len(out), n)]
	})
	return out
}

// Trials is the TestService of a node.
type Trials struct {
	*explain.Service
	Watch *Watch
	Fleet fleet.Fleet
}

// Outcomes is of TestService.
func (t *Trials) Outcomes(ctx context.Context, req *adminv1.OutcomesRequest) (*adminv1.OutcomesResponse, error) {
	id, err := mail.ParseID(req.GetId())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", admin.ErrNotFound, err)
	}
	out := &adminv1.OutcomesResponse{}
	for _, o := range t.Watch.of(id) {
		line := o.reply.Line()
		if o.reply.Code == 0 {
			line = cmp.Or(o.reply.Text, o.cause)
		}
		out.Outcomes = append(out.Outcomes, &adminv1.Outcome{
			Rcpt: strings.ToValidUTF8(o.to.String(), "\ufffd"), Event: o.word(), At: timestamppb.New(o.at), Attempts: uint32(o.attempts),
			Reply: strings.ToValidUTF8(line, "\ufffd"), Remote: strings.ToValidUTF8(o.remote, "\ufffd"), Node: t.Node,
		})
	}
	theirs := &adminv1.OutcomesRequest{Id: req.GetId(), Local: true}
	answers := fleet.Ask(ctx, t.Fleet.Others(ctx, req.GetLocal()), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.OutcomesResponse, error) {
		return adminv1.NewTestServiceClient(p.Conn).Outcomes(ctx, theirs)
	})
	out.MissingNodes = fleet.Each(answers, func(r *adminv1.OutcomesResponse) error {
		out.Outcomes = append(out.Outcomes, r.GetOutcomes()...)
		return nil
	})
	return out, nil
}
