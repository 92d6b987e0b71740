package system

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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

// quantile is that of the time from a message's sending to its arrival: of the
// messages of each five seconds, and of those the median, since a disk that
// stands still for a moment says nothing about mail. A message that has not come
// is as late as can be.
func (tr *traffic) quantile(sink *peers.Sink, from, to time.Time, q float64) time.Duration {
	const each = 5 * time.Second
	tr.mu.Lock()
	defer tr.mu.Unlock()
	parts := make([][]time.Duration, max(1, int(to.Sub(from)/each)))
	for seq, at := range tr.sent {
		i := int(at.Sub(from) / each)
		if at.Before(from) || i >= len(parts) {
			continue
		}
		late := time.Hour
		if times := sink.Times(seq); len(times) > 0 {
			late = times[0].Sub(at)
		}
		parts[i] = append(parts[i], late)
	}
	var all []time.Duration
	for _, part := range parts {
		if len(part) > 0 {
			slices.Sort(part)
			all = append(all, part[min(len(part)-1, int(q*float64(len(part))))])
		}
	}
	if len(all) == 0 {
		return time.Hour
	}
	slices.Sort(all)
	return all[len(all)/2].Round(100 * time.Microsecond)
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
	before := func(q float64) time.Duration { return others.quantile(f.sink, wide, wide.Add(look), q) }
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
	wait(time.Second) // for what was sent last
	now := func(q float64) time.Duration { return others.quantile(f.sink, found, found.Add(look), q) }
	pace := float64(most) / delay.Seconds()
	rate := float64(served) / end.Sub(found).Seconds()
	t.Logf("after that: %.1f messages a second where %.0f are possible, %d connections refused in %v; other mail: p50 %v and p99 %v before, p50 %v and p99 %v now",
		rate, pace, refused, end.Sub(found).Round(time.Second), before(0.5), before(0.99), now(0.5), now(0.99))
	// Looking whether it bears more by now costs a refusal here and there.
	if refused > 10 {
		t.Errorf("%d connections were refused in the last %v: it was not found out what the receiver bears", refused, end.Sub(found).Round(time.Second))
	}
	if rate < pace/2 && *quiet || rate < pace/4 {
		t.Errorf("%.1f messages a second: the receiver takes %.0f", rate, pace)
	}
	if *quiet && float64(now(0.99)) > 1.2*float64(before(0.99)) {
		t.Errorf("other mail was slowed down by more than a fifth: p99 %v, and %v before", now(0.99), before(0.99))
	}
	if now(0.99) > 2*before(0.99)+time.Second {
		t.Errorf("other mail was slowed down: p99 %v, and %v before", now(0.99), before(0.99))
	}
}

// TestClusterOneSenderDelaysNobody: what one sender has queued for a destination
// that takes little does not keep another sender's single message.
func TestClusterOneSenderDelaysNobody(t *testing.T) {
	t.Parallel()
	const rate, probes, first = 60, 10, 100_000_000
	queued := 4_000
	if *quiet {
		queued = 100_000
	}
	f := openFleetWith(t, 3, "senders: [{name: local, networks: [127.0.0.0/8]}]\nroutes:\n  - {match: {}, action: {smarthost: [\"%s\"]}}\n"+
		fmt.Sprintf("limits:\n  - {name: slow, match: {domains: [sink.test]}, rate: %d/s, burst: 10}\n", rate))
	var wg sync.WaitGroup
	var accepted atomic.Int64
	began := time.Now()
	for i, r := range f.Nodes {
		wg.Go(func() {
			src := &peers.Source{Addr: r.SMTP, Sessions: 8, Reuse: true, Size: 1 << 10, From: "newsletter@bulk.test"}
			sent := src.Run(t.Context(), int64(i)*1_000_000, queued/len(f.Nodes))
			accepted.Add(int64(len(sent.Accepted)))
		})
	}
	wg.Wait()
	gone, _ := f.sink.Distinct()
	t.Logf("%d messages of one sender were taken in %v, %d are gone", accepted.Load(), time.Since(began).Round(time.Second), gone)
	var worst time.Duration
	for i := range probes {
		seq := int64(first + i)
		src := &peers.Source{Addr: f.Nodes[i%len(f.Nodes)].SMTP, Sessions: 1, Size: 1 << 10, From: fmt.Sprintf("someone%d@quiet.test", i)}
		at := time.Now()
		if sent := src.Run(t.Context(), seq, 1); len(sent.Accepted) != 1 {
			t.Fatalf("a single message was not taken: %v", sent.LastErr)
		}
		eventually(t, 20*time.Second, "a single message arrives", func() bool { return len(f.sink.Times(seq)) > 0 })
		worst = max(worst, f.sink.Times(seq)[0].Sub(at))
		t.Logf("probe %d at node %d: %v", i, i%3, f.sink.Times(seq)[0].Sub(at))
		out, _, _ := f.Nodes[i%3].CLI("limit", "usage")
		t.Log(out)
	}
	gone, _ = f.sink.Distinct()
	left := int(accepted.Load()) - (gone - probes)
	t.Logf("the slowest of %d single messages of others took %v, with %d of the first sender's still queued at the end", probes, worst.Round(time.Millisecond), left)
	if left < queued/4 {
		t.Fatalf("no more than %d are queued: it is not shown that anybody could be kept", left)
	}
	if worst > 2*time.Second && *quiet || worst > 15*time.Second {
		t.Errorf("a single message took %v", worst)
	}
}
