package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

const (
	pledgeFile    = "pledge.json"
	pledgeTimeout = 5 * time.Second
	maxBorn       = 5 // nodes that a cluster is born with
)

// pledge is the set of servers that a node has promised to start a cluster
// with, sorted by name; the first of them does it.
type pledge struct {
	Servers []Server `json:"servers"`
}

func (p *pledge) equal(q *pledge) bool { return slices.Equal(p.Servers, q.Servers) }

func (p *pledge) has(node string) bool {
	return slices.ContainsFunc(p.Servers, func(s Server) bool { return s.Node == node })
}

// newPledge sorts the servers and checks them.
func newPledge(servers []Server) (*pledge, error) {
	p := &pledge{}
	for _, s := range servers {
		p.Servers = append(p.Servers, Server{Node: s.Node, Address: s.Address, Voter: true})
	}
	slices.SortFunc(p.Servers, func(a, b Server) int { return strings.Compare(a.Node, b.Node) })
	for i, s := range p.Servers {
		if s.Node == "" || s.Address == "" || i > 0 && p.Servers[i-1].Node == s.Node {
			return nil, fmt.Errorf("raftnode: a cluster cannot start with the servers %v", servers)
		}
	}
	if n := len(p.Servers); n%2 == 0 || n > maxBorn {
		return nil, fmt.Errorf("raftnode: a cluster starts with 1, 3 or 5 servers, not %d", n)
	}
	return p, nil
}

// Bootstrap starts a new cluster with the given servers, each a voter: 1, 3 or
// 5, this node among them. It may be called on each of them, at any time: the
// first by name does it, once every other has pledged itself to the same set;
// on the others, and where the node has a past, it does nothing. It repeats its
// questions until ctx ends.
func (n *Node) Bootstrap(ctx context.Context, servers []Server) error {
	p, err := newPledge(servers)
	if err != nil {
		return err
	}
	if !p.has(n.o.Node) {
		return fmt.Errorf("raftnode: this node, %s, is not among the servers to start with", n.o.Node)
	}
	if past, err := n.hasState(); err != nil || past {
		return err
	}
	n.birth.Lock()
	if n.pledge != nil {
		p = n.pledge
	}
	n.birth.Unlock()
	if p.Servers[0].Node != n.o.Node {
		return nil // the first one asks
	}
	for _, s := range p.Servers[1:] {
		if err := n.seekPledge(ctx, s, p); err != nil {
			return err
		}
	}
	n.birth.Lock()
	defer n.birth.Unlock()
	if err := n.pledgeTo(p); err != nil {
		return err
	}
	var c raft.Configuration
	for _, s := range p.Servers {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.Node), Address: store.Address(s.Node, s.Address)})
	}
	err = n.wait(ctx, func() raft.Future { return n.raft.BootstrapCluster(c) })
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("raftnode: starting the cluster: %w", err)
	}
	return nil
}

// seekPledge asks one server for its pledge until it answers.
func (n *Node) seekPledge(ctx context.Context, s Server, p *pledge) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("raftnode: %w", err)
	}
	for {
		try, cancel := context.WithTimeout(ctx, pledgeTimeout)
		status, answer, err := n.pool.Ask(try, to(s), askPledge, body)
		cancel()
		if err == nil {
			err = said(status, answer)
		}
		if err == nil || errors.Is(err, ErrRefused) {
			return err
		}
		t := time.NewTimer(joinRetry)
		select {
		case <-t.C:
		case <-n.closed:
			t.Stop()
			return ErrClosed
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("raftnode: asking %s to start a cluster: %w", s.Node, errors.Join(ctx.Err(), err))
		}
	}
}

// givePledge is the other side of seekPledge.
func (n *Node) givePledge(peer string, body []byte) error {
	var asked pledge
	if err := json.Unmarshal(body, &asked); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	p, err := newPledge(asked.Servers)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if p.Servers[0].Node != peer || !p.has(n.o.Node) {
		return fmt.Errorf("%w: %s may not start a cluster of %v with %s", ErrRefused, peer, p.Servers, n.o.Node)
	}
	if past, err := n.hasState(); err != nil || past {
		return fmt.Errorf("%w: %s is in a cluster; join it", ErrRefused, n.o.Node)
	}
	if !n.birth.TryLock() {
		return errors.New("raftnode: busy joining, ask again")
	}
	defer n.birth.Unlock()
	return n.pledgeTo(p)
}

// pledgeTo makes the pledge durable and opens the raft door. It is called with
// birth held.
func (n *Node) pledgeTo(p *pledge) error {
	switch {
	case n.pledge != nil && n.pledge.equal(p):
		return nil
	case n.pledge != nil:
		return fmt.Errorf("%w: %s has pledged itself to %v", ErrRefused, n.o.Node, n.pledge.Servers)
	case !n.Fresh():
		return fmt.Errorf("%w: %s has joined a cluster", ErrRefused, n.o.Node)
	}
	// A cluster is born in its first generation, whatever this node may have
	// heard of when it tried to join another.
	if err := n.setGeneration(store.FirstGeneration); err != nil {
		return err
	}
	if err := writePledge(n.o.Dir, p); err != nil {
		return err
	}
	n.pledge = p
	n.layer.open.Store(true)
	return nil
}

func readPledge(dir string) (*pledge, error) {
	text, err := os.ReadFile(filepath.Join(dir, pledgeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	p := &pledge{}
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil {
		return nil, fmt.Errorf("raftnode: reading %s: %w", filepath.Join(dir, pledgeFile), err)
	}
	return p, nil
}

func writePledge(dir string, p *pledge) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("raftnode: %w", err)
	}
	return store.WriteFile(dir, pledgeFile, text)
}
