package system

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// offline runs an offline command on a node.
func offline(t testing.TB, r *relayproc.Relay, args ...string) string {
	t.Helper()
	out, errs, code := r.CLI(append(args, "--config", r.Config())...)
	if code != 0 {
		t.Fatalf("%s: %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// onDisk gives the numbers of the messages that a stopped node's disk holds
// unfinished, its own and copies.
func onDisk(t testing.TB, r *relayproc.Relay) map[int64]bool {
	t.Helper()
	dir, err := os.MkdirTemp(r.Dir, "export-")
	if err != nil {
		t.Fatal(err)
	}
	if out, errs, code := r.CLI("spool", "export", r.Data, dir); code != 0 {
		t.Fatalf("spool export: %d: %s%s", code, out, errs)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[int64]bool{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := bytes.Cut(text, []byte(peers.SeqHeader))
		if !ok {
			t.Fatalf("%s has no number", f)
		}
		n, _, _ := bytes.Cut(rest, []byte("\r\n"))
		seq, err := strconv.ParseInt(strings.TrimSpace(string(n)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		found[seq] = true
	}
	return found
}

// disaster loads a cluster of three, nothing of which can be delivered, kills
// two of them under load, and stops the third. It gives the last node and the
// acknowledged messages of which its disk has a copy.
func disaster(t *testing.T, f *fleet) (last *relayproc.Relay, here []int64) {
	t.Helper()
	last = collapse(t, f)
	if err := last.Stop(); err != nil {
		t.Fatal(err)
	}
	disk := onDisk(t, last)
	for _, seq := range f.accepted {
		if disk[seq] {
			here = append(here, seq)
		}
	}
	t.Logf("acknowledged %d, with a copy on the last node %d", len(f.accepted), len(here))
	return last, here
}

// collapse is disaster as long as the last node runs.
func collapse(t *testing.T, f *fleet) (last *relayproc.Relay) {
	t.Helper()
	f.away.Store(true)
	last = f.Nodes[2]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() { f.load(ctx, r, 10, 1_000_000) })
	}
	for _, r := range f.Nodes {
		eventually(t, 30*time.Second, "every node has taken mail", func() bool {
			n, err := r.Metric("clrelay_messages_accepted_total")
			return err == nil && n > 200
		})
	}
	for _, r := range f.Nodes[:2] {
		if n, err := r.Metric("clrelay_possible_duplicates_total"); err == nil {
			f.counted[r] = n
		}
		r.Kill()
	}
	eventually(t, 20*time.Second, "the last node takes no mail", func() bool { code, _ := last.Get("/readyz"); return code == 503 })
	cancel()
	wg.Wait()
	return last
}

// arrived waits until all of the list is in the sink.
func (f *fleet) arrived(t testing.TB, list []int64) {
	t.Helper()
	eventually(t, time.Minute, "what the last node has is delivered", func() bool {
		for _, seq := range list {
			if len(f.sink.Times(seq)) == 0 {
				return false
			}
		}
		return true
	})
}

// takes sends to a node until it has taken n messages, as a client does that
// hears 451 now and then.
func (f *fleet) takes(t testing.TB, r *relayproc.Relay, n int) {
	t.Helper()
	var last error
	eventually(t, 30*time.Second, "the node takes mail", func() bool {
		sent := f.load(t.Context(), r, 5, n)
		if n -= len(sent.Accepted); sent.Errors != 0 {
			last = sent.LastErr
		}
		return n <= 0
	})
	if last != nil {
		t.Logf("%s: %v", nameOf(r), last)
	}
}

// TestRecoverFromLostQuorum: two of three machines are gone; the third becomes
// a cluster of its own, delivers all that it has, grows again; then one of the
// lost ones turns up with its disk and brings what only it has.
func TestRecoverFromLostQuorum(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	last, here := disaster(t, f)

	// Not while it runs, nor without a word.
	if _, errs, code := last.CLI("cluster", "recover", "--config", last.Config()); code != 6 || !strings.Contains(errs, "--yes") {
		t.Errorf("recovered without a word: %d %s", code, errs)
	}
	t.Log(offline(t, last, "cluster", "recover", "--yes"))
	f.away.Store(false)
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := last.CLI("cluster", "recover", "--yes", "--config", last.Config()); code != 6 || !strings.Contains(errs, "running") {
		t.Errorf("recovered a node that runs: %d %s", code, errs)
	}
	f.arrived(t, here)
	f.takes(t, last, 100)
	out, _, _ := last.CLI("cluster", "status")
	if !strings.Contains(out, "one machine alone") {
		t.Errorf("the status does not say that there is one copy:\n%s", out)
	}

	// Two new machines: there are two copies again, of what comes.
	for range 2 {
		r, err := f.Add("")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fresh := f.Nodes[3]
	eventually(t, time.Minute, "there are two copies again", func() bool {
		out, _, _ := fresh.CLI("cluster", "status")
		return strings.Contains(out, "copies            2") && !strings.Contains(out, "machine alone")
	})
	f.takes(t, fresh, 100)
	f.takes(t, last, 100)

	// One that was lost is found. As it is it may not go on.
	found := f.Nodes[0]
	if err := found.Launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-found.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("a node of the old generation goes on")
	}
	if log := found.Log(); !strings.Contains(log, "recovered without this node") || !strings.Contains(log, "clrelay cluster rejoin") {
		t.Errorf("it does not say why it ends")
	}
	t.Log(offline(t, found, "cluster", "rejoin", "--yes"))
	if err := found.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.takes(t, found, 100)
	f.settle(t, time.Minute)

	// The other one gets a new disk and its old name.
	empty := f.Nodes[1]
	if err := os.RemoveAll(empty.Data); err != nil {
		t.Fatal(err)
	}
	if err := empty.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.takes(t, empty, 100)
	f.settle(t, time.Minute)
	eventually(t, 30*time.Second, "nothing is left that has too few copies", func() bool {
		out, _, _ := empty.CLI("cluster", "status")
		return strings.Contains(out, "under-replicated  0 segments")
	})
}

// TestRestoreAControlPlane: no control plane can be read any more, and there
// is a backup that knows nothing of the mail that is queued.
func TestRestoreAControlPlane(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.takes(t, f.Nodes[0], 50)
	f.settle(t, time.Minute)
	saved := f.Nodes[0]
	if err := saved.Stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(saved.Dir, "control-plane")
	offline(t, saved, "cluster", "backup", backup)
	if _, _, code := saved.CLI("cluster", "backup", backup, "--config", saved.Config()); code != 6 {
		t.Errorf("a backup was overwritten: %d", code)
	}
	if err := saved.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	last, here := disaster(t, f)
	db := filepath.Join(last.Data, "raft", "raft.db")
	if err := os.WriteFile(db, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, code := last.CLI("cluster", "recover", "--yes", "--config", last.Config()); code == 0 {
		t.Error("recovered from nothing")
	}
	t.Log(offline(t, last, "cluster", "restore", "--yes", backup))
	f.away.Store(false)
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.arrived(t, here)
	f.takes(t, last, 50)
	// The others have their control plane and their mail, and come back to it.
	for _, r := range f.Nodes[:2] {
		offline(t, r, "cluster", "rejoin", "--yes")
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.settle(t, time.Minute)
	f.refusesLaterMail(t, last)
}

// refusesLaterMail recovers a node once more, by itself, lets it take mail, and
// has it rejoin the others, who are of an earlier generation then: it must not
// take its mail for gone.
func (f *fleet) refusesLaterMail(t *testing.T, last *relayproc.Relay) {
	t.Helper()
	eventually(t, time.Minute, "all nodes vote", func() bool {
		voters := 0
		for _, n := range clusterStatus(t, last).Nodes {
			if n.Voter {
				voters++
			}
		}
		return voters == len(f.Nodes)
	})
	for _, r := range f.Nodes {
		if n, err := r.Metric("clrelay_possible_duplicates_total"); err == nil {
			f.counted[r] += n
		}
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	offline(t, last, "cluster", "recover", "--yes")
	f.away.Store(true)
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.takes(t, last, 20)
	if err := last.Stop(); err != nil {
		t.Fatal(err)
	}
	offline(t, last, "cluster", "rejoin", "--yes")
	for _, r := range f.Nodes[:2] {
		if err := r.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.Nodes[:2] {
		if err := r.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := last.Launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-last.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("mail of a later generation is in an earlier cluster")
	}
	if !strings.Contains(last.Log(), "holds mail of generation") {
		t.Error("it does not say why it ends")
	}
	if n := len(onDisk(t, last)); n < 20 {
		t.Errorf("%d of 20 messages are left on its disk", n)
	}
	// The test's end wants nodes that end well.
	if err := os.RemoveAll(last.Data); err != nil {
		t.Fatal(err)
	}
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
