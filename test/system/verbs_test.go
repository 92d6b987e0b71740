package system

import (
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// ordered is what queue list shows of an operator's orders.
type ordered struct {
	Node     string `json:"node"`
	State    string `json:"state"`
	Rerouted string `json:"rerouted"`
	Rule     string `json:"rule"`
}

// rowsOf lists what the nodes that answer have.
func rowsOf(t testing.TB, r *relayproc.Relay, args ...string) []ordered {
	t.Helper()
	stdout, stderr, code := r.CLI(append([]string{"queue", "list", "-o", "json"}, args...)...)
	var rows []ordered
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != 0 && code != 7 {
		t.Fatalf("queue list: %d, %v: %s%s", code, err, stdout, stderr)
	}
	return rows
}

// say says something while a node is silent: it may be named as missing.
func say(t testing.TB, r *relayproc.Relay, args ...string) {
	t.Helper()
	if stdout, stderr, code := r.CLI(args...); code != 0 && code != 7 {
		t.Fatalf("clrelay %s: exit code %d: %s%s", strings.Join(args, " "), code, stdout, stderr)
	}
}

// all tells whether there are n rows, each as it should be.
func all(rows []ordered, n int, ok func(ordered) bool) bool {
	return len(rows) == n && !slices.ContainsFunc(rows, func(r ordered) bool { return !ok(r) })
}

// took counts the messages of the fleet that a sink has.
func (f *fleet) took(s *peers.Sink) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, seq := range f.accepted {
		if len(s.Times(seq)) > 0 {
			n++
		}
	}
	return n
}

// TestClusterKeepsAnOperatorsWord: what an operator said of recipients outlives
// their node: what was dropped can be brought back, what was rerouted goes
// there; and a rule holds new mail at all nodes.
func TestClusterKeepsAnOperatorsWord(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.away.Store(true)
	var elsewhereTakes atomic.Bool
	elsewhere := startSink(t, &peers.Sink{Hash: true, Seen: func(int64, []string) string {
		if elsewhereTakes.Load() {
			return ""
		}
		return "451 4.3.2 Not now either"
	}})
	const each = 20
	load := func() {
		t.Helper()
		for _, r := range f.Nodes {
			if sent := f.load(t.Context(), r, 4, each); sent.Errors != 0 {
				t.Fatal(sent.LastErr)
			}
		}
	}
	load()
	first, second, third := f.Nodes[0], f.Nodes[1], f.Nodes[2]
	// Dropped at one node, it is in the trash of another when that is gone.
	cli(t, second, 2, "queue", "drop", "--node", "nobody", "--yes")
	cli(t, second, 0, "queue", "drop", "--node", nameOf(first), "--yes", "--reason", "a mistake")
	if rows := rowsOf(t, third); !all(rows, 2*each, func(r ordered) bool { return r.Node != nameOf(first) }) {
		t.Fatalf("%d rows after the drop: %+v", len(rows), rows)
	}
	for _, r := range f.Nodes {
		balancedBooks(t, r)
	}
	first.Kill()
	eventually(t, time.Minute, "the trash is taken over", func() bool {
		return all(rowsOf(t, second, "--state", "trash"), each, func(r ordered) bool { return r.Node != nameOf(first) && r.State == "trash" })
	})
	say(t, third, "queue", "undrop", "--everything")
	eventually(t, 30*time.Second, "all is back", func() bool { return len(rowsOf(t, second)) == 3*each })
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Rerouted, it goes there from whichever node has it.
	eventually(t, 30*time.Second, "all nodes are told, the one that is back too", func() bool {
		_, _, code := second.CLI("queue", "reroute", "--to", elsewhere.Addr(), "--everything")
		return code == 0
	})
	eventually(t, 30*time.Second, "all is on its way elsewhere", func() bool {
		return all(rowsOf(t, first, "--reply", "not now either"), 3*each, func(r ordered) bool { return r.Rerouted == elsewhere.Addr() })
	})
	second.Kill()
	eventually(t, time.Minute, "the orders are taken over", func() bool {
		return all(rowsOf(t, third), 3*each, func(r ordered) bool { return r.Node != nameOf(second) && r.Rerouted == elsewhere.Addr() })
	})
	elsewhereTakes.Store(true)
	say(t, third, "queue", "retry", "--everything")
	eventually(t, time.Minute, "all has arrived elsewhere", func() bool { return f.took(elsewhere) == 3*each })
	if n := f.took(f.sink); n != 0 {
		t.Errorf("%d messages went where they were not to go", n)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A rule holds what comes to any node.
	f.away.Store(false)
	var rule struct{ ID string }
	if err := json.Unmarshal([]byte(cli(t, first, 0, "queue", "rule", "add", "--everything", "--reason", "INC-1", "-o", "json")), &rule); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "all nodes know the rule", func() bool {
		for _, r := range f.Nodes {
			if !strings.Contains(r.Log(), `msg="hold rules" node=`+nameOf(r)+" rules=1") {
				return false
			}
		}
		return true
	})
	load()
	eventually(t, 30*time.Second, "the rule holds all of it", func() bool {
		return all(rowsOf(t, third, "--rule", rule.ID), 3*each, func(r ordered) bool { return r.State == "held" && r.Rule == rule.ID })
	})
	if n := f.took(f.sink); n != 0 {
		t.Errorf("%d messages were delivered against the rule", n)
	}
	cli(t, second, 0, "queue", "rule", "remove", rule.ID, "--release")
	eventually(t, time.Minute, "all is delivered", func() bool { return f.took(f.sink) == 3*each })
	for _, r := range f.Nodes {
		balancedBooks(t, r)
	}
}

// balancedBooks waits until nothing is missing in a node's books.
func balancedBooks(t testing.TB, r *relayproc.Relay) {
	t.Helper()
	eventually(t, 30*time.Second, "the books are even", func() bool {
		n, err := r.Metric("clrelay_ledger_imbalance_messages")
		return err == nil && n == 0
	})
}
