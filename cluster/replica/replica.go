package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what travels. They are part of what the peers expect of each
// other: a peer that goes beyond them loses its stream.
const (
	// MaxFrame is the size in bytes at which a frame is closed; the item that
	// goes beyond it still goes in whole.
	MaxFrame = 1 << 20
	// MaxItem is the most bytes an item may take in a frame: its data, 4 bytes
	// a part, and a head of 37.
	MaxItem = 2 << 20
	// MaxParts is the most parts the Data of an item may have.
	MaxParts = 4096
	// FramesInFlight is the most frames of one direction that the peer has not
	// acknowledged.
	FramesInFlight = 4
	// MaxPeers is the most nodes that SetPeers takes.
	MaxPeers = 1024
	// MaxNodeName is the longest name of a node in bytes.
	MaxNodeName = 255
)

// Errors that Send returns and that Down carries; compare with errors.Is.
var (
	// ErrDown: there is no stream to that node.
	ErrDown = errors.New("replica: no stream to that node")
	// ErrFull: the link's window is full; nothing of the call was queued, the
	// stream goes on.
	ErrFull = errors.New("replica: window of the link is full")
	// ErrTooLarge: an item beyond MaxItem or MaxParts; nothing was queued.
	ErrTooLarge = errors.New("replica: item too large")
	// ErrClosed: the Replicator was closed.
	ErrClosed = errors.New("replica: closed")
	// ErrStalled: frames were in flight and the peer acknowledged none.
	ErrStalled = errors.New("replica: peer acknowledges nothing")
	// ErrSilent: nothing arrived from the peer, not even a sign of life.
	ErrSilent = errors.New("replica: peer is silent")
	// ErrReplaced: a newer stream of the same peer took this one's place.
	ErrReplaced = errors.New("replica: replaced by a newer stream")
	// ErrRemoved: SetPeers no longer names the peer, or only with a newer
	// session.
	ErrRemoved = errors.New("replica: no longer a peer")
	// ErrBadFrame: a frame that is malformed, too large, out of order, damaged
	// or of another session.
	ErrBadFrame = errors.New("replica: bad frame")
	// ErrRefused: the handshake ended with a refusal; the error's text says
	// whose and why.
	ErrRefused = errors.New("replica: handshake refused")
)

// Item is the unit that a stream carries.
//
// The parts of Data keep their borders. All fields are carried blindly.
type Item struct {
	Kind                     uint8
	Segment, Epoch, Seq, Arg uint64
	Data                     [][]byte
}

// Peer is the identity of one end of a stream. Session is unique over the life
// of the cluster and grows with every start of any node.
type Peer struct {
	Node       string
	Store      [16]byte
	Session    uint64
	Generation uint32
}

// PeerAddr names a node that should be connected.
//
// Session, where it is not zero, is the lowest session of the node that is
// talked to: an older one is refused and its stream closed, a newer one is
// welcome (this node may be behind). Store is compared where the session is
// just this one and Store is not zero.
type PeerAddr struct {
	Node    string
	Address string // host:port, given to Options.Dial
	Session uint64
	Store   [16]byte
}

// Batch is what one frame brought: the items of possibly many segments in the
// order of Send. Items and all that they point to are valid until Release.
type Batch struct {
	Items []Item

	arena [][]byte
	link  *link
	buf   *[]byte
	size  int64
}

// Handler takes what happens on the streams.
type Handler interface {
	// Up says that a stream with this peer stands. Send to it works from now
	// on, also within this call.
	Up(Peer)
	// Receive takes a batch of a stream that is up. The handler owns it and
	// calls Release once it needs none of its bytes any more, from any
	// goroutine; Receive itself must not block for long: the stream's frames
	// are acknowledged when it returns, and a peer gives a stream up that
	// acknowledges nothing for Options.Stall.
	Receive(from Peer, b *Batch)
	// Down says that the stream is over and why. No Receive of it follows.
	Down(Peer, error)
}

// Options of a Replicator. Dial, Identify and Handler are needed.
type Options struct {
	// Dial connects to a node: TLS, done with its handshake, ALPN h2, the
	// peer's certificate checked to be that of node. It obeys ctx.
	Dial func(ctx context.Context, node, address string) (net.Conn, error)
	// Identify says which node is at the other end of an incoming stream, from
	// the certificate of its connection.
	Identify func(ctx context.Context) (node string, err error)
	// Handler takes what arrives.
	Handler Handler
	// Window is the most bytes a link holds that its peer has not acknowledged;
	// default 16 MiB, at least 4 MiB. Small calls (4 KiB) may go an eighth
	// beyond it, so that answers get through where bulk does not.
	Window int64
	// Hold is the most bytes of batches not yet released for one link; beyond
	// it the link takes no further frame, and if that lasts the peer gives the
	// stream up. A batch counts whole until its Release. Default twice Window.
	Hold int64
	// Stall is how long a link may make no progress before it is closed;
	// default 1 s.
	Stall time.Duration
	// DialTimeout bounds one attempt: connection and handshake; default 2 s.
	DialTimeout time.Duration
	// RetryMax is the longest pause between two attempts to dial; default 1 s.
	// The first pause is a sixteenth of it.
	RetryMax time.Duration
	// Seed seeds the jitter of those pauses.
	Seed uint64
	// Log gets what an operator may want to know of links.
	Log *slog.Logger
}

// Replicator holds the streams of one node.
type Replicator struct {
	opts      Options
	pool      bufferPool
	batches   sync.Pool // of *Batch
	attempts  atomic.Uint64
	strangers atomic.Uint64 // incoming streams refused
	wg        sync.WaitGroup
	ending    chan struct{} // closed by Close

	mu      sync.RWMutex
	self    Peer // Session 0 until Start
	closed  bool
	seeds   *rand.Rand
	peers   map[string]*peer
	pending map[string]int // incoming streams in their handshake, by node
}

// New returns a Replicator that refuses incoming streams and dials nobody until
// Start gives it its identity: the service can be registered before the node
// has its Session.
func New(o Options) (*Replicator, error) {
	if o.Dial == nil || o.Identify == nil || o.Handler == nil {
		return nil, errors.New("replica: Dial, Identify and Handler are needed")
	}
	o.Window = max(cmp.Or(o.Window, 16<<20), 4<<20)
	o.Hold = cmp.Or(o.Hold, 2*o.Window)
	o.Stall = cmp.Or(o.Stall, time.Second)
	o.DialTimeout = cmp.Or(o.DialTimeout, 2*time.Second)
	o.RetryMax = cmp.Or(o.RetryMax, time.Second)
	if o.Stall < ticks || o.DialTimeout <= 0 || o.RetryMax < 16 || o.Hold <= 0 {
		return nil, errors.New("replica: a duration or bound is negative or far too small")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Replicator{
		opts: o, ending: make(chan struct{}), peers: map[string]*peer{}, pending: map[string]int{},
		seeds: rand.New(rand.NewPCG(o.Seed, 0)),
	}
	r.batches.New = func() any { return new(Batch) }
	return r, nil
}

// Start gives the Replicator its identity and lets it talk. A second call is
// an error: another session is another Replicator.
func (r *Replicator) Start(self Peer) error {
	if self.Node == "" || len(self.Node) > MaxNodeName || self.Session == 0 {
		return fmt.Errorf("replica: %+v is no identity", self)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if r.self.Session != 0 {
		return fmt.Errorf("replica: started before, as session %d", r.self.Session)
	}
	r.self = self
	for _, p := range r.peers {
		r.begin(p)
	}
	return nil
}

// SetPeers says which nodes should be connected: the whole set, as a level. It
// never blocks. Streams to nodes no longer named, or named with a session newer
// than the stream's, are closed; new ones are dialled in the background for as
// long as they are named. This node's own name is skipped, and names beyond
// MaxPeers are.
func (r *Replicator) SetPeers(peers []PeerAddr) {
	peers = slices.SortedFunc(slices.Values(peers), byName)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if len(peers) > MaxPeers {
		r.opts.Log.Error("more nodes than streams are kept for", "nodes", len(peers), "max", MaxPeers)
		peers = peers[:MaxPeers]
	}
	named := map[string]bool{}
	for _, a := range peers {
		if a.Node == "" || len(a.Node) > MaxNodeName || named[a.Node] {
			continue
		}
		named[a.Node] = true
		p := r.peers[a.Node]
		if p == nil {
			p = &peer{r: r, name: a.Node, kick: make(chan struct{}, 1)}
			r.peers[a.Node] = p
		}
		p.level(a)
		r.begin(p)
	}
	for name, p := range r.peers {
		if named[name] {
			continue
		}
		if p.forget(ErrRemoved); p.idle() {
			delete(r.peers, name)
		}
	}
}

// begin lets a named peer have streams, and dials it if that is this node's
// part. r.mu is held.
func (r *Replicator) begin(p *peer) {
	if r.self.Session == 0 || p.name == r.self.Node {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	if self := r.self; self.Node < p.name {
		jitter := rand.New(rand.NewPCG(r.seeds.Uint64(), r.seeds.Uint64()))
		r.wg.Go(func() { p.dial(ctx, self, jitter) })
	}
}

func (r *Replicator) peer(node string) *peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.peers[node]
}

// Send queues items for a node, all of them or none, and never blocks. Their
// bytes have been copied when it returns. Errors: ErrDown, ErrFull,
// ErrTooLarge.
func (r *Replicator) Send(to string, items ...Item) error {
	p := r.peer(to)
	if p == nil {
		return ErrDown
	}
	l := p.live.Load()
	if l == nil {
		return ErrDown
	}
	return l.send(items)
}

// Break ends the stream with a node, if there is one; it is dialled anew. It is
// for a caller that cannot go on, for one after an ErrFull it has no means to
// make up for. The handler's Down carries err.
func (r *Replicator) Break(node string, err error) {
	if p := r.peer(node); p != nil {
		if l := p.live.Load(); l != nil {
			l.end(err)
		}
	}
}

// Close ends all streams and returns when their goroutines have ended. It must
// not be called from within a Handler.
func (r *Replicator) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.closed = true
	close(r.ending)
	for _, p := range r.peers {
		p.forget(ErrClosed)
	}
	r.mu.Unlock()
	r.wg.Wait()
	return nil
}

// LinkStats counts what happened with one peer since it was first named; gauges
// are of now.
type LinkStats struct {
	Node                             string
	Up                               bool
	Session                          uint64 // of the peer, 0 if down
	Queued                           int64  // bytes queued or in flight, gauge
	Held                             int64  // bytes received and not released, gauge
	Streams, Dials, Refused          uint64 // streams that came up; attempts; handshakes refused by either end
	Stalls, Bad                      uint64 // streams closed as stalled or silent; because of a bad frame
	Full                             uint64 // Sends refused for want of window
	ItemsSent, FramesSent, BytesSent uint64
	ItemsRecv, FramesRecv, BytesRecv uint64
}

// Stats returns the counts of every peer, ordered by name.
func (r *Replicator) Stats() []LinkStats {
	r.mu.RLock()
	out := make([]LinkStats, 0, len(r.peers))
	for _, p := range r.peers {
		if p.name != r.self.Node {
			out = append(out, p.stats())
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(out, func(a, b LinkStats) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// Strangers returns how many incoming streams were refused in their handshake,
// of whatever node.
func (r *Replicator) Strangers() uint64 { return r.strangers.Load() }
