// Package system drives the built binary as its users would: real processes,
// real sockets, a real disk. CLRELAY_BIN names the binary; `make system` sets
// it. Everything stays on loopback.
package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// toSink is a cluster.yaml that takes mail from loopback and hands all of it
// to one smarthost.
const toSink = `senders:
  - {name: local, networks: [127.0.0.0/8]}
receive: {max_connections: 1000, per_client_connections: 1000}
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
queue: {retry: [1s, 2s, 5s], expire: 1h}
`

func binary(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("CLRELAY_BIN")
	if bin == "" {
		t.Skip("CLRELAY_BIN names no binary: run `make system`")
	}
	return bin
}

// workDir is a folder on the real disk of the checkout: t.TempDir may be tmpfs.
func workDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(".", ".work-")
	if err != nil {
		t.Fatal(err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kept: %s%s", abs, troubles(abs))
			return
		}
		if err := os.RemoveAll(abs); err != nil {
			t.Error(err)
		}
	})
	return abs
}

// troubles gives the last warnings and errors of each relay whose log lies in a
// folder: where tests run by themselves nobody can look at the folder.
func troubles(dir string) string {
	const shown = 10
	var out strings.Builder
	logs, _ := filepath.Glob(filepath.Join(dir, "*", "log")) // the pattern is a good one
	for _, name := range append(logs, filepath.Join(dir, "log")) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // there is none
		}
		lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool {
			return !strings.Contains(l, "level=WARN") && !strings.Contains(l, "level=ERROR") && !strings.Contains(l, "panic:")
		})
		for _, l := range lines[max(0, len(lines)-shown):] {
			fmt.Fprintf(&out, "\n%s: %s", filepath.Base(filepath.Dir(name)), l)
		}
	}
	return out.String()
}

// publicDir is a folder that every user can reach. The checkout may lie where
// others may not look.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "clrelay-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startSink(t testing.TB, s *peers.Sink) *peers.Sink {
	t.Helper()
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func startHop(t testing.TB, h *peers.Hop) *peers.Hop {
	t.Helper()
	if err := h.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func startInbox(t testing.TB, in *peers.Inbox) *peers.Inbox {
	t.Helper()
	if err := in.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return in
}

func identity(t testing.TB, host string) *peers.Identity {
	t.Helper()
	id, err := peers.NewIdentity(t.TempDir(), host)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// startRelay runs a relay with that cluster.yaml until the test ends.
func startRelay(t testing.TB, o relayproc.Options) *relayproc.Relay {
	t.Helper()
	o.Binary = binary(t)
	if o.Dir == "" {
		o.Dir = workDir(t)
	}
	r, err := relayproc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("at the end: %v", err)
		}
	})
	return r
}

// eventually waits for a fact.
func eventually(t testing.TB, within time.Duration, what string, fact func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}

// balanced checks the ledger metric.
func balanced(t testing.TB, r *relayproc.Relay) {
	t.Helper()
	n, err := r.Metric("clrelay_ledger_imbalance_messages")
	if err != nil || n != 0 {
		t.Errorf("clrelay_ledger_imbalance_messages is %v (%v)", n, err)
	}
}

// TestMixedSizes: 20,000 messages of mixed sizes over 100 sessions arrive once
// each, octet by octet as they were sent.
func TestMixedSizes(t *testing.T) {
	sink := startSink(t, &peers.Sink{Hash: true})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, sink.Addr())})
	kinds := []struct{ size, n int }{{300, 6000}, {2 << 10, 8000}, {10 << 10, 5000}, {100 << 10, 950}, {1 << 20, 45}, {12 << 20, 5}}
	first, want := int64(0), 0
	for _, k := range kinds {
		src := &peers.Source{Addr: r.SMTP, Sessions: 100, Reuse: k.size%3 != 0, Size: k.size, Body: peers.RandomBody}
		sent := src.Run(t.Context(), first, k.n)
		if sent.Errors != 0 || len(sent.Accepted) != k.n {
			t.Fatalf("%d octets: %d of %d accepted, %d errors, the last: %v", k.size, len(sent.Accepted), k.n, sent.Errors, sent.LastErr)
		}
		want += k.n
		eventually(t, 2*time.Minute, "all messages are at the sink", func() bool { return sink.Messages() >= int64(want) })
		for _, seq := range sent.Accepted {
			if sum, ok := sink.Sum(seq); !ok || sum != src.Sum(seq) {
				t.Fatalf("message %d of %d octets: arrived %v, identical %v", seq, k.size, ok, sum == src.Sum(seq))
			}
		}
		first += int64(k.n)
	}
	if n, dup := sink.Distinct(); n != want || dup != 0 {
		t.Errorf("%d distinct messages, %d duplicates; want %d and 0", n, dup, want)
	}
	eventually(t, 10*time.Second, "the queue is empty", func() bool {
		n, err := r.Metric(`clrelay_queue_recipients{state="active"}`)
		return err == nil && n == 0
	})
	balanced(t, r)
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
