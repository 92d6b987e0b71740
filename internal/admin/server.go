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

	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// maxRequest bounds one request; the longest is a selector with many IDs.
const maxRequest = 1 << 20

// Options are what a server needs.
type Options struct {
	Queue    Queue
	Messages Messages
	Node     Node
	Log      *slog.Logger
	Metrics  *metrics.Node
	Now      func() time.Time // time.Now when nil
}

// Server is the admin API of one node.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server. It takes calls once Serve runs.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &gate{log: o.Log, metrics: o.Metrics}
	s := &Server{
		grpc: grpc.NewServer(
			grpc.Creds(socketCredentials{}),
			grpc.MaxRecvMsgSize(maxRequest),
			grpc.ChainUnaryInterceptor(g.unary),
			grpc.ChainStreamInterceptor(g.stream),
		),
		health: health.NewServer(),
	}
	adminv1.RegisterQueueServiceServer(s.grpc, &queueService{queue: o.Queue, messages: o.Messages, now: o.Now})
	adminv1.RegisterMessageServiceServer(s.grpc, &messageService{messages: o.Messages})
	adminv1.RegisterNodeServiceServer(s.grpc, &nodeService{node: o.Node})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// Serve answers calls on l until Shutdown, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Shutdown takes no new call, waits for those that run until ctx is done, and
// then cuts them off.
func (s *Server) Shutdown(ctx context.Context) {
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
