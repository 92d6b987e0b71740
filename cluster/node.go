package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/cluster/drive"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/gossip"
	"github.com/clrelay/clrelay/cluster/ledger"
	share "github.com/clrelay/clrelay/cluster/limit"
	"github.com/clrelay/clrelay/cluster/limit/keeper"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cluster/port"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/view"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// protocolGRPC is gRPC's name in ALPN.
const protocolGRPC = "h2"

// Options say who a node is and where. All but Expect, Zone, Join, Limits,
// Services, Unary and Stream are needed.
type Options struct {
	Name      string
	DataDir   string
	Listen    string // of the port between nodes
	Address   string // at which the others reach it
	Gossip    string // where gossip listens
	Advertise string // at which the others reach that
	Join      []string
	Expect    int // bootstrap_expect; 0: found no cluster
	Zone      string
	Version   string
	SMTP      []string
	Identity  *pki.Identity
	Log       *slog.Logger
	Fatal     func(error)

	// Sessions counts the SMTP sessions that are open.
	Sessions func() int
	// Birth is what a cluster begins with: the text of its configuration.
	Birth []byte
	// Settings reads from a configuration what all nodes must agree about; it
	// fails where the text is none.
	Settings func(text []byte) (fsm.Settings, error)
	// Changed is told that Draining may have changed.
	Changed func()
	// Configured is told of every new version of the configuration. It may be
	// called again with the same.
	Configured func(fsm.Config)

	// Whispered is given what other nodes Whisper; it must neither block nor keep it. Nil:
	// it is not listened to.
	Whispered func(text []byte)

	// Limits is this node's limiter. Nil: this node divides no limits, nor has part
	// in any.
	Limits limit.Local

	// Services are further gRPC services of the port, behind these
	// interceptors.
	Services func(grpc.ServiceRegistrar)
	Unary    grpc.UnaryServerInterceptor
	Stream   grpc.StreamServerInterceptor
	// Join answers machines without a certificate until the listener is closed;
	// nil: they are not let in.
	Newcomers func(context.Context, net.Listener)
}

// Node is this process as a member of a cluster.
type Node struct {
	*ledger.Ledger
	o    Options
	e    *drive.Engine
	view *view.View
	self fsm.Ref

	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup

	port    *port.Port
	grpc    *grpc.Server
	raft    *raftnode.Node
	gossip  *gossip.Gossip
	replica *replica.Replicator
	control *control
	peers   *peers
	limits  atomic.Pointer[keeper.Keeper]
	ready   chan struct{} // closed once this node has a session
	started atomic.Bool   // the parts above are there
}

// New makes a node that takes part in nothing yet. It is the Placement of the
// spool and the Lease of the queue, both of which Start needs.
func New(o Options) *Node {
	n := &Node{o: o, ready: make(chan struct{})}
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.view = view.New(o.Fatal)
	n.e = drive.New(clock.Boot, o.Log, o.Fatal)
	n.Ledger = ledger.New(ledger.Options{Propose: n.propose, Read: n.view.Read, Refused: func(r fsm.Result) error { return outcome(r, nil) }})
	n.view.Ledger = n.Tell
	return n
}

// propose is for those who may ask before there is a Raft.
func (n *Node) propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	if !n.started.Load() {
		return fsm.Result{}, raftnode.ErrNoLeader
	}
	return n.control.propose(ctx, c)
}

// Placement is where the spool puts messages.
func (n *Node) Placement() spool.Placement { return n.e }

// Start opens the ports and begins to look for the others; it does not wait
// for them. sp must be open with this node's Placement; q schedules what the
// node will own.
func (n *Node) Start(sp *spool.Spool, q drive.Queue) (err error) {
	self := fsm.Ref{Node: n.o.Name, Store: sp.StoreID()}
	if err := n.o.Identity.Check(n.o.Name); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.listen(); err != nil {
		return err
	}
	if n.raft, err = n.openRaft(); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if n.control, err = newControl(n.raft, n.view, self, clock.Boot, n.o.Log); err != nil {
		return err
	}
	if err := n.makeReplica(); err != nil {
		return err
	}
	if n.o.Limits != nil {
		n.limits.Store(keeper.New(keeper.Options{
			Node: self.Node, Least: n.o.Expect, Local: n.o.Limits, Raft: n.raft, View: n.view, Log: n.o.Log,
		}))
	}
	n.self = self
	n.e.Attach(drive.Parts{Self: self, Net: n.replica, Control: n.control, Spool: sp, Queue: q, Loads: n.loads})
	n.serve()
	n.gossip, err = gossip.Start(gossip.Options{
		Node: n.o.Name, Listen: n.o.Gossip, Advertise: n.o.Advertise, Seeds: n.o.Join,
		TLS: n.o.Identity, Meta: n.meta(), Log: n.o.Log, Told: n.o.Whispered,
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	n.peers = newPeers(n)
	n.started.Store(true)
	n.group.Go(func() {
		if err := n.takePart(self, sp); err != nil && n.ctx.Err() == nil {
			n.o.Fatal(err)
		}
	})
	return nil
}

// listen opens the port between nodes.
func (n *Node) listen() error {
	l, err := net.Listen("tcp", n.o.Listen)
	if err != nil {
		return fmt.Errorf("cluster: listen: %w", err)
	}
	n.port, err = port.New(l, port.Options{
		TLS:   n.o.Identity.Door(protocolGRPC, raftnode.ProtocolRaft, raftnode.ProtocolControl),
		Allow: allow, Log: n.o.Log,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("cluster: %w", err), l.Close())
	}
	return nil
}

// allow lets operators speak gRPC, and nodes everything.
func allow(protocol string, state tls.ConnectionState) error {
	if protocol == pki.ProtocolJoin {
		return nil // it has a door of its own
	}
	p, err := pki.PeerOf(state)
	if err != nil {
		return err
	}
	if p.Kind != pki.Node && protocol != protocolGRPC {
		return fmt.Errorf("cluster: %s may not speak %s", p, protocol)
	}
	return nil
}

func (n *Node) openRaft() (*raftnode.Node, error) {
	d := n.dialer()
	return raftnode.Open(raftnode.Options{
		Dir: filepath.Join(n.o.DataDir, "raft"), Node: n.o.Name, Address: n.o.Address, FSM: n.view,
		Net: raftnode.Network{
			Raft: n.port.Listener(raftnode.ProtocolRaft), Control: n.port.Listener(raftnode.ProtocolControl),
			Dial: d.Dial, Peer: nodeOf,
		},
		Hint: n.hint, Limits: n.answerLimits, Fatal: n.o.Fatal, Log: n.o.Log,
	})
}

func (n *Node) dialer() port.Dialer {
	return port.Dialer{TLS: func(node, protocol string) *tls.Config { return n.o.Identity.Client(node, protocol) }}
}

// nodeOf names the node at the other end of a connection.
func nodeOf(c net.Conn) (string, error) {
	state, ok := port.State(c)
	if !ok {
		return "", errors.New("cluster: not a connection of the port")
	}
	p, err := pki.PeerOf(state)
	if err == nil && p.Kind != pki.Node {
		err = fmt.Errorf("cluster: %s is no node", p)
	}
	return p.Name, err
}

// identify names the node at the other end of a gRPC stream.
func identify(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("cluster: a stream from nowhere")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("cluster: a stream without TLS")
	}
	who, err := pki.PeerOf(info.State)
	if err == nil && who.Kind != pki.Node {
		err = fmt.Errorf("cluster: %s is no node", who)
	}
	return who.Name, err
}

// hint tells the keeper of votes what it should know of a node.
func (n *Node) hint(node string) (h raftnode.Hint) {
	n.view.Read(func(s *fsm.State) {
		if rec, ok := s.Node(node); ok {
			h.Zone = rec.Info.Zone
			h.Barred = rec.State != fsm.Alive
		}
	})
	return h
}

func (n *Node) makeReplica() (err error) {
	d := n.dialer()
	n.replica, err = replica.New(replica.Options{
		Dial: func(ctx context.Context, node, address string) (net.Conn, error) {
			return d.Dial(ctx, node, address, protocolGRPC)
		},
		Identify: identify, Handler: n.e, Seed: uint64(time.Now().UnixNano()), Log: n.o.Log,
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// serve takes connections.
func (n *Node) serve() {
	opts := append(replica.ServerOptions(), grpc.Creds(port.Credentials()))
	if n.o.Unary != nil {
		opts = append(opts, grpc.ChainUnaryInterceptor(n.o.Unary))
	}
	if n.o.Stream != nil {
		opts = append(opts, grpc.ChainStreamInterceptor(n.o.Stream))
	}
	n.grpc = grpc.NewServer(opts...)
	n.replica.Register(n.grpc)
	if n.o.Services != nil {
		n.o.Services(n.grpc)
	}
	if n.o.Newcomers != nil {
		door := n.port.Listener(pki.ProtocolJoin)
		n.group.Go(func() { n.o.Newcomers(n.ctx, door) })
	}
	l := n.port.Listener(protocolGRPC)
	n.group.Go(func() {
		if err := n.grpc.Serve(l); err != nil && n.ctx.Err() == nil {
			n.o.Fatal(fmt.Errorf("cluster: gRPC: %w", err))
		}
	})
	n.group.Go(func() {
		if err := n.port.Serve(); err != nil && n.ctx.Err() == nil {
			n.o.Fatal(fmt.Errorf("cluster: %w", err))
		}
	})
}

// takePart gets into the cluster, registers, and drives the protocol.
func (n *Node) takePart(self fsm.Ref, sp *spool.Spool) error {
	n.group.Go(n.enter)
	m, session, err := n.register(self)
	if err != nil {
		return err
	}
	var held []segment.Held
	var generation uint32
	n.view.Read(func(s *fsm.State) { generation = s.Generation() })
	for _, h := range sp.Held() {
		// Such a segment has no record here, and would be taken for one that is gone.
		if id := fsm.SegmentID(h.ID); id.Replicated() && id.Session().Generation() > generation {
			return fmt.Errorf("cluster: the data_dir holds mail of generation %d of the cluster, and this one is of generation %d: "+
				"its nodes have to join the later one, not the other way round", id.Session().Generation(), generation)
		}
		held = append(held, heldOf(h))
	}
	expect := n.o.Expect
	if generation > fsm.FirstGeneration {
		expect = 0 // the cluster was recovered with fewer nodes than founded it: mail is taken with the copies that can be
	}
	core, err := segment.New(segment.Config{
		Self: self, Expect: expect, Seed: uint64(session), Held: held, Floor: sp.Floor(), Suspect: sp.Suspect(),
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	n.e.Begin(core, session)
	err = n.replica.Start(replica.Peer{Node: self.Node, Store: self.Store, Session: uint64(session), Generation: generation})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	n.control.changed = n.peers.kick
	n.control.begin(n.e, n.replica, session)
	if k := n.limits.Load(); k != nil {
		k.Begin(session)
	}
	n.group.Go(n.peers.run)
	n.group.Go(n.configure)
	n.group.Go(func() { n.keepMark(m) })
	close(n.ready)
	n.o.Log.Info("this node takes part in the cluster", "session", session.String(), "store", self.Store.String(), "held_segments", len(held))
	return nil
}

// Close ends all of it. What the node owns is taken over by others unless it
// comes back first.
func (n *Node) Close() error {
	n.stop()
	n.e.Stop()
	var errs []error
	if n.gossip != nil {
		errs = append(errs, n.gossip.Close())
	}
	if n.grpc != nil {
		n.grpc.Stop()
	}
	if n.replica != nil {
		errs = append(errs, n.replica.Close())
	}
	if n.control != nil {
		n.control.close()
	}
	if k := n.limits.Load(); k != nil {
		k.Close()
	}
	if n.raft != nil {
		errs = append(errs, n.raft.Close())
	}
	if n.port != nil {
		errs = append(errs, n.port.Close())
	}
	n.group.Wait()
	n.e.Close()
	return errors.Join(errs...)
}

// Ready tells whether this node would take a message: nil, or the reply to
// give instead.
func (n *Node) Ready() *mail.Reply { return n.e.Ready() }

// Leased tells whether this node has a lease of the cluster. Without one it takes
// and delivers nothing.
func (n *Node) Leased() bool { return n.e.Leased() }

// Whisper sends text, of gossip.MaxTold octets at most, to all other nodes. It may be
// lost, and is before the node has started.
func (n *Node) Whisper(text []byte) {
	if n.started.Load() {
		n.gossip.Tell(text)
	}
}

// answerLimits answers a question of a node about limits.
func (n *Node) answerLimits(ctx context.Context, peer string, body []byte) ([]byte, error) {
	k := n.limits.Load()
	if k == nil {
		return nil, fmt.Errorf("%w: limits are not divided here", raftnode.ErrRefused)
	}
	return k.Answer(ctx, peer, body)
}

// Shares tells what the leader knows of the limits' keys that begin with prefix:
// of those that are not divided evenly, and of those of which a node wants more
// than it has. All others are divided evenly. A very long list is cut off.
func (n *Node) Shares(ctx context.Context, prefix string) ([]share.Status, error) {
	k := n.limits.Load()
	if k == nil {
		return nil, errors.New("cluster: limits are not divided here")
	}
	return k.Status(ctx, prefix)
}

// Elsewhere is of queue.Lease.
func (n *Node) Elsewhere(m *spool.Message) bool {
	return n.e.Damaged(fsm.SegmentID(m.Header(0).Segment))
}

// Holds is of queue.Lease.
func (n *Node) Holds(m *spool.Message) bool { return n.e.Delivers(fsm.SegmentID(m.Header(0).Segment)) }
