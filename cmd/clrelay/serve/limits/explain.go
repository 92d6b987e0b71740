package limits

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// ExplainLimits is of LimitService.
func (s *Service) ExplainLimits(ctx context.Context, req *adminv1.ExplainLimitsRequest) (*adminv1.ExplainLimitsResponse, error) {
	domain := strings.TrimSpace(req.GetDestination())
	if at := strings.LastIndexByte(domain, '@'); at >= 0 {
		domain = domain[at+1:]
	}
	domain, err := route.Normalize(domain)
	if err != nil {
		return nil, invalid("%q is neither a domain nor an address", req.GetDestination())
	}
	subject := limit.Subject{Domain: domain}
	if f := req.GetFrom(); f != "" {
		from, err := mail.ParseMailbox(f, true)
		if err != nil && f != "<>" {
			return nil, invalid("the sender %q: %v", f, err)
		}
		subject.Sender, subject.SenderDomain = cmp.Or(strings.ToLower(from.String()), "<>"), domainOf(from.Domain)
	}
	out := &adminv1.ExplainLimitsResponse{Node: s.Node, Domain: domain}
	set := s.Set()
	hop, reply := set.Router.Route(subject.Group, domain)
	if reply != nil {
		out.Reply = text(reply.Line())
		out.Summary = summary(out, s.Now())
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
	s.verdicts(out, &subject)
	out.Summary = summary(out, s.Now())
	return out, nil
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
func (s *Service) verdicts(out *adminv1.ExplainLimitsResponse, subject *limit.Subject) {
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
		out.Verdicts = append(out.Verdicts, &adminv1.LimitVerdict{Limit: travels(&d), Key: text(v.Words), Allows: v.Allowed, Wait: span(v.Wait)})
	}
}

func order(allowed bool) int {
	if allowed {
		return 1
	}
	return 0
}

// summary says all of it in a paragraph, for somebody who was woken by it.
func summary(r *adminv1.ExplainLimitsResponse, now time.Time) string {
	if r.GetReply() != "" {
		return fmt.Sprintf("Mail for %s goes nowhere: no route leads there, and its senders are told: %s", r.GetDomain(), r.GetReply())
	}
	var say []string
	add := func(format string, args ...any) { say = append(say, fmt.Sprintf(format, args...)) }
	at := ""
	if r.GetSite() != r.GetDomain() {
		at = fmt.Sprintf(", which is served by %s,", r.GetSite())
	}
	var stop []*adminv1.LimitVerdict
	for _, v := range r.GetVerdicts() {
		if !v.GetAllows() {
			stop = append(stop, v)
		}
	}
	switch {
	case len(stop) > 0 && stop[0].GetLimit().GetSuspended():
		add("Mail for %s%s is suspended.", r.GetDomain(), at)
	case r.GetState() == "down":
		add("Mail for %s%s does not move: the last tries failed.", r.GetDomain(), at)
	case len(stop) > 0 || r.GetState() == "limited":
		add("Mail for %s%s waits for a limit.", r.GetDomain(), at)
	case r.GetRecipients() == 0:
		add("Nothing is queued for %s%s on this node, and nothing holds new mail back.", r.GetDomain(), at)
	default:
		add("Mail for %s%s moves.", r.GetDomain(), at)
	}
	for _, v := range stop {
		add("%s", standsInTheWay(v, now))
	}
	if r.GetWhy() != "" && r.GetState() != "limited" {
		add("The last word was: %s.", strings.TrimSuffix(r.GetWhy(), "."))
	}
	if r.GetNextTry() != nil {
		add("It is tried again %s.", in(r.GetNextTry().AsTime().Sub(now)))
	}
	if r.GetRecipients() > 0 {
		add("On this node %d recipients are queued for it, and %d deliveries are under way.", r.GetRecipients(), r.GetRunning())
	}
	return strings.Join(say, " ")
}

// standsInTheWay says which limit does, who set it, why, and until when.
func standsInTheWay(v *adminv1.LimitVerdict, now time.Time) string {
	l := v.GetLimit()
	var what string
	switch {
	case l.GetSuspended():
		what = "nothing is sent"
	case l.GetConnections() > 0 && l.GetRate() == "" && l.GetBudget() == "":
		what = fmt.Sprintf("all %d connections of this limit are in use, or are with other nodes", l.GetConnections())
	case l.GetBudget() != "":
		what = "the budget of " + l.GetBudget() + " is used up"
	default:
		what = "no more than " + l.GetRate() + " may go"
	}
	s := fmt.Sprintf("Limit %s: %s", l.GetName(), what)
	if w := v.GetWait(); w != nil && !l.GetSuspended() {
		s += "; the next may go " + in(w.AsDuration())
	}
	switch l.GetOrigin() {
	case shaping.Learned:
		s += "; learned from the reply: " + l.GetReason()
	case shaping.Set:
		s += "; set by " + l.GetAuthor()
		if l.GetReason() != "" {
			s += ": " + l.GetReason()
		}
	case shaping.Shipped:
		s += "; it comes with the program"
	case shaping.Configured:
		s += "; it is of the cluster's configuration"
	}
	if l.GetUntil() != nil {
		s += "; it ends " + in(l.GetUntil().AsTime().Sub(now))
	}
	if l.GetOrigin() == shaping.Learned || l.GetOrigin() == shaping.Set {
		s += fmt.Sprintf(" (to end it now: clrelay limit clear %s)", l.GetName())
	}
	return s + "."
}

// in says when, from now.
func in(d time.Duration) string {
	switch {
	case d <= 0:
		return "now"
	case d < time.Second:
		return "within a second"
	case d < 2*time.Minute:
		return fmt.Sprintf("in %d s", int(d.Seconds()+0.5))
	case d < 2*time.Hour:
		return fmt.Sprintf("in %d min", int(d.Minutes()+0.5))
	}
	return fmt.Sprintf("in %.1f h", d.Hours())
}
