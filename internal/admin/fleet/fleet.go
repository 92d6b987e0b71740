// Package fleet asks the other nodes of the cluster, all at the same time and
// each within its time: what one does not say is known to be missing.
package fleet

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Peers are the other nodes.
type Peers interface {
	// Others gives those other nodes that may own mail, whether they can be
	// reached or not.
	Others(ctx context.Context) []Peer
	// Knows tells whether a node belongs to the cluster.
	Knows(node string) bool
}

// Peer is another node.
type Peer struct {
	Name string
	Conn grpc.ClientConnInterface
}

// Fleet is the nodes of a cluster but this one. Its Peers are nil on a single
// machine.
type Fleet struct{ Peers Peers }

// Others gives the nodes to be asked besides this one.
func (f *Fleet) Others(ctx context.Context, local bool) []Peer {
	if f.Peers == nil || local {
		return nil
	}
	return f.Peers.Others(ctx)
}

// Answer is what one node said.
type Answer[T any] struct {
	Peer Peer
	Got  T
	Err  error
}

// Ask calls f for all peers at the same time, each within wait, and returns in
// the order of the peers.
func Ask[T any](ctx context.Context, peers []Peer, wait time.Duration, f func(ctx context.Context, p Peer) (T, error)) []Answer[T] {
	out := make([]Answer[T], len(peers))
	var group sync.WaitGroup
	for i, p := range peers {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			out[i].Peer = p
			err := Safely(func() (err error) {
				out[i].Got, err = f(ctx, p)
				return err
			})
			out[i].Err = err
		})
	}
	group.Wait()
	return out
}

// AskWhile asks as Ask does, while own does this node's part. That this one
// fails is an error.
func AskWhile[T any](ctx context.Context, peers []Peer, wait time.Duration, f func(ctx context.Context, p Peer) (T, error), own func(ctx context.Context) error) (out []Answer[T], err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { out = Ask(ctx, peers, wait, f) })
	err = Safely(func() error { return own(ctx) })
	if err != nil {
		cancel()
	}
	group.Wait()
	return out, err
}

// Each uses what each node said, in turn, and names those that said nothing or
// nothing that can be used.
func Each[T any](answers []Answer[T], use func(T) error) (missing []string) {
	for _, a := range answers {
		if a.Err != nil || use(a.Got) != nil {
			missing = append(missing, a.Peer.Name)
		}
	}
	return Sorted(missing)
}

// Sorted is for names that are gathered as they come.
func Sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// Panic is the error of a call that panicked.
type Panic struct {
	Value any
	Stack []byte
}

// Error tells no more than that it did.
func (p *Panic) Error() string { return "panic in an admin call" }

// Safely makes an error of a panic.
func Safely(call func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{v, debug.Stack()}
		}
	}()
	return call()
}
