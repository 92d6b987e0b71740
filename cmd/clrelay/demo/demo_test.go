package demo

import (
	"testing"

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world"
	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
)

// TestVerdict: what makes the demo fail.
func TestVerdict(t *testing.T) {
	good := post.Sums{Accepted: 10, Delivered: 8, Bounced: 2}
	twice, queued, lost := good, good, good
	twice.Twice = 3
	queued.Delivered, queued.Queued = 6, 2
	lost.Delivered, lost.Lost = 7, 1
	for name, c := range map[string]struct {
		v    verdict
		want bool
	}{
		"all is well":               {verdict{Sums: good, nodes: 3}, true},
		"twice, and counted":        {verdict{Sums: twice, counted: 3, nodes: 3}, true},
		"twice, and not counted":    {verdict{Sums: twice, counted: 2, nodes: 3}, false},
		"not delivered":             {verdict{Sums: queued, nodes: 3}, false},
		"one node: some may wait":   {verdict{Sums: queued, nodes: 1}, true},
		"lost":                      {verdict{Sums: lost, nodes: 1}, false},
		"nobody took what they had": {verdict{Sums: good, nodes: 3, waiting: 1}, false},
	} {
		if got := c.v.pass(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestScripts: every name that is offered is a script.
func TestScripts(t *testing.T) {
	for _, name := range Scripts() {
		if s, err := scriptFor(name); s == nil || err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := scriptFor("nonsense"); err == nil {
		t.Error("nonsense is a script")
	}
}

// TestState: a node's state in words that fit their column.
func TestState(t *testing.T) {
	for want, l := range map[string]world.Look{
		"DEAD":                                {},
		"PAUSED":                              {Running: true, Paused: true},
		"takes mail":                          {Running: true, Ready: true},
		"starting":                            {Running: true},
		"CUT OFF, its lease runs out":         {Running: true, Ready: true, Cut: true},
		"CUT OFF, takes and delivers nothing": {Running: true, Cut: true, Why: "451"},
		"not ready: 451 4.3.0 no other mac":   {Running: true, Why: "451 4.3.0 no other machine takes a copy"},
	} {
		if got := state(l); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
