package config

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Presets of a warm-up.
const (
	WarmUpGentle = "gentle"
	WarmUpNormal = "normal"
)

func (s check) checkSources(sources []Source) {
	lines := map[Name]int{}
	for i, one := range sources {
		key := fmt.Sprintf("sources[%d]", i)
		s.unique(key+".name", one.Name, lines)
		if one.Address.IsLoopback() {
			s.Warn(key+".address", "%s is of the loopback interface: nobody but this machine is reached from it", one.Address)
		}
	}
}

// unique reports a name that another entry has.
func (s check) unique(key string, name Name, lines map[Name]int) {
	switch first, dup := lines[name]; {
	case name == "":
	case dup:
		s.Bad(key, "%q is already used in line %d", name, first)
	default:
		lines[name] = s.Line(key)
	}
}

func (s check) checkPools(c *Cluster) {
	pools, warm := map[Name]int{}, map[Name]int{}
	for i := range c.Pools {
		key := fmt.Sprintf("pools[%d]", i)
		p := &c.Pools[i]
		s.unique(key+".name", p.Name, pools)
		if len(p.Sources) == 0 && s.Fine(key+".sources") && s.Has(key+".sources") {
			s.Bad(key+".sources", "is empty: name one source at least")
		}
		sources := map[Name]int{}
		for j := range p.Sources {
			m, key := &p.Sources[j], fmt.Sprintf("%s.sources[%d]", key, j)
			s.unique(key+".name", m.Name, sources)
			if m.WarmUp != nil {
				s.checkWarmUp(key+".warm_up", m, warm)
			}
		}
	}
	used := map[Name]bool{}
	for i, e := range c.Senders {
		s.checkPool(fmt.Sprintf("senders[%d].pool", i), e.Pool, pools)
		used[e.Pool] = true
	}
	for i := range c.Routes {
		pool := c.Routes[i].Action.Pool
		s.checkPool(fmt.Sprintf("routes[%d].action.pool", i), pool, pools)
		used[pool] = true
	}
	for i, p := range c.Pools {
		if !used[p.Name] {
			s.Warn(fmt.Sprintf("pools[%d]", i), "neither a route nor a sender uses the pool %s", p.Name)
		}
	}
}

func (s check) checkPool(key string, pool Name, pools map[Name]int) {
	if _, ok := pools[pool]; ok || pool == "" {
		return
	}
	var names []string
	for n := range pools {
		names = append(names, string(n))
	}
	slices.Sort(names)
	s.Bad(key, "there is no pool %q%s", pool, cmp.Or(strict.DidYouMean(string(pool), names), ": list it under pools"))
}

// checkWarmUp completes a warm-up. A source has one, whatever pools it is in.
func (s check) checkWarmUp(key string, m *PoolSource, warm map[Name]int) {
	w := m.WarmUp
	if first, dup := warm[m.Name]; dup {
		s.Bad(key, "the warm-up of %s stands in line %d already, and counts in all of its pools", m.Name, first)
	}
	warm[m.Name] = s.Line(key)
	switch {
	case s.Has(key+".ramp") && s.Has(key+".preset"):
		s.Bad(key, "ramp and preset exclude each other")
	case s.Has(key+".ramp") && len(w.Ramp) == 0 && s.Fine(key+".ramp"):
		s.Bad(key+".ramp", "is empty: give one day at least, or a preset")
	case !s.Has(key + ".ramp"):
		w.Preset = cmp.Or(w.Preset, WarmUpNormal)
	case !slices.IsSorted(w.Ramp):
		s.Warn(key+".ramp", "falls: a warm-up lets more go from day to day, and after its last day there is no limit")
	}
}

// members warns of pools of which the node n has no source.
func (s check) members(c *Cluster, n *Node) {
	if n == nil {
		return
	}
	for i, p := range c.Pools {
		if slices.ContainsFunc(p.Sources, func(m PoolSource) bool {
			return slices.ContainsFunc(n.Sources, func(o Source) bool { return o.Name == m.Name })
		}) {
			continue
		}
		what := "the system chooses the address here"
		if p.OnMissing == "wait" {
			what = "its mail waits here"
		}
		s.Warn(fmt.Sprintf("pools[%d]", i), "node.yaml of %s has none of the sources of the pool %s: %s", n.Name, p.Name, what)
	}
}
