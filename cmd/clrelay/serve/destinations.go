package serve

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/limits"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/work"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/who"
	section "github.com/clrelay/clrelay/internal/config/limits"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// makeShaping makes what learns how much destinations bear. The settings count
// at once; what was learned, once startShaping has read it.
func (r *relay) makeShaping() (err error) {
	r.parts.shaping, err = shaping.New(shaping.Options{
		Node: string(r.conf().node.Name), Settings: &r.conf().cluster.Shaping, Resolver: r.resolver, Obey: r.parts.limits.Override,
		PerDestination: func() int { return r.conf().cluster.Deliver.PerDestination },
		Log:            r.log, Mail: r.maillog, Metrics: r.metrics.Shaping,
	})
	return err
}

func (r *relay) startShaping() {
	if r.parts.member == nil {
		r.parts.shaping.Start(r.parts.books.Records, nil)
		return
	}
	r.parts.shaping.Start(r.parts.books.Records, fellows{r.parts.member})
}

// fellows is the cluster as shaping sees it.
type fellows struct{ *cluster.Node }

// Size is of shaping.Cluster.
func (f fellows) Size() (n int) {
	f.Read(func(s *fsm.State) {
		for _, node := range s.Nodes() {
			if node.State != fsm.Removed {
				n++
			}
		}
	})
	return n
}

// destinations is the part of the admin API about limits and routes.
func (r *relay) destinations(to grpc.ServiceRegistrar, f fleet.Fleet) {
	set := func() limits.Settings {
		c := r.conf().cluster
		return limits.Settings{Cluster: c, Router: r.routes.table.Load(), Limits: section.Definitions(c.Limits)}
	}
	adminv1.RegisterLimitServiceServer(to, &limits.Service{
		Node: string(r.conf().node.Name), Now: time.Now, Set: set, Learned: r.parts.shaping, Sites: r.parts.shaping, Limiter: r.parts.limits,
		Records: &work.Records{Kept: r.parts.books.Records, Refusal: refusal}, Kept: r.parts.books.Records, Lanes: r.parts.queue, Fleet: f,
		Caller: func(ctx context.Context) string { return who.Bindings(r.bindings).Of(ctx).Text },
	})
	adminv1.RegisterRouteServiceServer(to, &limits.Routes{Set: set, Lanes: r.parts.queue, Fleet: f})
}
