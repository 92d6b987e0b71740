package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/ask"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

const (
	joinRetry    = 500 * time.Millisecond
	joinTimeout  = 10 * time.Second // one node's answer to a wish to join
	changeWithin = 5 * time.Second  // for raft to start a change of members
)

// joinWish is what a node that wants to join says.
type joinWish struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Fresh   bool   `json:"fresh"` // its directory is empty: it remembers no vote and no entry
	// Generation is that of its log, unless it is fresh.
	Generation uint32 `json:"generation"`
}

// joinAnswer is what it hears when it is taken in.
type joinAnswer struct {
	Generation uint32 `json:"generation"`
}

// Join asks the given nodes, and the leader that they name, to take this node
// in as a non-voter, or to learn its present address if it is in. It repeats
// that until ctx ends; ErrRefused ends it at once.
func (n *Node) Join(ctx context.Context, seeds []Server) error {
	last := fmt.Errorf("%w: nobody to ask", ErrNoLeader)
	for {
		for _, s := range seeds {
			if s.Node == n.o.Node {
				continue
			}
			err := n.joinThrough(ctx, s)
			if err == nil || errors.Is(err, ErrRefused) {
				return err
			}
			last = err
		}
		t := time.NewTimer(joinRetry)
		select {
		case <-t.C:
		case <-n.closed:
			t.Stop()
			return ErrClosed
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: %w", last, ctx.Err())
		}
	}
}

// joinThrough asks one node, and the leader it names.
func (n *Node) joinThrough(ctx context.Context, s Server) error {
	n.birth.Lock() // no pledge is given meanwhile
	defer n.birth.Unlock()
	body, err := json.Marshal(joinWish{Node: n.o.Node, Address: n.o.Address, Fresh: n.Fresh(), Generation: n.Generation()})
	if err != nil {
		return fmt.Errorf("raftnode: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	for range 2 {
		status, answer, err := n.pool.Ask(ctx, to(s), askJoin, body)
		if err != nil {
			return err
		}
		node, address, hinted := store.SplitAddress(raft.ServerAddress(answer))
		if status == ask.NoLeader && hinted && node != n.o.Node {
			s = Server{Node: node, Address: address}
			continue
		}
		if err := said(status, answer); err != nil {
			return err
		}
		return n.takenIn(answer)
	}
	return ErrNoLeader
}

// takenIn opens the door of a node that has joined. It is called with birth
// held.
func (n *Node) takenIn(answer []byte) error {
	var a joinAnswer
	if err := json.Unmarshal(answer, &a); err != nil || a.Generation == 0 {
		return fmt.Errorf("raftnode: joining: %q is no answer", answer)
	}
	if n.Fresh() {
		if err := n.setGeneration(a.Generation); err != nil {
			return err
		}
	}
	n.layer.open.Store(true)
	return nil
}

// admitted answers a wish to join.
func (n *Node) admitted(ctx context.Context, peer string, body []byte) ([]byte, error) {
	if err := n.admit(ctx, peer, body); err != nil {
		return nil, err
	}
	return json.Marshal(joinAnswer{Generation: n.Generation()})
}

// admit is the leader's side of Join.
func (n *Node) admit(ctx context.Context, peer string, body []byte) error {
	var w joinWish
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if w.Node != peer {
		return fmt.Errorf("%w: %s may not join as %s", ErrRefused, peer, w.Node)
	}
	if w.Address == "" || w.Node == n.o.Node {
		return fmt.Errorf("%w: a node cannot join without an address, nor the leader", ErrRefused)
	}
	if !w.Fresh && w.Generation != n.Generation() {
		return fmt.Errorf("%w: %s holds the log of generation %d, and this cluster is of generation %d", ErrRefused, w.Node, w.Generation, n.Generation())
	}
	done, err := n.oneChange(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, s := range n.Members() {
		if s.Address == w.Address && s.Node != w.Node {
			return fmt.Errorf("%w: %s is the address of %s, which is in the cluster; remove that node first", ErrRefused, w.Address, s.Node)
		}
	}
	was := n.member(w.Node)
	switch {
	case was.Node == "":
	case w.Fresh:
		// What this name once promised is forgotten: it must not keep a vote,
		// nor count as having entries that it no longer has.
		if err := n.expel(ctx, was); err != nil {
			return fmt.Errorf("raftnode: %s cannot come back empty yet: %s", w.Node, err.Error()) // no refusal: it may ask again
		}
	case was.Address == w.Address:
		return nil
	}
	return n.change(ctx, func() raft.Future {
		return n.raft.AddNonvoter(raft.ServerID(w.Node), store.Address(w.Node, w.Address), 0, changeWithin)
	})
}

// oneChange waits until no other change of members is under way.
func (n *Node) oneChange(ctx context.Context) (done func(), err error) {
	select {
	case n.members <- struct{}{}:
		return func() { <-n.members }, nil
	case <-ctx.Done():
		return nil, noLeader(ctx.Err())
	}
}

// change runs one change of members. It can be repeated whatever became of it.
func (n *Node) change(ctx context.Context, start func() raft.Future) error {
	if err := n.wait(ctx, start); err != nil {
		return noLeader(fmt.Errorf("raftnode: changing the members: %w", err))
	}
	return nil
}

// Remove takes a node out of the cluster for good. It refuses what would
// leave too few healthy voters.
func (n *Node) Remove(ctx context.Context, node string) error {
	return n.withLeader(ctx, func(s Status) error {
		if !s.Leading {
			_, err := n.ask(ctx, s, askRemove, []byte(node))
			if errors.Is(err, ErrUnknownOutcome) && ctx.Err() == nil {
				return noLeader(err) // removing can be repeated
			}
			return err
		}
		return n.remove(ctx, node)
	})
}

func (n *Node) remove(ctx context.Context, node string) error {
	if node == n.o.Node {
		if err := n.transfer(ctx, ""); err != nil {
			return fmt.Errorf("%w: this node leads and cannot hand it over: %w", ErrRefused, err)
		}
		return ErrNoLeader // the next leader does it
	}
	done, err := n.oneChange(ctx)
	if err != nil {
		return err
	}
	defer done()
	was := n.member(node)
	if was.Node == "" {
		return nil
	}
	return n.expel(ctx, was)
}

// expel takes a server out, if those that remain can decide without it.
func (n *Node) expel(ctx context.Context, s Server) error {
	if s.Voter {
		if err := n.canSpare(s.Node); err != nil {
			return err
		}
	}
	return n.change(ctx, func() raft.Future {
		return n.raft.RemoveServer(raft.ServerID(s.Node), 0, changeWithin)
	})
}

// canSpare says whether the voters without this one have a healthy majority.
func (n *Node) canSpare(node string) error {
	healthy := map[string]bool{n.o.Node: true}
	look := n.Health()
	if len(look) == 0 {
		return fmt.Errorf("%w: the leader does not know yet who is healthy", ErrNoLeader)
	}
	for _, h := range look {
		healthy[h.Node] = h.Healthy
	}
	left, up := 0, 0
	for _, s := range n.Members() {
		if s.Voter && s.Node != node {
			left++
			if healthy[s.Node] {
				up++
			}
		}
	}
	if up < left/2+1 {
		return fmt.Errorf("%w: without %s, %d of %d voters would be healthy, which is no majority", ErrRefused, node, up, left)
	}
	return nil
}
