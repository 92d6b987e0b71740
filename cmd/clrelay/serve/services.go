package serve

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/explain"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/watch"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// inForce is what mail goes by at this moment.
func (r *relay) inForce() explain.Settings {
	s := explain.Settings{Name: string(r.conf().node.ClusterConfig), Cluster: r.conf().cluster, Router: r.routes.table.Load()}
	if v := r.versions.Load().inForce; v > 0 {
		s.Name = fmt.Sprintf("cluster configuration %d", v)
	}
	return s
}

// services are the parts of the admin API that show an operator's everyday.
func (r *relay) services(to grpc.ServiceRegistrar, f fleet.Fleet) {
	node := string(r.conf().node.Name)
	adminv1.RegisterTestServiceServer(to, &watch.Trials{Watch: r.watch, Fleet: f, Service: &explain.Service{
		Node: node, Now: r.inForce, Hosts: r.parts.delivery, Lanes: r.parts.queue,
		Policy: func() explain.Policy {
			if r.state.Load() == starting {
				return nil
			}
			return r.parts.policy
		},
	}})
	adminv1.RegisterTopServiceServer(to, &watch.Service{
		Node: node, Watch: r.watch, Queue: r.parts.queue, Started: r.started, Fleet: f,
		Ready: func() bool { return r.notReady() == "" }, Sessions: r.sessions,
	})
}
