package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// front is the one address that clients know: it gives each connection to the
// next node whose /lb says 200.
type front struct {
	ln    net.Listener
	nodes func() []*Node
	next  atomic.Uint64
}

func newFront(nodes func() []*Node) (*front, error) {
	addr, err := freeAddr("127.0.0.1:2525")
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("demo: front: %w", err)
	}
	f := &front{ln: ln, nodes: nodes}
	go f.serve()
	return f, nil
}

func (f *front) serve() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return // closed
		}
		go f.hand(c)
	}
}

// hand gives a connection to a node and carries it to its end. Without a node
// the client finds it closed and tries again later.
func (f *front) hand(in net.Conn) {
	defer in.Close()
	out, err := f.dial()
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(out, in); out.Close() }() // either end closes both
	_, _ = io.Copy(in, out)
	in.Close()
	<-done
}

var errNoNode = errors.New("demo: no node takes mail")

func (f *front) dial() (net.Conn, error) {
	nodes := f.nodes()
	first := int(f.next.Add(1) % uint64(max(1, len(nodes))))
	for i := range nodes {
		n := nodes[(first+i)%len(nodes)]
		if !n.Look().Balanced {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", n.SMTP)
		cancel()
		if err == nil {
			return c, nil
		}
	}
	return nil, errNoNode
}
