package system

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestClusterMovesBacklog: three nodes have mail for a destination that is
// dead, and a fourth joins. It gets a fair part of what waits; when the
// destination is back all of it arrives, once.
func TestClusterMovesBacklog(t *testing.T) {
	t.Parallel()
	const each = 3000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // nobody listens there until the destination is back
	f := &fleet{counted: map[*relayproc.Relay]float64{}, sink: &peers.Sink{Hash: true}}
	f.Cluster, err = relayproc.NewCluster(relayproc.ClusterOptions{
		Binary: binary(t), Dir: workDir(t), Nodes: 3, Cluster: fmt.Sprintf(toSink, addr),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.stopAtEnd(t)
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() {
			if sent := f.load(t.Context(), r, 10, each); sent.Errors != 0 {
				t.Error(sent.LastErr)
			}
		})
	}
	wg.Wait()
	fourth, err := f.Add("")
	if err != nil {
		t.Fatal(err)
	}
	if err := fourth.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, 2*time.Minute, "the new node has a fair part", func() bool { return figure(fourth, "clrelay_queue_messages") >= each/2 })
	took := time.Since(began)
	if n := figure(fourth, "clrelay_queue_messages"); n > 2*each {
		t.Errorf("the new node has %v of %d messages", n, 3*each)
	}
	moved := 0.0
	for _, r := range f.Nodes {
		moved += figure(r, "clrelay_segments_moved_total")
		t.Logf("%s: %v messages, gave %v segments, after %v", nameOf(r), figure(r, "clrelay_queue_messages"), figure(r, "clrelay_segments_moved_total"), took.Round(time.Millisecond))
	}
	if moved == 0 {
		t.Error("no move was counted")
	}
	if err := f.sink.Listen(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.sink.Close)
	if _, errs, code := f.Admin("queue", "retry", "--everything"); code != 0 {
		t.Fatal(errs)
	}
	f.settle(t, 2*time.Minute)
	if _, twice := f.missing(); twice != 0 {
		t.Errorf("%d messages arrived twice", twice)
	}
	for _, r := range f.Nodes {
		eventually(t, 20*time.Second, "the ledger is even and the queue empty", func() bool {
			return figure(r, "clrelay_ledger_imbalance_messages") == 0 && figure(r, "clrelay_queue_messages") == 0
		})
		if n := figure(r, "clrelay_possible_duplicates_total") + figure(r, "clrelay_takeovers_total"); n != 0 {
			t.Errorf("%s: %v takeovers and possible duplicates, and nobody died", nameOf(r), n)
		}
	}
}

// figure is a metric of a node's; -1 where it does not answer.
func figure(r *relayproc.Relay, name string) float64 {
	n, err := r.Metric(name)
	if err != nil {
		return -1
	}
	return n
}
