// Command bench drives clrelay and, where it is installed, a private Postfix
// with the same work in alternation, and prints what each reached and the
// ratios. One generator and one sink of our own, which scan in bulk, serve
// both; everything runs on loopback. It asserts nothing: figures go into
// docs/performance.md, with the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// relay is a mail relay under test, a process group of its own.
type relay interface {
	name() string
	addrs() []string // the load is spread over them
	// usage is the CPU time that all its processes used so far and their
	// proportional memory now.
	usage() (cpu time.Duration, pss int64)
	// syncs is the number of fsync and fdatasync calls so far, -1 if unknown.
	syncs() int64
	stop()
}

// clustered is a relay of several machines.
type clustered interface {
	// wire is the number of octets between them so far, entries that of the
	// entries in Raft's log; -1 if unknown.
	wire() int64
	entries() int64
}

type work struct {
	size, sessions int
	reuse          bool
	rate           float64 // messages a second in all; 0: as many as go
}

func (w work) String() string {
	how := "new"
	if w.reuse {
		how = "reuse"
	}
	if w.rate > 0 {
		how = fmt.Sprintf("%.0f/s", w.rate)
	}
	return fmt.Sprintf("%s, %d, %s", sizeName(w.size), w.sessions, how)
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d KB", n>>10)
}

type options struct {
	binary   string
	dir      string
	sizes    []int
	sessions []int
	modes    []bool
	rounds   int
	seconds  float64
	relays   []string

	nodes           []int // sizes of clusters
	clusterSizes    []int
	clusterSessions int
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags() (options, error) {
	var o options
	sizes := flag.String("sizes", "2048,10240,102400,1048576", "message sizes in octets; empty: no single relay")
	sessions := flag.String("sessions", "1,10,100", "numbers of sessions")
	modes := flag.String("modes", "reuse,new", "connection reused, or a new one a message")
	flag.StringVar(&o.binary, "clrelay", "bin/clrelay", "the binary under test")
	flag.StringVar(&o.dir, "dir", ".bench", "where queues and logs go: a real disk, not tmpfs")
	flag.IntVar(&o.rounds, "rounds", 2, "runs of each work for each relay, alternating; the better one counts")
	flag.Float64Var(&o.seconds, "seconds", 4, "about how long one run takes")
	relays := flag.String("relays", "clrelay,postfix", "which relays to drive; Postfix only where it is installed")
	nodes := flag.String("nodes", "1,3,5", "how many nodes the clusters have; empty: no clusters")
	clusterSizes := flag.String("cluster-sizes", "10240,102400,1048576", "message sizes for the clusters in octets")
	flag.IntVar(&o.clusterSessions, "cluster-sessions", 100, "number of sessions for a cluster, over all its nodes")
	flag.Parse()
	var err error
	if o.nodes, err = ints(*nodes); err != nil {
		return o, err
	}
	if o.clusterSizes, err = ints(*clusterSizes); err != nil {
		return o, err
	}
	if o.sizes, err = ints(*sizes); err != nil {
		return o, err
	}
	if o.sessions, err = ints(*sessions); err != nil {
		return o, err
	}
	for m := range strings.SplitSeq(*modes, ",") {
		o.modes = append(o.modes, m == "reuse")
	}
	o.relays = strings.Split(*relays, ",")
	return o, nil
}

func ints(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var out []int
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no list of numbers", s)
		}
		out = append(out, n)
	}
	return out, nil
}

func run() error {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	sink := &peers.Sink{}
	if err := sink.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	defer sink.Close()
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	fmt.Println(machine())
	defer printStolen(cpuTimes())
	b := &bench{o: o, sink: sink}
	if len(o.sizes) > 0 {
		if err := runSingle(ctx, b); err != nil {
			return err
		}
	}
	if len(o.nodes) > 0 {
		return runClusters(ctx, b)
	}
	return nil
}

// printStolen says how much of the CPU time since then others had: figures of
// two runs compare only where that is alike.
func printStolen(all, stolen time.Duration) {
	nowAll, nowStolen := cpuTimes()
	fmt.Printf("taken by the hypervisor meanwhile: %.0f %% of the CPU time\n", 100*float64(nowStolen-stolen)/max(1, float64(nowAll-all)))
}

// runSingle compares one clrelay on one machine with one Postfix.
func runSingle(ctx context.Context, b *bench) error {
	relays, err := startAll(ctx, b.o, b.sink.Addr())
	for _, r := range relays {
		defer r.stop()
	}
	if err != nil {
		return err
	}
	for _, r := range relays {
		_, pss := r.usage()
		fmt.Printf("%s idle: %.1f MB\n", r.name(), float64(pss)/1e6)
	}
	printHead()
	for _, w := range works(b.o) {
		best, err := b.compare(ctx, relays, w)
		if err != nil {
			return err
		}
		printRows(w, relays, best)
	}
	return nil
}

func startAll(ctx context.Context, o options, sinkAddr string) ([]relay, error) {
	var out []relay
	if slices.Contains(o.relays, "clrelay") {
		c, err := startClrelay(ctx, o, sinkAddr)
		if c != nil {
			out = append(out, c)
		}
		if err != nil {
			return out, err
		}
	}
	if slices.Contains(o.relays, "postfix") {
		p, err := startPostfix(o, sinkAddr)
		if err != nil {
			fmt.Println("without Postfix:", err)
			return out, nil
		}
		out = append(out, p)
	}
	return out, nil
}

func works(o options) []work {
	var out []work
	for _, size := range o.sizes {
		for _, n := range o.sessions {
			for _, reuse := range o.modes {
				out = append(out, work{size: size, sessions: n, reuse: reuse})
			}
		}
	}
	return out
}

func machine() string {
	cpu := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		lines := strings.Split(string(text), "\n")
		if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "model name") }); i >= 0 {
			_, cpu, _ = strings.Cut(lines[i], ": ")
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %s, kernel %s, %s", cpu, cpus(), strings.TrimSpace(string(kernel)), time.Now().UTC().Format(time.DateOnly))
}
