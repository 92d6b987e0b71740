package replica

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// counter is a Handler that counts and lets a sender wait for it.
type counter struct {
	up    chan struct{}
	n     atomic.Int64
	want  atomic.Int64
	there chan struct{}
}

func (c *counter) Up(Peer)          { close(c.up) }
func (c *counter) Down(Peer, error) {}
func (c *counter) Receive(_ Peer, b *Batch) {
	n := c.n.Add(int64(len(b.Items)))
	b.Release()
	if n == c.want.Load() {
		c.there <- struct{}{}
	}
}

func newCounter() *counter { return &counter{up: make(chan struct{}), there: make(chan struct{}, 1)} }

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLink sends items over TLS on loopback, both ends in this process, and
// reports the CPU of both with cpu-us/item. With paced the sender waits for
// each group, as a log with group commit does; otherwise it sends for as long as
// the window lets it.
func BenchmarkLink(b *testing.B) {
	for _, size := range []int{200, 2 << 10, 10 << 10, 100 << 10} {
		for _, group := range []int{0, 1, 8} {
			name := fmt.Sprintf("%dB/flood", size)
			if group > 0 {
				name = fmt.Sprintf("%dB/groups-of-%d", size, group)
			}
			b.Run(name, func(b *testing.B) { benchLink(b, size, group) })
		}
	}
}

func benchLink(b *testing.B, size, group int) {
	ca := newAuthority(b)
	ha, hb := newCounter(), newCounter()
	x := newHost(b, Peer{Node: "a", Session: 1}, hostOptions{ca: ca, handler: ha})
	y := newHost(b, Peer{Node: "b", Session: 2}, hostOptions{ca: ca, handler: hb})
	join(x, y)
	<-ha.up
	<-hb.up
	it := Item{Kind: 1, Data: [][]byte{make([]byte, 100), make([]byte, size-100)}}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	hb.want.Store(-1)
	if group == 0 {
		hb.want.Store(int64(b.N))
	}
	for i := 0; i < b.N; i++ {
		if group > 0 && i%group == 0 {
			hb.want.Store(int64(min(i+group, b.N)))
		}
		err := x.r.Send("b", it)
		for errors.Is(err, ErrFull) {
			runtime.Gosched()
			err = x.r.Send("b", it)
		}
		if err != nil {
			b.Fatal(err)
		}
		if group > 0 && (i%group == group-1 || i == b.N-1) {
			<-hb.there
		}
	}
	if group == 0 {
		<-hb.there
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/item")
	s := x.r.Stats()[0]
	b.ReportMetric(float64(s.ItemsSent)/float64(max(1, s.FramesSent)), "items/frame")
}

// echo answers each batch with one cumulative item, as a member of a segment
// does, and tells those who wait how far the other end is.
type echo struct {
	r    *Replicator
	to   string
	up   chan struct{}
	back bool
	seq  atomic.Uint64

	mu   sync.Mutex
	cond *sync.Cond
}

func newEcho(to string, back bool) *echo {
	e := &echo{to: to, back: back, up: make(chan struct{})}
	e.cond = sync.NewCond(&e.mu)
	return e
}

func (e *echo) Up(Peer)          { close(e.up) }
func (e *echo) Down(Peer, error) {}
func (e *echo) Receive(_ Peer, b *Batch) {
	seq := b.Items[len(b.Items)-1].Seq
	b.Release()
	if e.back {
		_ = e.r.Send(e.to, Item{Kind: 2, Seq: seq}) // cannot fail: the other end waits
		return
	}
	e.seq.Store(seq)
	e.mu.Lock()
	e.cond.Broadcast()
	e.mu.Unlock()
}

// BenchmarkEcho has many senders that each wait for the answer to their item:
// what accepting mail looks like, but for the disks.
func BenchmarkEcho(b *testing.B) {
	for _, senders := range []int{1, 10, 100} {
		for _, size := range []int{2 << 10, 10 << 10} {
			b.Run(fmt.Sprintf("%dB/senders-%d", size, senders), func(b *testing.B) { benchEcho(b, size, senders) })
		}
	}
}

func benchEcho(b *testing.B, size, senders int) {
	ca := newAuthority(b)
	ea, eb := newEcho("b", false), newEcho("a", true)
	x := newHost(b, Peer{Node: "a", Session: 1}, hostOptions{ca: ca, handler: ea})
	y := newHost(b, Peer{Node: "b", Session: 2}, hostOptions{ca: ca, handler: eb})
	ea.r, eb.r = x.r, y.r
	join(x, y)
	<-ea.up
	<-eb.up
	data := make([]byte, size)
	var mu sync.Mutex
	var seq uint64
	var wg sync.WaitGroup
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	for i := range senders {
		wg.Go(func() {
			for range (b.N + senders - 1 - i) / senders {
				mu.Lock()
				seq++
				mine := seq
				err := x.r.Send("b", Item{Kind: 1, Seq: mine, Data: [][]byte{data}})
				mu.Unlock()
				if err != nil {
					b.Error(err)
					return
				}
				ea.mu.Lock()
				for ea.seq.Load() < mine {
					ea.cond.Wait()
				}
				ea.mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/item")
	s := x.r.Stats()[0]
	b.ReportMetric(float64(s.ItemsSent)/float64(max(1, s.FramesSent)), "items/frame")
}
