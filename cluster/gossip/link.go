package gossip

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/pki"
)

// Times of a kept connection.
const (
	linkIdle   = 10 * time.Second // unused for so long: closed
	lostAfter  = 2 * time.Second  // no answer to heartbeats: broken
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second
)

// pong answers a heartbeat.
const pong = 0xff

// dial connects to a node, or to whichever is there if a has no name, checks
// who it is and says who we are. It gives the other's name.
func (t *transport) dial(ctx context.Context, a memberlist.Address, alpn string) (*tls.Conn, error) {
	raw, err := t.opts.Dial(ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, t.opts.TLS.Client(a.Name, alpn))
	if err := t.greet(ctx, conn); err != nil {
		_ = raw.Close() // it is of no use
		t.complain(a.Addr, err)
		return nil, fmt.Errorf("gossip: %s: %w", a.Addr, err)
	}
	return conn, nil
}

func (t *transport) greet(ctx context.Context, conn *tls.Conn) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	p, err := pki.PeerOf(conn.ConnectionState())
	if err != nil {
		return err
	}
	if p.Name == t.opts.Node {
		return errSelf
	}
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	if _, err := conn.Write(hello(t.opts.Node, t.advertise)); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// link is the kept connection over which packets go to one peer at one
// address. Packets come back over the connection that the peer keeps to us.
type link struct {
	t     *transport
	to    memberlist.Address
	queue chan []byte
	used  time.Time // the transport's lock guards it
}

// send queues a packet, or loses it.
func (l *link) send(b []byte) {
	select {
	case l.queue <- b:
	default:
	}
}

// run connects and sends until the link is no longer used.
func (l *link) run() {
	wait := backoffMin
	for {
		ctx, cancel := context.WithTimeout(l.t.ctx, dialTimeout)
		conn, err := l.t.dial(ctx, l.to, alpnPackets)
		cancel()
		if err == nil {
			var answered bool
			if answered, err = l.pump(conn); answered {
				wait = backoffMin
			} else {
				l.t.complain(l.to.Addr, err) // in TLS 1.3 we hear now that we were refused
			}
		}
		if l.t.unused(l, true) {
			return
		}
		l.t.log.Debug("gossip: no connection", "peer", l.to.Name, "addr", l.to.Addr, "err", err)
		// Whoever is down must not be hammered, and not by all at once.
		pause(l.t.ctx, wait/2+rand.N(wait))
		wait = min(2*wait, backoffMax)
		l.drain()
	}
}

// drain loses what waited for a connection: it is out of date.
func (l *link) drain() {
	for {
		select {
		case <-l.queue:
		default:
			return
		}
	}
}

var (
	errIdle   = errors.New("not used")
	errAnswer = errors.New("an answer that is none")
)

// heardOut is what became of a connection, as its reader saw it.
type heardOut struct {
	some bool // the peer answered once at least
	err  error
}

// pump sends packets and heartbeats until the connection breaks or is no
// longer used. It says whether the peer ever answered.
func (l *link) pump(conn *tls.Conn) (answered bool, err error) {
	// Closing the socket and not the TLS connection on it, whose farewell could
	// wait for a full buffer.
	sock := conn.NetConn()
	stop := context.AfterFunc(l.t.ctx, func() { _ = sock.Close() })
	defer stop()
	read := make(chan heardOut, 1)
	l.t.wg.Go(func() {
		out := l.listen(conn)
		_ = sock.Close() // so that no write waits
		read <- out
	})
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for buf := []byte(nil); ; {
		buf = buf[:0]
		select {
		case b := <-l.queue:
			buf = l.gather(frame(buf, b))
		case <-beat.C:
			if l.t.unused(l, false) {
				err = errIdle
			}
			buf = frame(buf, nil)
		case out := <-read:
			return out.some, out.err
		}
		if err == nil {
			err = conn.SetWriteDeadline(time.Now().Add(lostAfter))
		}
		if err == nil {
			_, err = conn.Write(buf)
		}
		if err != nil {
			_ = sock.Close() // it wakes the reader
			out := <-read
			return out.some, err
		}
	}
}

// gather adds what else waits, up to a bound.
func (l *link) gather(buf []byte) []byte {
	for len(buf) < maxPacket {
		select {
		case b := <-l.queue:
			buf = frame(buf, b)
		default:
			return buf
		}
	}
	return buf
}

// listen takes the answers to heartbeats until there are none for too long.
func (l *link) listen(conn net.Conn) (out heardOut) {
	buf := make([]byte, 16)
	for {
		n := 0
		if out.err = conn.SetReadDeadline(time.Now().Add(lostAfter)); out.err == nil {
			n, out.err = conn.Read(buf)
		}
		if bytes.Count(buf[:n], []byte{pong}) != n {
			out.err = errAnswer
			return out
		}
		if n > 0 {
			out.some = true
			l.t.heard(l.to.Name, time.Now())
		}
		if out.err != nil {
			return out
		}
	}
}

// hello is what the end that connects says first: the name under which it
// speaks and where it can be reached, each with its length.
func hello(node string, at netip.AddrPort) []byte {
	addr := at.String()
	b := append([]byte{byte(len(node))}, node...)
	return append(append(b, byte(len(addr))), addr...)
}

// readHello reads it.
func readHello(r io.Reader) (node string, at netip.AddrPort, err error) {
	node, err = readText(r)
	addr, second := readText(r)
	if err = errors.Join(err, second, pki.ValidName(node)); err == nil {
		at, err = netip.ParseAddrPort(addr)
	}
	return node, at, err
}

func readText(r io.Reader) (string, error) {
	var b [256]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return "", err
	}
	n := int(b[0])
	_, err := io.ReadFull(r, b[:n])
	return string(b[:n]), err
}

// frame appends a packet with its length; none at all is a heartbeat.
func frame(buf, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(buf, uint16(len(b))), b...)
}

// readFrame reads one frame; an empty one is a heartbeat.
func readFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > maxPacket {
		return nil, fmt.Errorf("a frame of %d octets", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
