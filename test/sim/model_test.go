package sim

import (
	"flag"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/segment"
)

var states = flag.Int("states", 200, "most states of a scope that the checker looks at; 0: all")

func scopes() []Scope {
	const short, long = 1100 * time.Millisecond, 2600 * time.Millisecond
	return []Scope{
		{Name: "two messages", Messages: 2, Times: 2, Stride: short, Results: true},
		{Name: "open and seal", Messages: 1, Cuts: 1, Times: 2, Stride: short, Lost: 1},
		{Name: "results, stale and fresh", Messages: 1, Cuts: 1, Times: 3, Stride: short, Results: true},
		{Name: "takeover", Messages: 1, Times: 4, Stride: long, Beaten: true, Results: true},
		{Name: "crash and repeated Register", Messages: 1, Crashes: 1, Times: 3, Stride: short},
		{Name: "takeover after a crash", Messages: 1, Crashes: 1, Times: 4, Stride: long, Results: true},
		{Name: "lost disk", Messages: 1, Disks: 1, Times: 3, Stride: long},
		{Name: "time that passes with all under way", Messages: 1, Cuts: 1, Times: 2, Early: 1, Stride: short},
	}
}

func TestExplore(t *testing.T) {
	for _, sc := range scopes() {
		sc.States = *states
		t.Run(sc.Name, func(t *testing.T) {
			start := time.Now()
			out := Explore(sc)
			t.Logf("%d states, %d edges, depth %d, complete %v, %v", out.States, out.Edges, out.Depth, out.Complete, time.Since(start).Round(time.Millisecond))
			if out.Err != nil {
				t.Error(out.Err)
			}
		})
	}
}

// The checker, too, misses what is taken out.
func TestExploreMutations(t *testing.T) {
	if *seeds == 0 {
		t.Skip("with -seeds")
	}
	list := scopes()
	for _, m := range []struct {
		scope Scope
		rules segment.Rules
	}{
		{list[1], segment.WriteAll},
		{list[7], segment.SealStopsAcks},
		{list[3], segment.LeaseToDeliver},
		{list[3], segment.LeaseToAck},
		{list[4], segment.RegisterFirst},
	} {
		m.scope.Without, m.scope.States = m.rules, 60000
		out := Explore(m.scope)
		t.Logf("%s without %b: %d states, %v", m.scope.Name, m.rules, out.States, out.Err != nil)
		if out.Err == nil {
			t.Errorf("%s without %b: not missed in %d states", m.scope.Name, m.rules, out.States)
		}
	}
}
