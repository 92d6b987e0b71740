package system

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// words gives what a command prints, without its lines.
func words(t testing.TB, r *relayproc.Relay, args ...string) string {
	t.Helper()
	out, errs, code := r.CLI(args...)
	if code != 0 {
		t.Fatalf("clrelay %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return strings.Join(strings.Fields(out), " ")
}

// waiting counts what waits for limits or was put off, at all nodes that answer.
func waiting(t testing.TB, r *relayproc.Relay) int {
	t.Helper()
	var list struct{ Recipients int }
	told(t, &list, r, "queue", "reasons", "-o", "json")
	return list.Recipients
}

// TestClusterBudgetSmallerAndLarger: a budget that nodes have used unevenly is made
// smaller than what is spent, and nothing goes; raised again, all of it goes and
// not one more, and with more the rest, a lost node's too.
func TestClusterBudgetSmallerAndLarger(t *testing.T) {
	t.Parallel()
	if day := 24 * time.Hour; time.Until(time.Now().Truncate(day).Add(day)) < 2*time.Minute {
		t.Skip("the day is over in a moment, and its budgets with it")
	}
	f := openFleet(t, 3)
	set := func(by int, budget string) {
		t.Helper()
		say(t, f.Nodes[by], "limit", "set", "daily", "--domain", "sink.test", "--budget", budget, "--reason", "INC-7")
		for i, r := range f.Nodes {
			eventually(t, 10*time.Second, fmt.Sprintf("node %d knows of %s", i, budget), func() bool {
				out, _, _ := r.CLI("limit", "list", "--origin", "set")
				return strings.Contains(out, budget)
			})
		}
	}
	send := func(each ...int) {
		t.Helper()
		var wg sync.WaitGroup
		for i, n := range each {
			wg.Go(func() {
				if sent := f.load(t.Context(), f.Nodes[i], 2, n); len(sent.Accepted) != n {
					t.Errorf("node %d took %d of %d: %v", i, len(sent.Accepted), n, sent.LastErr)
				}
			})
		}
		wg.Wait()
	}
	set(0, "300/d")
	if got := words(t, f.Nodes[1], "limit", "explain", "u@sink.test"); !strings.HasPrefix(got, "Nothing is queued at any node for sink.test") {
		t.Errorf("of a budget that nobody has used:\n%s", got)
	}
	send(100, 20, 3)
	eventually(t, 20*time.Second, "what the budget has room for is there", func() bool { return f.sink.Messages() == 123 })

	set(1, "50/d")
	send(300, 300, 300) // so that none is given more than it has mail for
	eventually(t, 20*time.Second, "all of it waits", func() bool { return waiting(t, f.Nodes[2]) == 900 })
	for i, r := range f.Nodes {
		got := words(t, r, "limit", "explain", "u@sink.test")
		if !strings.Contains(got, "Limit daily holds 900 recipients: 123 of the budget of 50/d are spent") || !strings.Contains(got, "at midnight UTC; set by") {
			t.Errorf("node %d explains:\n%s", i, got)
		}
	}

	set(2, "300/d")
	eventually(t, 20*time.Second, "all of the budget is spent", func() bool { return f.sink.Messages() == 300 && waiting(t, f.Nodes[0]) == 723 })
	if got := words(t, f.Nodes[1], "limit", "explain", "u@sink.test"); !strings.Contains(got, "300 of the budget of 300/d are spent") {
		t.Errorf("node 1 explains:\n%s", got)
	}

	f.Nodes[2].Kill()
	f.Nodes = f.Nodes[:2]
	set(0, "2000/d")
	f.settle(t, time.Minute)
}

const suspendYAML = toSink + `shaping:
  rules:
    - {name: brief, text: not for a while, suspend: domain, for: 5s}
    - {name: long, text: not today, suspend: domain, for: 1h}
`

// TestClusterSuspension: what a receiver says to one node holds at all of them, who
// say why and until when; it ends by itself, or by an operator's word to any node,
// and a restart does not end it.
func TestClusterSuspension(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	reply := ""
	says := func(s string) { mu.Lock(); reply = s; mu.Unlock() }
	sink := startSink(t, &peers.Sink{Seen: func(_ int64, rcpts []string) string {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(strings.Join(rcpts, " "), "@bad.test") {
			return reply
		}
		return ""
	}})
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{Binary: binary(t), Dir: workDir(t), Nodes: 3, Cluster: fmt.Sprintf(suspendYAML, sink.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{Cluster: c, sink: sink, counted: map[*relayproc.Relay]float64{}}
	f.stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	seq := int64(0)
	send := func(node, n int, domain string) {
		t.Helper()
		src := &peers.Source{Addr: f.Nodes[node].SMTP, Sessions: 1, Rcpt: func(int64) string { return "u@" + domain }}
		sent := src.Run(t.Context(), seq, n)
		if len(sent.Accepted) != n {
			t.Fatalf("node %d took %d of %d: %v", node, len(sent.Accepted), n, sent.LastErr)
		}
		f.accepted = append(f.accepted, sent.Accepted...)
		seq += int64(n)
	}
	// suspended gives the name of the limit that each node has learned.
	suspended := func() (name string) {
		t.Helper()
		for i, r := range f.Nodes {
			eventually(t, 10*time.Second, fmt.Sprintf("node %d knows it", i), func() bool {
				var list []struct{ Name string }
				told(t, &list, r, "limit", "list", "--origin", "learned", "-o", "json")
				if len(list) == 1 {
					name = list[0].Name
				}
				return len(list) == 1
			})
		}
		return name
	}
	explained := func(node int, want ...string) {
		t.Helper()
		got := words(t, f.Nodes[node], "limit", "explain", "u@bad.test")
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("node %d does not say %q:\n%s", node, w, got)
			}
		}
	}

	says("421 4.7.0 not for a while")
	send(0, 1, "bad.test")
	eventually(t, 10*time.Second, "it is suspended", func() bool {
		return strings.Contains(f.Nodes[0].Log(), "suspended for bad.test for 5s: 421 4.7.0 not for a while")
	})
	says("")
	send(2, 5, "bad.test")
	eventually(t, 30*time.Second, "it ends by itself", func() bool { n, _ := f.missing(); return n == 0 })

	says("421 4.7.0 not today")
	send(0, 1, "bad.test")
	name := suspended()
	says("")
	send(2, 5, "bad.test")
	send(1, 2, "good.test")
	eventually(t, 10*time.Second, "other mail to the same host arrives", func() bool { n, _ := f.missing(); return n == 6 })
	if err := f.Nodes[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := f.Nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := suspended(); again != name {
		t.Errorf("after a restart it is %s, was %s", again, name)
	}
	eventually(t, 10*time.Second, "all of it waits", func() bool { return waiting(t, f.Nodes[1]) == 6 })
	explained(0, "is suspended", name+" holds", "learned from the reply: 421 4.7.0 not today (rule long)", "it ends in")
	if got := words(t, f.Nodes[1], "queue", "reasons", "--by", "domain"); !strings.Contains(got, "limit") || !strings.Contains(got, "bad.test") || !strings.Contains(got, "not today") {
		t.Errorf("queue reasons:\n%s", got)
	}
	say(t, f.Nodes[1], "limit", "clear", name, "--reason", "they say it is over")
	f.settle(t, 20*time.Second)
}
