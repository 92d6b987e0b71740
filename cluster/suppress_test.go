package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

// An address that is put on the suppression list of one node is on that of the
// others within a second, and is still there after a restart and after the loss
// of the leader.
func TestSuppressionList(t *testing.T) {
	g := newGroup(t, 3)
	g.ready()
	eventually(t, "the feature level rises", func() bool { return g.nodes[0].Overview().Level == fsm.KnownLevel })
	put := func(m *member, name string) {
		t.Helper()
		out, err := m.Suppress(t.Context(), fsm.SuppressOps{AtMS: time.Now().UnixMilli(), Add: []control.Suppression{
			{SuppressKey: control.SuppressKey{Address: name + "@example.org"}, Reason: control.SuppressOperator},
		}})
		if err != nil || len(out) != 1 || out[0].Code != fsm.OK {
			t.Fatalf("%s: %v, %v", m.name, out, err)
		}
	}
	has := func(m *member, name string) bool {
		q := suppressed.Query{To: mail.Address{Local: name, Domain: "example.org"}, Group: "campus", NowMS: time.Now().UnixMilli()}
		_, ok := m.Suppressed().Find(&q)
		return ok
	}
	everywhere := func(name string) {
		t.Helper()
		from := time.Now()
		for _, m := range g.nodes {
			eventually(t, m.name+" knows "+name, func() bool { return has(m, name) })
		}
		t.Logf("%s is known everywhere after %v", name, time.Since(from))
	}
	for i, m := range g.nodes {
		name := fmt.Sprint("user", i)
		put(m, name)
		if !has(m, name) {
			t.Errorf("%s does not know what it put there", m.name)
		}
		everywhere(name)
	}
	leader := g.nodes[0].Overview().Leader
	for _, m := range g.nodes {
		if m.name == leader {
			g.stop(m)
			put(g.nodes[(indexOf(g, m)+1)%3], "later")
			g.start(m)
		}
	}
	everywhere("later")
	everywhere("user0")
	if out, err := g.nodes[1].Suppress(t.Context(), fsm.SuppressOps{AtMS: time.Now().UnixMilli(), Remove: []control.SuppressKey{{Address: "user0@example.org"}}}); err != nil || out[0].Code != fsm.OK {
		t.Errorf("removing: %v, %v", out, err)
	}
	for _, m := range g.nodes {
		eventually(t, m.name+" forgets", func() bool { return !has(m, "user0") })
	}
}

func indexOf(g *group, m *member) int {
	for i := range g.nodes {
		if g.nodes[i] == m {
			return i
		}
	}
	return -1
}
