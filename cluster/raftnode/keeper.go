package raftnode

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/ask"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
	"github.com/clrelay/clrelay/cluster/raftnode/votes"
)

const (
	maxLag     = 256 // entries that a healthy server may be behind
	askTimeout = time.Second
)

// Health is what the leader thinks of a server.
type Health struct {
	Node    string
	Healthy bool      // it follows this leader and is up to date
	Since   time.Time // of its present state, as far as this leader knows
	Slow    bool      // its disk takes long for each write
}

// Health returns the leader's newest view of the servers; nothing on a node
// that does not lead.
func (n *Node) Health() []Health {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.health
}

// stats is what a server says of itself when the leader asks.
type stats struct {
	Leader    string `json:"leader"`
	Term      uint64 `json:"term"`
	LastIndex uint64 `json:"last_index"`
	Slow      bool   `json:"slow,omitempty"` // the disk takes long for each write
}

func (n *Node) stats() []byte {
	_, leader := n.raft.LeaderWithID()
	text, err := json.Marshal(stats{Leader: string(leader), Term: n.raft.CurrentTerm(), LastIndex: n.raft.LastIndex(), Slow: n.store.Slow()})
	if err != nil {
		return nil // cannot be: there is nothing in it that JSON cannot say
	}
	return text
}

// keeper keeps the votes while this node leads.
type keeper struct {
	n    *Node
	seen map[string]Health
}

func newKeeper(n *Node) *keeper { return &keeper{n: n, seen: map[string]Health{}} }

func (k *keeper) run(ctx context.Context) {
	t := time.NewTicker(k.n.o.Timing.Keep)
	defer t.Stop()
	defer k.publish(nil)
	for {
		select { // first, so that the others know of this leader when they are asked
		case <-ctx.Done():
			return
		case <-t.C:
		}
		k.look(ctx)
		if ctx.Err() == nil {
			k.act(ctx)
		}
	}
}

func (k *keeper) publish(h []Health) {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	k.n.health = h
}

// look asks every server how it is.
func (k *keeper) look(ctx context.Context) {
	members := k.n.Members()
	answers := make([]state, len(members))
	var all sync.WaitGroup
	for i, s := range members {
		if s.Node == k.n.o.Node {
			answers[i] = state{healthy: true, slow: k.n.store.Slow()}
			continue
		}
		all.Go(func() { answers[i] = k.ask(ctx, s) })
	}
	all.Wait()
	now := time.Now()
	seen := make(map[string]Health, len(members))
	list := make([]Health, len(members))
	for i, s := range members {
		h := k.seen[s.Node]
		if h.Node == "" || h.Healthy != answers[i].healthy {
			h = Health{Node: s.Node, Healthy: answers[i].healthy, Since: now}
		}
		h.Slow = answers[i].slow
		seen[s.Node], list[i] = h, h
	}
	k.seen = seen
	if ctx.Err() == nil {
		k.publish(list)
	}
}

// state is how a server is, by what it says.
type state struct{ healthy, slow bool }

func (k *keeper) ask(ctx context.Context, s Server) state {
	last, term := k.n.raft.LastIndex(), k.n.raft.CurrentTerm()
	st, ok := k.n.askStats(ctx, s)
	return state{healthy: ok && st.Leader == k.n.o.Node && st.Term == term && st.LastIndex+maxLag >= last, slow: st.Slow}
}

func (n *Node) askStats(ctx context.Context, s Server) (st stats, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, answer, err := n.pool.Ask(ctx, to(s), askStats, nil)
	return st, err == nil && status == ask.OK && json.Unmarshal(answer, &st) == nil
}

// act carries out the next step of the plan, if one is due.
func (k *keeper) act(ctx context.Context) {
	n := k.n
	done, err := n.oneChange(ctx)
	if err != nil {
		return
	}
	defer done()
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	views := k.views(f.Configuration().Servers)
	s := votes.Plan(views, n.o.Voters)
	if s.Do == votes.Nothing {
		return
	}
	id, address := raft.ServerID(s.Node), store.Address(s.Node, n.member(s.Node).Address)
	if s.Do == votes.Transfer {
		err = n.transfer(ctx, s.Node)
		n.log.Info("the leader gives the leadership up", "to", s.Node, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	err = n.wait(ctx, func() raft.Future {
		if s.Do == votes.Promote {
			return n.raft.AddVoter(id, address, f.Index(), changeWithin)
		}
		return n.raft.DemoteVoter(id, f.Index(), changeWithin)
	})
	n.log.Info("the votes were changed", "what", s.Do.String(), "of", s.Node, "error", err)
}

func (k *keeper) views(servers []raft.Server) []votes.View {
	now, t := time.Now(), k.n.o.Timing
	out := make([]votes.View, 0, len(servers))
	for _, s := range servers {
		node := string(s.ID)
		h := k.seen[node]
		hint := k.n.o.Hint(node)
		out = append(out, votes.View{
			Node: node, Voter: s.Suffrage == raft.Voter, Self: node == k.n.o.Node,
			Zone: hint.Zone, Barred: hint.Barred, Healthy: h.Healthy, Slow: h.Slow,
			Stable: h.Healthy && now.Sub(h.Since) >= t.Stable,
			Dead:   h.Node != "" && !h.Healthy && now.Sub(h.Since) >= t.Dead,
		})
	}
	return out
}
