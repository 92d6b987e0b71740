package faults

import (
	"fmt"
	"slices"
	"time"
)

// figures are what kills cost, the worst of all of them.
type figures struct {
	kinds map[string]*cost
}

// cost is what one kind of kill costs.
type cost struct {
	kills    int
	pause    []time.Duration // new messages at the other nodes, the slowest of a kill
	inFlight []time.Duration // those under way at the other nodes
	survivor []time.Duration // until a survivor delivered the dead node's mail
	refused  int             // at the other nodes
}

func newFigures() *figures { return &figures{kinds: map[string]*cost{}} }

// kill works out what a kill cost, from the tries of its round.
func (g *figures) kill(f *fleet, list []try, k *killing) {
	kind := "a node"
	if k.leader {
		kind = "the leader"
	}
	c := g.kinds[kind]
	if c == nil {
		c = &cost{}
		g.kinds[kind] = c
	}
	c.kills++
	var pause, inFlight, survivor time.Duration
	for _, a := range list {
		switch {
		case a.node == k.node:
			if !k.away || a.reply != "" || a.ended.After(k.at) {
				continue
			}
			for _, t := range f.sink.Times(a.seq) {
				if d := t.Sub(k.at); d > 100*time.Millisecond && t.Before(k.to) && (survivor == 0 || d < survivor) {
					survivor = d
				}
			}
		case a.began.After(k.at) && a.began.Before(k.to):
			if a.reply != "" {
				c.refused++
				f.o.Log("  %s refused %d, %v after the death: %s", name(a.node), a.seq, a.ended.Sub(k.at).Round(time.Millisecond), a.reply)
			}
			pause = max(pause, a.ended.Sub(a.began))
		case a.began.Before(k.at) && a.ended.After(k.at):
			inFlight = max(inFlight, a.ended.Sub(k.at))
		}
	}
	c.pause, c.inFlight = append(c.pause, pause), append(c.inFlight, inFlight)
	if survivor > 0 {
		c.survivor = append(c.survivor, survivor)
	}
	f.o.Log("  figures: %s died; new at others at most %v, in flight at most %v, first by a survivor %v",
		kind, pause.Round(time.Millisecond), inFlight.Round(time.Millisecond), survivor.Round(time.Millisecond))
}

// print tells the worst and the middle.
func (g *figures) print(log func(string, ...any)) {
	for kind, c := range g.kinds {
		log("death of %s, %d times: new messages at others %s; in flight %s; delivery by a survivor %s; refused at others %d",
			kind, c.kills, spread(c.pause), spread(c.inFlight), spread(c.survivor), c.refused)
	}
}

func spread(list []time.Duration) string {
	if len(list) == 0 {
		return "not measured"
	}
	slices.Sort(list)
	return fmt.Sprintf("worst %v, median %v", list[len(list)-1].Round(time.Millisecond), list[len(list)/2].Round(time.Millisecond))
}
