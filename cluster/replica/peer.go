package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// counters of one peer; see LinkStats.
type counters struct {
	streams, dials, refused, stalls, bad, full atomic.Uint64
	itemsSent, framesSent, bytesSent           atomic.Uint64
	itemsRecv, framesRecv, bytesRecv           atomic.Uint64
}

// peer is a node that is, or was, named by SetPeers.
type peer struct {
	r     *Replicator
	name  string
	live  atomic.Pointer[link] // the stream that is up
	count counters

	mu     sync.Mutex
	addr   PeerAddr
	stop   context.CancelFunc // ends the dialling; nil when this node is not named
	kick   chan struct{}      // dial now
	last   *link              // the newest stream, up, waiting for its place, or over
	newest Peer               // the newest identity that was met
	// attempt is the number of the newest stream of that identity.
	attempt uint64
}

// refusal is an error of the handshake that the other end is told.
func refusal(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, a...))
}

// newLink returns the stream of an attempt, not yet admitted.
func (p *peer) newLink(self, other Peer, attempt uint64) *link {
	return &link{
		p: p, o: &p.r.opts, pool: &p.r.pool, batches: &p.r.batches,
		self: self, peer: other, attempt: attempt,
		dead: make(chan struct{}), done: make(chan struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
}

// admit decides whether a stream may take the peer's place, ends the one that
// has it and returns when that has ended. After a nil error run must follow.
func (p *peer) admit(l *link) error {
	if err := p.claim(l); err != nil {
		return err
	}
	if l.prev != nil {
		l.prev.end(ErrReplaced)
		<-l.prev.done
		l.prev = nil
	}
	return nil
}

func (p *peer) claim(l *link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := l.peer
	switch {
	case p.stop == nil:
		return refusal("node %s is none of this node's peers", who.Node)
	case who.Session < p.addr.Session || who.Session < p.newest.Session:
		return refusal("session %d of node %s is over, %d is known", who.Session, who.Node, max(p.addr.Session, p.newest.Session))
	case who.Session == p.addr.Session && p.addr.Store != [16]byte{} && who.Store != p.addr.Store:
		return refusal("node %s has store %x in session %d, not %x", who.Node, p.addr.Store, who.Session, who.Store)
	case who.Session == p.newest.Session && who.Store != p.newest.Store:
		return refusal("node %s had store %x in session %d, not %x", who.Node, p.newest.Store, who.Session, who.Store)
	case who.Session == p.newest.Session && l.attempt <= p.attempt:
		return refusal("a newer stream of node %s stands", who.Node)
	}
	p.newest, p.attempt = who, l.attempt
	l.prev, p.last = p.last, l
	return nil
}

// run drives an admitted stream to its end, on the caller's goroutine; hangUp
// makes the stream's calls return.
func (p *peer) run(l *link, s stream, hangUp func()) error {
	defer close(l.done)
	if l.ended() { // replaced before it began
		hangUp()
		return l.err
	}
	o := l.o
	p.live.Store(l)
	p.count.streams.Add(1)
	o.Log.Info("stream to a node is up", "peer", l.peer.Node, "peer_session", l.peer.Session)
	o.Handler.Up(l.peer)
	p.r.wg.Go(func() { l.write(s) })
	p.r.wg.Go(func() { l.read(s) })
	p.r.wg.Go(l.watch)
	<-l.dead
	hangUp()
	l.taking.Lock()
	l.over = true
	l.taking.Unlock()
	p.live.CompareAndSwap(l, nil)
	o.Log.Warn("stream to a node is down", "peer", l.peer.Node, "peer_session", l.peer.Session, "error", l.err)
	o.Handler.Down(l.peer, l.err)
	return l.err
}

// dial keeps a stream to the peer until ctx ends.
func (p *peer) dial(ctx context.Context, self Peer, jitter *rand.Rand) {
	o := &p.r.opts
	pause, tries := o.RetryMax/16, 0
	for {
		up, err := p.try(ctx, self)
		if ctx.Err() != nil {
			return
		}
		if up {
			pause, tries = o.RetryMax/16, 0
		} else if tries++; tries&(tries-1) == 0 { // ever more rarely, not once a second
			o.Log.Warn("node cannot be reached", "peer", p.name, "tries", tries, "error", err)
		}
		wait := time.NewTimer(pause/2 + time.Duration(jitter.Int64N(int64(pause/2)+1)))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-p.kick:
			wait.Stop()
			pause = o.RetryMax / 16
		case <-wait.C:
			pause = min(2*pause, o.RetryMax)
		}
	}
}

// try makes one stream and runs it to its end. up says whether it stood.
func (p *peer) try(ctx context.Context, self Peer) (up bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.count.dials.Add(1)
	p.mu.Lock()
	addr := p.addr
	p.mu.Unlock()
	slow := time.AfterFunc(p.r.opts.DialTimeout, cancel)
	defer slow.Stop()
	conn, err := p.r.opts.Dial(ctx, p.name, addr.Address)
	if err != nil {
		return false, fmt.Errorf("replica: dialling %s at %s: %w", p.name, addr.Address, err)
	}
	s, hangUp, err := call(ctx, conn)
	if err != nil {
		return false, fmt.Errorf("replica: calling %s at %s: %w", p.name, addr.Address, err)
	}
	l, err := p.greet(s, self, addr)
	if err == nil && !slow.Stop() {
		err = errors.New("replica: handshake took too long")
	}
	if err == nil {
		err = p.admit(l)
	}
	if err != nil {
		hangUp()
		if errors.Is(err, ErrRefused) {
			p.count.refused.Add(1)
		}
		return false, fmt.Errorf("replica: greeting %s at %s: %w", p.name, addr.Address, err)
	}
	stop := context.AfterFunc(ctx, func() { l.end(ErrRemoved) })
	defer stop()
	return true, p.run(l, s, func() { cancel(); hangUp() })
}

// greet makes the handshake of the side that dials.
func (p *peer) greet(s stream, self Peer, addr PeerAddr) (*link, error) {
	attempt := p.r.attempts.Add(1)
	want := Peer{Node: p.name, Store: addr.Store, Session: addr.Session, Generation: self.Generation}
	if err := say(s, &p.r.pool, frameHello, attempt, hello{low: versionLow, high: versionHigh, from: self, to: want}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err // with EOF the reason is what RecvMsg returns
	}
	h, _, err := listen(s, &p.r.pool, frameWelcome)
	if err != nil {
		if c := status.Code(err); c == codes.FailedPrecondition || c == codes.PermissionDenied {
			err = refusal("by the peer: %s", status.Convert(err).Message())
		}
		return nil, err
	}
	if _, err := meet(self, h); err != nil {
		return nil, refusal("%v", err)
	}
	if h.from.Node != p.name || h.to != self {
		return nil, refusal("node %q answers for %q and means %v", h.from.Node, p.name, h.to)
	}
	return p.newLink(self, h.from, attempt), nil
}

// say sends a handshake frame.
func say(s stream, pool *bufferPool, kind uint8, num uint64, h hello) error {
	b := appendHello(nil, h)
	seal(b, header{kind: kind, from: h.from.Session, to: h.to.Session, num: num})
	return s.SendMsg(&wireFrame{buf: &b, pool: pool})
}

// listen receives a handshake frame of the given kind.
func listen(s stream, pool *bufferPool, kind uint8) (h hello, num uint64, err error) {
	f := wireFrame{pool: pool}
	if err := s.RecvMsg(&f); err != nil {
		return h, 0, err
	}
	defer pool.Put(f.buf)
	head, body, err := unseal(*f.buf)
	if err != nil {
		return h, 0, err
	}
	if head.kind != kind {
		return h, 0, fmt.Errorf("%w: kind %d in the handshake", ErrBadFrame, head.kind)
	}
	if h, err = parseHello(body); err != nil {
		return h, 0, fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	if head.from != h.from.Session || head.to != h.to.Session {
		return h, 0, fmt.Errorf("%w: greeting of session %d in a frame of %d", ErrBadFrame, h.from.Session, head.from)
	}
	return h, head.num, nil
}

// forget ends the peer's stream, for the reason given, and the dialling.
func (p *peer) forget(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil {
		p.last.end(why)
	}
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
}

// level takes over what SetPeers says of this peer.
func (p *peer) level(a PeerAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a != p.addr {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
	p.addr = a
	if p.last != nil && p.last.peer.Session < a.Session {
		p.last.end(ErrRemoved)
	}
}

// idle says whether nothing of the peer is left but its numbers.
func (p *peer) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		return false
	}
	if p.last == nil {
		return true
	}
	select {
	case <-p.last.done:
		return true
	default:
		return false
	}
}

func (p *peer) stats() LinkStats {
	c := &p.count
	s := LinkStats{
		Node: p.name, Streams: c.streams.Load(), Dials: c.dials.Load(), Refused: c.refused.Load(),
		Stalls: c.stalls.Load(), Bad: c.bad.Load(), Full: c.full.Load(),
		ItemsSent: c.itemsSent.Load(), FramesSent: c.framesSent.Load(), BytesSent: c.bytesSent.Load(),
		ItemsRecv: c.itemsRecv.Load(), FramesRecv: c.framesRecv.Load(), BytesRecv: c.bytesRecv.Load(),
	}
	if l := p.live.Load(); l != nil {
		s.Up, s.Session, s.Held = true, l.peer.Session, l.held.Load()
		l.mu.Lock()
		s.Queued = l.queued
		l.mu.Unlock()
	}
	return s
}

func byName(a, b PeerAddr) int { return cmp.Compare(a.Node, b.Node) }
