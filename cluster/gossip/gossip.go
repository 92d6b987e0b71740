// Package gossip finds the other nodes of the cluster, tells within a second
// or two who seems to be gone, and carries what each node says of itself:
// addresses, zone, version, load. It is memberlist on a transport of our own.
//
// It is a hint and no more. Two nodes may see different members, a node called
// dead may live, what it says of itself may be seconds old. Nothing that must
// be right depends on it: ownership and membership are Raft's.
//
// All traffic goes over mutual TLS on one TCP port. There is no UDP and no
// shared key: who somebody is stands in their certificate, and what a node
// says under another name than its certificate's is refused. Packets travel in
// short frames over connections that are kept; when a queue is full they are
// lost, as UDP's are. No call waits for the network, except Start for the name
// in Advertise and Close for a second at most.
//
// Goroutines: one that ticks, one that looks for members, one or two for each
// connection, and memberlist's own. Those of this package end before Close
// returns, memberlist's within the two seconds that a probe can take.
package gossip

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/pki"
)

// TLS makes configurations for both ends of a connection; *pki.Identity does.
type TLS interface {
	Server(alpn ...string) *tls.Config
	Client(peer string, alpn ...string) *tls.Config
}

// Options are what a node needs to gossip.
type Options struct {
	Node      string   // name of this node; its certificate must bear it
	Listen    string   // host:port
	Advertise string   // host:port at which others reach it; default: where it listens
	Seeds     []string // host:port of others, any number; names are looked up again and again
	TLS       TLS
	Meta      Meta // what this node says of itself at first
	Log       *slog.Logger
	// Told is given what other nodes Tell. It must neither block nor keep it. It
	// may be nil.
	Told func(text []byte)

	// Dial and Resolve are the network; default: the system's.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// How quickly things are noticed.
const (
	tickEvery    = 200 * time.Millisecond
	beatEvery    = 400 * time.Millisecond  // heartbeats on each kept connection
	suspectAfter = 1500 * time.Millisecond // of silence
	pauseAfter   = time.Second             // a tick as late as this: it is we who were away
	metaEvery    = time.Second             // what we say of ourselves goes out this often at most
	leaveTimeout = time.Second
)

// ErrName says that the certificate of this node bears another name.
var ErrName = errors.New("the certificate is another node's")

// Gossip is the running thing.
type Gossip struct {
	opts   Options
	table  *table
	wire   *transport
	list   *memberlist.Memberlist
	ctx    context.Context // ends the loops
	cancel context.CancelFunc
	loops  sync.WaitGroup
	closed atomic.Bool

	mu    sync.Mutex
	meta  []byte // encoded
	dirty bool   // meta is to be sent
}

// Start listens and begins to look for others; it does not wait for them.
func Start(o Options) (*Gossip, error) {
	if err := pki.ValidName(o.Node); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if err := ownName(o.TLS, o.Node); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	meta, err := o.Meta.Encode()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	g := &Gossip{opts: o, meta: meta}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.table = newTable(o.Node, o.Log)
	if g.wire, err = listen(g.ctx, o, g.table.heard); err != nil {
		g.cancel()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if g.list, err = memberlist.Create(g.config()); err != nil {
		g.cancel()
		_ = g.wire.Shutdown() // it never fails
		return nil, fmt.Errorf("gossip: start memberlist: %w", err)
	}
	g.loops.Go(g.tick)
	g.loops.Go(g.seek)
	return g, nil
}

// ownName compares the certificate that we show with our name.
func ownName(t TLS, node string) error {
	cert, err := t.Client("").GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil || len(cert.Certificate) == 0 {
		return fmt.Errorf("own certificate: %w", errors.Join(ErrName, err))
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("own certificate: %w", err)
	}
	p, err := pki.PeerOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
	if err != nil {
		return err
	}
	if p == (pki.Peer{Kind: pki.Node, Name: node}) {
		return nil
	}
	return fmt.Errorf("%w: it is that of %s, and this is node %s", ErrName, p, node)
}

// config is how memberlist is used.
func (g *Gossip) config() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = g.opts.Node
	c.Transport = g.wire
	c.BindPort = int(g.wire.advertise.Port())
	c.AdvertisePort = c.BindPort
	c.TCPTimeout = streamTimeout
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 300*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 4, 3 // dead after 2 to 6 s
	c.AwarenessMaxMultiplier = 3
	c.PushPullInterval = 5 * time.Second
	// A node that died may come back elsewhere under its name. Zero means never.
	c.DeadNodeReclaimTime = time.Millisecond
	c.EnableCompression = false // and refused by the transport: LZW can swell without end
	c.UDPBufferSize = maxPacket / 4
	c.Delegate, c.Events, c.Alive, c.Conflict = delegate{g}, g.table, g.table, g.table
	c.Logger = log.New(bridge{g.opts.Log}, "", 0)
	return c
}

// Addr is where others are told to reach this node.
func (g *Gossip) Addr() netip.AddrPort { return g.wire.advertise }

// Members is everybody known, this node included, those who died within the
// last hour too, in the order of their names.
func (g *Gossip) Members() []Member { return g.table.members() }

// Changed gives a channel that is closed when Members may have changed. Ask
// for it before Members.
func (g *Gossip) Changed() <-chan struct{} { return g.table.watch() }

// SetMeta changes what this node says of itself. It goes out within about a
// second; of several changes in a second the last counts.
func (g *Gossip) SetMeta(m Meta) error {
	b, err := m.Encode()
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if string(b) != string(g.meta) {
		g.meta, g.dirty = b, true
	}
	return nil
}

// Close tells the others that this node leaves, for a second at most, and
// ends everything.
func (g *Gossip) Close() error { return g.end(true) }

func (g *Gossip) end(leave bool) error {
	if g.closed.Swap(true) {
		return nil
	}
	if leave {
		if err := g.list.Leave(leaveTimeout); err != nil {
			g.opts.Log.Debug("gossip: left without a word", "err", err)
		}
	}
	g.cancel()
	err := g.list.Shutdown()
	g.loops.Wait()
	g.table.end()
	if err != nil {
		return fmt.Errorf("gossip: shut down: %w", err)
	}
	return nil
}

// tick watches for silence, keeps a connection to every member, and sends
// what changed of ourselves.
func (g *Gossip) tick() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	last, sent := time.Now(), time.Time{}
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		if now.Sub(last) > pauseAfter {
			g.table.forgive(now)
		}
		last = now
		for _, m := range g.table.tick(now) {
			g.wire.keep(m.Node, m.Addr)
		}
		if now.Sub(sent) >= metaEvery && g.takeDirty() {
			sent = now
			// It waits for the news to have gone round, which we need not. It
			// fails by the time-out alone.
			_ = g.list.UpdateNode(time.Millisecond)
		}
	}
}

// MaxTold bounds what is told at once, in octets: it goes in one packet.
const MaxTold = 1000

// Tell sends text to all nodes that seem to be there. It may be lost.
func (g *Gossip) Tell(text []byte) {
	for _, m := range g.list.Members() {
		if m.Name != g.opts.Node && len(text) <= MaxTold {
			_ = g.list.SendBestEffort(m, text) // as said: it may be lost
		}
	}
}

func (g *Gossip) takeDirty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.dirty
	g.dirty = false
	return was
}

// delegate is what memberlist asks us. None of it may block.
type delegate struct{ g *Gossip }

// NodeMeta is what we say of ourselves.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.meta
}

// NotifyMsg takes what others Tell.
func (d delegate) NotifyMsg(text []byte) {
	if d.g.opts.Told != nil {
		d.g.opts.Told(text)
	}
}

// GetBroadcasts has none to send: what is told goes to each node by itself.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState has nothing to add to an exchange.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState takes nothing from one.
func (delegate) MergeRemoteState([]byte, bool) {}

// bridge takes memberlist's log. It speaks of every packet that does not
// arrive, so all of it is for developers; what operators need, this package
// says itself.
type bridge struct{ log *slog.Logger }

// Write takes one line.
func (b bridge) Write(line []byte) (int, error) {
	if b.log.Enabled(context.Background(), slog.LevelDebug) {
		b.log.Debug("gossip: memberlist", "text", string(line))
	}
	return len(line), nil
}
