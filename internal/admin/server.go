package admin

import (
	"context"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/admin/certs"
	"github.com/clrelay/clrelay/internal/admin/configs"
	"github.com/clrelay/clrelay/internal/admin/content"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/jobs"
	"github.com/clrelay/clrelay/internal/admin/rescue"
	"github.com/clrelay/clrelay/internal/admin/rules"
	"github.com/clrelay/clrelay/internal/admin/trace"
	"github.com/clrelay/clrelay/internal/admin/who"
	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// maxRequest bounds one request; the longest is a selector with many IDs.
const maxRequest = 1 << 20

// Options are what a server needs. Cluster, Nodes, Rescue, Certs and Peers are
// nil on a single machine.
type Options struct {
	Queue    Queue
	Messages Messages
	Node     Node
	Cluster  Cluster
	Nodes    Nodes
	Configs  configs.Plane
	Rescue   rescue.Plane
	Certs    *certs.Plane
	Content  content.Store
	Traces   trace.Sources
	Peers    Peers
	Jobs     jobs.Records    // nil: there are none
	Trials   configs.Records // nil: there are none
	Ground   jobs.Ground     // nil on a single machine
	Rules    rules.Store
	Site     func(lane string) string // whoever runs a destination, as far as that is known at once
	Level    func() uint32            // the cluster's feature level; nil on a single machine
	// Services are further parts of the API; f asks the other nodes.
	Services []func(r grpc.ServiceRegistrar, f fleet.Fleet)
	Log      *slog.Logger
	Metrics  *metrics.Node
	Now      func() time.Time // time.Now when nil

	// Bindings gives operators by their names other roles than stand in their
	// certificates; nil: none.
	Bindings who.Bindings
	Audit    *audit.Log      // nil: there is none to show
	Recorder *audit.Recorder // nil: nothing is written into it
	Name     string          // of the node
}

// Server is the admin API of one node.
type Server struct {
	o      Options
	gate   *gate
	queue  *queueService
	jobs   *jobs.Service
	driver *jobs.Driver
	trials *configs.Probation
	ctx    context.Context // ends when Shutdown begins
	end    context.CancelFunc
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server. It takes calls once Serve runs.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &gate{log: o.Log, metrics: o.Metrics, peers: o.Peers, audit: o.Recorder, bindings: o.Bindings}
	s := &Server{
		o: o, gate: g,
		grpc: grpc.NewServer(
			grpc.Creds(who.SocketCredentials{}),
			grpc.MaxRecvMsgSize(maxRequest),
			grpc.ChainUnaryInterceptor(g.unary),
			grpc.ChainStreamInterceptor(g.stream),
		),
		health: health.NewServer(),
		queue:  &queueService{queue: o.Queue, messages: o.Messages, now: o.Now, fleet: fleet.Fleet{Peers: o.Peers}, node: o.Node, level: o.Level, site: o.Site},
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.jobs, s.driver = jobs.New(s.ctx, jobs.Options{
		Node: o.Name, Queue: s.queue, Fleet: fleet.Fleet{Peers: o.Peers}, Ground: o.Ground, Records: o.Jobs,
		Caller: func(ctx context.Context) string { return g.bindings.Of(ctx).Text }, Log: o.Log, Now: o.Now,
	})
	if o.Trials != nil && o.Ground != nil {
		s.trials = &configs.Probation{Plane: o.Configs, Records: o.Trials, Leads: o.Ground.Leads, Now: o.Now, Log: o.Log}
	}
	s.Register(s.grpc)
	reflection.Register(s.grpc)
	return s
}

// Register puts the services on another gRPC server as well, which must have
// Unary and Stream among its interceptors, for these guard them, and
// credentials whose AuthInfo is a TLSInfo: an operator's certificate may do what
// his role may, that of a node what nodes need of each other, and nobody else
// anything.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	o, f := &s.o, fleet.Fleet{Peers: s.o.Peers}
	adminv1.RegisterQueueServiceServer(r, s.queue)
	adminv1.RegisterJobServiceServer(r, s.jobs)
	adminv1.RegisterRuleServiceServer(r, &rules.Service{
		Store: o.Rules, Queue: s.queue, Now: o.Now, Caller: func(ctx context.Context) string { return s.gate.bindings.Of(ctx).Text },
	})
	messages := &messageService{messages: o.Messages, fleet: f}
	adminv1.RegisterMessageServiceServer(r, messages)
	adminv1.RegisterContentServiceServer(r, &content.Service{Store: o.Content, Fleet: f})
	trace.Register(r, o.Traces, f, messages.Show)
	node := &nodeService{node: o.Node, nodes: o.Nodes, queue: o.Queue, fleet: f, every: progressEvery}
	adminv1.RegisterNodeServiceServer(r, node)
	adminv1.RegisterClusterServiceServer(r, &clusterService{cluster: o.Cluster, node: o.Node, queue: o.Queue, fleet: f})
	adminv1.RegisterConfigServiceServer(r, &configs.Service{
		Plane: o.Configs, Probation: s.trials, Caller: func(ctx context.Context) string { return s.gate.bindings.Of(ctx).Text }, Self: node.Status,
	})
	certs.Register(r, o.Certs, func(ctx context.Context) string { return s.gate.bindings.Of(ctx).Text })
	adminv1.RegisterRescueServiceServer(r, &rescue.Service{Plane: o.Rescue})
	adminv1.RegisterAuditServiceServer(r, &audit.Service{Log: o.Audit, Node: o.Name, Fleet: f})
	adminv1.RegisterAccessServiceServer(r, &who.Service{Bindings: o.Bindings})
	for _, register := range o.Services {
		register(r, f)
	}
	healthv1.RegisterHealthServer(r, s.health)
}

// Unary guards calls of a server that Register was called with. Services of
// others on it are none of its business.
func (s *Server) Unary() grpc.UnaryServerInterceptor { return s.gate.sharedUnary }

// Stream guards streams in the same way.
func (s *Server) Stream() grpc.StreamServerInterceptor { return s.gate.sharedStream }

// Serve answers calls on l until Shutdown, and then returns nil. It closes l.
// Meanwhile it works off jobs.
func (s *Server) Serve(l net.Listener) error {
	if s.o.Jobs != nil {
		go s.driver.Run(s.ctx)
	}
	if s.trials != nil {
		go s.trials.Run(s.ctx)
	}
	return s.grpc.Serve(l)
}

// Shutdown takes no new call, waits for those that run until ctx is done, and
// then cuts them off.
func (s *Server) Shutdown(ctx context.Context) {
	s.end()
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// methods lists the full names of all methods that are registered.
func (s *Server) methods() []string {
	var out []string
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			out = append(out, "/"+service+"/"+m.Name)
		}
	}
	return out
}
