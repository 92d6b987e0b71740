package world

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// links is the network between the nodes. Each node's two ports are reached
// through a listener of the demo's, which finds out from the kernel whose
// process a connection comes from. While a node is cut off nothing passes from
// it to another node or the other way: what stands is held, not closed, as when
// a cable is pulled, and goes on when the node is back.
type links struct {
	// owner gives the node whose process holds a socket, "" for any other process.
	owner func(inode uint64) string

	mu      sync.Mutex
	cut     map[string]bool
	changed chan struct{} // closed at every change
	lns     []net.Listener
	conns   map[net.Conn]bool
	closed  bool
}

// synWait is how long a new connection over a cut link hangs before it fails.
const synWait = 3 * time.Second

func newLinks() *links {
	return &links{owner: func(uint64) string { return "" }, cut: map[string]bool{}, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
}

// open listens at a free port of 127.0.0.1 for the node name and hands on to
// the same port of host.
func (l *links) open(name, host string) (port string, err error) {
	for range 50 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", fmt.Errorf("demo: %w", err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String()) // it came from a listener
		try, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			ln.Close()
			continue
		}
		try.Close()
		l.mu.Lock()
		l.lns = append(l.lns, ln)
		l.mu.Unlock()
		go l.serve(ln, name, net.JoinHostPort(host, port))
		return port, nil
	}
	return "", fmt.Errorf("demo: no port is free on both 127.0.0.1 and %s", host)
}

// set cuts a node off, or heals its links.
func (l *links) set(name string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[name] = cut
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, ln := range l.lns {
		ln.Close()
	}
	for c := range l.conns {
		c.Close()
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// pass waits until nothing stands between two nodes. It tells whether that was
// so before limit; no limit where it is nil.
func (l *links) pass(from, to string, limit <-chan time.Time) bool {
	for {
		l.mu.Lock()
		free := from == "" || from == to || !l.cut[from] && !l.cut[to]
		closed, changed := l.closed, l.changed
		l.mu.Unlock()
		switch {
		case closed:
			return false
		case free:
			return true
		}
		select {
		case <-changed:
		case <-limit:
			return false
		}
	}
}

func (l *links) serve(ln net.Listener, name, addr string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed
		}
		go l.carry(c, name, addr)
	}
}

// hold notes a connection until the demo ends, so that it can be closed then.
func (l *links) hold(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	return !l.closed
}

func (l *links) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	c.Close()
}

// carry hands on what one connection brings, both ways.
func (l *links) carry(in net.Conn, to, addr string) {
	defer l.drop(in)
	if !l.hold(in) {
		return
	}
	inode, err := inodeOf(in)
	if err != nil {
		return // it has gone already
	}
	from := l.owner(inode)
	if !l.pass(from, to, time.After(synWait)) {
		return
	}
	out, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return
	}
	defer l.drop(out)
	if !l.hold(out) {
		return
	}
	gate := func() bool { return l.pass(from, to, nil) }
	done := make(chan struct{})
	go func() { defer close(done); pump(out, in, gate) }()
	pump(in, out, gate)
	<-done
}

// pump copies until either end is over; each piece waits at the gate.
func pump(to, from net.Conn, gate func() bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !gate() {
			break
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				if t, ok := to.(*net.TCPConn); ok && t.CloseWrite() == nil {
					return
				}
			}
			break
		}
	}
	to.Close()
	from.Close()
}

// inodeOf finds the socket at the other end of a connection on this machine.
func inodeOf(c net.Conn) (uint64, error) {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, fmt.Errorf("demo: %w", err)
	}
	local, err := hexAddr(c.RemoteAddr())
	if err != nil {
		return 0, err
	}
	remote, err := hexAddr(c.LocalAddr())
	if err != nil {
		return 0, err
	}
	sc := bufio.NewScanner(bytes.NewReader(text))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) > 9 && f[1] == local && f[2] == remote {
			return strconv.ParseUint(f[9], 10, 64)
		}
	}
	return 0, fmt.Errorf("demo: no socket %v", c.RemoteAddr())
}

// hexAddr writes an IPv4 address as /proc/net/tcp does on a little-endian
// machine.
func hexAddr(a net.Addr) (string, error) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil || !ap.Addr().Is4() {
		return "", fmt.Errorf("demo: %v is no IPv4 address", a)
	}
	b := ap.Addr().As4()
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{b[3], b[2], b[1], b[0]})), ap.Port()), nil
}

// holds tells whether a process has a socket open.
func holds(pid int, inode uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && to == want {
			return true
		}
	}
	return false
}
