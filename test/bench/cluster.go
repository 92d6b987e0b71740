package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// fleet is a cluster of relays, each a process of its own, with load on all.
type fleet struct {
	*relayproc.Cluster
	addresses []string
}

func startFleet(ctx context.Context, o options, nodes int, sink string) (*fleet, error) {
	dir := filepath.Join(o.dir, fmt.Sprintf("cluster%d", nodes))
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{
		Binary: o.binary, Dir: dir, Nodes: nodes,
		Cluster: fmt.Sprintf(clusterYAML, sink) + fmt.Sprintf("spool: {copies: %d}\n", copiesWanted),
	})
	if err != nil {
		return nil, err
	}
	f := &fleet{Cluster: c}
	for _, r := range c.Nodes {
		f.addresses = append(f.addresses, r.SMTP)
	}
	return f, c.Start(ctx)
}

// copiesWanted is on how many machines a message is synced before its 250; a
// cluster of one node can only do one.
const copiesWanted = 2

func (f *fleet) name() string    { return fmt.Sprintf("%d nodes", len(f.Nodes)) }
func (f *fleet) addrs() []string { return f.addresses }

func (f *fleet) usage() (cpu time.Duration, pss int64) {
	for _, r := range f.Nodes {
		c, p := treeUsage(r.PID())
		cpu, pss = cpu+c, pss+p
	}
	return cpu, pss
}

func (f *fleet) syncs() int64 {
	var sum int64
	for _, r := range f.Nodes {
		n, err := r.Metric("clrelay_fsync_duration_seconds_count")
		if err != nil {
			return -1
		}
		sum += int64(n)
	}
	return sum
}

// wire is how many octets went over the connections between the nodes so far,
// TLS included, both ways; -1 if unknown. Each connection is counted at the end
// that was called.
func (f *fleet) wire() int64 {
	var sum int64
	for _, r := range f.Nodes {
		n, err := socketOctets(f.Addr(r))
		if err != nil {
			return -1
		}
		sum += n
	}
	return sum
}

// socketOctets adds up what the open TCP connections of a listening address
// carried, as the kernel counts it.
func socketOctets(addr string) (int64, error) {
	i := strings.LastIndexByte(addr, ':')
	out, err := exec.Command("ss", "-tinHO", "sport = "+addr[i:]).Output()
	if err != nil {
		return 0, err
	}
	var sum int64
	for field := range strings.FieldsSeq(string(out)) {
		for _, name := range []string{"bytes_acked:", "bytes_received:"} {
			if rest, ok := strings.CutPrefix(field, name); ok {
				n, err := strconv.ParseInt(rest, 10, 64)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
	}
	return sum, nil
}

// entries is how many entries Raft's log has so far, -1 if unknown.
func (f *fleet) entries() int64 {
	out, _, code := f.Nodes[0].CLI("cluster", "status", "-o", "json")
	var st struct {
		CommitIndex json.Number `json:"commit_index"`
	}
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil {
		return -1
	}
	n, err := st.CommitIndex.Int64()
	if err != nil {
		return -1
	}
	return n
}

// warnings counts the lines of level WARN and above in the nodes' logs.
func (f *fleet) warnings() (n int, first string) {
	for _, r := range f.Nodes {
		text, err := os.ReadFile(r.LogPath())
		if err != nil {
			return -1, err.Error()
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") ||
				strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
				if n++; first == "" {
					first = strings.TrimSpace(line)
				}
			}
		}
	}
	return n, first
}

func (f *fleet) stop() {
	if err := f.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cluster:", err)
	}
}

// runClusters compares clusters of several sizes with one Postfix, each in
// alternation with it.
func runClusters(ctx context.Context, b *bench) error {
	var base relay
	if p, err := startPostfix(b.o, b.sink.Addr()); err != nil {
		fmt.Println("without Postfix:", err)
	} else {
		defer p.stop()
		base = p
	}
	for _, n := range b.o.nodes {
		if err := runCluster(ctx, b, n, base); err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
	}
	return nil
}

func runCluster(ctx context.Context, b *bench, nodes int, base relay) error {
	f, err := startFleet(ctx, b.o, nodes, b.sink.Addr())
	if f != nil {
		defer f.stop()
	}
	if err != nil {
		return err
	}
	relays := []relay{f}
	if base != nil && len(b.o.relays) > 1 {
		relays = append(relays, base)
	}
	if err := printIdle(ctx, f); err != nil {
		return err
	}
	printHead()
	for _, size := range b.o.clusterSizes {
		w := work{size: size, sessions: b.o.clusterSessions, reuse: true}
		best, err := b.compare(ctx, relays, w)
		if err != nil {
			return err
		}
		printRows(w, relays, best)
		w.rate = best[f.name()].endToEnd / 2
		half, err := b.drive(ctx, f, w, int(w.rate*b.o.seconds))
		if err != nil {
			return err
		}
		printRows(w, []relay{f}, map[string]result{f.name(): half})
	}
	n, first := f.warnings()
	fmt.Printf("warnings in the logs: %d  %s\n", n, first)
	return errors.Join(ctx.Err())
}

// idleFor is how long a cluster without load is watched.
const idleFor = 5 * time.Second

// printIdle shows what a cluster costs that has nothing to do.
func printIdle(ctx context.Context, f *fleet) error {
	before := read(f)
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return ctx.Err()
	}
	after := read(f)
	_, pss := f.usage()
	n, took := float64(len(f.Nodes)), idleFor.Seconds()
	fmt.Printf("\n%s, %d copies wanted, load on all; idle, a node: %.1f MB, %.1f ms CPU a second, %.1f KB a second on the wire; %.1f entries of Raft a second in all\n",
		f.name(), copiesWanted, float64(pss)/1e6/n, (after.cpu-before.cpu).Seconds()*1e3/n/took,
		float64(after.wire-before.wire)/1024/n/took, float64(after.entries-before.entries)/took)
	return nil
}
