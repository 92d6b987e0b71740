// Package notes says in words what an operator should know of how a cluster
// stands.
package notes

import (
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/internal/admin"
)

// Of gives the notes on a cluster of so many nodes, whose configuration asks for
// so many copies.
func Of(o *cluster.Overview, nodes, copies int) (out []string) {
	voters, there := 0, 0
	for _, m := range o.Nodes {
		if m.Voter {
			voters++
			if m.State != admin.NodeDead {
				there++
			}
		}
	}
	if !o.Quorum {
		out = append(out, fmt.Sprintf("%d of %d voters seem to be there: nothing can be decided, and no mail is taken", there, voters))
	}
	if copies > o.Copies {
		out = append(out, fmt.Sprintf("spool.copies is %d, but with %s a message is on %s alone: the promise does not hold yet",
			copies, nodesOf(nodes), machinesOf(o.Copies)))
	}
	if o.UnderReplicated > 0 {
		out = append(out, fmt.Sprintf("%d of the segments have fewer than %d copies", o.UnderReplicated, o.Copies))
	}
	if o.Lost > 0 {
		out = append(out, fmt.Sprintf("%d of the segments have no copy on any disk that the cluster counts on; bring such a disk back, or give them up: clrelay cluster write-off --lost", o.Lost))
	}
	if note := mixed(o); note != "" {
		out = append(out, note)
	}
	for _, m := range o.Nodes {
		if m.State == admin.NodeDead {
			out = append(out, fmt.Sprintf("%s is silent; if it does not come back: clrelay node remove %s --force", m.Name, m.Name))
		}
	}
	return out
}

// mixed says which nodes a feature level waits for that others know; empty
// when there is none.
func mixed(o *cluster.Overview) string {
	highest := uint32(0)
	for _, m := range o.Nodes {
		if m.State != admin.NodeLeft {
			highest = max(highest, m.Level)
		}
	}
	var old []string
	for _, m := range o.Nodes {
		if m.State != admin.NodeLeft && m.Level < highest {
			old = append(old, m.Name)
		}
	}
	if len(old) == 0 {
		return ""
	}
	return fmt.Sprintf("feature level %d is in force; %d comes when a version that knows it runs on %s too", o.Level, highest, strings.Join(old, ", "))
}

func nodesOf(n int) string {
	if n == 1 {
		return "one node"
	}
	return fmt.Sprintf("%d nodes", n)
}

func machinesOf(n int) string {
	if n == 1 {
		return "one machine"
	}
	return fmt.Sprintf("%d machines", n)
}
