// Package limits answers the admin API about limits and routes: what holds, who
// set it, what is used, and why mail for a destination moves as it does.
package limits

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster"
	share "github.com/clrelay/clrelay/cluster/limit"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/jobs"
	"github.com/clrelay/clrelay/internal/config"
	section "github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	askWait   = 5 * time.Second
	maxOrders = 1000                // limits that operators may have set
	maxHold   = 90 * 24 * time.Hour // how long at most, if not for good
	maxReason = 500
)

// Limiter is the node's; internal/limit/local's.
type Limiter interface {
	Usage(visit func(*local.Usage))
	Explain(side limit.Side, s *limit.Subject) []local.Verdict
	Definition(name string) (limit.Definition, bool)
}

// Records keep what operators set; cmd/clrelay/serve/work's.
type Records interface {
	Record(key string) (value []byte, version uint64)
	Put(ctx context.Context, key string, value []byte, ifVersion uint64) error
}

// Kept are all records of a prefix; cmd/clrelay/serve/books's.
type Kept interface {
	Records(prefix string) []control.Record
}

// Sites finds the site of a next hop.
type Sites interface {
	Site(ctx context.Context, hop mail.NextHop) string
}

// Learned is what is known of destinations; delivery/shape's Shaper.
type Learned interface {
	Book() *shape.Book
	List() []shape.Listed
}

// Lanes shows destinations; delivery/queue's Runner.
type Lanes interface {
	Destinations(visit func(*queue.Lane))
}

// Settings are those in force, with what was made of them.
type Settings struct {
	Cluster *config.Cluster
	Router  *route.Table
	WarmUps []warmup.Ramp
}

// Service is the LimitService of a node.
type Service struct {
	adminv1.UnimplementedLimitServiceServer
	Node    string
	Now     func() time.Time // time.Now when nil
	Set     func() Settings
	Learned Learned
	Sites   Sites
	Limiter Limiter
	Records Records
	Kept    Kept
	Lanes   Lanes
	Queue   Queue
	Fleet   fleet.Fleet
	Caller  func(ctx context.Context) string
	// Shares is what the leader knows of keys that begin with prefix; nil on a
	// machine that is alone.
	Shares func(ctx context.Context, prefix string) ([]share.Status, error)
	// Leased tells whether this node may deliver at all; nil on such a machine.
	Leased func() bool
}

// Register puts it, and the RouteService, on a server. member is nil on a machine
// that is alone.
func Register(to grpc.ServiceRegistrar, s *Service, member *cluster.Node) {
	if member != nil {
		s.Shares, s.Leased = member.Shares, member.Leased
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	adminv1.RegisterLimitServiceServer(to, s)
	adminv1.RegisterRouteServiceServer(to, &Routes{Set: s.Set, Lanes: s.Lanes, Fleet: s.Fleet})
}

func invalid(format string, args ...any) error {
	return admin.InvalidError(fmt.Sprintf(format, args...))
}

// all gives every limit in force, by name.
func (s *Service) all() (list []shaping.Stated) {
	for _, d := range section.Definitions(s.Set().Cluster.Limits) {
		list = append(list, shaping.Stated{Definition: d, Origin: shaping.Configured})
	}
	for _, d := range warmup.Definitions(s.Set().WarmUps, s.Now()) {
		list = append(list, shaping.Stated{Definition: d, Origin: shaping.Configured})
	}
	now := shaping.InForce(s.Learned, s.Kept, s.Now())
	list = slices.DeleteFunc(list, func(c shaping.Stated) bool {
		return slices.ContainsFunc(now, func(d shaping.Stated) bool { return d.Name == c.Name && d.Origin == shaping.Set })
	})
	list = append(list, now...)
	slices.SortStableFunc(list, func(a, b shaping.Stated) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// ListLimits is of LimitService. What comes with the program is much, and stands
// behind what is of this cluster.
func (s *Service) ListLimits(context.Context, *adminv1.ListLimitsRequest) (*adminv1.ListLimitsResponse, error) {
	out := &adminv1.ListLimitsResponse{}
	list, first := s.all(), []string{shaping.Set, shaping.Configured, shaping.Learned, shaping.Shipped}
	slices.SortStableFunc(list, func(a, b shaping.Stated) int { return slices.Index(first, a.Origin) - slices.Index(first, b.Origin) })
	for _, d := range list {
		out.Limits = append(out.Limits, travels(&d))
	}
	return out, nil
}

// travels makes of a limit what travels.
func travels(d *shaping.Stated) *adminv1.Limit {
	out := &adminv1.Limit{
		Name: text(d.Name), Side: d.Side.String(), Count: d.Count.String(), Burst: d.Burst, Connections: int64(d.Connections),
		Suspended: d.Suspended, ConnectionMessages: int64(d.ConnMessages), OnPartition: d.OnPartition.String(),
		Origin: d.Origin, Author: text(d.Author), Reason: text(d.Reason),
	}
	for f, values := range d.Match {
		if len(values) > 0 {
			m := &adminv1.LimitMatch{Field: limit.Field(f).String()}
			for _, v := range values {
				m.Values = append(m.Values, text(v))
			}
			out.Match = append(out.Match, m)
		}
	}
	for _, f := range d.Per {
		out.Per = append(out.Per, f.String())
	}
	if d.Rate.N > 0 {
		out.Rate = d.Rate.String()
	}
	if d.Budget.N > 0 {
		out.Budget = d.Budget.String()
	}
	if !d.Until.IsZero() {
		out.Until = timestamppb.New(d.Until)
	}
	return out
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// SetLimit is of LimitService.
func (s *Service) SetLimit(ctx context.Context, req *adminv1.SetLimitRequest) (*adminv1.SetLimitResponse, error) {
	d, err := s.order(req)
	if err != nil {
		return nil, err
	}
	doubts := section.Doubts(&d)
	for _, doubt := range doubts {
		if doubt.Never {
			return nil, invalid("%s would never hold: it %s", d.Name, doubt.Text)
		}
	}
	if err := s.sitesAre(ctx, d.Match[limit.Site]); err != nil {
		return nil, err
	}
	d.Author = s.Caller(ctx)
	if err := d.Check(); err != nil {
		return nil, invalid("%v", err)
	}
	key := shape.Orders + d.Name
	was, version := s.Records.Record(key)
	if version == 0 && len(s.Kept.Records(shape.Orders)) >= maxOrders {
		return nil, admin.RefusedError(fmt.Sprintf("operators have set %d limits already, and more are not kept: clear some", maxOrders))
	}
	if err := s.put(ctx, key, shape.WriteOrder(&d), version); err != nil {
		return nil, err
	}
	out := &adminv1.SetLimitResponse{Limit: travels(&shaping.Stated{Definition: d, Origin: shaping.Set}), Replaced: was != nil}
	for _, doubt := range doubts {
		out.Warnings = append(out.Warnings, doubt.Text)
	}
	for _, c := range section.Definitions(s.Set().Cluster.Limits) {
		if c.Name == d.Name {
			out.Instead = travels(&shaping.Stated{Definition: c, Origin: shaping.Configured})
		}
	}
	return out, nil
}

// order reads a limit that an operator wants.
func (s *Service) order(req *adminv1.SetLimitRequest) (d limit.Definition, err error) {
	in := req.GetLimit()
	d = limit.Definition{
		Name: in.GetName(), Burst: in.GetBurst(), Connections: int(in.GetConnections()), Suspended: in.GetSuspended(), Reason: req.GetReason(),
	}
	if !nameForm.MatchString(d.Name) {
		return d, invalid("%q is no name: 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit at both ends", d.Name)
	}
	if len(d.Reason) > maxReason {
		return d, invalid("the reason has more than %d octets", maxReason)
	}
	for _, m := range in.GetMatch() {
		f, ok := limit.ParseField(m.GetField())
		if !ok {
			return d, invalid("%q is nothing that a limit can be for", m.GetField())
		}
		for _, v := range m.GetValues() {
			if v, err = fit(s.Set().Cluster, f, v); err != nil {
				return d, invalid("%v", err)
			}
			d.Match[f] = append(d.Match[f], v)
		}
	}
	for _, p := range in.GetPer() {
		f, ok := limit.ParseField(p)
		if !ok {
			return d, invalid("%q is nothing that a limit can count by", p)
		}
		d.Per = append(d.Per, f)
	}
	if err = amounts(&d, in); err != nil {
		return d, err
	}
	if d.Side, err = s.side(&d, in.GetSide()); err != nil {
		return d, err
	}
	if empty(&d) && len(d.Per) == 0 {
		return d, invalid("for which mail? Give a site, a domain, a source, a sender, a user, a group, a client or a route, or what it counts by")
	}
	if hold := req.GetHold(); hold != nil {
		if t := hold.AsDuration(); t < time.Second || t > maxHold {
			return d, invalid("a limit holds for 1 second to 90 days, or until it is cleared")
		}
		d.Until = s.Now().Add(hold.AsDuration())
	}
	return d, nil
}

// side is on which side a limit is to be: where it is not said, on that of the
// configured one in whose place it stands.
func (s *Service) side(d *limit.Definition, said string) (side limit.Side, err error) {
	for _, c := range section.Definitions(s.Set().Cluster.Limits) {
		if c.Name == d.Name {
			side = c.Side
		}
	}
	if said == "" {
		return side, nil
	}
	side, ok := word(said, limit.Deliver, limit.Receive)
	if !ok {
		return side, invalid("%q is neither delivery nor receiving", said)
	}
	return side, nil
}

func empty(d *limit.Definition) bool {
	for _, values := range d.Match {
		if len(values) > 0 {
			return false
		}
	}
	return true
}

// sitesAre refuses domains that are no sites: a limit for them would never
// match.
func (s *Service) sitesAre(ctx context.Context, sites []string) error {
	for i, v := range sites {
		hop, reply := s.Set().Router.Route("", v)
		if strings.Contains(v, "*") || reply != nil || hop.Kind != mail.HopMX {
			continue
		}
		if at := s.Sites.Site(ctx, hop); at != sites[i] && !s.knows(sites[i]) {
			return invalid("%s is no site: its mail goes to the hosts of %s. Write --site %s for all mail there, or --domain %s for its own alone", v, at, at, v)
		}
	}
	return nil
}

// knows tells whether something is known of a site, whatever the DNS says.
func (s *Service) knows(at string) bool {
	return s.Learned.Book().Default(at).Site != "" || slices.ContainsFunc(s.Learned.List(), func(l shape.Listed) bool { return l.Site == at })
}

// put writes a record; a nil value deletes it.
func (s *Service) put(ctx context.Context, key string, value []byte, version uint64) error {
	err := s.Records.Put(ctx, key, value, version)
	switch {
	case errors.Is(err, jobs.ErrConflict):
		return admin.RefusedError("it was changed by somebody else meanwhile: look at it and try again")
	case errors.Is(err, jobs.ErrLevel):
		return admin.RefusedError("a node of the cluster runs a version of clrelay that keeps no limits; it works once all are upgraded")
	}
	return err
}

// ClearLimit is of LimitService.
func (s *Service) ClearLimit(ctx context.Context, req *adminv1.ClearLimitRequest) (*adminv1.ClearLimitResponse, error) {
	name := req.GetName()
	out := &adminv1.ClearLimitResponse{}
	if _, version := s.Records.Record(shape.Orders + name); version != 0 {
		out.Names = []string{name}
		return out, s.put(ctx, shape.Orders+name, nil, version)
	}
	for _, l := range s.Learned.List() {
		key := shape.Space + l.Site
		if name == shape.LearnedName(l.Site) {
			for _, d := range l.Definitions(l.Site) {
				out.Names = append(out.Names, text(d.Name))
			}
			_, version := s.Records.Record(key)
			if version == 0 {
				return nil, admin.RefusedError("it was learned this moment, or could not be written yet: try again")
			}
			return out, s.put(ctx, key, nil, version)
		}
		if rest, ok := l.Without(l.Site, name); ok {
			_, version := s.Records.Record(key)
			out.Names = []string{text(name)}
			return out, s.put(ctx, key, rest.Record(), version)
		}
	}
	for _, d := range s.all() {
		if d.Name != name {
			continue
		}
		if d.Origin == shaping.Shipped {
			return nil, admin.RefusedError(fmt.Sprintf("%s comes with the program: give the site other figures in shaping.sites of the cluster's configuration, or set shaping.shipped: false", name))
		}
		if d.Author == warmup.Author {
			return nil, admin.RefusedError(fmt.Sprintf("%s is the warm-up of a source: clrelay config edit changes it, in pools", name))
		}
		return nil, admin.RefusedError(fmt.Sprintf("%s is of the cluster's configuration: clrelay config edit changes it, and limit set %s replaces it for a while", name, name))
	}
	return nil, status.Errorf(codes.NotFound, "there is no limit %q; clrelay limit list shows those there are", text(name))
}

// LimitUsage is of LimitService.
func (s *Service) LimitUsage(ctx context.Context, req *adminv1.LimitUsageRequest) (*adminv1.LimitUsageResponse, error) {
	name := req.GetName()
	if name != "" && !req.GetLocal() && !slices.ContainsFunc(s.all(), func(d shaping.Stated) bool { return d.Name == name }) {
		return nil, status.Errorf(codes.NotFound, "there is no limit %q; clrelay limit list shows those there are", text(name))
	}
	out := &adminv1.LimitUsageResponse{Uses: s.uses(name)}
	theirs := &adminv1.LimitUsageRequest{Name: name, Local: true}
	answers := fleet.Ask(ctx, s.Fleet.Others(ctx, req.GetLocal()), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.LimitUsageResponse, error) {
		return adminv1.NewLimitServiceClient(p.Conn).LimitUsage(ctx, theirs)
	})
	out.MissingNodes = fleet.Each(answers, func(r *adminv1.LimitUsageResponse) error {
		out.Uses = append(out.Uses, r.GetUses()...)
		return nil
	})
	out.Uses = append(out.Uses, s.silent(ctx, name, out.MissingNodes)...)
	slices.SortStableFunc(out.Uses, func(a, b *adminv1.LimitUse) int {
		return cmp.Or(cmp.Compare(a.GetLimit(), b.GetLimit()), cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetKey(), b.GetKey()), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	return out, nil
}

// maxUses bounds what a node tells of limits that count by much.
const maxUses = 2000

// uses is this node's part: the most wanted where there is too much.
func (s *Service) uses(name string) (out []*adminv1.LimitUse) {
	now := s.Now()
	s.Limiter.Usage(func(u *local.Usage) {
		if name == "" || u.Definition.Name == name {
			out = append(out, s.use(u, now))
		}
	})
	if len(out) > maxUses {
		slices.SortFunc(out, func(a, b *adminv1.LimitUse) int {
			return cmp.Or(cmp.Compare(b.GetWaiting(), a.GetWaiting()), cmp.Compare(b.GetDenied(), a.GetDenied()))
		})
		out = out[:maxUses]
	}
	return out
}

// use is how a part of a limit stands on this node.
func (s *Service) use(u *local.Usage, now time.Time) *adminv1.LimitUse {
	out := &adminv1.LimitUse{
		Limit: text(u.Definition.Name), Kind: u.Kind.String(), Key: text(u.Words), Node: s.Node,
		Used: int64(u.Used), Share: u.Limit, Of: of(u.Definition, u.Kind), Waiting: int64(u.Waiting), Denied: u.Denied,
	}
	if u.Kind == limit.KindRate {
		out.Rate, out.Pace, out.PaceShare = u.Definition.Rate.String(), u.Lately, u.Pace()
	}
	if u.Next > 0 {
		out.Next = timestamppb.New(now.Add(u.Next))
	}
	return out
}

// of is what all nodes may use of a key.
func of(d *limit.Definition, kind limit.Kind) int64 {
	switch kind {
	case limit.KindConnections:
		return int64(d.Connections)
	case limit.KindBudget:
		return d.Budget.N
	case limit.KindRate:
		return d.Burst
	}
	return 0
}

// silent tells what nodes have that did not answer, as the leader knows it: of
// what is not divided evenly. Of a budget it says nothing.
func (s *Service) silent(ctx context.Context, name string, nodes []string) (out []*adminv1.LimitUse) {
	if s.Shares == nil || len(nodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	prefix := name
	if name != "" {
		prefix += "#"
	}
	list, err := s.Shares(ctx, prefix)
	if err != nil {
		return nil // no leader: the nodes are named as missing all the same
	}
	for i := range list {
		limitOf, kind, words, ok := list[i].Key.Parts()
		d, known := s.Limiter.Definition(limitOf)
		if !ok || !known || kind == limit.KindBudget || list[i].Of == 0 {
			continue
		}
		for _, n := range list[i].Nodes {
			if !slices.Contains(nodes, n.Node) || len(out) >= maxUses {
				continue
			}
			part := float64(n.Units) / float64(list[i].Of)
			use := &adminv1.LimitUse{
				Limit: text(d.Name), Kind: kind.String(), Key: text(words), Node: n.Node, Of: of(&d, kind), Silent: true,
				Share: int64(part * float64(of(&d, kind))),
			}
			if kind == limit.KindRate {
				use.Rate, use.PaceShare = d.Rate.String(), part*float64(d.Rate.N)
			}
			out = append(out, use)
		}
	}
	return out
}

// text makes a string of foreign origin fit for protobuf.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func span(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}
