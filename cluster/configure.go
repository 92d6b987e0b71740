package cluster

import (
	"context"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// configureEvery is how often the configuration is looked at without a change.
const configureEvery = 5 * time.Second

// configure follows the cluster's configuration: it tells the process of new
// versions, and, on the leader, sees that there is a first one and that the
// settings and the feature level follow.
func (n *Node) configure() {
	t := time.NewTicker(configureEvery)
	defer t.Stop()
	var told uint64
	for {
		var c fsm.Config
		var have bool
		n.view.Read(func(s *fsm.State) { c, have = s.Config() })
		if have && c.Version != told {
			told = c.Version
			n.o.Configured(c)
		}
		if n.raft.Status().Ready {
			n.raise()
			n.govern(c, have)
		}
		select {
		case <-n.peers.configured:
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
	}
}

// raise lifts the feature level to what the programs of all nodes know, those
// of the nodes that are down too: one that could not register again would be
// lost to the cluster with its disk.
func (n *Node) raise() {
	var now, common uint32
	n.view.Read(func(s *fsm.State) {
		now, common = s.Level(), min(s.Common(), fsm.KnownLevel)
		for _, m := range n.raft.Members() {
			if _, ok := s.Node(m.Node); !ok && m.Voter {
				common = 0 // a founder that has not said yet what it knows
			}
		}
	})
	if common <= now {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, proposeWait)
	defer cancel()
	if err := outcome(n.control.propose(ctx, fsm.FeatureRaise{Level: common})); err != nil {
		n.o.Log.Warn("raising the cluster's feature level", "level", common, "error", err)
		return
	}
	n.o.Log.Info("all nodes know a new feature level: it is in force", "level", common)
}

// govern is what the leader does about the configuration. What fails is tried
// again at the next look.
func (n *Node) govern(c fsm.Config, have bool) {
	ctx, cancel := context.WithTimeout(n.ctx, proposeWait)
	defer cancel()
	if !have {
		first := fsm.Config{Version: 1, Text: n.o.Birth, Author: n.o.Name, Reason: "the cluster's birth", At: time.Now()}
		if err := outcome(n.control.propose(ctx, fsm.ConfigApply{Config: first})); err != nil {
			n.o.Log.Warn("storing the first configuration", "error", err)
		}
		return
	}
	want, err := n.o.Settings(c.Text)
	if err != nil {
		n.o.Log.Error("the cluster's configuration cannot be read by this version of clrelay", "version", c.Version, "error", err)
		return
	}
	var now fsm.Settings
	n.view.Read(func(s *fsm.State) { now = s.Settings() })
	want.Version = now.Version
	if want == now {
		return
	}
	want.Version++
	if err := outcome(n.control.propose(ctx, fsm.SettingsApply{Settings: want})); err != nil {
		n.o.Log.Warn("changing the cluster's settings", "error", err)
	}
}
