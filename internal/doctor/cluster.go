package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Cluster is how a cluster stands, as one node sees it.
type Cluster struct {
	Leader          string
	Quorum          bool
	Copies          int
	UnderReplicated int64
	Lost            int64
	Level           uint32
	Members         []Member
	Clocks          []ClockOf
}

// Member is one of its nodes.
type Member struct {
	Name, State, Version string
	Voter                bool
	Level                uint32
}

// ClockOf is the clock of another node against this one's: it is ahead by
// Ahead, give or take Unsure.
type ClockOf struct {
	Node   string
	Ahead  time.Duration
	Unsure time.Duration
}

// MeasureClock tells how far a clock is ahead that said told between two
// moments of ours: in the middle of them, give or take half of the way.
func MeasureClock(node string, asked, told, heard time.Time) ClockOf {
	way := heard.Sub(asked)
	return ClockOf{Node: node, Ahead: told.Sub(asked) - way/2, Unsure: way / 2}
}

// Examine judges the cluster as a whole.
func (c *Cluster) Examine() []Finding {
	return slices.Concat(c.quorum(), c.segments(), c.members(), c.versions(), c.clocks())
}

func (c *Cluster) quorum() []Finding {
	voters, there := 0, 0
	for _, m := range c.Members {
		if !m.Voter {
			continue
		}
		voters++
		if m.State != "dead" && m.State != "suspect" {
			there++
		}
	}
	out := ok("quorum", "%d of %d voters are there, %s leads", there, voters, c.Leader)
	switch need := voters/2 + 1; {
	case !c.Quorum:
		return []Finding{ok("quorum", "%d of %d voters are there, and nobody leads: no mail is taken", there, voters).
			but(Fail, "bring nodes back; when they are gone for good: docs/operations.md, \"When a cluster has lost too much\"")}
	case there <= need && voters > 1:
		return []Finding{out.but(Warn, "one more lost node stops the cluster: bring the silent one back, or add one")}
	case voters < 3:
		return []Finding{out.but(Warn, "with fewer than three voters the loss of one stops the cluster: add nodes")}
	}
	return []Finding{out}
}

func (c *Cluster) segments() (out []Finding) {
	if c.Lost > 0 {
		out = append(out, ok("segments", "%d segments have no copy left on any disk that counts", c.Lost).
			but(Fail, "bring such a disk back, or give them up: clrelay cluster write-off --lost"))
	}
	if c.UnderReplicated > 0 {
		out = append(out, ok("segments", "%d segments have fewer than %d copies", c.UnderReplicated, c.Copies).
			but(Warn, "copies are made anew while nodes are there for them: clrelay cluster status"))
	}
	if out == nil {
		out = append(out, ok("segments", "all have %d copies", c.Copies))
	}
	return out
}

func (c *Cluster) members() []Finding {
	var out []Finding
	n := 0
	for _, m := range c.Members {
		switch m.State {
		case "left":
		case "dead":
			out = append(out, ok("members", "%s is silent", m.Name).but(Fail, "start it; if it does not come back: clrelay node remove %s --force", m.Name))
		case "suspect":
			out = append(out, ok("members", "%s was not heard of for a moment", m.Name).but(Warn, "look again in a minute; then at its network"))
		default:
			n++
		}
	}
	return append([]Finding{ok("members", "%d nodes are there", n)}, out...)
}

func (c *Cluster) versions() []Finding {
	of := map[string][]string{}
	var versions, behind []string
	highest := uint32(0)
	for _, m := range c.Members {
		if m.State == "left" {
			continue
		}
		if of[m.Version] == nil {
			versions = append(versions, m.Version)
		}
		of[m.Version] = append(of[m.Version], m.Name)
		highest = max(highest, m.Level)
	}
	for _, m := range c.Members {
		if m.State != "left" && m.Level < highest {
			behind = append(behind, m.Name)
		}
	}
	slices.Sort(versions)
	switch {
	case len(behind) > 0:
		return []Finding{ok("versions", "feature level %d is in force, and level %d waits for %s", c.Level, highest, strings.Join(behind, ", ")).
			but(Warn, "finish the upgrade on these nodes")}
	case len(versions) > 1:
		var parts []string
		for _, v := range versions {
			parts = append(parts, v+" on "+strings.Join(of[v], ", "))
		}
		return []Finding{ok("versions", "%s", strings.Join(parts, "; ")).but(Warn, "finish the upgrade: one version on all nodes")}
	case len(versions) == 0:
		return nil
	}
	return []Finding{ok("versions", "%s on all nodes, feature level %d", versions[0], c.Level)}
}

// clocks compares them. What the way of the question may have made is no
// difference.
func (c *Cluster) clocks() (out []Finding) {
	worst := time.Duration(0)
	for _, o := range c.Clocks {
		sure := max(0, o.Ahead.Abs()-o.Unsure)
		worst = max(worst, sure)
		if sure < clockWarn {
			continue
		}
		way := "ahead of"
		if o.Ahead < 0 {
			way = "behind"
		}
		f := ok("clock", "the clock of %s is %s (give or take %s) %s the clock of the node that was asked", o.Node, round(o.Ahead.Abs()), round(o.Unsure), way)
		l := Warn
		if sure >= clockFail {
			l = Fail
		}
		out = append(out, f.but(l, "synchronise the clocks with NTP on all nodes (chronyc tracking, timedatectl)"))
	}
	if out == nil && len(c.Clocks) > 0 {
		return []Finding{ok("clock", "the clocks of %d nodes differ by no more than %s, as far as the network lets one tell", len(c.Clocks)+1, round(worst+unsure(c.Clocks)))}
	}
	return out
}

func unsure(all []ClockOf) (most time.Duration) {
	for _, o := range all {
		most = max(most, o.Unsure)
	}
	return most
}

// String names the level as it is printed.
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Unknown:
		return "unknown"
	case Warn:
		return "warn"
	case Fail:
		return "FAIL"
	}
	return fmt.Sprintf("level %d", l)
}
