package replica

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxPending is the most incoming streams of one node's certificate that are in
// their handshake. An honest node has one, or two while it gives one up.
const maxPending = 4

// serve runs an incoming stream to its end. Returning ends the gRPC stream and
// with it the calls of the link's reader and writer.
func (r *Replicator) serve(s grpc.ServerStream) error {
	node, err := r.opts.Identify(s.Context())
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "certificate of the connection: %v", err)
	}
	self, err := r.enter(node)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer r.wg.Done()
	l, err := r.welcome(s, self, node)
	r.entered(node)
	if err != nil {
		r.stranger(node, err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Aborted, l.p.run(l, s, func() {}).Error())
}

// stranger counts and logs a refused stream, ever more rarely.
func (r *Replicator) stranger(node string, err error) {
	if n := r.strangers.Add(1); n&(n-1) == 0 {
		r.opts.Log.Warn("stream of a node refused", "peer", node, "refused", n, "error", err)
	}
}

// enter counts an incoming stream, if this node takes any, as one in its
// handshake; entered ends that.
func (r *Replicator) enter(node string) (Peer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return Peer{}, ErrClosed
	case r.self.Session == 0:
		return Peer{}, errors.New("replica: not started")
	case r.pending[node] >= maxPending:
		return Peer{}, fmt.Errorf("replica: more than %d handshakes of node %s at once", maxPending, node)
	}
	r.pending[node]++
	r.wg.Add(1)
	return r.self, nil
}

func (r *Replicator) entered(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[node]--; r.pending[node] == 0 {
		delete(r.pending, node)
	}
}

// welcome makes the handshake of the side that was dialled.
func (r *Replicator) welcome(s grpc.ServerStream, self Peer, node string) (*link, error) {
	type greeting struct {
		h   hello
		num uint64
		err error
	}
	got := make(chan greeting, 1)
	r.wg.Go(func() {
		h, num, err := listen(s, &r.pool, frameHello)
		got <- greeting{h, num, err}
	})
	slow := time.NewTimer(r.opts.DialTimeout)
	defer slow.Stop()
	var g greeting
	select {
	case g = <-got:
	case <-slow.C:
		g.err = errors.New("replica: no greeting")
	case <-r.ending:
		g.err = ErrClosed
	}
	if g.err != nil {
		return nil, g.err
	}
	version, err := meet(self, g.h)
	if err != nil {
		return nil, refusal("%v", err)
	}
	if g.h.from.Node != node {
		return nil, refusal("the certificate is of node %q, the greeting of %q", node, g.h.from.Node)
	}
	if node >= self.Node {
		return nil, refusal("node %s is to be dialled by %s, not the other way", node, self.Node)
	}
	p := r.peer(node)
	if p == nil {
		return nil, refusal("node %s is none of this node's peers", node)
	}
	l := p.newLink(self, g.h.from, g.num)
	if err := p.admit(l); err != nil {
		p.count.refused.Add(1)
		return nil, err
	}
	if err := say(s, &r.pool, frameWelcome, g.num, hello{low: version, high: version, from: self, to: g.h.from}); err != nil {
		l.end(err) // run finds it dead and clears up
	}
	return l, nil
}
