package limit_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/limit"
	limits "github.com/clrelay/clrelay/internal/limit"
)

var all = []def{
	{key: "rate", kind: limits.KindRate, units: 100},
	{key: "few", kind: limits.KindRate, units: 2},
	{key: "conns", kind: limits.KindConnections, units: 40},
	{key: "one", kind: limits.KindConnections, units: 1},
	{key: "hour", kind: limits.KindBudget, units: 300, per: time.Hour},
	{key: "day", kind: limits.KindBudget, units: 2000, per: 24 * time.Hour},
}

// trouble does something to the world.
func (w *world) trouble() {
	s := w.servers[w.rnd.IntN(len(w.servers))]
	other := w.servers[w.rnd.IntN(len(w.servers))]
	switch w.rnd.IntN(14) {
	case 0:
		w.kill(s, time.Duration(w.rnd.IntN(15_000))*time.Millisecond+1)
	case 1:
		s.paused = w.now + time.Duration(w.rnd.IntN(20_000))*time.Millisecond
	case 2, 3: // one way
		w.cut[[2]string{s.name, other.name}] = true
	case 4, 5: // both
		for _, o := range w.servers {
			w.cut[[2]string{s.name, o.name}], w.cut[[2]string{o.name, s.name}] = true, true
		}
	case 6: // the leader, from all
		if l := w.leader; l != nil {
			for _, o := range w.servers {
				w.cut[[2]string{l.name, o.name}] = true
			}
		}
	case 7, 8:
		clear(w.cut)
	case 9:
		w.elected = w.now // somebody else
		if o := other; w.majority(o) {
			w.elect(o)
		}
	case 10, 11, 12, 13:
		w.demand(s)
	}
}

func (w *world) demand(s *server) {
	for _, d := range w.defs {
		s.want[d.key] = 0
		if w.rnd.IntN(3) > 0 {
			s.want[d.key] = uint32(w.rnd.IntN(int(d.units) + 1))
		}
		if w.rnd.IntN(4) == 0 {
			s.want[d.key] = min(d.units, 100)
		}
	}
}

// member changes what is wanted of a node.
func (w *world) member() {
	if w.leader == nil || !w.majority(w.leader) {
		return
	}
	s := w.servers[w.rnd.IntN(len(w.servers))]
	rec, ok := w.leader.state.Node(s.name)
	if !ok {
		return
	}
	verb := fsm.NodeDrain
	switch rec.State {
	case fsm.Draining:
		verb = fsm.NodeDrained
	case fsm.Drained:
		verb = fsm.NodeResume
	}
	data, err := fsm.Encode(fsm.NodeChange{Node: s.name, Verb: verb, By: rec.Lease.Session})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = append(w.log, data)
}

// storm is a world in trouble, and what was broken in it; "" is nothing.
func storm(t testing.TB, seed uint64, steps int, rules limit.Rules, noFloor bool) *world {
	w := newWorld(t, seed, all, "a", "b", "c")
	w.rules, w.noFloor = rules, noFloor
	for _, s := range w.servers {
		s.machine = limit.New(limit.Config{Without: rules})
		w.demand(s)
	}
	w.lossy = seed%3 > 0
	if seed%4 == 0 {
		w.eager = 1 // followers are slow
	}
	for i := 0; i < steps && w.broken == ""; i++ {
		w.run(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
		w.trouble()
		if seed%2 == 1 {
			if w.rnd.IntN(10) == 0 {
				w.member()
			}
			// Before there is a roster a node more is not waited for.
			if len(w.servers) < 5 && w.rnd.IntN(60) == 0 && w.servers[0].state.Roster().Founded {
				w.demand(w.add(string(rune('a' + len(w.servers)))))
			}
		}
	}
	return w
}

// TestStorm: whatever happens to nodes, network and clocks, no limit is
// exceeded: no rate in any time, no number of connections at any moment, no
// budget in a window.
func TestStorm(t *testing.T) {
	seeds, steps := 12, 400
	if testing.Short() {
		seeds = 4
	}
	if s := os.Getenv("CLRELAY_SEEDS"); s != "" {
		seeds, _ = strconv.Atoi(s)
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			w := storm(t, seed, steps, 0, false)
			if w.broken != "" {
				t.Fatal(w.broken)
			}
			for _, d := range w.defs {
				n := 0
				for _, s := range w.servers {
					n += s.sent[d.key]
				}
				if n == 0 {
					t.Errorf("nothing was ever sent under %s: the storm proves nothing", d.key)
				}
			}
			t.Logf("%v passed, %d entries for limits", (w.now - time.Hour).Round(time.Second), w.entries)
		})
	}
}

// TestWithout: each of the rules is needed: without it a limit is exceeded.
func TestWithout(t *testing.T) {
	for name, rule := range map[string]limit.Rules{
		"grow after the acknowledgement": limit.GrowAfterAck, "wait until the lease is over": limit.WaitSilent,
		"trust nothing of before the reign": limit.OwnReign, "the answer's index": limit.AnswerIndex,
		"no lease while unsure": limit.NoLeaseUnsure, "open connections count": limit.OpenCounts,
	} {
		t.Run(name, func(t *testing.T) {
			broken(t, rule, false)
		})
	}
	t.Run("the floor is what is kept", func(t *testing.T) { broken(t, 0, true) })
}

func broken(t *testing.T, rule limit.Rules, noFloor bool) {
	t.Helper()
	for seed := range uint64(60) {
		if w := storm(t, seed, 400, rule, noFloor); w.broken != "" {
			t.Log(w.broken)
			return
		}
	}
	t.Error("without the rule nothing was exceeded: the storm does not test it, or it is not needed")
}
