package sim

import (
	"bytes"
	"flag"
	"os"
	"sync"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 0, "runs of TestSeeds; 0: a few")
	rough = flag.Duration("rough", 0, "trouble in a run, in its own time; 0: 12 s, with -seeds 40 s")
	first = flag.Uint64("seed", 1, "the first seed")
	trace = flag.String("events", "", "write the events of the first failing seed to this file")
)

// span is -rough, or what a test takes where it is not given.
func span(quick time.Duration) time.Duration {
	switch {
	case *rough > 0:
		return *rough
	case *seeds > 0:
		return 40 * time.Second
	}
	return quick
}

// options draws the shape of a run from its seed: how many nodes, which
// troubles, how often.
func options(seed uint64, rough time.Duration) Options {
	w := newWorld(seed*31+7, nil)
	o := Options{Seed: seed, Rough: rough, Nodes: 3 + w.rng.IntN(3), Copies: 2, Faults: AllFaults, Pace: w.between(500*time.Millisecond, 8*time.Second)}
	if w.chance(300) {
		o.Copies = 3
	}
	if w.chance(100) {
		o.Nodes = 2
	}
	if w.chance(600) { // a few kinds only, so that each meets itself
		o.Faults = Fault(w.rng.Uint32()) & AllFaults
	}
	if w.chance(700) {
		o.Backlog = 2 + w.rng.Uint64N(20)
	}
	return o
}

// many runs seeds on all processors; the first failure of the lowest seed is
// reported.
func many(t *testing.T, from uint64, n int, rough time.Duration, bend func(*Options)) (Stats, uint64, error) {
	t.Helper()
	var (
		mu     sync.Mutex
		sum    Stats
		next   = from
		bad    uint64
		reason error
		wg     sync.WaitGroup
	)
	for range 2 {
		wg.Go(func() {
			for {
				mu.Lock()
				seed := next
				next++
				stop := seed >= from+uint64(n) || reason != nil
				mu.Unlock()
				if stop {
					return
				}
				o := options(seed, rough)
				if bend != nil {
					bend(&o)
				}
				st, err := Run(o)
				mu.Lock()
				sum.add(st)
				if err != nil && (reason == nil || seed < bad) {
					bad, reason = seed, err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return sum, bad, reason
}

func TestSeeds(t *testing.T) {
	n, long := *seeds, span(12*time.Second)
	if n == 0 {
		n = 25
	}
	sum, bad, err := many(t, *first, n, long, nil)
	t.Logf("%d seeds from %d, %v of trouble each and the calm after: %+v", n, *first, long, sum)
	if err != nil {
		t.Errorf("seed %d: %v\nagain with: go test ./test/sim -run TestSeeds -seeds 1 -seed %d -rough %v -events FILE", bad, err, bad, long)
		writeTrace(t, options(bad, long))
	}
	if sum.Acked == 0 || sum.Delivered == 0 || sum.Takeovers == 0 || sum.Given == 0 {
		t.Errorf("nothing happened: %+v", sum)
	}
}

// Backlog moves while nodes come, go and die; what is half moved is as safe as
// all else. TestSeeds has moves, too, but few.
func TestMoves(t *testing.T) {
	n := max(10, *seeds/2)
	sum, bad, err := many(t, *first, n, span(20*time.Second), func(o *Options) {
		o.Backlog, o.Nodes, o.Pace = 2, max(o.Nodes, 3), max(o.Pace, 3*time.Second)
		o.Faults &= Crash | PowerLoss | DiskLoss | Pause | Partition | RaftLag | FullDisk | Late
		o.Faults |= Grow | Drain | Crash
	})
	t.Logf("%d seeds from %d: %+v", n, *first, sum)
	if err != nil {
		t.Errorf("seed %d: %v", bad, err)
	}
	if sum.Given < n/2 || sum.Stayed == 0 {
		t.Errorf("%d moves, %d done, %d given up", sum.Moves, sum.Given, sum.Stayed)
	}
}

// writeTrace runs o again with its events, and keeps the last of them.
func writeTrace(t *testing.T, o Options) {
	var b bytes.Buffer
	o.Trace = &b
	_, err := Run(o)
	t.Logf("again: %v", err)
	if *trace != "" {
		if err := os.WriteFile(*trace, b.Bytes(), 0o644); err != nil {
			t.Error(err)
		}
		return
	}
	lines := bytes.Split(b.Bytes(), []byte("\n"))
	t.Logf("the last events:\n%s", bytes.Join(lines[max(0, len(lines)-60):], []byte("\n")))
}

// A run is a function of its seed: the trace of the same seed is the same.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 2; seed++ {
		o := options(seed, 15*time.Second)
		a, errA := Run(o)
		b, errB := Run(o)
		if a != b || (errA == nil) != (errB == nil) {
			t.Errorf("seed %d ran in two ways: %+v %v, %+v %v", seed, a, errA, b, errB)
		}
	}
}
