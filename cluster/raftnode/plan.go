package raftnode

import "strings"

// view is what the keeper knows of one server when it plans.
type view struct {
	Server
	Hint
	self    bool // the leader itself
	healthy bool // it follows and is up to date
	stable  bool // healthy for long enough to be given a vote
	dead    bool // unhealthy for long enough to lose it
}

type deed uint8

const (
	doNothing deed = iota
	doPromote
	doDemote
	doTransfer // the leadership, to node
)

// step is one change of the votes.
type step struct {
	do   deed
	node string
}

// plan returns the next single change of the votes, if any is due. target is
// the number of votes to give at most, and odd.
//
// Votes go by twos: a second voter only makes the first one's loss fatal twice.
// So an even number is a passing state, left at once by giving one more vote if
// somebody can take it, by taking one away if not. A dead voter's vote is taken
// before another gets it, as four voters of which one is dead and one is new
// bear less than two healthy ones; a healthy one's is taken after, as four
// healthy voters bear a loss and two do not. Nothing is done that leaves less
// than a majority of healthy voters.
func plan(vs []view, target int) step {
	var voters, candidates []view
	healthy := 0
	for _, v := range vs {
		switch {
		case v.Voter:
			voters = append(voters, v)
			if v.healthy {
				healthy++
			}
		case v.stable && !v.Barred:
			candidates = append(candidates, v)
		}
	}
	if s := handOver(voters); s.do != doNothing {
		return s
	}
	count := len(voters)
	if count%2 == 0 {
		if count < target && len(candidates) > 0 && healthy+1 >= majority(count+1) {
			return step{doPromote, bestCandidate(voters, candidates)}
		}
		return demote(voters, healthy)
	}
	if count > target {
		return demote(voters, healthy)
	}
	if len(candidates) == 0 {
		return step{}
	}
	best := bestCandidate(voters, candidates)
	switch {
	case healthy == count && count+2 <= target && len(candidates) >= 2:
		return step{doPromote, best}
	case healthy == count:
		if anyBarred(voters) || improves(voters, candidates) {
			return step{doPromote, best}
		}
	case deadVoter(voters) != "" && healthy >= majority(count-1):
		return step{doDemote, deadVoter(voters)}
	}
	return step{}
}

func majority(voters int) int { return voters/2 + 1 }

// handOver gives the leadership away when the leader is to lose its vote.
func handOver(voters []view) step {
	to := ""
	for _, v := range voters {
		if v.self && !v.Barred {
			return step{}
		}
		if !v.self && v.healthy && !v.Barred && (to == "" || v.Node < to) {
			to = v.Node
		}
	}
	if to == "" {
		return step{}
	}
	return step{doTransfer, to}
}

func deadVoter(voters []view) string {
	for _, v := range voters {
		if v.dead && !v.self {
			return v.Node
		}
	}
	return ""
}

func anyBarred(voters []view) bool {
	for _, v := range voters {
		if v.Barred {
			return true
		}
	}
	return false
}

// demote takes the vote that is missed least: a dead one's, a barred one's, one
// of the most crowded zone.
func demote(voters []view, healthy int) step {
	var worst *view
	for i := range voters {
		if v := &voters[i]; !v.self && (worst == nil || worse(voters, v, worst)) {
			worst = v
		}
	}
	if worst == nil {
		return step{}
	}
	left := healthy
	if worst.healthy {
		left--
	}
	if left < majority(len(voters)-1) {
		return step{}
	}
	return step{doDemote, worst.Node}
}

func worse(voters []view, a, b *view) bool {
	for _, better := range []struct{ a, b bool }{{a.dead, b.dead}, {!a.healthy, !b.healthy}, {a.Barred, b.Barred}} {
		if better.a != better.b {
			return better.a
		}
	}
	if x, y := inZone(voters, a.Zone), inZone(voters, b.Zone); x != y {
		return x > y
	}
	return strings.Compare(a.Node, b.Node) > 0
}

func inZone(voters []view, zone string) int {
	n := 0
	for _, v := range voters {
		if v.Zone == zone {
			n++
		}
	}
	return n
}

// bestCandidate is the one from the zone with the fewest votes.
func bestCandidate(voters, candidates []view) string {
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
func improves(voters, candidates []view) bool {
	most := 0
	for _, v := range voters {
		if !v.self {
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
