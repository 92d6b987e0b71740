package system

import (
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/faults"
)

// TestClusterFaults is the short form of `make faults`: one round of each of
// the faults that differ most.
func TestClusterFaults(t *testing.T) {
	t.Parallel()
	bin := binary(t)
	began := time.Now()
	err := faults.Run(t.Context(), faults.Options{Binary: bin, Dir: workDir(t), Log: func(format string, args ...any) {
		t.Logf("%6.1f  "+format, append([]any{time.Since(began).Seconds()}, args...)...)
	}}, faults.Plan{
		Seed: seed(t), Rounds: 10, Each: true,
		Wanted: []string{"kill-leader", "pause", "isolate-leader", "lose-disk", "power", "flap", "all-apart", "kill-two", "bit-flips", "old-copy"},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestClusterRaftEntries: messages cost no entry of Raft's log; what there is
// keeps the leases, two a second, and opens a segment now and then.
func TestClusterRaftEntries(t *testing.T) {
	t.Parallel()
	const messages = 10_000
	f := openFleet(t, 3)
	before, began := clusterStatus(t, f.Nodes[0]), time.Now()
	var wg sync.WaitGroup
	for i, r := range f.Nodes {
		wg.Go(func() {
			n := messages / 3
			if i == 0 {
				n = messages - 2*n
			}
			if sent := f.load(t.Context(), r, 20, n); sent.Errors != 0 {
				t.Error(sent.LastErr)
			}
		})
	}
	wg.Wait()
	f.settle(t, time.Minute)
	after, took := clusterStatus(t, f.Nodes[0]), time.Since(began)
	entries := float64(after.CommitIndex - before.CommitIndex)
	t.Logf("Raft's log: %d before, %d after %d messages in %v: %.2f a second", before.CommitIndex, after.CommitIndex, messages, took.Round(time.Millisecond), entries/took.Seconds())
	if after.CommitIndex <= before.CommitIndex {
		t.Error("no lease was renewed: the index that was read is not the log's")
	}
	if allowed := 3*took.Seconds() + 60; entries > allowed {
		t.Errorf("%v entries, want at most %.0f", entries, allowed)
	}
}

var quiet = flag.Bool("quiet", false, "the machine has nothing else to do: figures are held to what they are on such a one")

// TestClusterLimits: a limit holds for all nodes together whatever happens to
// them, and is used. How much of it depends on what else the machine does.
func TestClusterLimits(t *testing.T) {
	bin := binary(t)
	least := faults.Used{Steady: 0.6, Overall: 0.4}
	if *quiet {
		least = faults.Used{Steady: 0.90, Overall: 0.75}
	}
	began := time.Now()
	err := faults.Limits(t.Context(), faults.Options{Binary: bin, Dir: workDir(t), Log: func(format string, args ...any) {
		t.Logf("%6.1f  "+format, append([]any{time.Since(began).Seconds()}, args...)...)
	}}, seed(t), least)
	if err != nil {
		t.Fatal(err)
	}
}
