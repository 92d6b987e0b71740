// Package port is the one port of a node towards the cluster: it takes
// connections, does the TLS handshake, and hands each to the listener of the
// protocol that was negotiated (ALPN). Raft, its control questions, and gRPC so
// share an address, a firewall rule and a set of certificates; no octet is read
// in clear and none has to be sniffed.
//
// The driver in package cluster makes one Port, asks it for a listener for each
// protocol before Serve, and gives these to Raft and gRPC. What certificates
// are good is the TLS configuration's business (package cluster/pki), who may
// speak which protocol is Options.Allow's.
//
// A client that does not finish its handshake costs a slot for at most
// HandshakeTimeout. When all slots are taken, the oldest unfinished handshake
// gives way to a new one, so that a crowd of stalled clients cannot keep the
// cluster's nodes out, whose handshakes take milliseconds.
//
// A Port may be used from many goroutines; Close ends all of its own and closes
// connections that nobody has accepted yet. Accepted ones belong to who
// accepted them.
package port

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// HandshakeTimeout bounds a handshake, and the wait for somebody to accept
	// the finished connection.
	HandshakeTimeout = 5 * time.Second
	// MaxHandshakes bounds how many handshakes are under way.
	MaxHandshakes = 256

	backlog     = 64 // finished connections that a listener holds for Accept
	acceptPause = 50 * time.Millisecond
)

// Options of New.
type Options struct {
	// TLS must require client certificates and name the protocols in
	// NextProtos, or do so in GetConfigForClient.
	TLS *tls.Config
	// Allow refuses a finished handshake by its error; nil allows all.
	Allow func(protocol string, state tls.ConnectionState) error
	Log   *slog.Logger

	maxHandshakes int // tests make it small
}

// Port splits one listener by protocol.
type Port struct {
	o     Options
	lower net.Listener
	stop  context.CancelFunc
	ctx   context.Context
	done  sync.WaitGroup

	mu      sync.Mutex
	subs    map[string]*listener
	pending *list.List // of net.Conn, the oldest in front
}

// New returns a Port on a listener, which it owns from then on.
func New(lower net.Listener, o Options) (*Port, error) {
	if lower == nil || o.TLS == nil || o.Log == nil {
		return nil, errors.New("port: a listener, TLS and Log are needed")
	}
	if o.maxHandshakes == 0 {
		o.maxHandshakes = MaxHandshakes
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Port{o: o, lower: lower, ctx: ctx, stop: stop, subs: map[string]*listener{}, pending: list.New()}, nil
}

// Listener returns the listener for a protocol, which must be asked for once.
// Closing it closes connections for that protocol from then on.
func (p *Port) Listener(protocol string) net.Listener {
	l := &listener{addr: p.lower.Addr(), conns: make(chan net.Conn, backlog), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subs[protocol] = l
	return l
}

// Serve takes connections until Close.
func (p *Port) Serve() error {
	for {
		conn, err := p.lower.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Mostly out of file descriptors: it passes.
			p.o.Log.Warn("the cluster port cannot take a connection", "error", err)
			if !p.pause() {
				return nil
			}
			continue
		}
		slot, ok := p.admit(conn)
		if !ok {
			_ = conn.Close() // nothing was said on it
			return nil
		}
		go func() {
			defer p.done.Done()
			defer p.release(slot)
			p.handshake(conn, slot)
		}()
	}
}

func (p *Port) pause() bool {
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// admit gives a connection a slot, at the cost of the oldest one if need be. It
// fails once the port is closed.
func (p *Port) admit(conn net.Conn) (*list.Element, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, false
	}
	if p.pending.Len() >= p.o.maxHandshakes {
		oldest := p.pending.Remove(p.pending.Front()).(net.Conn)
		_ = oldest.Close() // ends its handshake
	}
	p.done.Add(1)
	return p.pending.PushBack(conn), true
}

func (p *Port) release(slot *list.Element) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending.Remove(slot) // does nothing when it had to give way
}

func (p *Port) handshake(raw net.Conn, slot *list.Element) {
	ctx, cancel := context.WithTimeout(p.ctx, HandshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, p.o.TLS)
	if err := p.greet(ctx, conn, slot); err != nil {
		_ = raw.Close() // the handshake's error is told
		p.o.Log.Debug("a connection to the cluster port was refused", "remote", raw.RemoteAddr().String(), "error", err)
	}
}

// greet finishes the handshake and hands the connection over.
func (p *Port) greet(ctx context.Context, conn *tls.Conn, slot *list.Element) error {
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	p.mu.Lock()
	l := p.subs[state.NegotiatedProtocol]
	p.mu.Unlock()
	if l == nil {
		return fmt.Errorf("port: nobody speaks %q here", state.NegotiatedProtocol)
	}
	if p.o.Allow != nil {
		if err := p.o.Allow(state.NegotiatedProtocol, state); err != nil {
			return err
		}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	p.release(slot) // from here on it gives way to nobody
	return l.offer(ctx, conn)
}

// Close ends Serve and everything under way, and closes the listeners.
func (p *Port) Close() error {
	p.mu.Lock()
	p.stop()
	for e := p.pending.Front(); e != nil; e = e.Next() {
		_ = e.Value.(net.Conn).Close() // ends its handshake
	}
	subs := p.subs
	p.subs = map[string]*listener{}
	p.mu.Unlock()
	err := p.lower.Close()
	p.done.Wait()
	for _, l := range subs {
		_ = l.Close() // always nil
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("port: %w", err)
	}
	return nil
}

// listener is what is left of the port for one protocol.
type listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}

	mu     sync.Mutex // orders offers and Close, so that nothing is left behind
	closed bool
}

// offer puts a connection before Accept. The queue is there so that a short
// absence of its reader does no harm; when it is full the connection is refused.
func (l *listener) offer(ctx context.Context, c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || ctx.Err() != nil {
		return net.ErrClosed
	}
	select {
	case l.conns <- c:
		return nil
	default:
		return errors.New("port: too many connections wait to be accepted")
	}
}

// Accept returns the next connection, a *tls.Conn with its handshake done.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close refuses what comes and closes what nobody has accepted.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.done)
	for {
		select {
		case c := <-l.conns:
			_ = c.Close() // nothing was said on it
		default:
			return nil
		}
	}
}

// Addr is the address of the port.
func (l *listener) Addr() net.Addr { return l.addr }
