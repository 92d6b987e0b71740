// Package votes says who of the cluster's servers should have a vote in Raft: an
// odd number of them, spread over the zones, no dead ones where a healthy server
// can take over. It is one pure function; package raftnode's keeper looks at the
// servers, asks it, and carries out what it says.
package votes

import "strings"

// View is what the keeper knows of one server when it plans.
type View struct {
	Node    string
	Zone    string
	Voter   bool
	Self    bool // the leader itself
	Barred  bool // drained or leaving: gives its vote away as soon as another can take it
	Healthy bool // it follows and is up to date
	Slow    bool // its disk takes long for each write: no leader, where another can be
	Stable  bool // healthy for long enough to be given a vote
	Dead    bool // unhealthy for long enough to lose it
}

// Deed is what a Step does.
type Deed uint8

// The deeds.
const (
	Nothing Deed = iota
	Promote
	Demote
	Transfer // the leadership, to Node
)

// String names a deed in the log.
func (d Deed) String() string {
	return [...]string{"nothing", "a vote was given", "a vote was taken", "the leadership was handed over"}[d]
}

// Step is one change of the votes.
type Step struct {
	Do   Deed
	Node string
}

// Plan returns the next single change of the votes, if any is due. target is
// the number of votes to give at most, and odd.
//
// Votes go by twos: a second voter only makes the first one's loss fatal twice.
// So an even number is a passing state, left at once by giving one more vote if
// a healthy server can take it, however new it is, by taking one away if not.
// But two voters are not made one while there is a third server, however it is:
// what one voter commits is on one disk alone, and the third may be up in a
// moment, as one is that came back with an empty disk. A dead voter's vote is
// taken before another gets it, as four voters of which one is dead and one is
// new bear less than two healthy ones; a healthy one's is taken after, as four
// healthy voters bear a loss and two do not. Nothing is done that leaves less
// than a Majority of healthy voters.
func Plan(vs []View, target int) Step {
	var voters, candidates, soon []View
	healthy, others := 0, 0
	for _, v := range vs {
		switch {
		case v.Voter:
			voters = append(voters, v)
			if v.Healthy {
				healthy++
			}
		case v.Barred:
		default:
			others++
			if v.Healthy {
				soon = append(soon, v)
			}
			if v.Stable {
				candidates = append(candidates, v)
			}
		}
	}
	if s := handOver(voters); s.Do != Nothing {
		return s
	}
	count := len(voters)
	if count%2 == 0 {
		if len(candidates) == 0 {
			candidates = soon
		}
		switch {
		case count < target && len(candidates) > 0 && healthy+1 >= Majority(count+1):
			return Step{Promote, bestCandidate(voters, candidates)}
		case count == 2 && count < target && others > 0 && !anyBarred(voters):
			return Step{}
		}
		return demote(voters, healthy)
	}
	if count > target {
		return demote(voters, healthy)
	}
	if len(candidates) == 0 {
		return Step{}
	}
	best := bestCandidate(voters, candidates)
	switch {
	case healthy == count && count+2 <= target && len(candidates) >= 2:
		return Step{Promote, best}
	case healthy == count:
		if anyBarred(voters) || improves(voters, candidates) {
			return Step{Promote, best}
		}
	case deadVoter(voters) != "" && healthy >= Majority(count-1):
		return Step{Demote, deadVoter(voters)}
	}
	return Step{}
}

// Majority is how many of so many voters decide.
func Majority(voters int) int { return voters/2 + 1 }

// handOver gives the leadership away when the leader is to lose its vote, or
// when its disk holds all others up and another's would not.
//
// A slow disk is a reason only where the others can do without it: the new
// leader is elected and heard by what a Majority writes, and where a slow disk
// is of it nothing is gained and an election may never come to its end.
func handOver(voters []View) Step {
	quick, slow, barred, able := "", "", false, 0
	for _, v := range voters {
		if v.Healthy && !v.Barred && !v.Slow {
			able++
		}
	}
	for _, v := range voters {
		switch {
		case v.Self && !v.Barred && !v.Slow:
			return Step{}
		case v.Self:
			barred = v.Barred
		case !v.Healthy || v.Barred:
		case !v.Slow && (quick == "" || v.Node < quick):
			quick = v.Node
		case v.Slow && (slow == "" || v.Node < slow):
			slow = v.Node
		}
	}
	switch {
	case quick != "" && (barred || able >= Majority(len(voters))):
		return Step{Transfer, quick}
	case slow != "" && barred:
		return Step{Transfer, slow}
	}
	return Step{}
}

func deadVoter(voters []View) string {
	for _, v := range voters {
		if v.Dead && !v.Self {
			return v.Node
		}
	}
	return ""
}

func anyBarred(voters []View) bool {
	for _, v := range voters {
		if v.Barred {
			return true
		}
	}
	return false
}

// demote takes the vote that is missed least: a dead one's, a barred one's, one
// of the most crowded zone.
func demote(voters []View, healthy int) Step {
	var worst *View
	for i := range voters {
		if v := &voters[i]; !v.Self && (worst == nil || worse(voters, v, worst)) {
			worst = v
		}
	}
	if worst == nil {
		return Step{}
	}
	left := healthy
	if worst.Healthy {
		left--
	}
	if left < Majority(len(voters)-1) {
		return Step{}
	}
	return Step{Demote, worst.Node}
}

func worse(voters []View, a, b *View) bool {
	for _, better := range []struct{ a, b bool }{{a.Dead, b.Dead}, {!a.Healthy, !b.Healthy}, {a.Barred, b.Barred}} {
		if better.a != better.b {
			return better.a
		}
	}
	if x, y := inZone(voters, a.Zone), inZone(voters, b.Zone); x != y {
		return x > y
	}
	return strings.Compare(a.Node, b.Node) > 0
}

func inZone(voters []View, zone string) int {
	n := 0
	for _, v := range voters {
		if v.Zone == zone {
			n++
		}
	}
	return n
}

// bestCandidate is the one from the zone with the fewest votes.
func bestCandidate(voters, candidates []View) string {
	best := candidates[0]
	for _, c := range candidates[1:] {
		x, y := inZone(voters, c.Zone), inZone(voters, best.Zone)
		if x < y || x == y && c.Node < best.Node {
			best = c
		}
	}
	return best.Node
}

// improves tells whether a swap of a vote would spread them better over the
// zones: a candidate's zone has at least two fewer than a crowded one.
func improves(voters, candidates []View) bool {
	most := 0
	for _, v := range voters {
		if !v.Self {
			most = max(most, inZone(voters, v.Zone))
		}
	}
	for _, c := range candidates {
		if inZone(voters, c.Zone)+2 <= most {
			return true
		}
	}
	return false
}
