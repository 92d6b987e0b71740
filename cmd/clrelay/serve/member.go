package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/kept"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/observe"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// makeMember makes the node of the cluster that this relay is, if it is one.
// It takes part in nothing before joinCluster.
func (r *relay) makeMember() error {
	node := r.conf().node
	c := node.Cluster
	if c == nil {
		return nil
	}
	id, err := pki.Load(string(node.TLSDir))
	if err != nil {
		return fmt.Errorf("tls_dir: %w", err)
	}
	birth, err := r.conf().birth()
	if err != nil {
		return err
	}
	o := cluster.Options{
		Name: string(node.Name), DataDir: string(node.DataDir),
		Listen: c.Listen.String(), Address: c.Address(), Gossip: c.Gossip.String(), Advertise: c.GossipAddress(),
		Expect: c.BootstrapExpect, Zone: string(c.Zone), Version: r.o.Version, SMTP: r.parts.addresses(),
		Identity: id, Log: r.log, Fatal: r.outcast, Sessions: r.sessions, Birth: birth,
		Limits: r.parts.limits, Whispered: r.parts.guard.Heard, Settings: r.clusterSettings, Configured: r.configured, Changed: r.moved,
		Services: func(to grpc.ServiceRegistrar) { r.parts.admin.Register(to) }, Unary: r.guardUnary, Stream: r.guardStream,
		Newcomers: func(ctx context.Context, l net.Listener) { r.parts.enrol.Run(ctx, l) },
	}
	for _, seed := range c.Join {
		o.Join = append(o.Join, seed.String())
	}
	r.parts.identity = id
	r.parts.member = cluster.New(o)
	return nil
}

// outcast is the end of a process that cannot be a node of its cluster any
// more. What it acknowledged is on other machines too.
func (r *relay) outcast(err error) {
	r.broken.Store(&err)
	r.log.Error("this node can no longer be part of its cluster: the process ends", "error", err)
	_ = r.maillog.Close() // a stuck reader of it is no reason to stay
	r.o.Exit(1)
}

// joinCluster lets the node take part. It does not wait for the others: until
// they are there, clients hear 451.
func (r *relay) joinCluster() error {
	if r.parts.member == nil {
		return nil
	}
	return r.parts.member.Start(r.parts.spool, &observe.Traced{Runner: r.parts.queue, Traces: r.parts.traces.Log})
}

// placement is where the spool puts messages; nil on a single machine.
func (p *parts) placement() spool.Placement {
	if p.member == nil {
		return nil
	}
	return p.member.Placement()
}

// ready tells whether a message would be taken: nil, or the reply.
func (p *parts) ready() *mail.Reply {
	if reply := p.spool.Ready(); reply != nil || p.member == nil {
		return reply
	}
	return p.member.Ready()
}

// clusterSettings reads from a configuration what all nodes must agree about.
func (r *relay) clusterSettings(text []byte) (fsm.Settings, error) {
	c, err := config.ParseCluster("cluster configuration", text, r.conf().node)
	if err != nil {
		return fsm.Settings{}, err
	}
	return fsm.Settings{
		Copies: c.Spool.Copies, G: time.Duration(c.Failover.Lease),
		RereplicateAfter: orNever(c.Failover.RereplicateAfter), UncleanAfter: orNever(c.Failover.UncleanAfter),
	}, nil
}

// birth is the text that a new cluster begins with.
func (s *settings) birth() ([]byte, error) {
	text, err := os.ReadFile(string(s.node.ClusterConfig))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster_config: %w", err)
	}
	return text, nil
}

// orNever makes of a time that is off one that does not come.
func orNever(d config.Duration) time.Duration {
	if d == 0 {
		return never
	}
	return time.Duration(d)
}

// never is longer than any relay runs.
const never = 100 * 365 * 24 * time.Hour

// versions are those of the cluster's configuration, as they stand here.
type versions struct {
	inForce  uint64 // 0 while none is
	rejected uint64 // a newer one that could not be taken over; 0: none
	why      string // it could not
}

// configured takes over a new version of the cluster's configuration.
func (r *relay) configured(c fsm.Config) {
	name := fmt.Sprintf("cluster configuration %d", c.Version)
	next, err := config.ParseCluster(name, c.Text, r.conf().node)
	if err == nil {
		err = r.apply(&settings{node: r.conf().node, cluster: next})
	}
	if err != nil {
		r.versions.Store(&versions{inForce: r.versions.Load().inForce, rejected: c.Version, why: err.Error()})
		r.metrics.Reloads.Inc("failed")
		r.log.Error("the cluster's configuration was not taken over", "version", c.Version, "author", c.Author, "error", err)
		return
	}
	r.versions.Store(&versions{inForce: c.Version})
	if err := kept.Keep(r.conf().node, c.Text); err != nil {
		r.log.Warn("the cluster's configuration was not written down for the next start", "version", c.Version, "error", err)
	}
	r.metrics.Reloads.Inc("ok")
	r.log.Info("the cluster's configuration was taken over", "version", c.Version, "author", c.Author, "reason", c.Reason)
}

// moved follows what the cluster wants of this node.
func (r *relay) moved() {
	switch drain := r.parts.member.Draining(); {
	case r.state.Load() != serving:
	case drain && !r.drained.Swap(true):
		r.log.Info("this node is being drained: clients are told 421")
		r.parts.smtp.Drain()
	case !drain && r.drained.Swap(false):
		r.log.Info("this node takes mail again")
		r.parts.smtp.Resume()
	}
}
