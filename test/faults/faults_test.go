package faults

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The knobs of `make faults` and `make soak`.
var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the faults; 0 takes one by chance")
	roundsFlag = flag.Int("rounds", 0, "rounds of faults")
	forFlag    = flag.Duration("for", 0, "for how long faults come")
	onlyFlag   = flag.String("only", "", "names of faults, with commas between")
	eachFlag   = flag.Bool("each", false, "every fault in turn")
	pairsFlag  = flag.Bool("pairs", false, "two faults at a time")
	nodesFlag  = flag.Int("nodes", 3, "nodes of the cluster")
	loopFlag   = flag.Bool("loopback", false, "without network namespaces")
	plainFlag  = flag.Bool("plain", false, "without disks of their own")
)

// TestFaults hurts a cluster for as long as it is asked to.
func TestFaults(t *testing.T) {
	bin := os.Getenv("CLRELAY_BIN")
	if bin == "" || *roundsFlag == 0 && *forFlag == 0 {
		t.Skip("run `make faults` or `make soak`")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	dir, err := os.MkdirTemp(".", ".work-")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	log := func(format string, args ...any) {
		t.Logf("%7.1f  "+format, append([]any{time.Since(began).Seconds()}, args...)...)
	}
	p := Plan{Seed: seed, Rounds: *roundsFlag, For: *forFlag, Each: *eachFlag, Pairs: *pairsFlag}
	if *onlyFlag != "" {
		p.Only = strings.Split(*onlyFlag, ",")
	}
	o := Options{Binary: bin, Dir: dir, Nodes: *nodesFlag, Loopback: *loopFlag, Plain: *plainFlag, Log: log}
	if err := Run(t.Context(), o, p); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
