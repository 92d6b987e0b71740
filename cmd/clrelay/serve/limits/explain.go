package limits

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
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
	out := &adminv1.ExplainLimitsResponse{Node: s.Node, Domain: domain, NoLease: s.Leased != nil && !s.Leased()}
	set, now := s.Set(), s.Now()
	hop, reply := set.Router.Route(subject.Group, domain)
	if reply != nil {
		out.Reply = text(reply.Line())
		out.Summary = summary(out, subject.Sender, now)
		return out, nil
	}
	if i, ok := set.Router.Rule(domain); ok {
		subject.Route = set.Cluster.RouteName(i)
		out.Route = subject.Route
	}
	subject.Site = s.Sites.Site(ctx, hop)
	out.Site = text(subject.Site)
	found, err := s.look(ctx, &subject)
	if err != nil {
		return nil, err
	}
	s.lanes(out, &hop, found.lanes)
	out.Mail = found.travels(func(name string) bool { _, ok := s.Limiter.Definition(name); return ok })
	s.verdicts(out, s.ask(&subject, found), now)
	if !req.GetLocal() {
		s.elsewhere(ctx, out, req)
		out.Summary = summary(out, subject.Sender, now)
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

// lanes tells of the lanes in which mail was found: senders with pools have their
// own. Where there is none it is the lane of the hop. What is said of several is
// what the one says that stands worst.
func (s *Service) lanes(out *adminv1.ExplainLimitsResponse, hop *mail.NextHop, found map[string]bool) {
	if len(found) == 0 {
		found = map[string]bool{hop.Key: true}
	}
	worst := -1
	s.Lanes.Destinations(func(l *queue.Lane) {
		if !found[l.Key] {
			return
		}
		out.Running, out.Most, out.Recipients = out.GetRunning()+int64(l.Running), out.GetMost()+int64(l.Limit), out.GetRecipients()+int64(l.Recipients)
		if bad := slices.Index([]string{"unknown", "proven", "limited", "down"}, l.State); bad > worst {
			worst = bad
			stands(out, l)
		}
	})
	keys := slices.Sorted(maps.Keys(found))
	out.Lane, out.State = text(strings.Join(keys, ", ")), cmp.Or(out.GetState(), "unknown")
}

// stands says how a lane stands. Of one that moves it says no more: what some
// sender waits for there may be nothing to the mail that was asked about.
func stands(out *adminv1.ExplainLimitsResponse, l *queue.Lane) {
	out.State, out.Why, out.NextTry = l.State, "", nil
	if l.State != "down" && l.State != "limited" {
		return
	}
	if l.Why != nil {
		out.Why = text(l.Why.Line())
	}
	if !l.Next.IsZero() {
		out.NextTry = timestamppb.New(l.Next)
	}
}

// ask asks the limits about what was asked about, and about what is queued: of
// what may go as far as the queue knows only what they refuse.
func (s *Service) ask(about *limit.Subject, found *sample) (list []local.Verdict) {
	seen := map[key]bool{}
	ask := func(one *limit.Subject, all bool) {
		for _, v := range s.Limiter.Explain(limit.Deliver, one) {
			k := key{v.Definition.Name, v.Kind.String(), v.Words}
			if !seen[k] && (all || !v.Allowed) {
				seen[k] = true
				list = append(list, v)
			}
		}
	}
	waiting, due := found.subjects(s.Limiter.Definition)
	ask(about, true)
	for i := range waiting {
		ask(&waiting[i], true)
	}
	for i := range due {
		ask(&due[i], about.Sender != "")
	}
	slices.SortStableFunc(list, func(a, b local.Verdict) int {
		return cmp.Or(order(a.Allowed)-order(b.Allowed), cmp.Compare(b.Wait, a.Wait), cmp.Compare(a.Definition.Name, b.Definition.Name))
	})
	return list
}

// verdicts says what the limits said.
func (s *Service) verdicts(out *adminv1.ExplainLimitsResponse, list []local.Verdict, now time.Time) {
	stated := map[string]shaping.Stated{}
	for _, d := range s.all() {
		stated[d.Name] = d
	}
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
