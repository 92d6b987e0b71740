package replica

import (
	"errors"
	"fmt"
	"runtime"
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
