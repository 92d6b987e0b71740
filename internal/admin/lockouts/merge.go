package lockouts

import (
	"cmp"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/abuse"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// merged is what several nodes say, by client.
type merged struct {
	byNetwork map[string]*adminv1.Lockout
	more      bool
}

// add takes in what a node says. It never fails.
func (m *merged) add(r *adminv1.ListLockoutsResponse) error {
	m.more = m.more || r.GetMore()
	for _, c := range r.GetClients() {
		is := m.byNetwork[c.GetNetwork()]
		if is == nil {
			m.byNetwork[c.GetNetwork()] = c
			continue
		}
		if worse(c, is) < 0 {
			is.State, is.Why, is.Until = c.GetState(), c.GetWhy(), c.GetUntil()
		}
		is.Nodes = append(is.Nodes, c.GetNodes()...)
		for _, s := range c.GetScores() {
			i := slices.IndexFunc(is.Scores, func(o *adminv1.LockoutScore) bool { return o.GetKind() == s.GetKind() })
			switch {
			case i < 0:
				is.Scores = append(is.Scores, s)
			case s.GetScore() > is.Scores[i].GetScore():
				is.Scores[i] = s
			}
		}
	}
	return nil
}

// response gives n clients at most, the worst.
func (m *merged) response(n int) *adminv1.ListLockoutsResponse {
	out := &adminv1.ListLockoutsResponse{More: m.more || len(m.byNetwork) > n}
	for _, c := range m.byNetwork {
		sortNodes(c.GetNodes())
		out.Clients = append(out.Clients, c)
	}
	slices.SortFunc(out.Clients, func(a, b *adminv1.Lockout) int {
		return cmp.Or(worse(a, b), strings.Compare(a.GetNetwork(), b.GetNetwork()))
	})
	out.Clients = out.Clients[:min(n, len(out.Clients))]
	return out
}

func sortNodes(list []*adminv1.LockoutAtNode) {
	slices.SortFunc(list, func(a, b *adminv1.LockoutAtNode) int { return strings.Compare(a.GetNode(), b.GetNode()) })
}

// worse compares as a Table does: who is worse comes first.
func worse(a, b *adminv1.Lockout) int {
	return cmp.Or(
		cmp.Compare(rank(b.GetState()), rank(a.GetState())),
		b.GetUntil().AsTime().Compare(a.GetUntil().AsTime()),
		cmp.Compare(level(b), level(a)),
	)
}

// rank of a state that only a later version knows is the lowest.
func rank(state string) abuse.State {
	for s := abuse.LockedOut; s > abuse.Unnoticed; s-- {
		if s.String() == state {
			return s
		}
	}
	return abuse.Unnoticed
}

// level is how much of a threshold was reached, of the worst kind.
func level(c *adminv1.Lockout) (most float64) {
	for _, s := range c.GetScores() {
		if s.GetThreshold() > 0 {
			most = max(most, s.GetScore()/float64(s.GetThreshold()))
		}
	}
	return most
}
