package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/gossip"
	"github.com/clrelay/clrelay/cluster/raftnode"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
	"github.com/clrelay/clrelay/spool"
)

const (
	enterEvery = time.Second      // between looks whether there is a cluster to enter
	enterWait  = 10 * time.Second // for a cluster to take this node in
	metaEvery  = time.Second
)

// enter gets this node into a cluster: it founds one with the others that are
// expected, or joins the one that is there. It ends when the node is in.
func (n *Node) enter() {
	said := ""
	for {
		changed := n.gossip.Changed()
		if err := n.outdated(); err != nil {
			n.o.Fatal(err)
			return
		}
		if n.raft.Status().Leader != "" && n.inside() {
			return
		}
		ctx, cancel := context.WithTimeout(n.ctx, enterWait)
		err := n.tryEnter(ctx)
		cancel()
		if err != nil && n.ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			n.o.Log.Warn("entering the cluster", "error", err)
		}
		t := time.NewTimer(enterEvery)
		select {
		case <-changed:
		case <-t.C:
		case <-n.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// outdated tells whether the cluster has begun a new generation without this
// node. It must not go on: with others of its own generation it would be a
// second cluster.
func (n *Node) outdated() error {
	if n.raft.Fresh() {
		return nil
	}
	mine := n.raft.Generation()
	for _, m := range n.gossip.Members() {
		if m.State == gossip.Alive && m.Meta.Session != 0 && m.Meta.Generation > mine {
			return fmt.Errorf("cluster: the cluster was recovered without this node: %s is of generation %d and the data_dir of %s of generation %d; "+
				"its mail is kept; to bring the node and its mail back: clrelay cluster rejoin", m.Node, m.Meta.Generation, n.o.Name, mine)
		}
	}
	return nil
}

// inside tells whether Raft knows this node at its present address.
func (n *Node) inside() bool {
	return slices.ContainsFunc(n.raft.Members(), func(s raftnode.Server) bool {
		return s.Node == n.o.Name && s.Address == n.o.Address
	})
}

func (n *Node) tryEnter(ctx context.Context) error {
	if rec, err := n.record(n.o.Name); err == nil && rec.State == fsm.Removed && rec.Inventoried && rec.Store == n.self.Store {
		return fmt.Errorf("cluster: %s was removed: to bring the machine back, give it an empty data_dir", n.o.Name)
	}
	var fresh, settled []raftnode.Server
	newest := uint32(0) // of a cluster that was recovered, the others are no more
	for _, m := range n.gossip.Members() {
		s := raftnode.Server{Node: m.Node, Address: m.Meta.Cluster}
		switch {
		case m.State != gossip.Alive || s.Address == "":
		case m.Meta.Session != 0:
			if m.Meta.Generation > newest {
				newest, settled = m.Meta.Generation, nil
			}
			if m.Meta.Generation == newest {
				settled = append(settled, s)
			}
		default:
			fresh = append(fresh, s)
		}
	}
	switch {
	case len(settled) > 0:
		return n.raft.Join(ctx, settled)
	case !n.raft.Fresh() || n.o.Expect == 0 || len(fresh) < n.o.Expect:
		return nil // others are waited for
	}
	slices.SortFunc(fresh, func(a, b raftnode.Server) int { return strings.Compare(a.Node, b.Node) })
	fresh = fresh[:n.o.Expect]
	if !slices.ContainsFunc(fresh, func(s raftnode.Server) bool { return s.Node == n.o.Name }) {
		return nil
	}
	return n.raft.Bootstrap(ctx, fresh)
}

// meta is what this node says of itself.
func (n *Node) meta() gossip.Meta {
	m := gossip.Meta{Store: n.self.Store, Cluster: n.o.Address, SMTP: n.o.SMTP, Zone: n.o.Zone, Version: n.o.Version, Level: fsm.KnownLevel}
	st := n.e.Status()
	m.Session, m.Ready = uint64(n.e.Session()), n.Ready() == nil
	m.Load.Queued, m.Load.Segments = n.e.Queued(), uint32(st.Owned)
	n.view.Read(func(s *fsm.State) {
		if m.Session != 0 {
			m.Generation = s.Generation()
		}
		if rec, ok := s.Node(n.o.Name); ok {
			m.Draining = rec.State == fsm.Draining || rec.State == fsm.Drained
		}
	})
	if n.o.Sessions != nil {
		m.Load.Sessions = uint32(n.o.Sessions())
	}
	return m
}

// loads are what the other nodes say that they have queued. A node that is
// suspect or being emptied is left out; so, in effect, is one of a version that
// does not tell, for it does not name its store either.
func (n *Node) loads() (list []balance.Load) {
	for _, m := range n.gossip.Members() {
		if !m.Self && m.State == gossip.Alive && m.Meta.Session != 0 && !m.Meta.Draining {
			list = append(list, balance.Load{Node: fsm.Ref{Node: m.Node, Store: m.Meta.Store}, Queued: m.Meta.Load.Queued})
		}
	}
	return list
}

// peers keeps the streams to the other nodes as the control plane has them.
type peers struct {
	n          *Node
	wake       chan struct{}
	configured chan struct{} // for configure
}

func newPeers(n *Node) *peers {
	return &peers{n: n, wake: make(chan struct{}, 1), configured: make(chan struct{}, 1)}
}

func (p *peers) kick() {
	kick(p.wake)
	kick(p.configured)
}

// run follows what Raft says of the nodes, and tells the others of this one.
func (p *peers) run() {
	t := time.NewTicker(metaEvery)
	defer t.Stop()
	for {
		if err := p.n.outdated(); err != nil {
			p.n.o.Fatal(err)
			return
		}
		p.connect()
		p.n.o.Changed()
		if err := p.n.gossip.SetMeta(p.n.meta()); err != nil {
			p.n.o.Log.Warn("telling the others of this node", "error", err)
		}
		select {
		case <-p.wake:
		case <-t.C:
		case <-p.n.ctx.Done():
			return
		}
	}
}

func (p *peers) connect() {
	var list []replica.PeerAddr
	p.n.view.Read(func(s *fsm.State) {
		for _, rec := range s.Nodes() {
			if rec.Name == p.n.o.Name || rec.State == fsm.Removed || rec.Lost || rec.Lease.Session == 0 {
				continue
			}
			list = append(list, replica.PeerAddr{
				Node: rec.Name, Address: rec.Info.Address, Session: uint64(rec.Lease.Session), Store: rec.Store,
			})
		}
	})
	p.n.replica.SetPeers(list)
}

// heldOf is what the disk has of a segment, for the core.
func heldOf(h spool.HeldSegment) segment.Held {
	out := segment.Held{
		Segment: fsm.SegmentID(h.ID), Last: h.Last, Epoch: fsm.Epoch(h.Epoch),
		Owner: fsm.Ref{Node: h.Owner.Node, Store: h.Owner.StoreID}, End: h.End, EndSet: h.EndSet,
	}
	for _, m := range h.Members {
		out.Members = append(out.Members, fsm.Ref{Node: m.Node, Store: m.StoreID})
	}
	return out
}

// kernelID reads an identity of the running system; empty where there is none.
func kernelID(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
