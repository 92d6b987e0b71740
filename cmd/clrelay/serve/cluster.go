package serve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/enrol"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/later"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/notes"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/observe"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/operate"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/plane"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/shared"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/work"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/roles"
)

// clusterOperator answers the admin API from the node of the cluster that this
// relay is. What only the leader can decide the node brings there.
type clusterOperator struct {
	node  *cluster.Node
	conns *cluster.Conns
	// copies is what the configuration asks for, of a message.
	copies func() int
	certs  *enrol.Enrol
}

// errEarly is what an operator hears before the node takes part.
var errEarly = fmt.Errorf("%w: the relay is starting", admin.ErrUnavailable)

func (c *clusterOperator) Status(context.Context) (admin.ClusterStatus, error) {
	if !c.node.Started() {
		return admin.ClusterStatus{}, errEarly
	}
	o := c.node.Overview()
	out := admin.ClusterStatus{
		Leader: o.Leader, Term: o.Term, CommitIndex: o.CommitIndex, Quorum: o.Quorum,
		Copies: o.Copies, UnderReplicated: int64(o.UnderReplicated), Lost: int64(o.Lost), Level: o.Level,
	}
	in := 0
	for _, m := range o.Nodes {
		out.Nodes = append(out.Nodes, admin.ClusterNode{
			Name: m.Name, State: m.State, Voter: m.Voter, SMTP: m.SMTP, Segments: int64(m.Segments), Copies: int64(m.Held),
			Sessions: int64(m.Sessions), Version: m.Version, Zone: m.Zone, Addr: m.Address, Level: m.Level,
		})
		if m.State != admin.NodeLeft {
			in++
		}
	}
	out.Notes = append(notes.Of(&o, in, c.copies()), c.certs.Notes()...)
	return out, nil
}

func (c *clusterOperator) TransferLeader(ctx context.Context, to string) (string, error) {
	if !c.node.Started() {
		return "", errEarly
	}
	leader, err := c.node.TransferLeader(ctx, to)
	return leader, refusal(err, "leadership cannot be transferred")
}

func (c *clusterOperator) Drain(ctx context.Context, node string) error {
	if !c.node.Started() {
		return errEarly
	}
	return refusal(c.node.Drain(ctx, node), node+" cannot be drained")
}

func (c *clusterOperator) Resume(ctx context.Context, node string) error {
	if !c.node.Started() {
		return errEarly
	}
	return refusal(c.node.Resume(ctx, node), node+" cannot be resumed")
}

func (c *clusterOperator) Remove(ctx context.Context, node string, force bool) error {
	if !c.node.Started() {
		return errEarly
	}
	what := node + " cannot be removed"
	if s, err := c.node.Service(node); err == nil && (s.State == fsm.Alive || s.State == fsm.Draining) {
		p, err := c.node.Progress(node)
		switch {
		case !force:
			return admin.RefusedError(fmt.Sprintf("%s: it is not drained; drain it first, or use --force if it is lost for good", what))
		case err == nil && p.State != admin.NodeDead:
			return admin.RefusedError(fmt.Sprintf("%s: it is not silent; stop it first, or drain it", what))
		}
	}
	return refusal(c.node.Remove(ctx, node, force), what)
}

// Progress follows what was decided of the node, not what it seems to do: one
// that restarts goes on.
func (c *clusterOperator) Progress(_ context.Context, node string) (admin.DrainProgress, error) {
	if !c.node.Started() {
		return admin.DrainProgress{}, errEarly
	}
	s, err := c.node.Service(node)
	if err != nil {
		return admin.DrainProgress{}, refusal(err, "")
	}
	p, err := c.node.Progress(node)
	if err != nil {
		return admin.DrainProgress{}, refusal(err, "")
	}
	out := admin.DrainProgress{State: service(s.State), Owned: int64(p.Owned), Copies: int64(p.Held), Sessions: int64(p.Sessions)}
	if p.State == admin.NodeDead {
		out.Sessions = 0
		if s.State == fsm.Draining {
			out.Blocked = node + " is silent; it can say that it is empty only when it is back"
		}
	}
	return out, nil
}

func service(s fsm.NodeState) string {
	switch s {
	case fsm.Draining:
		return admin.NodeDraining
	case fsm.Drained:
		return admin.NodeDrained
	case fsm.Removed:
		return admin.NodeLeft
	}
	return admin.NodeAlive
}

// refusal makes errors of the cluster those of the admin API.
func refusal(err error, what string) error {
	var refused *cluster.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrNotFound):
		return admin.ErrNoNode
	case errors.As(err, &refused):
		return admin.RefusedError(what + ": " + why(refused))
	case errors.Is(err, cluster.ErrUnaware):
		return fmt.Errorf("%w: %s", admin.ErrUnavailable, strings.TrimPrefix(err.Error(), "cluster: "))
	case errors.Is(err, raftnode.ErrRefused):
		return admin.RefusedError(what + ": " + strings.TrimPrefix(err.Error(), "cluster: "+raftnode.ErrRefused.Error()+": "))
	case errors.Is(err, raftnode.ErrNoLeader):
		return fmt.Errorf("%w: the cluster has no leader", admin.ErrUnavailable)
	case errors.Is(err, raftnode.ErrUnknownOutcome), errors.Is(err, raftnode.ErrClosed), errors.Is(err, raftnode.ErrFailed),
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s: %w", admin.ErrUnavailable, what, err)
	}
	return err
}

// why says in an operator's words what the cluster refused.
func why(e *cluster.RefusedError) string {
	switch e.Code {
	case fsm.TooFewCopies:
		return "too few nodes would stay in service to keep all copies of a message"
	case fsm.RenewedSince:
		return "it is not silent: only a node that is can be removed by force"
	case fsm.NodeNotAlive:
		return "its disk is lost, or it is out of service already"
	case fsm.WrongVersion:
		return "another version was applied meanwhile"
	}
	return e.Text
}

// Others gives the other nodes that may own mail.
func (c *clusterOperator) Others(context.Context) []admin.Peer {
	if !c.node.Started() {
		return nil
	}
	return peers(c.conns.Others(false))
}

// All gives all other nodes.
func (c *clusterOperator) All(context.Context) []admin.Peer {
	if !c.node.Started() {
		return nil
	}
	return peers(c.conns.Others(true))
}

func peers(conns []cluster.Conn) (out []admin.Peer) {
	for _, p := range conns {
		out = append(out, admin.Peer{Name: p.Node, Conn: p})
	}
	return out
}

// Knows tells whether a node belongs to the cluster.
func (c *clusterOperator) Knows(node string) bool {
	s, err := c.node.Service(node)
	return err == nil && s.State != fsm.Removed
}

// guardUnary stands before the calls on the cluster port.
func (r *relay) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return r.parts.admin.Unary()(ctx, req, info, next)
}

// guardStream stands before the streams on the cluster port.
func (r *relay) guardStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return r.parts.admin.Stream()(srv, ss, info, next)
}

// adminOptions is what the admin API asks.
func (r *relay) adminOptions() admin.Options {
	op := &operate.Operator{Node: string(r.conf().node.Name), Queue: r.parts.queue, Trash: func() time.Duration { return time.Duration(r.conf().cluster.Queue.Trash) }}
	kept := &work.Records{Kept: r.parts.books.Records, Refusal: refusal}
	o := admin.Options{Queue: op, Messages: op, Node: r, Site: r.parts.shaping.SiteOf, Rules: r.parts.rules, Content: &observe.Contents{Spool: r.parts.spool}, Traces: r.parts.traces, Configs: shared.OwnFile(func() []byte { return r.conf().cluster.Text }), Log: r.log, Metrics: r.metrics.Node,
		Name: op.Node, Bindings: r.bindings, Audit: r.parts.books.Log, Recorder: r.parts.books.Recorder,
		Jobs: kept, Trials: kept}
	o.Services = append(o.Services, func(to grpc.ServiceRegistrar, f fleet.Fleet) { r.services(to, f, o.Cluster) })
	if m := r.parts.member; m != nil {
		r.parts.enrol = enrol.New(enrol.Options{
			Name: o.Name, Dir: string(r.conf().node.TLSDir), Join: r.seeds(), Member: m, Conns: r.parts.conns, Identity: r.parts.identity,
			Recorder: o.Recorder, Log: r.log, Refusal: refusal,
		})
		o.Certs = r.parts.enrol.Plane
		c := &clusterOperator{certs: r.parts.enrol, node: m, conns: r.parts.conns, copies: func() int { return r.conf().cluster.Spool.Copies }}
		o.Cluster, o.Nodes, o.Peers, o.Rescue = c, c, c, &plane.Control{Node: m, Early: errEarly, Refusal: refusal}
		o.Ground = work.Ground{Node: m}
		o.Traces.All = c.All
		o.Level = later.Level(m)
		op.Level = o.Level
		o.Configs = &shared.Cluster{Node: m, Self: op.Node, Settings: r.clusterSettings, Operator: c, Refusal: refusal}
	}
	return o
}

// seeds are the gossip addresses that new machines are told.
func (r *relay) seeds() []string {
	c := r.conf().node.Cluster
	out := []string{c.GossipAddress()}
	for _, h := range c.Join {
		if !slices.Contains(out, h.String()) {
			out = append(out, h.String())
		}
	}
	return out
}

// bindings give operators by their names other roles than stand in their
// certificates.
func (r *relay) bindings() (out []roles.Binding) {
	for _, a := range r.conf().cluster.Access {
		out = append(out, roles.Binding{Name: string(a.Name), Role: roles.Role(a.Role), Content: a.Content})
	}
	return out
}
