package admin

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// askWait is how long another node may take for an answer, or for the next
	// piece of a list.
	askWait = 5 * time.Second
	// changeWait is how long it may take to change its part of the queue.
	changeWait = 2 * time.Minute
)

// fleet asks the other nodes.
type fleet struct {
	peers Peers // nil on a single machine
}

// others gives the nodes to be asked besides this one.
func (f *fleet) others(ctx context.Context, local bool) []Peer {
	if f.peers == nil || local {
		return nil
	}
	return f.peers.Others(ctx)
}

// answer is what one node said.
type answer[T any] struct {
	peer Peer
	got  T
	err  error
}

// ask calls f for all peers at the same time, each within wait, and returns in
// the order of the peers.
func ask[T any](ctx context.Context, peers []Peer, wait time.Duration, f func(ctx context.Context, p Peer) (T, error)) []answer[T] {
	out := make([]answer[T], len(peers))
	var group sync.WaitGroup
	for i, p := range peers {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			out[i].peer = p
			err := safely(func() (err error) {
				out[i].got, err = f(ctx, p)
				return err
			})
			out[i].err = err
		})
	}
	group.Wait()
	return out
}

// sorted is for names that are gathered as they come.
func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
