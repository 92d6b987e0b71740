// Package place chooses the members of a segment: its owner and other nodes,
// those in other zones and those with less to do for that owner first.
package place

import (
	"math/rand/v2"
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// Candidate is a node that can be a member.
type Candidate struct {
	Ref     fsm.Ref
	Zone    string // empty: unknown
	Avoided bool   // it held somebody up lately
	Uses    int    // open segments of the owner's that it is a member of
}

// Members chooses n members, the owner first; nil: there are too few. Among
// equals luck decides.
func Members(owner Candidate, n int, others []Candidate, rng *rand.Rand) []fsm.Ref {
	chosen := []Candidate{owner}
	for len(chosen) < n {
		best, ok := Next(chosen, others, rng)
		if !ok {
			return nil
		}
		chosen = append(chosen, best)
	}
	refs := make([]fsm.Ref, len(chosen))
	for i, c := range chosen {
		refs[i] = c.Ref
	}
	return refs
}

// Next finds the best one beside those that are chosen.
func Next(chosen, others []Candidate, rng *rand.Rand) (best Candidate, ok bool) {
	var bestCost [3]int
	ties := 0
	for _, c := range others {
		if slices.ContainsFunc(chosen, func(x Candidate) bool { return x.Ref.Node == c.Ref.Node }) {
			continue
		}
		cost := [3]int{0, 0, c.Uses}
		if c.Avoided {
			cost[0] = 1
		}
		if c.Zone != "" && slices.ContainsFunc(chosen, func(x Candidate) bool { return x.Zone == c.Zone }) {
			cost[1] = 1
		}
		switch d := slices.Compare(cost[:], bestCost[:]); {
		case !ok || d < 0:
			best, bestCost, ok, ties = c, cost, true, 1
		case d == 0:
			ties++
			if rng.IntN(ties) == 0 {
				best = c
			}
		}
	}
	return best, ok
}
