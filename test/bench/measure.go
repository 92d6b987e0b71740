package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// bench is what all runs have in common.
type bench struct {
	o    options
	sink *peers.Sink
}

// compare runs the same work on the relays in alternation and gives the better
// result of each.
func (b *bench) compare(ctx context.Context, relays []relay, w work) (map[string]result, error) {
	best := map[string]result{}
	for range b.o.rounds {
		for _, r := range relays {
			res, err := b.measure(ctx, r, w)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", r.name(), w, err)
			}
			if old, ok := best[r.name()]; !ok || res.endToEnd > old.endToEnd {
				best[r.name()] = res
			}
		}
	}
	return best, nil
}

// result is what one run reached.
type result struct {
	accepted, endToEnd float64 // messages a second
	cpu                time.Duration
	peak               int64   // octets
	syncs              float64 // a message, negative if unknown
	wire               float64 // octets between the nodes a message, negative if unknown
	entries            float64 // of Raft a second, negative if unknown
	p50, p99           time.Duration
	errors             int
}

// measure sends for about the given time: runs that get longer find the pace,
// the real one takes as many messages as fit.
func (b *bench) measure(ctx context.Context, r relay, w work) (result, error) {
	n := max(w.sessions*2, 20)
	for {
		p, err := b.drive(ctx, r, w, n)
		if err != nil {
			return result{}, err
		}
		took := float64(n) / p.endToEnd
		next := int(min(max(p.endToEnd*b.o.seconds, float64(n)), 500_000))
		if took >= b.o.seconds/8 {
			return b.drive(ctx, r, w, next)
		}
		n = min(next, 8*n)
	}
}

// counters are what a relay has used so far.
type counters struct {
	cpu            time.Duration
	syncs          int64
	wire, entries  int64
	hasWire, hasIx bool
}

func read(r relay) counters {
	var c counters
	c.cpu, _ = r.usage()
	c.syncs = r.syncs()
	if k, ok := r.(clustered); ok {
		c.wire, c.entries = k.wire(), k.entries()
		c.hasWire, c.hasIx = c.wire >= 0, c.entries >= 0
	}
	return c
}

// drive sends n messages and waits until all have arrived.
func (b *bench) drive(ctx context.Context, r relay, w work, n int) (result, error) {
	b.sink.Reset()
	before := read(r)
	watch := watchMemory(r)
	start := time.Now()
	sent := send(ctx, r.addrs(), w, n)
	if len(sent.Accepted) == 0 {
		watch()
		return result{}, fmt.Errorf("nothing was accepted: %v", sent.LastErr)
	}
	end, err := awaitArrival(ctx, b.sink, len(sent.Accepted))
	peak := watch()
	if err != nil {
		return result{}, err
	}
	after := read(r)
	took := end.Sub(start).Seconds()
	count := float64(len(sent.Accepted))
	res := result{
		accepted: count / sent.Took.Seconds(),
		endToEnd: count / took,
		cpu:      (after.cpu - before.cpu) / time.Duration(len(sent.Accepted)),
		peak:     peak,
		syncs:    -1, wire: -1, entries: -1,
		p50:    sent.Quantile(0.50),
		p99:    sent.Quantile(0.99),
		errors: sent.Errors,
	}
	if before.syncs >= 0 && after.syncs >= 0 {
		res.syncs = float64(after.syncs-before.syncs) / count
	}
	if before.hasWire && after.hasWire {
		res.wire = float64(after.wire-before.wire) / count
	}
	if before.hasIx && after.hasIx {
		res.entries = float64(after.entries-before.entries) / took
	}
	return res, nil
}

// send spreads sessions and messages evenly over the addresses.
func send(ctx context.Context, addrs []string, w work, n int) *peers.Sent {
	const each = 1_000_000_000 // numbers of messages for each address
	parts := make([]*peers.Sent, len(addrs))
	var wg sync.WaitGroup
	start := time.Now()
	for i, addr := range addrs {
		first := int64(i) * each
		src := &peers.Source{Addr: addr, Sessions: share(w.sessions, i, len(addrs)), Reuse: w.reuse, Size: w.size}
		if w.rate > 0 {
			src.Pace = paced(start, first, w.rate/float64(len(addrs)))
		}
		wg.Go(func() { parts[i] = src.Run(ctx, first, share(n, i, len(addrs))) })
	}
	wg.Wait()
	all := &peers.Sent{Took: time.Since(start)}
	for _, p := range parts {
		all.Accepted = append(all.Accepted, p.Accepted...)
		all.Latency = append(all.Latency, p.Latency...)
		all.Errors += p.Errors
		if p.LastErr != nil {
			all.LastErr = p.LastErr
		}
	}
	slices.Sort(all.Latency)
	return all
}

// share is the i-th of n nearly equal parts of total, at least one.
func share(total, i, n int) int { return max(1, (total*(i+1))/n-(total*i)/n) }

// paced waits until the time of each message has come.
func paced(start time.Time, first int64, rate float64) func(int64) {
	return func(seq int64) {
		due := start.Add(time.Duration(float64(seq-first) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			<-time.After(wait)
		}
	}
}

// awaitArrival waits until the sink has all and tells when the last came.
func awaitArrival(ctx context.Context, sink *peers.Sink, want int) (time.Time, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		got := sink.Messages()
		if got >= int64(want) {
			return time.Now(), nil
		}
		if got != last {
			last, since = got, time.Now()
		} else if time.Since(since) > 2*time.Minute {
			return time.Time{}, fmt.Errorf("the sink has %d of %d and nothing has come for two minutes", got, want)
		}
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// watchMemory samples a relay's memory until the function it returns is
// called, which gives the highest sample.
func watchMemory(r relay) func() int64 {
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		var top int64
		for {
			_, pss := r.usage()
			top = max(top, pss)
			select {
			case <-stop:
				peak <- top
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 { close(stop); return <-peak }
}

func printHead() {
	fmt.Printf("\n%-20s %-8s %9s %9s %8s %8s %8s %9s %9s %8s %8s\n", "work", "relay", "accept/s", "end2end/s", "CPU ms", "peak MB", "syncs", "250 p50", "250 p99", "wire KB", "Raft/s")
}

func printRows(w work, relays []relay, best map[string]result) {
	for _, r := range relays {
		b := best[r.name()]
		fmt.Printf("%-20s %-8s %9.0f %9.0f %8.3f %8.1f %8s %9s %9s %8s %8s", w, r.name(), b.accepted, b.endToEnd,
			b.cpu.Seconds()*1e3, float64(b.peak)/1e6, known("%.3f", b.syncs), round(b.p50), round(b.p99),
			known("%.1f", b.wire/1024), known("%.1f", b.entries))
		if b.errors > 0 {
			fmt.Printf("  %d errors", b.errors)
		}
		fmt.Println()
	}
	if len(relays) == 2 {
		a, b := best[relays[0].name()], best[relays[1].name()]
		fmt.Printf("%-20s %-8s %8.1fx %8.1fx %7.2fx %7.2fx\n", "", "ratio", a.accepted/b.accepted, a.endToEnd/b.endToEnd,
			a.cpu.Seconds()/b.cpu.Seconds(), float64(a.peak)/float64(b.peak))
	}
}

// known prints a figure that is negative where it is unknown.
func known(format string, v float64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func round(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
