package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
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
)

// layer is the library's view of the network.
type layer struct {
	node, address string
	net           Network
	open          atomic.Bool // raft connections are taken
	ctx           context.Context
	stop          context.CancelFunc
}

func newLayer(node, address string, nw Network) *layer {
	ctx, cancel := context.WithCancel(context.Background())
	return &layer{node: node, address: address, net: nw, ctx: ctx, stop: cancel}
}

// Accept waits for a connection. While the node is not yet part of the
// cluster it turns them away.
func (l *layer) Accept() (net.Conn, error) {
	for {
		c, err := l.net.Raft.Accept()
		if err != nil || l.open.Load() {
			return c, err
		}
		_ = c.Close() // nothing was said on it
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
			return c, nil
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
