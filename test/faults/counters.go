package faults

import (
	"context"
	"sync"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// counters keep the possible duplicates that all lives of all nodes counted. A
// life that ends without a word is known as of the last look at it.
type counters struct {
	nodes []*relayproc.Relay

	mu     sync.Mutex
	lives  []int     // that ended
	before []float64 // of ended lives
	now    []float64 // of this one
}

func newCounters(nodes []*relayproc.Relay) *counters {
	return &counters{nodes: nodes, lives: make([]int, len(nodes)), before: make([]float64, len(nodes)), now: make([]float64, len(nodes))}
}

// run looks again and again.
func (c *counters) run(ctx context.Context) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		for i := range c.nodes {
			look := make(chan struct{})
			go func() { c.look(i); close(look) }()
			select {
			case <-look:
			case <-time.After(time.Second): // it is stopped, or out of reach
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *counters) look(i int) {
	c.mu.Lock()
	life := c.lives[i]
	c.mu.Unlock()
	n, err := c.nodes[i].Metric("clrelay_possible_duplicates_total")
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if life == c.lives[i] { // otherwise it is counted already
		c.now[i] = n
	}
}

// last looks a last time, right before the life ends; rest is to follow.
func (c *counters) last(i int) {
	look := make(chan struct{})
	go func() { c.look(i); close(look) }()
	select {
	case <-look:
	case <-time.After(100 * time.Millisecond):
	}
}

// rest closes a life that has ended.
func (c *counters) rest(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before[i] += c.now[i]
	c.now[i] = 0
	c.lives[i]++
}

// sum is what was counted in all.
func (c *counters) sum() (n float64) {
	for i := range c.nodes {
		c.look(i)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.nodes {
		n += c.before[i] + c.now[i]
	}
	return n
}
