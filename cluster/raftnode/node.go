package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/ask"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// Bounds.
const (
	// MaxCommand is the largest command in octets that Propose takes.
	MaxCommand = ask.MaxBody

	logCacheSize = 512
)

var (
	// ErrNoLeader says that there was no leader to propose to in time: the
	// command was certainly not proposed, a repeat is safe.
	ErrNoLeader = errors.New("raftnode: no leader")
	// ErrUnknownOutcome says that the command may or may not be in the log, now
	// or later. The state machine shows it in the end.
	ErrUnknownOutcome = errors.New("raftnode: outcome unknown")
	// ErrTooLarge says that a command has more than MaxCommand octets.
	ErrTooLarge = errors.New("raftnode: command too large")
	// ErrClosed says that the node is closed.
	ErrClosed = errors.New("raftnode: closed")
	// ErrFailed says that this node's store has failed: Options.Fatal was called.
	ErrFailed = store.ErrFailed
	// ErrRefused says that a change of members would endanger the quorum or
	// makes no sense; the text says which.
	ErrRefused = errors.New("raftnode: refused")
)

// FSM is the state machine that the log is fed to. Calls come one at a time.
type FSM = store.FSM

// Server is a node as Raft knows it.
type Server = store.Server

// Hint is what the keeper of votes should know about a node.
type Hint struct {
	Zone   string
	Barred bool // drained or leaving: gives its vote away as soon as another can take it
}

// Network is how a node speaks with others. Connections on both listeners and
// those that Dial returns are authenticated already.
type Network struct {
	Raft    net.Listener // connections that negotiated ProtocolRaft
	Control net.Listener // connections that negotiated ProtocolControl
	// Dial connects to the named node and fails when another node answers.
	Dial func(ctx context.Context, node, address, protocol string) (net.Conn, error)
	// Peer names the node at the other end of a connection from Control.
	Peer func(net.Conn) (string, error)
}

// The ALPN protocols of this package.
const (
	ProtocolRaft    = "clrelay-raft/1"
	ProtocolControl = "clrelay-control/1"
)

// Timing are the time constants; zero values take the defaults.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for one to two of these stands for election; default 500 ms
	Commit    time.Duration // at most about twice this passes until followers learn what is committed; default 25 ms
	Call      time.Duration // limit of one raft exchange; default 2 s
	Keep      time.Duration // the keeper looks this often; default 1 s
	Stable    time.Duration // healthy for this long before a vote is given; default 10 s
	Dead      time.Duration // unhealthy for this long before a vote is taken; default 10 s
	Hang      time.Duration // a store operation that takes this long ends the node; default 5 s
}

// Options of Open. Voters, Hint, Timing may be left out.
type Options struct {
	Dir     string // log, votes, snapshots; created
	Node    string // this node's name
	Address string // host:port at which others reach this node's cluster port
	FSM     FSM
	Net     Network
	Voters  int                    // votes to give at most: 1, 3 or 5; default 5
	Hint    func(node string) Hint // must not block
	// Limits answers the questions that nodes ask the leader about limits, while
	// this node leads. Nil: they are refused.
	Limits func(ctx context.Context, peer string, body []byte) ([]byte, error)
	// Fatal is called at most once, from any goroutine, when this process must
	// end: the store failed or hangs, or a snapshot cannot be restored.
	Fatal  func(error)
	Log    *slog.Logger
	Timing Timing

	openStore func(path string) (store.Backend, error) // tests put in disks that fail
}

// Status is what a node knows about the leadership, as a level.
type Status struct {
	Leader  string // name of the leader, "" when none is known
	Address string // its host:port
	Leading bool   // this node leads
	Ready   bool   // this node leads and has applied everything of earlier terms
	Term    uint64
}

// Node is one member of the Raft group.
type Node struct {
	o      Options
	log    *slog.Logger
	raft   *raft.Raft
	store  *store.Store
	snaps  raft.SnapshotStore
	fsm    *store.Machine
	layer  *layer
	trans  *raft.NetworkTransport
	pool   *ask.Pool
	notify chan bool
	kick   chan struct{}

	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{}
	health  []Health

	birth  sync.Mutex // held over a pledge, an attempt to join; guards pledge
	pledge *pledge

	members   chan struct{} // holds one token: one change of members at a time
	calls     sync.RWMutex
	closed    chan struct{} // Close was called
	dead      chan struct{} // raft has ended
	failed    chan struct{}
	failOnce  sync.Once
	closeOnce sync.Once
	done      sync.WaitGroup
	control   *ask.Server
}

func (o *Options) check() error {
	switch {
	case o.Dir == "" || o.Node == "" || o.Address == "":
		return errors.New("raftnode: Dir, Node and Address are needed")
	case strings.ContainsAny(o.Node, "@ \t\r\n"):
		return fmt.Errorf("raftnode: node name %q holds a character that cannot be part of one", o.Node)
	case o.FSM == nil || o.Net.Raft == nil || o.Net.Control == nil || o.Net.Dial == nil || o.Net.Peer == nil:
		return errors.New("raftnode: FSM and Net are needed")
	case o.Fatal == nil || o.Log == nil:
		return errors.New("raftnode: Fatal and Log are needed")
	case o.Voters != 0 && o.Voters != 1 && o.Voters != 3 && o.Voters != 5:
		return fmt.Errorf("raftnode: %d voters: 1, 3 or 5", o.Voters)
	}
	if o.Voters == 0 {
		o.Voters = 5
	}
	if o.Hint == nil {
		o.Hint = func(string) Hint { return Hint{} }
	}
	if o.openStore == nil {
		o.openStore = store.OpenBolt
	}
	o.Timing.defaults()
	return nil
}

func (t *Timing) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Heartbeat, 500*time.Millisecond)
	set(&t.Commit, 25*time.Millisecond)
	set(&t.Call, 2*time.Second)
	set(&t.Keep, time.Second)
	set(&t.Stable, 10*time.Second)
	set(&t.Dead, 10*time.Second)
	set(&t.Hang, 5*time.Second)
}

// Open starts the node on what its directory holds. A node with an empty
// directory waits for Bootstrap or Join. The listeners of o.Net are closed by
// Close.
func Open(o Options) (_ *Node, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	n := &Node{
		o: o, log: o.Log, closed: make(chan struct{}), dead: make(chan struct{}), failed: make(chan struct{}),
		changed: make(chan struct{}), notify: make(chan bool, 1), kick: make(chan struct{}, 1), members: make(chan struct{}, 1),
	}
	if err := n.openDisk(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = n.store.Close() // the first error is told
		}
	}()
	if n.pledge, err = readPledge(o.Dir); err != nil {
		return nil, err
	}
	past, err := n.hasState()
	if err != nil {
		return nil, err
	}
	n.fsm = store.NewMachine(o.FSM, n.fatal)
	n.layer = newLayer(o.Node, o.Address, o.Net)
	n.layer.open.Store(past || n.pledge != nil)
	generation := uint32(store.FirstGeneration)
	if past {
		if generation, err = store.Generation(o.Dir); err != nil {
			return nil, err
		}
	}
	n.layer.generation.Store(generation)
	n.pool = ask.NewPool(func(ctx context.Context, node, address string) (net.Conn, error) {
		return o.Net.Dial(ctx, node, address, ProtocolControl)
	})
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.layer, MaxPool: 3, Timeout: o.Timing.Call, Logger: store.Bridge(o.Log),
		// No pipeline: when two requests on it fail, the one who sends and the one
		// who reads wait for each other, and the follower gets no entry any more
		// from this leader, nor can this leader shut down (v1.8.0, netPipeline).
		MaxRPCsInFlight: 1,
	})
	if err := n.startRaft(n.trans); err != nil {
		_ = n.trans.Close() // the first error is told
		return nil, err
	}
	n.fsm.Started()
	n.store.Started()
	n.control = ask.NewServer(ask.Options{Listener: o.Net.Control, Peer: o.Net.Peer, Answer: n.answer, Log: o.Log})
	n.done.Go(n.drainNotify)
	n.done.Go(n.watchLeadership)
	n.done.Go(n.control.Serve)
	return n, nil
}

func (n *Node) openDisk() error {
	if err := store.MakeDir(n.o.Dir); err != nil {
		return err
	}
	b, err := n.o.openStore(filepath.Join(n.o.Dir, store.File))
	if err != nil {
		return fmt.Errorf("raftnode: opening the log in %s: %w", n.o.Dir, err)
	}
	n.store = store.New(b, n.o.Timing.Hang, n.fatal)
	n.snaps, err = store.Snapshots(n.o.Dir, n.o.Log)
	if err != nil {
		_ = n.store.Close() // the first error is told
		return err
	}
	return nil
}

// startRaft calls NewRaft, which panics on a log with a hole.
func (n *Node) startRaft(trans raft.Transport) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raftnode: starting: the log in %s is damaged: %v", n.o.Dir, p)
		}
	}()
	cache, err := raft.NewLogCache(logCacheSize, n.store)
	if err != nil {
		return fmt.Errorf("raftnode: %w", err)
	}
	n.raft, err = raft.NewRaft(n.config(), n.fsm, cache, n.store, n.snaps, trans)
	if err != nil {
		return fmt.Errorf("raftnode: starting: %w", err)
	}
	return nil
}

func (n *Node) config() *raft.Config {
	c := store.Config(n.o.Node, n.o.Log)
	t := n.o.Timing
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = t.Heartbeat, t.Heartbeat, t.Heartbeat
	c.CommitTimeout = t.Commit
	c.NotifyCh = n.notify
	return c
}

// fatal latches the node as failed and tells the owner of the process.
func (n *Node) fatal(err error) {
	n.failOnce.Do(func() {
		close(n.failed)
		n.log.Error("the control plane of this node has failed", "error", err)
		n.o.Fatal(err)
	})
}

// Close stops the node. Proposals still under way end with ErrUnknownOutcome.
func (n *Node) Close() error {
	var err error
	n.closeOnce.Do(func() {
		n.calls.Lock() // from here on nobody hands anything to raft
		close(n.closed)
		n.calls.Unlock()
		n.layer.stop() // ends dials that raft would wait for
		n.control.Stop()
		n.pool.Close()
		_ = n.raft.Shutdown().Error() // always nil
		close(n.dead)
		n.done.Wait()
		if e := n.store.Close(); e != nil {
			err = fmt.Errorf("raftnode: closing the log: %w", e)
		}
	})
	return err
}

// Fresh tells whether the node has no past and has not been taken into a
// cluster: it needs Bootstrap or Join.
func (n *Node) Fresh() bool { return !n.layer.open.Load() }

// Generation is that of the group that this node is or was last in.
func (n *Node) Generation() uint32 { return n.layer.generation.Load() }

// setGeneration makes g this node's generation. It is called with birth held,
// before the raft door opens for the first time.
func (n *Node) setGeneration(g uint32) error {
	if err := store.SetGeneration(n.o.Dir, g); err != nil {
		return err
	}
	n.layer.generation.Store(g)
	return nil
}

func (n *Node) hasState() (bool, error) {
	has, err := raft.HasExistingState(n.store, n.store, n.snaps)
	if err != nil {
		return false, fmt.Errorf("raftnode: looking for state: %w", err)
	}
	return has, nil
}

// Changes returns the present status, and a channel that is closed once it is
// outdated.
func (n *Node) Changes() (Status, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status, n.changed
}

// Status returns the present status.
func (n *Node) Status() Status {
	s, _ := n.Changes()
	return s
}

// CommitIndex returns the index that this node knows to be committed.
func (n *Node) CommitIndex() uint64 { return n.raft.CommitIndex() }

// AppliedIndex returns the index of the last entry that the FSM has applied or
// had in the snapshot it was restored from. Entries of Raft's own are left
// out, so it may stay behind CommitIndex for ever on an idle cluster.
func (n *Node) AppliedIndex() uint64 { return n.fsm.Applied() }

// Members returns the servers of the newest configuration that this node
// knows, committed or not, in the order in which they joined.
func (n *Node) Members() []Server {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{Node: string(s.ID), Address: store.HostPort(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return out
}

// Snapshot makes Raft write a snapshot now and forget what it covers.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.wait(ctx, func() raft.Future { return n.raft.Snapshot() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("raftnode: snapshot: %w", err)
	}
	return nil
}

func to(s Server) ask.To { return ask.To{Node: s.Node, Address: s.Address} }
