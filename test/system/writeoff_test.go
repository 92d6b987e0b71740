package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// standing is what the tests read of cluster status.
type standing struct {
	Leader          string   `json:"leader"`
	UnderReplicated int      `json:"under_replicated"`
	LostSegments    int      `json:"lost_segments"`
	Copies          int      `json:"copies"`
	Notes           []string `json:"notes"`
}

func standingOf(t testing.TB, r *relayproc.Relay) (s standing) {
	t.Helper()
	told(t, &s, r, "cluster", "status", "-o", "json")
	return s
}

// told runs a command that must go well and reads what it prints.
func told(t testing.TB, into any, r *relayproc.Relay, args ...string) {
	t.Helper()
	out, errs, code := r.CLI(args...)
	if code != 0 {
		t.Fatalf("%s: %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// swap gives a stopped node another disk: what it had is put aside, and what
// was put aside under the name is its disk; without one it is empty.
func swap(t testing.TB, r *relayproc.Relay, aside, disk string) {
	t.Helper()
	if err := os.Rename(r.Data, r.Data+aside); err != nil {
		t.Fatal(err)
	}
	if disk == "" {
		return
	}
	if err := os.Rename(r.Data+disk, r.Data); err != nil {
		t.Fatal(err)
	}
}

// writesOff gives all lost segments up, as an operator does who looks first.
func writesOff(t testing.TB, r *relayproc.Relay) {
	t.Helper()
	st := standingOf(t, r)
	if st.LostSegments == 0 || !strings.Contains(strings.Join(st.Notes, "\n"), "clrelay cluster write-off --lost") {
		t.Fatalf("nothing is said of lost segments: %+v", st)
	}
	if n, err := r.Metric("clrelay_lost_segments"); err != nil || int(n) != st.LostSegments {
		t.Errorf("the metric says %v of %d lost segments, %v", n, st.LostSegments, err)
	}
	var seen struct {
		Segments []struct {
			Segment string   `json:"segment"`
			Members []string `json:"members"`
		} `json:"segments"`
	}
	told(t, &seen, r, "cluster", "write-off", "--lost", "--dry-run", "-o", "json")
	if len(seen.Segments) != st.LostSegments {
		t.Fatalf("%d segments are lost, and %d are shown", st.LostSegments, len(seen.Segments))
	}
	if _, errs, code := r.CLI("cluster", "write-off", "--lost", "--yes", "--expect", fmt.Sprint(st.LostSegments+1)); code != 6 {
		t.Errorf("another number was expected: %d %s", code, errs)
	}
	first := seen.Segments[0].Segment
	told(t, &seen, r, "cluster", "write-off", "--segment", first, "--yes", "--reason", "one of them", "-o", "json")
	if _, errs, code := r.CLI("cluster", "write-off", "--segment", first, "--yes"); code != 3 {
		t.Errorf("one that is gone: %d %s", code, errs)
	}
	if st.LostSegments > 1 {
		told(t, &seen, r, "cluster", "write-off", "--lost", "--yes", "--reason", "the others", "-o", "json")
	}
	if !strings.Contains(r.Log(), "a segment was written off") || !strings.Contains(r.Log(), "one of them") {
		t.Error("the log does not say what was written off, and why")
	}
	t.Logf("%d segments were written off", st.LostSegments)
	if n, err := r.Metric("clrelay_lost_segments"); err != nil || n != 0 {
		t.Errorf("the metric still says %v, %v", n, err)
	}
}

// healed waits until nothing has too few copies.
func healed(t testing.TB, r *relayproc.Relay) {
	t.Helper()
	eventually(t, time.Minute, "nothing has too few copies", func() bool {
		st := standingOf(t, r)
		return st.Copies == 2 && st.UnderReplicated == 0 && st.LostSegments == 0
	})
}

// TestWriteOffAfterALostQuorum: two of three machines lose their disks at once,
// with mail that waits. The third one's is delivered; what was on the two alone
// is written off, and delivered after all when one of the disks is found.
func TestWriteOffAfterALostQuorum(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	last, here := disaster(t, f)
	if len(here) == len(f.accepted) {
		t.Fatal("no mail was on the two others alone")
	}
	offline(t, last, "cluster", "recover", "--yes")
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Nodes[:2] {
		swap(t, r, ".lost", "")
		if err := r.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.Nodes[:2] {
		if err := r.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "new mail has two copies", func() bool { return standingOf(t, last).Copies == 2 })
	f.away.Store(false)
	f.arrived(t, here)
	writesOff(t, f.Nodes[0])
	healed(t, last)
	for _, r := range f.Nodes {
		f.takes(t, r, 50)
	}
	if missing, _ := f.missing(); missing == 0 {
		t.Error("nothing was lost: the test tests nothing")
	}

	found := f.Nodes[0]
	f.lifeOf(found)
	if err := found.Stop(); err != nil {
		t.Fatal(err)
	}
	swap(t, found, ".second", ".lost")
	offline(t, found, "cluster", "rejoin", "--yes")
	if err := found.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.settle(t, time.Minute)
	healed(t, last)
}

// lifeOf counts the possible duplicates of a life of a node that ends.
func (f *fleet) lifeOf(r *relayproc.Relay) {
	if n, err := r.Metric("clrelay_possible_duplicates_total"); err == nil {
		f.counted[r] += n
	}
}

// takeovers counts those of all nodes.
func (f *fleet) takeovers() (sum float64) {
	for _, r := range f.Nodes {
		if n, err := r.Metric("clrelay_takeovers_total"); err == nil {
			sum += n
		}
	}
	return sum
}

// killsPair kills the first two nodes with mail that is on them alone. Which
// nodes a message lies with is the relay's choice: it may take more than one try.
func (f *fleet) killsPair(t testing.TB) {
	t.Helper()
	for range 5 {
		for _, r := range f.Nodes {
			f.takes(t, r, 60)
		}
		for _, r := range f.Nodes[:2] {
			f.lifeOf(r)
			r.Kill()
		}
		second := onDisk(t, f.Nodes[1])
		for seq := range onDisk(t, f.Nodes[0]) {
			if second[seq] {
				return
			}
		}
		for _, r := range f.Nodes[:2] {
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("no message lies with the first two nodes alone")
}

// TestWriteOffWithAQuorum: two of five are gone at once and the cluster goes on;
// one comes back with an empty disk, the other is removed. What was on them alone
// is written off; a disk that is found in the same generation brings it back.
func TestWriteOffWithAQuorum(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 5)
	f.away.Store(true)
	asked := f.Nodes[4]
	f.killsPair(t)
	if _, errs, code := asked.CLI("cluster", "write-off", "--lost", "--dry-run"); code != 0 {
		t.Errorf("before anything is known to be lost: %d %s", code, errs)
	}
	if n := standingOf(t, asked).LostSegments; n != 0 {
		t.Errorf("%d segments are lost while the disks may come back", n)
	}
	swap(t, f.Nodes[0], ".lost", "")
	if err := f.Nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := f.Nodes[1]
	if n := standingOf(t, asked).LostSegments; n != 0 {
		t.Errorf("%d segments are lost while one disk may come back", n)
	}
	eventually(t, 30*time.Second, "a node that is silent is removed by force", func() bool {
		_, _, code := asked.CLI("node", "remove", nameOf(found), "--force", "--yes")
		return code == 0
	})
	writesOff(t, asked)
	healed(t, asked)
	f.away.Store(false)
	// As it is it may not come back; as a node again, with an empty disk first.
	swap(t, found, ".lost", "")
	if err := found.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.lifeOf(found)
	if err := found.Stop(); err != nil {
		t.Fatal(err)
	}
	swap(t, found, ".second", ".lost")
	offline(t, found, "cluster", "rejoin", "--yes")
	if err := found.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.settle(t, time.Minute)
	healed(t, asked)
}

// TestBackupOfARunningCluster: backups are taken from every node under load,
// and from the last one without a quorum; one of a follower is what the control
// plane is restored from when none can be read any more.
func TestBackupOfARunningCluster(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.away.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() { f.load(ctx, r, 5, 1_000_000) })
	}
	for _, r := range f.Nodes {
		eventually(t, 30*time.Second, "every node has taken mail", func() bool {
			n, err := r.Metric("clrelay_messages_accepted_total")
			return err == nil && n > 50
		})
	}
	type saved struct {
		File    string   `json:"file"`
		Node    string   `json:"node"`
		Index   uint64   `json:"index"`
		Leader  string   `json:"leader"`
		Quorum  bool     `json:"quorum"`
		Members []string `json:"members"`
	}
	var follower, newest saved
	for i := range 9 {
		r := f.Nodes[i%3]
		file := filepath.Join(r.Dir, fmt.Sprint("backup", i))
		var s saved
		told(t, &s, r, "cluster", "backup", "--out", file, "-o", "json")
		if !s.Quorum || s.Node != nameOf(r) || len(s.Members) != 3 || s.Index == 0 {
			t.Errorf("backed up %+v", s)
		}
		if s.Node != s.Leader {
			follower = s
		}
		newest = s
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	var remote saved // over the network, with an operator's certificate
	out, errs, code := f.Admin("cluster", "backup", "--out", filepath.Join(f.Nodes[0].Dir, "remote"), "-o", "json")
	if err := json.Unmarshal([]byte(out), &remote); code != 0 || err != nil || remote.Index < follower.Index {
		t.Errorf("over the network: %d %s %s", code, out, errs)
	}
	if _, errs, code := f.Nodes[0].CLI("cluster", "backup", "--out", newest.File); code != 6 {
		t.Errorf("a backup was overwritten: %d %s", code, errs)
	}
	cancel()
	wg.Wait()

	last := collapse(t, f)
	eventually(t, 30*time.Second, "a backup says that there is no quorum", func() bool {
		file := filepath.Join(last.Dir, "alone")
		_ = os.Remove(file) // of the try before
		var s saved
		told(t, &s, last, "cluster", "backup", "--out", file, "-o", "json")
		return !s.Quorum && s.Index >= newest.Index
	})
	if err := last.Stop(); err != nil {
		t.Fatal(err)
	}
	disk := onDisk(t, last)
	if err := os.RemoveAll(filepath.Join(last.Data, "raft")); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Nodes[:2] {
		if err := os.RemoveAll(r.Data); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(offline(t, last, "cluster", "restore", "--yes", follower.File))
	f.away.Store(false)
	if err := last.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var here []int64
	for _, seq := range f.accepted {
		if disk[seq] {
			here = append(here, seq)
		}
	}
	t.Logf("of %d acknowledged messages %d are on the disk that is left", len(f.accepted), len(here))
	f.arrived(t, here)
	f.takes(t, last, 50)
	for _, r := range f.Nodes[:2] { // with new disks, under their old names
		if err := r.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.Nodes[:2] {
		if err := r.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.takes(t, r, 50)
	}
}
