package gossip

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/gossip/lexer"
	"github.com/clrelay/clrelay/cluster/pki"
)

// How many packets one connection may bring.
const (
	packetBurst = 500
	packetRate  = 1000 // a second
)

// inbound counts who is connected to us. The transport's lock guards it.
type inbound struct {
	conns   map[net.Conn]struct{} // all, streams that we opened too
	half    map[netip.Addr]int    // in the handshake, by address
	halfAll int
	packets map[string][]net.Conn // by peer, oldest first
	streams map[string]int
	where   map[string]netip.AddrPort // where they say they are, of those in packets
}

func newInbound() inbound {
	return inbound{conns: map[net.Conn]struct{}{}, half: map[netip.Addr]int{}, packets: map[string][]net.Conn{}, streams: map[string]int{}, where: map[string]netip.AddrPort{}}
}

// accept takes connections until the listener is closed.
func (t *transport) accept() {
	wait := time.Duration(0)
	for {
		conn, err := t.ln.Accept()
		if err == nil {
			wait = 0
			t.admit(conn)
			continue
		}
		if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most likely: it passes.
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		t.log.Warn("gossip: cannot accept a connection", "err", err)
		pause(t.ctx, wait)
	}
}

// admit lets a connection begin its handshake if there are not too many.
func (t *transport) admit(conn net.Conn) {
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String()) // the zero address counts as one
	ip := from.Addr()
	t.mu.Lock()
	ok := !t.closed && t.in.halfAll < maxHalfOpen && t.in.half[ip] < maxHalfOpenIP && len(t.in.conns) < maxInbound
	if ok {
		t.in.conns[conn] = struct{}{}
		t.in.half[ip]++
		t.in.halfAll++
	}
	t.mu.Unlock()
	if !ok {
		_ = conn.Close() // nothing was said
		return
	}
	t.wg.Go(func() { t.serve(conn, ip) })
}

// serve is the life of a connection that another made.
func (t *transport) serve(raw net.Conn, ip netip.Addr) {
	conn := tls.Server(raw, t.opts.TLS.Server(alpnPackets, alpnStream))
	name, at, err := t.welcome(conn)
	t.mu.Lock()
	t.in.halfAll--
	if t.in.half[ip]--; t.in.half[ip] == 0 {
		delete(t.in.half, ip)
	}
	t.mu.Unlock()
	release := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.in.conns, raw)
	}
	if err != nil {
		t.complain(raw.RemoteAddr().String(), err)
		t.log.Debug("gossip: a connection is refused", "addr", raw.RemoteAddr().String(), "err", err)
		_ = raw.Close() // refused
		release()
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == alpnStream {
		t.takeStream(conn, name, release)
		return
	}
	defer release()
	t.takePackets(conn, name, at)
}

// welcome finds out who connects: a node, whose certificate bears the name
// under which it speaks. Where it can be reached is its own word.
func (t *transport) welcome(conn *tls.Conn) (name string, at netip.AddrPort, err error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return "", at, err
	}
	if err := conn.HandshakeContext(t.ctx); err != nil {
		return "", at, err
	}
	p, err := pki.PeerOf(conn.ConnectionState())
	if err != nil {
		return "", at, err
	}
	if p.Kind != pki.Node {
		return "", at, fmt.Errorf("%s is no node: %w", p, pki.ErrWrongName)
	}
	if p.Name == t.opts.Node {
		return "", at, errSelf
	}
	if name, at, err = readHello(conn); err != nil {
		return "", at, err
	}
	if name != p.Name {
		return "", at, fmt.Errorf("%s calls itself %q: %w", p, name, pki.ErrWrongName)
	}
	return name, at, conn.SetDeadline(time.Time{})
}

// callers gives the nodes that keep a connection to us and where they say
// they are.
func (t *transport) callers() []target {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]target, 0, len(t.in.where))
	for name, at := range t.in.where {
		out = append(out, target{name, at})
	}
	return out
}

// takePackets hands on what comes in, and answers heartbeats.
func (t *transport) takePackets(conn *tls.Conn, name string, at netip.AddrPort) {
	sock := conn.NetConn() // see pump
	t.mu.Lock()
	mine := append(t.in.packets[name], sock)
	if len(mine) > maxPacketIn { // the peer has forgotten the oldest
		_ = mine[0].Close()
		mine = mine[1:]
	}
	t.in.packets[name], t.in.where[name] = mine, at
	t.mu.Unlock()
	err := t.readPackets(conn, name)
	_ = sock.Close() // it is over
	t.mu.Lock()
	defer t.mu.Unlock()
	left := slices.DeleteFunc(t.in.packets[name], func(c net.Conn) bool { return c == sock })
	if t.in.packets[name] = left; len(left) == 0 {
		delete(t.in.packets, name)
		delete(t.in.where, name)
	}
	t.log.Debug("gossip: a connection is over", "peer", name, "err", err)
}

func (t *transport) readPackets(conn net.Conn, name string) error {
	r := bufio.NewReader(conn)
	tokens, filled := float64(packetBurst), time.Now()
	for {
		if err := conn.SetDeadline(time.Now().Add(lostAfter + beatEvery)); err != nil {
			return err
		}
		b, err := readFrame(r)
		if err != nil {
			return err
		}
		now := time.Now()
		tokens = min(packetBurst, tokens+now.Sub(filled).Seconds()*packetRate)
		filled = now
		if tokens < 1 {
			continue // lost, as anything may be
		}
		tokens--
		t.heard(name, now)
		if len(b) == 0 {
			if _, err := conn.Write([]byte{pong}); err != nil {
				return err
			}
			continue
		}
		if !plain(b) {
			return fmt.Errorf("a packet of a kind that is not used here: %#x", b[0])
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: b, From: conn.RemoteAddr(), Timestamp: now}:
		default:
		}
	}
}

// What memberlist's messages begin with. These numbers are part of its
// protocol and never change.
const (
	kindDead               = 5 // ping, indirect ping, answer, suspect and alive are below
	kindPushPull           = 6
	kindCompound           = 7
	kindUser, kindNack     = 8, 11
	kindCRC                = 12
	crcSize, compoundEntry = 4, 2

	streamOpens   = "\x00\x06"     // a ping, an exchange
	streamAnswers = "\x02\x06\x0d" // the answer to either, an error
)

// plain tells whether a packet is one of those that our nodes send: no
// encryption, no labels, nothing nested deeper than one compound. Above all
// nothing compressed: a few octets can unpack to any number of others.
func plain(b []byte) bool {
	if len(b) > 1+crcSize && b[0] == kindCRC {
		b = b[1+crcSize:]
	}
	if len(b) == 0 || b[0] != kindCompound {
		return single(b)
	}
	if len(b) < 2 || len(b) < 2+compoundEntry*int(b[1]) {
		return false
	}
	sizes, rest := b[2:2+compoundEntry*int(b[1])], b[2+compoundEntry*int(b[1]):]
	for ; len(sizes) > 0; sizes = sizes[compoundEntry:] {
		n := int(binary.BigEndian.Uint16(sizes))
		if n > len(rest) || !single(rest[:n]) {
			return false
		}
		rest = rest[n:]
	}
	return true
}

func single(b []byte) bool {
	switch {
	case len(b) == 0:
		return false
	case b[0] == kindUser: // not msgpack
		return true
	case b[0] <= kindDead, b[0] == kindNack:
		return new(lexer.Lexer).Take(b[1:]) == nil
	}
	return false
}

// takeStream hands a stream to memberlist, which closes it.
func (t *transport) takeStream(conn net.Conn, name string, release func()) {
	t.mu.Lock()
	ok := t.in.streams[name] < maxStreamsIn
	if ok {
		t.in.streams[name]++
	}
	t.mu.Unlock()
	if !ok {
		_ = conn.Close() // too many of this peer
		release()
		return
	}
	s := &stream{Conn: conn, left: maxStream, kinds: streamOpens, done: func() {
		t.mu.Lock()
		if t.in.streams[name]--; t.in.streams[name] == 0 {
			delete(t.in.streams, name)
		}
		t.mu.Unlock()
		release()
	}}
	t.heard(name, time.Now())
	select {
	case t.streams <- s: // memberlist takes each at once
	case <-t.ctx.Done():
		_ = s.Close() // nobody will
	}
}

// stream is a connection for one exchange. It brings a bounded number of
// octets, and begins as one of memberlist's that is neither compressed nor
// anything else that we do not send.
type stream struct {
	net.Conn
	left  int64
	kinds string // what it may begin with; empty once it has begun
	lex   lexer.Lexer
	once  sync.Once
	done  func()
}

// Read reads what is allowed.
func (s *stream) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, fmt.Errorf("gossip: more than %d octets", maxStream)
	}
	n, err := s.Conn.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	if bad := s.check(b[:n]); bad != nil {
		s.left = 0
		return 0, fmt.Errorf("gossip: %w", bad)
	}
	return n, err
}

// check looks at what was read before anybody else does.
func (s *stream) check(b []byte) error {
	if len(b) > 0 && s.kinds != "" {
		if strings.IndexByte(s.kinds, b[0]) < 0 {
			return fmt.Errorf("%w: a stream of kind %#x", lexer.ErrMessage, b[0])
		}
		if b[0] == kindPushPull {
			s.lex.Counts = lexer.ExchangeHead
		}
		s.kinds, b = "", b[1:]
	}
	return s.lex.Take(b)
}

// Close ends it.
func (s *stream) Close() error {
	s.once.Do(s.done)
	return s.Conn.Close()
}
