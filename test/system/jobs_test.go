package system

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// jobSaid is what the tests read of a job.
type jobSaid struct {
	ID         string   `json:"id"`
	State      string   `json:"state"`
	Total      int64    `json:"total"`
	Recipients int64    `json:"recipients"`
	Failed     int64    `json:"failed"`
	Driver     string   `json:"driver"`
	Missing    []string `json:"missing_nodes"`
	Note       string   `json:"note"`
}

// summarySaid is what the tests read of queue summary.
type summarySaid struct {
	Recipients, Active, Deferred, Held int64
}

func summaryOf(t testing.TB, r *relayproc.Relay) (s summarySaid) {
	t.Helper()
	told(t, &s, r, "queue", "summary", "-o", "json")
	return s
}

// detached begins a job and gives its name.
func detached(t testing.TB, r *relayproc.Relay, args ...string) string {
	t.Helper()
	var out struct {
		Job string `json:"job"`
	}
	told(t, &out, r, append(args, "--detach", "-o", "json")...)
	if out.Job == "" {
		t.Fatalf("%s made no job", strings.Join(args, " "))
	}
	return out.Job
}

// TestJobOutlivesTheLeader: the leader is killed in the middle of a job, with
// mail flowing: the job goes on, is done to all that waited, and nothing is lost.
func TestJobOutlivesTheLeader(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.away.Store(true)
	const each = 2000
	var wg sync.WaitGroup
	for _, r := range f.Nodes {
		wg.Go(func() { f.takes(t, r, each) })
	}
	wg.Wait()
	var leader *relayproc.Relay
	var asked *relayproc.Relay
	name := standingOf(t, f.Nodes[0]).Leader
	for _, r := range f.Nodes {
		if nameOf(r) == name {
			leader = r
		} else {
			asked = r
		}
	}
	if leader == nil {
		t.Fatalf("no node is called %q", name)
	}
	before := summaryOf(t, asked)
	id := detached(t, asked, "queue", "hold", "--everything", "--reason", "the leader will die")
	f.lifeOf(leader)
	leader.Kill()
	f.takes(t, asked, 100) // mail flows
	out, errs, code := asked.CLI("job", "wait", id, "--timeout", "2m", "-o", "json")
	var job jobSaid
	if err := json.Unmarshal([]byte(out), &job); err != nil || code != 0 && code != 7 {
		t.Fatalf("%d %v %s%s", code, err, out, errs)
	}
	t.Logf("%+v", job)
	if job.State != "done" || job.Driver == name {
		t.Errorf("%+v", job)
	}
	if s := summaryOf(t, asked); s.Held < before.Recipients-job.Failed {
		t.Errorf("%d are held, there were %d before: %+v", s.Held, before.Recipients, s)
	}
	if err := leader.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var list []jobSaid
	eventually(t, 20*time.Second, "the node that is back knows the job", func() bool {
		list = nil
		told(t, &list, leader, "job", "list", "-o", "json")
		return len(list) == 1 && list[0].State == "done"
	})
	f.away.Store(false)
	out, errs, code = leader.CLI("queue", "release", "--everything", "-o", "json")
	if code != 0 {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	f.settle(t, time.Minute)
	for i, x := range f.Nodes {
		eventually(t, 10*time.Second, fmt.Sprintf("the ledger of node %d is even", i), func() bool {
			n, err := x.Metric("clrelay_ledger_imbalance_messages")
			return err == nil && n == 0
		})
	}
}

// TestJobWithANodeDead: a job waits for the mail of a dead node until another
// has it, and says so.
func TestJobWithANodeDead(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.away.Store(true)
	for _, r := range f.Nodes {
		f.takes(t, r, 100)
	}
	f.lifeOf(f.Nodes[1])
	f.Nodes[1].Kill()
	out, errs, code := f.Nodes[0].CLI("queue", "hold", "--everything", "-o", "json")
	if code != 0 {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	if s := partOfSummary(t, f.Nodes[2]); s.Held != 300 {
		t.Errorf("%+v", s)
	}
	f.away.Store(false)
	out, errs, code = f.Nodes[2].CLI("queue", "release", "--everything")
	if code != 0 {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	f.settle(t, time.Minute)
	if err := f.Nodes[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// partOfSummary is queue summary where a node may be missing.
func partOfSummary(t testing.TB, r *relayproc.Relay) (s summarySaid) {
	t.Helper()
	out, errs, code := r.CLI("queue", "summary", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 && code != 7 {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	return s
}
