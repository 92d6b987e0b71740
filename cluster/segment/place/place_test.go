package place

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm"
)

func at(node, zone string) Candidate {
	return Candidate{Ref: fsm.Ref{Node: node, Store: fsm.StoreID{1}}, Zone: zone}
}

func names(refs []fsm.Ref) (out []string) {
	for _, r := range refs {
		out = append(out, r.Node)
	}
	return out
}

func TestMembers(t *testing.T) {
	avoided := func(c Candidate) Candidate { c.Avoided = true; return c }
	used := func(n int, c Candidate) Candidate { c.Uses = n; return c }
	own := at("a", "1")
	for name, c := range map[string]struct {
		n      int
		others []Candidate
		want   []string
	}{
		"one copy":                        {1, nil, []string{"a"}},
		"too few":                         {2, nil, nil},
		"too few for three":               {3, []Candidate{at("b", "2")}, nil},
		"another zone":                    {2, []Candidate{at("b", "1"), used(9, at("c", "2"))}, []string{"a", "c"}},
		"no zone is another zone":         {2, []Candidate{at("b", "1"), at("c", "")}, []string{"a", "c"}},
		"the least used":                  {2, []Candidate{used(2, at("b", "2")), used(1, at("c", "2"))}, []string{"a", "c"}},
		"rather the same zone than a bad": {2, []Candidate{at("b", "1"), avoided(at("c", "2"))}, []string{"a", "b"}},
		"a bad one rather than none":      {2, []Candidate{avoided(at("b", "1"))}, []string{"a", "b"}},
		"three zones":                     {3, []Candidate{at("b", "2"), used(1, at("c", "2")), used(5, at("d", "3"))}, []string{"a", "b", "d"}},
		"a second store of a node":        {3, []Candidate{at("b", "2"), used(1, Candidate{Ref: fsm.Ref{Node: "b", Store: fsm.StoreID{2}}})}, nil},
	} {
		if got := names(Members(own, c.n, c.others, rand.New(rand.NewPCG(1, 1)))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Equals are chosen about equally often.
func TestEquals(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	count := map[string]int{}
	for range 3000 {
		count[names(Members(at("a", ""), 2, []Candidate{at("b", ""), at("c", ""), at("d", "")}, rng))[1]]++
	}
	for _, n := range []string{"b", "c", "d"} {
		if count[n] < 850 || count[n] > 1150 {
			t.Errorf("%v", count)
		}
	}
}
