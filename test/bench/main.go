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
	addr() string
	// usage is the CPU time that all its processes used so far and their
	// proportional memory now.
	usage() (cpu time.Duration, pss int64)
	// syncs is the number of fsync and fdatasync calls so far, -1 if unknown.
	syncs() int64
	stop()
}

type work struct {
	size, sessions int
	reuse          bool
}

func (w work) String() string {
	how := "new"
	if w.reuse {
		how = "reuse"
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
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags() (options, error) {
	var o options
	sizes := flag.String("sizes", "2048,10240,102400,1048576", "message sizes in octets")
	sessions := flag.String("sessions", "1,10,100", "numbers of sessions")
	modes := flag.String("modes", "reuse,new", "connection reused, or a new one a message")
	flag.StringVar(&o.binary, "clrelay", "bin/clrelay", "the binary under test")
	flag.StringVar(&o.dir, "dir", ".bench", "where queues and logs go: a real disk, not tmpfs")
	flag.IntVar(&o.rounds, "rounds", 2, "runs of each work for each relay, alternating; the better one counts")
	flag.Float64Var(&o.seconds, "seconds", 4, "about how long one run takes")
	relays := flag.String("relays", "clrelay,postfix", "which relays to drive; Postfix only where it is installed")
	flag.Parse()
	var err error
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
	relays, err := startAll(ctx, o, sink.Addr())
	for _, r := range relays {
		defer r.stop()
	}
	if err != nil {
		return err
	}
	fmt.Println(machine())
	for _, r := range relays {
		_, pss := r.usage()
		fmt.Printf("%s idle: %.1f MB\n", r.name(), float64(pss)/1e6)
	}
	printHead()
	for _, w := range works(o) {
		best := map[string]result{}
		for range o.rounds {
			for _, r := range relays {
				res, err := measure(ctx, r, sink, w, o.seconds)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.name(), w, err)
				}
				if old, ok := best[r.name()]; !ok || res.endToEnd > old.endToEnd {
					best[r.name()] = res
				}
			}
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
				out = append(out, work{size, n, reuse})
			}
		}
	}
	return out
}

// result is what one run reached.
type result struct {
	accepted, endToEnd float64 // messages a second
	cpu                time.Duration
	peak               int64   // octets
	syncs              float64 // a message, negative if unknown
	p50, p99           time.Duration
	errors             int
}

// measure sends for about the given time: runs that get longer find the pace,
// the real one takes as many messages as fit.
func measure(ctx context.Context, r relay, sink *peers.Sink, w work, seconds float64) (result, error) {
	src := &peers.Source{Addr: r.addr(), Sessions: w.sessions, Reuse: w.reuse, Size: w.size}
	n := max(w.sessions*2, 20)
	for {
		p, err := drive(ctx, r, sink, src, n)
		if err != nil {
			return result{}, err
		}
		took := float64(n) / p.endToEnd
		next := int(min(max(p.endToEnd*seconds, float64(n)), 500_000))
		if took >= seconds/8 {
			return drive(ctx, r, sink, src, next)
		}
		n = min(next, 8*n)
	}
}

func drive(ctx context.Context, r relay, sink *peers.Sink, src *peers.Source, n int) (result, error) {
	sink.Reset()
	cpu0, _ := r.usage()
	syncs0 := r.syncs()
	watch := watchMemory(r)
	start := time.Now()
	sent := src.Run(ctx, 0, n)
	if len(sent.Accepted) == 0 {
		watch()
		return result{}, fmt.Errorf("nothing was accepted: %v", sent.LastErr)
	}
	end, err := awaitArrival(ctx, sink, len(sent.Accepted))
	peak := watch()
	if err != nil {
		return result{}, err
	}
	cpu1, _ := r.usage()
	res := result{
		accepted: float64(len(sent.Accepted)) / sent.Took.Seconds(),
		endToEnd: float64(len(sent.Accepted)) / end.Sub(start).Seconds(),
		cpu:      (cpu1 - cpu0) / time.Duration(len(sent.Accepted)),
		peak:     peak,
		syncs:    -1,
		p50:      sent.Quantile(0.50),
		p99:      sent.Quantile(0.99),
		errors:   sent.Errors,
	}
	if syncs1 := r.syncs(); syncs0 >= 0 && syncs1 >= 0 {
		res.syncs = float64(syncs1-syncs0) / float64(len(sent.Accepted))
	}
	return res, nil
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
	fmt.Printf("\n%-20s %-8s %9s %9s %8s %8s %8s %9s %9s\n", "work", "relay", "accept/s", "end2end/s", "CPU ms", "peak MB", "syncs", "250 p50", "250 p99")
}

func printRows(w work, relays []relay, best map[string]result) {
	for _, r := range relays {
		b := best[r.name()]
		syncs := "?"
		if b.syncs >= 0 {
			syncs = fmt.Sprintf("%.3f", b.syncs)
		}
		fmt.Printf("%-20s %-8s %9.0f %9.0f %8.3f %8.1f %8s %9s %9s", w, r.name(), b.accepted, b.endToEnd,
			b.cpu.Seconds()*1e3, float64(b.peak)/1e6, syncs, round(b.p50), round(b.p99))
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

func round(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

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
