package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// fleet is a cluster before one sink, with a source for each node, and the
// books of what was answered 250.
type fleet struct {
	*relayproc.Cluster
	sink *peers.Sink
	away atomic.Bool // the sink takes nothing

	mu       sync.Mutex
	accepted []int64
	next     int64
	counted  map[*relayproc.Relay]float64 // possible duplicates of the lives before this one
}

// openFleet starts a cluster.
func openFleet(t testing.TB, nodes int) *fleet {
	t.Helper()
	return openFleetWith(t, nodes, toSink)
}

// openFleetWith starts one with a configuration that has room for the sink's
// address.
func openFleetWith(t testing.TB, nodes int, format string) *fleet {
	t.Helper()
	f := &fleet{counted: map[*relayproc.Relay]float64{}}
	f.sink = startSink(t, &peers.Sink{Hash: true, Seen: func(int64, []string) string {
		if f.away.Load() {
			return "451 4.3.2 Not now"
		}
		return ""
	}})
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{
		Binary: binary(t), Dir: workDir(t), Nodes: nodes, Cluster: fmt.Sprintf(format, f.sink.Addr()),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Cluster = c
	f.stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// stopAtEnd stops the nodes when the test has ended.
func (f *fleet) stopAtEnd(t testing.TB) {
	t.Cleanup(func() {
		for _, r := range f.Nodes {
			if err := r.Stop(); err != nil && !t.Failed() {
				t.Error(err)
			}
		}
	})
}

// load sends to a node until ctx ends or n messages are sent.
func (f *fleet) load(ctx context.Context, r *relayproc.Relay, sessions, n int) *peers.Sent {
	const each = 1_000_000
	f.mu.Lock()
	base := f.next
	f.next += each
	f.mu.Unlock()
	src := &peers.Source{Addr: r.SMTP, Sessions: sessions, Reuse: true, Size: 4 << 10, Body: peers.RandomBody, Timeout: 40 * time.Second}
	sent := src.Run(ctx, base, n)
	f.mu.Lock()
	f.accepted = append(f.accepted, sent.Accepted...)
	f.mu.Unlock()
	return sent
}

// missing counts acknowledged messages that have not arrived, and twice those
// that arrived more than once.
func (f *fleet) missing() (missing, twice int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, seq := range f.accepted {
		switch n := len(f.sink.Times(seq)); {
		case n == 0:
			missing++
		case n > 1:
			twice++
		}
	}
	return missing, twice
}

// settle waits until all that was acknowledged has arrived, and closes the
// books.
func (f *fleet) settle(t testing.TB, within time.Duration) {
	t.Helper()
	f.away.Store(false)
	eventually(t, within, "all that was acknowledged has arrived", func() bool { n, _ := f.missing(); return n == 0 })
	_, twice := f.missing()
	counted := 0.0
	for _, r := range f.Nodes {
		counted += f.counted[r]
		if n, err := r.Metric("clrelay_possible_duplicates_total"); err == nil {
			counted += n
		}
	}
	t.Logf("accepted %d, twice %d, possible duplicates %v", len(f.accepted), twice, counted)
	if float64(twice) > counted {
		t.Errorf("%d arrived twice, and only %v were counted", twice, counted)
	}
}

// TestClusterTakesAndDelivers: mail to any node is delivered, copied to
// another machine first, and costs no entry of Raft.
func TestClusterTakesAndDelivers(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() {
			if sent := f.load(t.Context(), r, 20, 1000); sent.Errors != 0 {
				t.Error(sent.LastErr)
			}
		})
	}
	wg.Wait()
	f.settle(t, time.Minute)
	if _, twice := f.missing(); twice != 0 {
		t.Errorf("%d messages arrived twice", twice)
	}
	for _, r := range f.Nodes {
		eventually(t, 10*time.Second, "the ledger is even", func() bool {
			n, err := r.Metric("clrelay_ledger_imbalance_messages")
			return err == nil && n == 0
		})
	}
}

// TestClusterConfigOverARestart: what cannot change while a process runs comes
// from the cluster's configuration at the next start, not from the file that
// the cluster began with.
func TestClusterConfigOverARestart(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	file := filepath.Join(f.Nodes[0].Dir, "next.yaml")
	text := fmt.Sprintf(toSink, f.sink.Addr()) + "spool: {reserve: 1000TiB}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := f.Nodes[1].CLI("config", "apply", "-f", file, "--reason", "test"); code != 0 {
		t.Fatalf("config apply: %d: %s", code, errs)
	}
	r := f.Nodes[2]
	eventually(t, 10*time.Second, "the node says what takes a restart", func() bool { return strings.Contains(r.Log(), "spool.reserve") })
	if code, body := r.Get("/readyz"); code != 200 {
		t.Errorf("before the restart: %d %s", code, body)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the new reserve is in force", func() bool {
		code, body := r.Get("/readyz")
		return code == 503 && strings.Contains(body, "storage")
	})
}

// TestClusterLosesANode: a node dies under load and its disk with it; what it
// had acknowledged is delivered by the others, and they go on taking mail.
func TestClusterLosesANode(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.away.Store(true)
	dead := f.Nodes[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() { f.load(ctx, r, 10, 1_000_000) })
	}
	eventually(t, 30*time.Second, "there is something to lose", func() bool {
		n, err := dead.Metric("clrelay_messages_accepted_total")
		return err == nil && n > 500
	})
	dead.Kill()
	if err := os.RemoveAll(dead.Data); err != nil {
		t.Fatal(err)
	}
	after, err := f.Nodes[1].Metric("clrelay_messages_accepted_total")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the others go on", func() bool {
		n, err := f.Nodes[1].Metric("clrelay_messages_accepted_total")
		return err == nil && n > after+500
	})
	cancel()
	wg.Wait()
	f.settle(t, time.Minute)
	// It comes back empty, as another store, and is a member again.
	if err := dead.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sent := f.load(t.Context(), dead, 5, 100); sent.Errors != 0 {
		t.Error(sent.LastErr)
	}
	f.settle(t, time.Minute)
}

// TestClusterWithoutQuorum: the last of three nodes takes and delivers
// nothing, says so by 451, and goes on when another is back.
func TestClusterWithoutQuorum(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	if sent := f.load(t.Context(), f.Nodes[2], 5, 100); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	}
	f.settle(t, time.Minute)
	f.Nodes[0].Kill()
	f.Nodes[1].Kill()
	last := f.Nodes[2]
	eventually(t, 20*time.Second, "it says 451", func() bool { code, _ := last.Get("/readyz"); return code == 503 })
	c := greeted(t, last.SMTP)
	defer c.conn.Close()
	c.do("MAIL FROM:<a@client.test>", "451 4.3.0 ")
	eventually(t, 10*time.Second, "limit explain tells that it delivers nothing", func() bool {
		out, _, code := last.CLI("limit", "explain", "sink.test")
		return code == 7 && strings.HasPrefix(out, "Nothing at all is delivered from mx3, without a lease")
	})
	if err := f.Nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := last.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sent := f.load(t.Context(), last, 5, 100); sent.Errors != 0 {
		t.Error(sent.LastErr)
	}
	f.settle(t, time.Minute)
	if err := f.Nodes[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// clusterStatus asks a node how the cluster stands.
func clusterStatus(t testing.TB, r *relayproc.Relay) (st struct {
	Leader      string `json:"leader"`
	Term        uint64 `json:"term"`
	CommitIndex uint64 `json:"commit_index"`
	Quorum      bool   `json:"quorum"`
	Nodes       []struct {
		Name     string `json:"name"`
		State    string `json:"state"`
		Voter    bool   `json:"voter"`
		Segments int    `json:"segments"`
		Queued   int    `json:"queued"`
	} `json:"nodes"`
}) {
	t.Helper()
	out, errs, code := r.CLI("cluster", "status", "-o", "json")
	if code != 0 {
		t.Fatalf("cluster status: %d: %s", code, errs)
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// nameOf is a node's name.
func nameOf(r *relayproc.Relay) string { return filepath.Base(r.Dir) }
