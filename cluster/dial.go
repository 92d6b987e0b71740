package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/port"
)

// Conn is a connection for requests to another node.
type Conn struct {
	Node    string
	Address string // of its cluster port
	*grpc.ClientConn
}

// Conns are connections for requests to the other nodes, one each, made when
// they are asked for and kept. They are apart from the streams of copies, so
// that a long answer holds up no message. It is safe for use by many
// goroutines.
type Conns struct {
	n *Node
	d port.Dialer

	mu     sync.Mutex
	open   map[string]Conn // by node
	closed bool
}

// Conns makes connections to the other nodes. The caller closes them.
func (n *Node) Conns() *Conns {
	return &Conns{n: n, d: n.dialer(), open: map[string]Conn{}}
}

// Others gives a connection to each other node that was not removed and that
// seems to be there or owns something, with silent each that was not removed; an
// error comes from its calls.
func (c *Conns) Others(silent bool) []Conn {
	var out []Conn
	for _, m := range c.n.Overview().Nodes {
		if m.Name == c.n.o.Name || m.State == "left" || m.State == "dead" && m.Segments == 0 && !silent {
			continue
		}
		if conn, err := c.to(m.Name, m.Address); err == nil {
			out = append(out, conn)
		}
	}
	return out
}

// to gives the connection to a node, a new one when its address has changed.
func (c *Conns) to(node, address string) (Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Conn{}, errStopped
	}
	was, ok := c.open[node]
	if ok && was.Address == address {
		return was, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+node,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialer does mutual TLS
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return c.d.Dial(ctx, node, address, protocolGRPC)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second}, MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	)
	if err != nil {
		return Conn{}, fmt.Errorf("cluster: %w", err)
	}
	if ok {
		_ = was.Close() // to where the node is no more
	}
	conn := Conn{Node: node, Address: address, ClientConn: cc}
	c.open[node] = conn
	return conn, nil
}

// Close ends all connections and their calls.
func (c *Conns) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, conn := range c.open {
		errs = append(errs, conn.Close())
	}
	c.open = map[string]Conn{}
	return errors.Join(errs...)
}

// Service is what was decided of a node.
type Service struct {
	State fsm.NodeState // Alive, Draining, Drained or Removed
	Lost  bool          // its disk
}

// Service tells what was decided of a node, whatever it seems to do.
func (n *Node) Service(node string) (Service, error) {
	rec, err := n.record(node)
	return Service{State: rec.State, Lost: rec.Lost}, err
}

// Started tells whether Start has got through: before that there is nobody to
// ask.
func (n *Node) Started() bool { return n.started.Load() }
