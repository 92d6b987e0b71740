package wire

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// Identify finds out whom the connection is from. One of proxies has to say it
// in a PROXY header within wait, and can say that it speaks for itself (LOCAL,
// UNKNOWN); the header of anybody else is early talk. The address is invalid
// for a transport without addresses.
func (w *Conn) Identify(proxies []netip.Prefix, wait time.Duration) (netip.Addr, error) {
	peer, err := addrOf(w.sock.RemoteAddr())
	if err != nil {
		return netip.Addr{}, nil
	}
	if !within(proxies, peer) {
		return peer, nil
	}
	// The header can be followed by what the client said, TLS for one: both
	// go through one reader.
	br := bufio.NewReaderSize(w.sock, 512)
	h, err := proxyproto.ReadHeaderTimeout(w.sock, br, wait)
	if err != nil {
		return netip.Addr{}, err
	}
	if br.Buffered() > 0 {
		w.raw = &rest{Conn: w.sock, br: br}
		w.conn = w.raw
	}
	if h.Command.IsLocal() {
		return peer, nil
	}
	if h.TransportProtocol != proxyproto.TCPv4 && h.TransportProtocol != proxyproto.TCPv6 {
		return netip.Addr{}, fmt.Errorf("transport %#x instead of TCP", byte(h.TransportProtocol))
	}
	return addrOf(h.SourceAddr)
}

// rest is a connection of which a reader has read ahead.
type rest struct {
	net.Conn
	br *bufio.Reader
}

// Read gives what was read ahead first.
func (c *rest) Read(p []byte) (int, error) {
	if c.br != nil {
		if c.br.Buffered() > 0 {
			return c.br.Read(p)
		}
		c.br = nil
	}
	return c.Conn.Read(p)
}

// CloseWrite closes one direction where the transport can.
func (c *rest) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

func addrOf(a net.Addr) (netip.Addr, error) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address %v is none of TCP", a)
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address %v has no IP", a)
	}
	return ip.Unmap().WithZone(""), nil
}

func within(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// SpokeEarly tells whether the client did not wait for the greeting, which no
// sane one does (RFC 5321 3.1). It is given delay to show it; without one only
// what has come already counts, and under TLS nothing does. An error says that
// the client is gone.
func (w *Conn) SpokeEarly(delay time.Duration) (bool, error) {
	if c, ok := w.raw.(*rest); ok && c.br != nil && w.conn == w.raw {
		return true, nil // behind its PROXY header
	}
	if delay <= 0 {
		return w.conn == w.raw && hasInput(w.sock), nil
	}
	if err := w.await(time.Now().Add(delay), true); err != nil {
		return false, nil // interrupted: the first wait for a command says it
	}
	err := w.fill()
	switch stopped := w.resume(); {
	case err == nil:
		return true, nil
	case stopped || IsTimeout(err):
		return false, nil
	}
	return false, err
}

// hasInput looks without waiting whether octets have come already.
func hasInput(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = rc.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, _ = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && n > 0
}

// StartTLS does the handshake within wait. What was read before it must have
// been used.
func (w *Conn) StartTLS(config *tls.Config, wait time.Duration) (tls.ConnectionState, error) {
	if err := w.sock.SetDeadline(time.Now().Add(wait)); err != nil {
		return tls.ConnectionState{}, err
	}
	conn := tls.Server(w.raw, config)
	if err := conn.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	w.conn = conn
	return conn.ConnectionState(), nil
}
