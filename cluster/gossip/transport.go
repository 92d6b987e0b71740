package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/gossip/lexer"
	"github.com/clrelay/clrelay/cluster/pki"
)

// The two uses of a connection, told apart in the TLS handshake.
const (
	alpnPackets = "clrelay-gossip/1"      // frames, kept open
	alpnStream  = "clrelay-gossip-sync/1" // one exchange of all that is known
)

// What takes how long at most.
const (
	handshakeTimeout = 5 * time.Second // of one that connects to us
	dialTimeout      = 2 * time.Second // name look-up excepted: addresses only
	streamTimeout    = 3 * time.Second
	complainEvery    = time.Minute
)

// Bounds of what is held at once.
const (
	maxHalfOpen   = 256 // connections in the handshake
	maxHalfOpenIP = 16  // of them, from one address
	maxInbound    = 2048
	maxPacketIn   = 2 // packet connections of one peer; the oldest goes
	maxStreamsIn  = 4 // streams of one peer
	maxLinks      = 2 * maxMembers
	packetQueue   = 512 // packets waiting for memberlist
	linkQueue     = 64  // packets waiting for one peer
	maxPacket     = lexer.MaxRaw
	maxStream     = 4 << 20 // octets taken from one stream
)

var (
	errClosed = errors.New("gossip is closed")
	errSelf   = errors.New("that is this node itself")
)

// transport is memberlist's way to the others. Nothing that memberlist calls
// in it waits for the network but DialAddressTimeout, which it calls where it
// may.
type transport struct {
	opts      Options
	ln        net.Listener
	advertise netip.AddrPort
	heard     func(node string, now time.Time)
	log       *slog.Logger

	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	complained time.Time
	links      map[memberlist.Address]*link
	in         inbound
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen opens the port and begins to accept.
func listen(ctx context.Context, o Options, heard func(string, time.Time)) (*transport, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.Listen, err)
	}
	t := &transport{
		opts: o, ln: ln, heard: heard, log: o.Log,
		packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn),
		links: map[memberlist.Address]*link{}, in: newInbound(),
	}
	if t.advertise, err = advertised(ctx, o, ln.Addr()); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	// It outlives ctx, which ends the loops: the last words are said after.
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	t.wg.Go(t.accept)
	return t, nil
}

// advertised finds the address at which others reach this node.
func advertised(ctx context.Context, o Options, listen net.Addr) (netip.AddrPort, error) {
	own, err := netip.ParseAddrPort(listen.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("own address %s: %w", listen, err)
	}
	own = netip.AddrPortFrom(own.Addr().Unmap().WithZone(""), own.Port())
	if o.Advertise != "" {
		found, err := resolve(ctx, o, o.Advertise)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("own address: %w", err)
		}
		return found[0], nil
	}
	if !own.Addr().IsUnspecified() {
		return own, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("own address: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return netip.AddrPortFrom(p.Addr().Unmap(), own.Port()), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("own address: no network interface has one that others could reach; say which to advertise: %w", errAddr)
}

// FinalAdvertiseAddr is what memberlist tells others.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo would send to an address whoever is there, which we never do.
func (t *transport) WriteTo(_ []byte, addr string) (time.Time, error) {
	return time.Time{}, fmt.Errorf("gossip: a packet for %s, and nobody's name: %w", addr, pki.ErrWrongName)
}

// WriteToAddress queues a packet. It may be lost, now or later; that is no
// error.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if pki.ValidName(a.Name) != nil {
		return t.WriteTo(b, a.Addr)
	}
	if len(b) == 0 || len(b) > maxPacket {
		return time.Time{}, fmt.Errorf("gossip: a packet of %d octets", len(b))
	}
	l, err := t.link(a)
	if err != nil {
		return time.Time{}, err
	}
	if l != nil {
		l.send(b)
	}
	return time.Now(), nil
}

// PacketCh is where packets of others come in.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where streams of others come in.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream to whichever node of this cluster is there.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, min(max(timeout, time.Millisecond), dialTimeout))
	defer cancel()
	conn, err := t.dial(ctx, a, alpnStream)
	if err != nil {
		return nil, err
	}
	return t.own(conn)
}

// Shutdown ends all of it and waits for the goroutines. It never fails.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.closed = true
	conns := slices.Collect(maps.Keys(t.in.conns))
	t.mu.Unlock()
	t.cancel()
	_ = t.ln.Close() // nothing hangs on it
	for _, c := range conns {
		_ = c.Close() // to wake who reads it
	}
	t.wg.Wait()
	return nil
}

// link finds or makes the kept connection to a peer; nil when there are too
// many.
func (t *transport) link(a memberlist.Address) (*link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	l := t.links[a]
	if l == nil {
		if len(t.links) >= maxLinks {
			return nil, nil
		}
		l = &link{t: t, to: a, queue: make(chan []byte, linkQueue)}
		t.links[a] = l
		t.wg.Go(l.run)
	}
	l.used = time.Now()
	return l, nil
}

// keep sees to it that there is a connection to a member.
func (t *transport) keep(node string, addr netip.AddrPort) {
	_, _ = t.link(memberlist.Address{Addr: addr.String(), Name: node}) // closed: nothing to keep
}

// unused tells whether nobody used a link for a while, and drops it then if
// asked to.
func (t *transport) unused(l *link, drop bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	idle := t.closed || time.Since(l.used) >= linkIdle
	if idle && drop {
		delete(t.links, l.to)
	}
	return idle
}

// own makes a stream of a connection that we made, and sees to it that
// Shutdown closes it.
func (t *transport) own(conn *tls.Conn) (net.Conn, error) {
	sock := conn.NetConn()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errors.Join(errClosed, sock.Close())
	}
	t.in.conns[sock] = struct{}{}
	return &stream{Conn: conn, left: maxStream, kinds: streamAnswers, done: func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.in.conns, sock)
	}}, nil
}

// complain speaks of a connection that failed by somebody's certificate, once
// a minute at most. All else that makes connections fail passes by itself.
func (t *transport) complain(addr string, err error) {
	var op *net.OpError
	alert := errors.As(err, &op) && op.Op == "remote error" // theirs: they refuse us
	var cert *tls.CertificateVerificationError
	if !alert && !errors.As(err, &cert) && !errors.Is(err, pki.ErrWrongName) && !errors.Is(err, pki.ErrWrongCA) && !errors.Is(err, pki.ErrExpired) {
		return
	}
	now := time.Now()
	t.mu.Lock()
	due := now.Sub(t.complained) >= complainEvery
	if due {
		t.complained = now
	}
	t.mu.Unlock()
	if due {
		t.log.Warn("gossip: a connection is refused by its certificate; no more of this for a minute", "addr", addr, "err", err)
	}
}
