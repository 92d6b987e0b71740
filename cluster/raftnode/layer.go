package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

const (
	// dialPatience is how long a dial goes on trying. The library doubles its
	// pause between log entries to a peer with each failure, to 10 s, and does
	// not shorten it when the peer is back; with few and long failures the pause
	// stays short over outages of some minutes.
	dialPatience = 30 * time.Second
	dialTry      = time.Second
	dialPause    = 200 * time.Millisecond
	maxRaftConns = 1024
)

// layer is the library's view of the network.
type layer struct {
	node, address string
	net           Network
	open          atomic.Bool // raft connections are taken
	generation    atomic.Uint32
	ctx           context.Context
	cancel        context.CancelFunc

	mu    sync.Mutex
	conns map[*tracked]struct{} // all that are open: the library leaves some behind
}

// tracked is a connection that stop closes. It begins with the generation of
// whoever dialled: what is of another says nothing to this node's log.
type tracked struct {
	net.Conn
	l      *layer
	unread bool // the generation is still to be read
}

// Read reads; the library reads from one goroutine.
func (c *tracked) Read(p []byte) (int, error) {
	if c.unread {
		var theirs [4]byte
		if _, err := io.ReadFull(c.Conn, theirs[:]); err != nil {
			return 0, err
		}
		if g := binary.BigEndian.Uint32(theirs[:]); g != c.l.generation.Load() {
			return 0, fmt.Errorf("raftnode: a connection of generation %d, this node is of %d", g, c.l.generation.Load())
		}
		c.unread = false
	}
	return c.Conn.Read(p)
}

// Close closes the connection.
func (c *tracked) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

func (l *layer) track(c net.Conn, accepted bool) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil || len(l.conns) >= maxRaftConns {
		_ = c.Close() // nothing was said on it
		return nil, errors.New("raftnode: no room for another raft connection")
	}
	t := &tracked{Conn: c, l: l, unread: accepted}
	l.conns[t] = struct{}{}
	return t, nil
}

// stop ends all dials and closes all connections, for good.
func (l *layer) stop() {
	l.mu.Lock()
	l.cancel()
	conns := l.conns
	l.conns = map[*tracked]struct{}{}
	l.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close() // whoever is on it finds out
	}
}

func newLayer(node, address string, nw Network) *layer {
	ctx, cancel := context.WithCancel(context.Background())
	return &layer{node: node, address: address, net: nw, ctx: ctx, cancel: cancel, conns: map[*tracked]struct{}{}}
}

// Accept waits for a connection. While the node is not yet part of the
// cluster it turns them away.
func (l *layer) Accept() (net.Conn, error) {
	for {
		c, err := l.net.Raft.Accept()
		if err != nil {
			return nil, err
		}
		if !l.open.Load() {
			_ = c.Close() // nothing was said on it
			continue
		}
		if c, err := l.track(c, true); err == nil {
			return c, nil
		}
	}
}

// Close ends the listener and all dials.
func (l *layer) Close() error {
	l.stop()
	return l.net.Raft.Close()
}

// Addr is the address that others know this node by.
func (l *layer) Addr() net.Addr { return layerAddr(store.Address(l.node, l.address)) }

type layerAddr string

func (layerAddr) Network() string  { return "clrelay-raft" }
func (a layerAddr) String() string { return string(a) }

// greet says of which generation this node is.
func (l *layer) greet(c net.Conn) error {
	err := c.SetWriteDeadline(time.Now().Add(dialTry))
	if err == nil {
		_, err = c.Write(binary.BigEndian.AppendUint32(nil, l.generation.Load()))
	}
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close() // the first error is told
	}
	return err
}

// Dial connects to NAME@HOST:PORT. Its patience is its own: see dialPatience.
func (l *layer) Dial(to raft.ServerAddress, _ time.Duration) (net.Conn, error) {
	node, address, ok := store.SplitAddress(to)
	if !ok {
		return nil, fmt.Errorf("raftnode: %q is not an address of the form NAME@HOST:PORT", to)
	}
	ctx, cancel := context.WithTimeout(l.ctx, dialPatience)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, dialTry)
		c, err := l.net.Dial(try, node, address, ProtocolRaft)
		done()
		if err == nil {
			err = l.greet(c)
		}
		if err == nil {
			return l.track(c, false)
		}
		t := time.NewTimer(dialPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("raftnode: dialling %s: %w", to, errors.Join(ctx.Err(), err))
		}
	}
}
