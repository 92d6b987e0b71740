package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/gossip"
	"github.com/clrelay/clrelay/cluster/raftnode"
)

// ErrNotFound says that there is no such node.
var ErrNotFound = errors.New("no such node in the cluster")

// Overview is the cluster as this node sees it.
type Overview struct {
	Leader          string // empty: none is known
	Term            uint64
	CommitIndex     uint64
	Quorum          bool   // enough voters seem to be there, and there is a leader
	Copies          int    // of a new message
	UnderReplicated int    // segments with fewer copies than that
	Lost            int    // of them, those that no copy is left of
	Level           uint32 // feature level in force
	Nodes           []Member
}

// Member is one node of an Overview.
type Member struct {
	Name, Address, Zone, Version string
	State                        string // alive, suspect, dead, draining, drained, left
	Voter                        bool
	SMTP                         []string
	Segments                     int // that it owns
	Held                         int // that it is a member of
	Sessions                     int // SMTP sessions, as it said lately
	Session                      fsm.Session
	Level                        uint32 // highest feature level that its program knows
}

// Overview tells how the cluster stands.
func (n *Node) Overview() Overview {
	if !n.started.Load() {
		return Overview{}
	}
	st := n.raft.Status()
	o := Overview{Leader: st.Leader, Term: st.Term, CommitIndex: n.raft.CommitIndex()}
	seen := map[string]gossip.Member{}
	for _, m := range n.gossip.Members() {
		seen[m.Node] = m
	}
	votes := map[string]bool{}
	voters, there := 0, 0
	for _, s := range n.raft.Members() {
		votes[s.Node] = s.Voter
		if s.Voter {
			voters++
			if m, ok := seen[s.Node]; ok && m.State != gossip.Dead {
				there++
			}
		}
	}
	o.Quorum = st.Leader != "" && there > voters/2
	n.view.Read(func(s *fsm.State) {
		o.Copies, o.Level = s.Copies(), s.Level()
		for _, g := range s.Segments() {
			if freshCopies(s, &g) < o.Copies {
				o.UnderReplicated++
			}
		}
		o.Lost = len(s.Lost())
		for _, rec := range s.Nodes() {
			o.Nodes = append(o.Nodes, memberOf(s, &rec, seen[rec.Name], votes[rec.Name]))
		}
	})
	return o
}

// freshCopies counts the fresh members whose stores are not known to be gone.
func freshCopies(s *fsm.State, g *fsm.Segment) (n int) {
	for _, r := range g.Members {
		if !g.IsStale(r) && s.Current(r) {
			n++
		}
	}
	return n
}

func memberOf(s *fsm.State, rec *fsm.Node, m gossip.Member, voter bool) Member {
	out := Member{
		Name: rec.Name, Address: rec.Info.Address, Zone: rec.Info.Zone, Version: rec.Info.Version,
		Voter: voter, Held: s.Holds(rec.Name), Session: rec.Lease.Session, SMTP: []string{}, Level: rec.Info.Features,
	}
	if m.Node != "" {
		out.SMTP, out.Sessions = m.Meta.SMTP, int(m.Meta.Load.Sessions)
	} else if rec.Info.SMTP != "" {
		out.SMTP = []string{rec.Info.SMTP}
	}
	out.Segments, _ = s.Owns(rec.Ref())
	switch {
	case rec.State == fsm.Removed:
		out.State = "left"
	case m.Node == "" || m.State == gossip.Dead:
		out.State = "dead"
	case rec.State == fsm.Draining || rec.State == fsm.Drained:
		out.State = rec.State.String()
	case m.State == gossip.Suspect:
		out.State = "suspect"
	default:
		out.State = "alive"
	}
	return out
}

// Drain begins to empty a node; it goes on whatever becomes of the caller.
func (n *Node) Drain(ctx context.Context, node string) error {
	rec, err := n.record(node)
	if err != nil || rec.State == fsm.Draining || rec.State == fsm.Drained {
		return err
	}
	return outcome(n.control.propose(ctx, fsm.NodeChange{Node: node, Verb: fsm.NodeDrain}))
}

// Resume takes a draining or drained node back into service.
func (n *Node) Resume(ctx context.Context, node string) error {
	rec, err := n.record(node)
	if err != nil || rec.State == fsm.Alive {
		return err
	}
	return outcome(n.control.propose(ctx, fsm.NodeChange{Node: node, Verb: fsm.NodeResume}))
}

// Remove takes a node out of the cluster for good. One that is not drained
// must be silent and needs force: its copies are made anew from the others.
func (n *Node) Remove(ctx context.Context, node string, force bool) error {
	rec, err := n.record(node)
	if err != nil {
		return err
	}
	if rec.State != fsm.Removed {
		if rec.State != fsm.Drained {
			if err := n.pause(ctx, silence); err != nil {
				return err
			}
		}
		err = outcome(n.control.propose(ctx, fsm.NodeChange{Node: node, Verb: fsm.NodeRemove, Force: force, Renewed: rec.Lease.Renewed}))
		if err != nil {
			return err
		}
	}
	err = n.raft.Remove(ctx, node)
	if err != nil && !errors.Is(err, raftnode.ErrRefused) {
		return fmt.Errorf("cluster: %w", err)
	}
	return err
}

// silence is how long a node that is to be removed by force must not have
// renewed its lease, which a node that lives does twice a second: Raft refuses
// when it has done so since the record that was read before.
const silence = 2 * time.Second

func (n *Node) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return errStopped
	}
}

// Progress is how far the draining of a node has come.
type Progress struct {
	State    string // draining, drained, or what else the node is
	Owned    int    // segments
	Held     int    // segments it is a member of
	Sessions int    // SMTP sessions
}

// Progress tells how far the draining of a node has come.
func (n *Node) Progress(node string) (Progress, error) {
	for _, m := range n.Overview().Nodes {
		if m.Name == node {
			return Progress{State: m.State, Owned: m.Segments, Held: m.Held, Sessions: m.Sessions}, nil
		}
	}
	return Progress{}, fmt.Errorf("%w: %s", ErrNotFound, node)
}

// Draining tells whether this node is being emptied, or is.
func (n *Node) Draining() bool {
	rec, err := n.record(n.o.Name)
	return err == nil && (rec.State == fsm.Draining || rec.State == fsm.Drained)
}

func (n *Node) record(node string) (rec fsm.Node, err error) {
	ok := false
	n.view.Read(func(s *fsm.State) { rec, ok = s.Node(node) })
	if !ok {
		return rec, fmt.Errorf("%w: %s", ErrNotFound, node)
	}
	return rec, nil
}

// TransferLeader hands the leadership of Raft to another voter, any if to is
// empty, and tells who leads then.
func (n *Node) TransferLeader(ctx context.Context, to string) (string, error) {
	was := n.raft.Status().Leader
	if err := n.raft.TransferLeadership(ctx, to); err != nil {
		return "", fmt.Errorf("cluster: %w", err)
	}
	for {
		s, changed := n.raft.Changes()
		if s.Leader != "" && (s.Leader == to || to == "" && s.Leader != was) {
			return s.Leader, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("cluster: waiting for the new leader: %w", ctx.Err())
		}
	}
}

// Config is the newest version of the cluster's configuration; ok is false
// before there is one.
func (n *Node) Config() (c fsm.Config, ok bool) {
	n.view.Read(func(s *fsm.State) { c, ok = s.Config() })
	return c, ok
}

// Configs are the versions of the cluster's configuration that are kept, the
// oldest first.
func (n *Node) Configs() (list []fsm.Config) {
	n.view.Read(func(s *fsm.State) { list = s.Configs() })
	return list
}

// Apply makes text the cluster's configuration, if its version still is the
// given one; 0 stands for whatever it is. The new version is returned once it
// is applied here.
func (n *Node) Apply(ctx context.Context, text []byte, version uint64, author, reason string) (uint64, error) {
	if _, err := n.o.Settings(text); err != nil {
		return 0, fmt.Errorf("cluster: %w", err)
	}
	if version == 0 {
		c, _ := n.Config()
		version = c.Version
	}
	c := fsm.Config{Version: version + 1, Text: text, Author: author, Reason: reason, At: time.Now()}
	if err := outcome(n.control.propose(ctx, fsm.ConfigApply{Config: c})); err != nil {
		return 0, err
	}
	return c.Version, nil
}

// Figures are counts for metrics.
type Figures struct {
	Owned, Open, Recovering, Member, UnderReplicated int
	Takeovers, Alarms                                uint64
	Moved                                            uint64 // segments given to a node with less mail
}

// Figures gives the counts of this node.
func (n *Node) Figures() Figures {
	st, f := n.e.Status(), n.e.Figures()
	return Figures{
		Owned: st.Owned, Open: st.OwnedOpen, Recovering: st.Recovering, Member: st.Member, UnderReplicated: st.Unders,
		Takeovers: f.Takeovers, Alarms: f.Alarms, Moved: f.Moved,
	}
}

// OthersReady tells whether another node says that it would take mail.
func (n *Node) OthersReady() bool {
	return n.started.Load() && slices.ContainsFunc(n.gossip.Members(), func(m gossip.Member) bool {
		return !m.Self && m.State == gossip.Alive && m.Meta.Ready
	})
}

// Leads tells whether this node leads the cluster and knows all that was
// decided before it did.
func (n *Node) Leads() bool { return n.started.Load() && n.raft.Status().Ready }

// Read calls f with what is applied here, which must not be kept.
func (n *Node) Read(f func(*fsm.State)) { n.view.Read(f) }

// Claimed gives the segments all of whose mail is in this node's queue; see
// drive.Engine.
func (n *Node) Claimed() map[uint64]uint64 { return n.e.Claimed() }
