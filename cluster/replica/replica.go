package replica

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
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
	// session or another address.
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

	link *link
	buf  *[]byte
	size int64
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
	// it the link takes no further frame. Default twice Window.
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
	opts Options
}

// New returns a Replicator that refuses incoming streams and dials nobody until
// Start gives it its identity: the service can be registered before the node
// has its Session.
func New(o Options) (*Replicator, error) {
	return &Replicator{opts: o}, nil
}

// Register adds the streams' service to a gRPC server, which must have been
// made with ServerOptions.
func (r *Replicator) Register(s grpc.ServiceRegistrar) {}

// Start gives the Replicator its identity and lets it talk. A second call is
// an error: another session is another Replicator.
func (r *Replicator) Start(self Peer) error { return nil }

// SetPeers says which nodes should be connected: the whole set, as a level. It
// never blocks. Streams to nodes no longer named, named with another address,
// or with a session newer than the stream's are closed; new ones are dialled in
// the background for as long as they are named. This node's own name is
// skipped.
func (r *Replicator) SetPeers(peers []PeerAddr) {}

// Send queues items for a node, all of them or none, and never blocks. Their
// bytes have been copied when it returns. Errors: ErrDown, ErrFull,
// ErrTooLarge, ErrClosed.
func (r *Replicator) Send(to string, items ...Item) error { return ErrDown }

// Break ends the stream with a node, if there is one; it is dialled anew. It is
// for a caller that cannot go on, for one after an ErrFull it has no means to
// make up for. The handler's Down carries err.
func (r *Replicator) Break(node string, err error) {}

// Close ends all streams and returns when their goroutines have ended. It must
// not be called from within a Handler.
func (r *Replicator) Close() error { return nil }

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

// Stats returns the counts of every peer named by SetPeers, ordered by name.
func (r *Replicator) Stats() []LinkStats { return nil }

// Release gives the batch's memory back; call it once.
func (b *Batch) Release() {}

// ServerOptions returns what the gRPC server needs that carries the streams:
// the codec that passes frames through untouched (and hands everything else to
// the ordinary protobuf codec, so that other services can live beside it),
// window and buffer sizes, and keepalive.
func ServerOptions() []grpc.ServerOption { return nil }

type link struct{}
