package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/bundle"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/examine"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/explain"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/sources"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/watch"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/who"
	"github.com/clrelay/clrelay/internal/config"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// inForce is what mail goes by at this moment.
func (r *relay) inForce() explain.Settings {
	set := r.conf()
	s := explain.Settings{
		Name: string(set.node.ClusterConfig), Cluster: set.cluster, Router: r.routes.table.Load(),
		Pools: sources.Make(set.node, set.cluster), WarmUps: sources.WarmUps(set.cluster),
	}
	if v := r.versions.Load().inForce; v > 0 {
		s.Name = fmt.Sprintf("cluster configuration %d", v)
	}
	return s
}

// services are the parts of the admin API that show an operator's everyday.
func (r *relay) services(to grpc.ServiceRegistrar, f fleet.Fleet, cluster admin.Cluster) {
	r.destinations(to, f)
	node := string(r.conf().node.Name)
	adminv1.RegisterTestServiceServer(to, &watch.Trials{Watch: r.watch, Fleet: f, Service: &explain.Service{
		Node: node, Now: r.inForce, Hosts: r.parts.delivery, Lanes: r.parts.queue, Returns: r.parts.returns,
		Policy: func() explain.Policy {
			if r.state.Load() == starting {
				return nil
			}
			return r.parts.suppress.Trial(r.parts.known.Trial(r.parts.policy))
		},
	}})
	r.parts.suppress.Register(to, func(ctx context.Context) string { return who.Bindings(r.bindings).Of(ctx).Text })
	figures := &watch.Service{
		Node: node, Watch: r.watch, Queue: r.parts.queue, Started: r.started, Fleet: f,
		Ready: func() bool { return r.notReady() == "" }, Sessions: r.sessions,
	}
	adminv1.RegisterTopServiceServer(to, figures)
	doctor := &examine.Service{
		Node: node, Doctor: r.doctor, Started: r.started, Resolver: r.resolver, Spool: r.metrics.Spool, Fleet: f, Cluster: cluster, Files: ownFiles,
		Settings: func() (*config.Node, *config.Cluster) { return r.conf().node, r.conf().cluster },
		Status:   r.examined,
	}
	adminv1.RegisterDoctorServiceServer(to, doctor)
	sources := append(bundle.Process(r.o.Version, r.metrics.Handler()),
		bundle.Source{Name: "log.txt", Make: r.tails[1].Last}, bundle.Source{Name: "mail.log", Make: r.tails[0].Last},
		bundle.Source{Name: "node.yaml", Make: func(context.Context) ([]byte, error) { return os.ReadFile(r.o.Config) }},
		bundle.Source{Name: "cluster.yaml", Make: func(context.Context) ([]byte, error) { return r.conf().cluster.Text, nil }},
		bundle.JSON("doctor.json", doctor.Examine, &adminv1.ExamineRequest{Local: true}),
		bundle.JSON("top.json", figures.Stats, &adminv1.StatsRequest{Local: true, By: adminv1.TopBy_TOP_BY_REASON}),
	)
	if cluster != nil {
		sources = append(sources, bundle.Source{Name: "cluster.json", Make: func(ctx context.Context) ([]byte, error) {
			st, err := cluster.Status(ctx)
			if err != nil {
				return nil, err
			}
			return json.MarshalIndent(st, "", "  ")
		}})
	}
	adminv1.RegisterDebugServiceServer(to, &bundle.Service{Node: node, Sources: sources, Fleet: f, Levels: r.levels})
}

// examined is what the process says of itself to the doctor.
func (r *relay) examined() examine.Status {
	s := examine.Status{
		NotReady: r.notReady(), Draining: r.state.Load() == draining || r.drained.Load(), LogLost: r.maillog.Lost(),
		Imbalance: imbalance(r.parts.queue, r.parts.spool), Addresses: r.parts.addresses(),
	}
	for _, w := range r.conf().warnings() {
		s.Warnings = append(s.Warnings, w.Error())
	}
	s.Warnings = append(s.Warnings, r.parts.known.Problems()...)
	if v := r.versions.Load(); v.rejected > 0 {
		s.Rejected = fmt.Sprintf("version %d of the cluster's configuration was not taken over: %s", v.rejected, v.why)
	}
	return s
}
