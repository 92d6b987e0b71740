package system

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// narrowSink is a receiver that may come to bear few connections.
type narrowSink struct {
	*peers.Sink
	mu      sync.Mutex
	served  []time.Time
	refused []time.Time
}

func newNarrow(t *testing.T, delay time.Duration) *narrowSink {
	n := &narrowSink{}
	n.Sink = startSink(t, &peers.Sink{
		Delay:   delay,
		Refused: func(at time.Time) { n.note(&n.refused, at) },
		Began:   func(at time.Time) { n.note(&n.served, at) },
	})
	return n
}

func (n *narrowSink) note(list *[]time.Time, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*list = append(*list, at)
}

// between counts what was served and what was refused between two moments.
func (n *narrowSink) between(from, to time.Time) (served, refused int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	in := func(at time.Time) bool { return !at.Before(from) && at.Before(to) }
	for _, at := range n.served {
		if in(at) {
			served++
		}
	}
	for _, at := range n.refused {
		if in(at) {
			refused++
		}
	}
	return served, refused
}

// traffic is mail that comes in evenly, by number when it was sent.
type traffic struct {
	mu   sync.Mutex
	sent map[int64]time.Time
}

// run sends to all nodes of a fleet in turn until ctx ends, so many messages a
// second.
func (tr *traffic) run(ctx context.Context, f *fleet, base int64, rate int, rcpt string) {
	tr.sent = map[int64]time.Time{}
	var wg sync.WaitGroup
	for i, r := range f.Nodes {
		wg.Go(func() {
			every := time.Duration(len(f.Nodes)) * time.Second / time.Duration(rate)
			t := time.NewTicker(every)
			defer t.Stop()
			src := &peers.Source{Addr: r.SMTP, Sessions: 4, Reuse: true, Size: 1 << 10, Timeout: 40 * time.Second,
				Rcpt: func(int64) string { return rcpt },
				Pace: func(seq int64) {
					select {
					case <-t.C:
					case <-ctx.Done():
					}
					tr.mu.Lock()
					defer tr.mu.Unlock()
					tr.sent[seq] = time.Now()
				}}
			src.Run(ctx, base+int64(i)*1_000_000, 1_000_000)
		})
	}
	wg.Wait()
}

// quantiles are those of the time from a message's sending to its arrival, of
// the messages sent between two moments. One that has not come is as late as
// can be.
func (tr *traffic) quantiles(sink *peers.Sink, from, to time.Time, qs ...float64) (out []time.Duration, n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var list []time.Duration
	for seq, at := range tr.sent {
		if at.Before(from) || !at.Before(to) {
			continue
		}
		late := time.Hour
		if times := sink.Times(seq); len(times) > 0 {
			late = times[0].Sub(at)
		}
		list = append(list, late)
	}
	slices.Sort(list)
	for _, q := range qs {
		if len(list) > 0 {
			out = append(out, list[min(len(list)-1, int(q*float64(len(list))))].Round(100*time.Microsecond))
		}
	}
	return out, len(list)
}

// TestClusterNarrowReceiver: a receiver that begins to refuse more than three
// connections is found, and served at its pace; mail for others does not
// notice.
func TestClusterNarrowReceiver(t *testing.T) {
	const most, delay = 3, 50 * time.Millisecond
	slow := newNarrow(t, delay)
	f := openFleetWith(t, 3, "senders: [{name: local, networks: [127.0.0.0/8]}]\nroutes:\n"+
		fmt.Sprintf("  - {match: {domains: [narrow.test]}, action: {smarthost: [%q]}}\n", slow.Addr())+
		"  - {match: {}, action: {smarthost: [\"%s\"]}}\nqueue: {retry: [1s, 2s, 5s], expire: 1h}\n")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var others, narrowed traffic
	wg.Go(func() { others.run(ctx, f, 0, 60, "u@sink.test") })
	wg.Go(func() { narrowed.run(ctx, f, 100_000_000, 120, "u@narrow.test") })
	wait := func(d time.Duration) time.Time {
		select {
		case <-time.After(d):
		case <-t.Context().Done():
			t.FailNow()
		}
		return time.Now()
	}
	settle, look, find := 5*time.Second, 10*time.Second, 2
	if *quiet {
		settle, look, find = 10*time.Second, 30*time.Second, 6
	}
	wide := wait(settle)
	end := wait(look)
	served, _ := slow.between(wide, end)
	before, n := others.quantiles(f.sink, wide, end.Add(-time.Second), 0.5, 0.99)
	t.Logf("it takes all: %.1f messages a second", float64(served)/look.Seconds())
	slow.Narrow(most)
	for i := range find {
		to := wait(10 * time.Second)
		served, refused := slow.between(to.Add(-10*time.Second), to)
		t.Logf("%4d s: %5.1f messages a second, %d connections refused", 10*(i+1), float64(served)/10, refused)
	}
	found := time.Now()
	end = wait(look)
	served, refused := slow.between(found, end)
	after, m := others.quantiles(f.sink, found, end.Add(-time.Second), 0.5, 0.99)
	pace := float64(most) / delay.Seconds()
	rate := float64(served) / end.Sub(found).Seconds()
	t.Logf("after that: %.1f messages a second where %.0f are possible, %d connections refused in %v; other mail: p50 %v and p99 %v before (%d), p50 %v and p99 %v now (%d)",
		rate, pace, refused, end.Sub(found).Round(time.Second), before[0], before[1], n, after[0], after[1], m)
	// Looking whether it bears more by now costs a refusal here and there.
	if refused > 10 {
		t.Errorf("%d connections were refused in the last %v: it was not found out what the receiver bears", refused, end.Sub(found).Round(time.Second))
	}
	if rate < pace/2 && *quiet || rate < pace/4 {
		t.Errorf("%.1f messages a second: the receiver takes %.0f", rate, pace)
	}
	if *quiet && float64(after[1]) > 1.2*float64(before[1]) {
		t.Errorf("other mail was slowed down by more than a fifth: p99 %v, and %v before", after[1], before[1])
	}
	if after[1] > 2*before[1]+time.Second {
		t.Errorf("other mail was slowed down: p99 %v, and %v before", after[1], before[1])
	}
}
