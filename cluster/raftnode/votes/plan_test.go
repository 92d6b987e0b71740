package votes

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPlan(t *testing.T) {
	voter := func(node string) View { return View{Node: node, Voter: true, Healthy: true, Stable: true} }
	other := func(node string) View { return View{Node: node, Healthy: true, Stable: true} }
	self := func(v View) View { v.Self = true; return v }
	dead := func(v View) View { v.Healthy, v.Stable, v.Dead = false, false, true; return v }
	sick := func(v View) View { v.Healthy, v.Stable = false, false; return v }
	young := func(v View) View { v.Stable = false; return v }
	barred := func(v View) View { v.Barred = true; return v }
	slow := func(v View) View { v.Slow = true; return v }
	in := func(zone string, v View) View { v.Zone = zone; return v }
	a := self(voter("a"))
	for name, c := range map[string]struct {
		vs     []View
		target int
		want   Step
	}{
		"one machine":                                {[]View{a}, 5, Step{}},
		"two: the second gets no vote":               {[]View{a, other("b")}, 5, Step{}},
		"three: the first step of two":               {[]View{a, other("b"), other("c")}, 5, Step{Promote, "b"}},
		"and the second":                             {[]View{a, voter("b"), other("c")}, 5, Step{Promote, "c"}},
		"a young one waits":                          {[]View{a, other("b"), young(other("c"))}, 5, Step{}},
		"two voters and nobody else: back to one":    {[]View{a, voter("b")}, 5, Step{Demote, "b"}},
		"two voters and a third that is away":        {[]View{a, voter("b"), sick(other("c"))}, 5, Step{}},
		"two voters and a third that is dead":        {[]View{a, voter("b"), dead(other("c"))}, 5, Step{}},
		"two voters and one that just came":          {[]View{a, voter("b"), young(other("c"))}, 5, Step{Promote, "c"}},
		"two voters and one that is drained":         {[]View{a, voter("b"), barred(other("c"))}, 5, Step{Demote, "b"}},
		"two voters, one wanted":                     {[]View{a, voter("b"), other("c")}, 1, Step{Demote, "b"}},
		"four: no second pair":                       {[]View{a, voter("b"), voter("c"), other("d")}, 5, Step{}},
		"five":                                       {[]View{a, voter("b"), voter("c"), other("d"), other("e")}, 5, Step{Promote, "d"}},
		"five, three wanted":                         {[]View{a, voter("b"), voter("c"), other("d"), other("e")}, 3, Step{}},
		"too many":                                   {[]View{a, voter("b"), voter("c"), voter("d"), voter("e")}, 3, Step{Demote, "e"}},
		"a dead one, nobody to replace it":           {[]View{a, voter("b"), dead(voter("c"))}, 5, Step{}},
		"a dead one, with a replacement":             {[]View{a, voter("b"), dead(voter("c")), other("d")}, 5, Step{Demote, "c"}},
		"then the replacement":                       {[]View{a, voter("b"), dead(other("c")), other("d")}, 5, Step{Promote, "d"}},
		"one that is away for a moment":              {[]View{a, voter("b"), sick(voter("c")), other("d")}, 5, Step{}},
		"growth waits for the sick":                  {[]View{a, voter("b"), sick(voter("c")), other("d"), other("e")}, 5, Step{}},
		"two of three dead: nothing can be done":     {[]View{a, dead(voter("b")), dead(voter("c")), other("d")}, 5, Step{}},
		"four voters, one dead, nobody":              {[]View{a, voter("b"), voter("c"), dead(voter("d"))}, 5, Step{Demote, "d"}},
		"four voters, two dead":                      {[]View{a, voter("b"), dead(voter("c")), dead(voter("d"))}, 5, Step{Demote, "d"}},
		"a drained one keeps its vote":               {[]View{a, voter("b"), barred(voter("c"))}, 5, Step{}},
		"a drained one is replaced":                  {[]View{a, voter("b"), barred(voter("c")), other("d")}, 3, Step{Promote, "d"}},
		"and then gives it up":                       {[]View{a, voter("b"), barred(voter("c")), voter("d")}, 3, Step{Demote, "c"}},
		"a drained one gets none":                    {[]View{a, other("b"), barred(other("c"))}, 5, Step{}},
		"a drained leader hands over":                {[]View{barred(a), voter("b"), voter("c")}, 5, Step{Transfer, "b"}},
		"a drained leader without a successor":       {[]View{barred(a), sick(voter("b")), barred(voter("c"))}, 5, Step{}},
		"a slow leader hands over":                   {[]View{slow(a), voter("b"), voter("c")}, 5, Step{Transfer, "b"}},
		"a slow leader that is needed stays":         {[]View{slow(a), voter("b"), sick(voter("c"))}, 5, Step{}},
		"two slow of three: nothing is gained":       {[]View{slow(a), slow(voter("b")), voter("c")}, 5, Step{}},
		"two slow of five":                           {[]View{slow(a), slow(voter("b")), voter("c"), voter("d"), voter("e")}, 5, Step{Transfer, "c"}},
		"a slow leader among slow ones stays":        {[]View{slow(a), slow(voter("b")), sick(voter("c"))}, 5, Step{}},
		"a drained leader, slow ones alone":          {[]View{barred(a), slow(voter("b")), slow(voter("c"))}, 5, Step{Transfer, "b"}},
		"a drained leader takes a quick one":         {[]View{barred(a), slow(voter("b")), voter("c")}, 5, Step{Transfer, "c"}},
		"a slow follower is none of its business":    {[]View{a, slow(voter("b")), voter("c")}, 5, Step{}},
		"zones: the candidate from the emptiest":     {[]View{in("1", a), in("1", other("b")), in("2", other("c"))}, 3, Step{Promote, "c"}},
		"zones: a better spread":                     {[]View{in("1", a), in("1", voter("b")), in("2", voter("c")), in("3", other("d"))}, 3, Step{Promote, "d"}},
		"zones: and the crowded one loses":           {[]View{in("1", a), in("1", voter("b")), in("2", voter("c")), in("3", voter("d"))}, 3, Step{Demote, "b"}},
		"zones: nothing to gain":                     {[]View{in("1", a), in("2", voter("b")), in("2", voter("c")), in("1", other("d"))}, 3, Step{}},
		"no voters at all cannot be, and is nothing": {nil, 3, Step{}},
	} {
		if got := Plan(c.vs, c.target); got != c.want {
			t.Errorf("%s: %v %s, want %v %s", name, got.Do, got.Node, c.want.Do, c.want.Node)
		}
	}
}

// Whatever the servers are like, no step leaves less than a healthy majority
// where there was one; and once nothing changes any more, an odd number of
// servers vote, unless nobody can be spared, or two wait for a third.
func TestPlanNeverEndangersAndSettles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20_000 {
		n, target := 1+r.IntN(8), 1+2*r.IntN(3)
		vs := make([]View, n)
		for i := range vs {
			v := View{Node: fmt.Sprint(i), Zone: fmt.Sprint(r.IntN(3)), Voter: r.IntN(2) == 0, Barred: r.IntN(5) == 0, Healthy: r.IntN(4) > 0}
			v.Stable, v.Dead = v.Healthy && r.IntN(3) > 0, !v.Healthy && r.IntN(2) == 0
			vs[i] = v
		}
		vs[0].Self, vs[0].Voter, vs[0].Healthy, vs[0].Dead = true, true, true, false
		settle(t, vs, target)
	}
}

func settle(t *testing.T, vs []View, target int) {
	count := func() (voters, healthy int) {
		for _, v := range vs {
			if v.Voter {
				voters++
				if v.Healthy {
					healthy++
				}
			}
		}
		return voters, healthy
	}
	if voters, healthy := count(); healthy < Majority(voters) {
		return // there would be no leader
	}
	for step := 0; ; step++ {
		if step > 20 {
			t.Fatalf("never comes to rest: %+v", vs)
		}
		voters, _ := count()
		s := Plan(vs, target)
		if s.Do == Nothing {
			break
		}
		for i := range vs {
			switch {
			case s.Do == Transfer:
				vs[i].Self = vs[i].Node == s.Node
			case vs[i].Node != s.Node:
			case s.Do == Promote && (vs[i].Voter || !vs[i].Healthy || !vs[i].Stable && voters%2 == 1 || vs[i].Barred), s.Do == Demote && (!vs[i].Voter || vs[i].Self):
				t.Fatalf("%v of %+v", s.Do, vs[i])
			default:
				vs[i].Voter = s.Do == Promote
			}
		}
		if voters, healthy := count(); healthy < Majority(voters) || voters == 0 {
			t.Fatalf("after %v of %s, %d of %d voters are healthy: %+v", s.Do, s.Node, healthy, voters, vs)
		}
	}
	third := slices.ContainsFunc(vs, func(v View) bool { return !v.Voter && !v.Barred })
	if voters, healthy := count(); (voters != 2 || !third || target < 3) && voters%2 == 0 && healthy-1 >= Majority(voters-1) {
		t.Fatalf("rests with %d voters: %+v", voters, vs)
	}
}
