package sim

import (
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// world is the event queue and the true time. Everything that happens is an
// event of it; two events at the same instant happen in the order in which
// they were put in.
type world struct {
	rng    *rand.Rand
	now    time.Duration // true time; no node sees it
	queue  eventQueue
	nextID uint64
	steps  int
	trace  io.Writer // nil: none
	digest uint64    // of every event: equal runs have equal digests
	failed error
}

type event struct {
	at   time.Duration
	id   uint64
	what string
	fn   func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].id < q[j].id
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

func newWorld(seed uint64, trace io.Writer) *world {
	return &world{rng: rand.New(rand.NewPCG(seed, 0x5eed)), trace: trace, digest: 14695981039346656037}
}

// after puts an event d from now.
func (w *world) after(d time.Duration, what string, fn func()) {
	w.nextID++
	heap.Push(&w.queue, event{at: w.now + max(d, 0), id: w.nextID, what: what, fn: fn})
}

// step runs the next event. It answers false where there is none, or where
// the run has failed.
func (w *world) step() bool {
	if w.failed != nil || len(w.queue) == 0 {
		return false
	}
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	w.steps++
	w.mix(uint64(e.at))
	e.fn()
	return w.failed == nil
}

func (w *world) mix(x uint64) { w.digest = (w.digest ^ x) * 1099511628211 }

// logf writes a line of the trace.
func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%6d %12.6f  "+format+"\n", append([]any{w.steps, w.now.Seconds()}, args...)...)
	}
}

// fail ends the run: a promise was broken.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf(format, args...)
		w.logf("FAIL %v", w.failed)
	}
}

// chance is true p times in 1,000.
func (w *world) chance(p int) bool { return w.rng.IntN(1000) < p }

// between draws a duration from [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// clock is one machine's time since its boot. It runs at a rate of its own,
// in millionths; rates of two machines differ by less than 20 %.
type clock struct {
	base       time.Duration // local time at since
	since      time.Duration // true time
	millionths int64
}

func (c *clock) local(now time.Duration) time.Duration {
	return c.base + time.Duration(int64(now-c.since)/1000*c.millionths/1000)
}

// setRate changes the rate from now on.
func (c *clock) setRate(now time.Duration, millionths int64) {
	c.base, c.since, c.millionths = c.local(now), now, millionths
}

// until answers how long, in true time, the clock needs for d.
func (c *clock) until(d time.Duration) time.Duration {
	return time.Duration(int64(d)/c.millionths*1000000) + time.Microsecond
}
