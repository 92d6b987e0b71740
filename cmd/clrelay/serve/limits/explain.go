package limits

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	who "github.com/clrelay/clrelay/internal/limit/subject"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// ExplainLimits is of LimitService.
func (s *Service) ExplainLimits(ctx context.Context, req *adminv1.ExplainLimitsRequest) (*adminv1.ExplainLimitsResponse, error) {
	domain, err := asked(req.GetDestination())
	if err != nil {
		return nil, invalid("%q is neither a domain nor an address", req.GetDestination())
	}
	subject := limit.Subject{Domain: domain}
	if f := req.GetFrom(); f != "" {
		from, err := mail.ParseMailbox(f, true)
		if err != nil && f != "<>" {
			return nil, invalid("the sender %q: %v", f, err)
		}
		who.From(&subject, from)
	}
	out := &adminv1.ExplainLimitsResponse{Node: s.Node, Domain: domain}
	set, now := s.Set(), s.Now()
	hop, reply := set.Router.Route(subject.Group, domain)
	if reply != nil {
		out.Reply = text(reply.Line())
		out.Summary = summary(out, now)
		return out, nil
	}
	if i, ok := set.Router.Rule(domain); ok {
		subject.Route = set.Cluster.RouteName(i)
		out.Route = subject.Route
	}
	subject.Site = s.Sites.Site(ctx, hop)
	out.Site, out.Lane, out.State = text(subject.Site), text(hop.Key), "unknown"
	s.Lanes.Destinations(func(l *queue.Lane) {
		if l.Key == hop.Key {
			lane(out, l)
		}
	})
	s.verdicts(out, &subject, now)
	if !req.GetLocal() {
		s.elsewhere(ctx, out, req)
		out.Summary = summary(out, now)
	}
	return out, nil
}

// elsewhere asks the other nodes the same.
func (s *Service) elsewhere(ctx context.Context, out *adminv1.ExplainLimitsResponse, req *adminv1.ExplainLimitsRequest) {
	theirs := &adminv1.ExplainLimitsRequest{Destination: req.GetDestination(), From: req.GetFrom(), Local: true}
	answers := fleet.Ask(ctx, s.Fleet.Others(ctx, false), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.ExplainLimitsResponse, error) {
		return adminv1.NewLimitServiceClient(p.Conn).ExplainLimits(ctx, theirs)
	})
	out.MissingNodes = fleet.Each(answers, func(r *adminv1.ExplainLimitsResponse) error {
		out.Others = append(out.Others, r)
		return nil
	})
	slices.SortFunc(out.Others, func(a, b *adminv1.ExplainLimitsResponse) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
}

func lane(out *adminv1.ExplainLimitsResponse, l *queue.Lane) {
	out.State, out.Running, out.Most, out.Recipients = l.State, int64(l.Running), int64(l.Limit), int64(l.Recipients)
	if l.Why != nil {
		out.Why = text(l.Why.Line())
	}
	if !l.Next.IsZero() {
		out.NextTry = timestamppb.New(l.Next)
	}
}

// verdicts asks the limits, those that stand in the way first.
func (s *Service) verdicts(out *adminv1.ExplainLimitsResponse, subject *limit.Subject, now time.Time) {
	stated := map[string]shaping.Stated{}
	for _, d := range s.all() {
		stated[d.Name] = d
	}
	list := s.Limiter.Explain(limit.Deliver, subject)
	slices.SortStableFunc(list, func(a, b local.Verdict) int {
		return cmp.Or(order(a.Allowed)-order(b.Allowed), cmp.Compare(b.Wait, a.Wait), cmp.Compare(a.Definition.Name, b.Definition.Name))
	})
	for i := range list {
		v := &list[i]
		d, ok := stated[v.Definition.Name]
		if !ok {
			d = shaping.Stated{Definition: *v.Definition}
		}
		out.Verdicts = append(out.Verdicts, &adminv1.LimitVerdict{
			Limit: travels(&d), Key: text(v.Words), Allows: v.Allowed, Wait: span(v.Wait), Use: s.use(&v.Usage, now),
		})
	}
}

func order(allowed bool) int {
	if allowed {
		return 1
	}
	return 0
}
