package serve

import (
	"context"
	"net/netip"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/limits"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/sources"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/work"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/lockouts"
	"github.com/clrelay/clrelay/internal/admin/who"
)

// makeShaping makes what learns how much destinations bear. The settings count
// at once; what was learned, once it is started.
func (r *relay) makeShaping() (err error) {
	r.resolver = r.makeResolver()
	r.parts.shaping, err = shaping.New(shaping.Options{
		Node: string(r.conf().node.Name), Settings: &r.conf().cluster.Shaping, Resolver: r.resolver, Obey: r.parts.limits.Override,
		PerDestination: func() int { return r.conf().cluster.Deliver.PerDestination }, Log: r.log, Mail: r.maillog, Metrics: r.metrics.Shaping,
	})
	return err
}

// destinations is the part of the admin API about limits, those who do not keep to
// measure, and routes.
func (r *relay) destinations(to grpc.ServiceRegistrar, f fleet.Fleet) {
	limits.Register(to, &limits.Service{
		Node: string(r.conf().node.Name), Learned: r.parts.shaping, Sites: r.parts.shaping, Limiter: r.parts.limits,
		Set: func() limits.Settings {
			return limits.Settings{Cluster: r.conf().cluster, Router: r.routes.table.Load(), WarmUps: sources.WarmUps(r.conf().cluster)}
		},
		Records: &work.Records{Kept: r.parts.books.Records, Refusal: refusal}, Kept: r.parts.books.Records, Lanes: r.parts.queue, Queue: r.parts.queue, Fleet: f,
		Caller: func(ctx context.Context) string {
			caller := who.Bindings(r.bindings).Of(ctx)
			return caller.Person()
		},
	}, r.parts.member)
	lockouts.Register(to, &lockouts.Service{
		Node: string(r.conf().node.Name), Table: r.parts.guard.Abuse, Fleet: f, Log: r.log,
		Trusted: func(a netip.Addr) bool { return r.state.Load() != starting && r.parts.guard.Door.Trusts(a) },
	})
}
