package sim

import (
	"flag"
	"testing"
	"time"
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
