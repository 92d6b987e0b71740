package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/mark"
)

// register gets this process a session, if its data_dir is the one that it was.
func (n *Node) register(self fsm.Ref) (*mark.Mark, fsm.Session, error) {
	m, err := mark.Read(n.o.DataDir)
	if err != nil {
		return nil, 0, err
	}
	if err := n.known(self, m); err != nil {
		return nil, 0, err
	}
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, 0, fmt.Errorf("cluster: %w", err)
	}
	if err := m.Begin(nonce); err != nil {
		return nil, 0, err
	}
	session, err := n.session(self, nonce)
	if err != nil {
		return nil, 0, err
	}
	return m, session, m.Registered(session)
}

// session repeats itself until Raft has given this process a session. It
// returns once that is applied here.
func (n *Node) session(self fsm.Ref, nonce [16]byte) (fsm.Session, error) {
	cmd := fsm.Register{Node: self.Node, Store: self.Store, Nonce: nonce, Info: fsm.NodeInfo{
		Address: n.o.Address, Zone: n.o.Zone, Version: n.o.Version, Features: fsm.KnownLevel,
		BootID: kernelID("/proc/sys/kernel/random/boot_id"), MachineID: kernelID("/etc/machine-id"),
	}}
	if len(n.o.SMTP) > 0 {
		cmd.Info.SMTP = n.o.SMTP[0]
	}
	for warned := false; ; {
		ctx, cancel := context.WithTimeout(n.ctx, proposeWait)
		res, err := n.control.propose(ctx, cmd)
		cancel()
		switch {
		case err == nil && res.Code == fsm.OK:
			return res.Session, nil
		case err == nil:
			return 0, fmt.Errorf("cluster: the cluster does not take this node: %w", &RefusedError{res.Code, res.Text})
		case n.ctx.Err() != nil:
			return 0, errStopped
		case !warned:
			warned = true
			n.o.Log.Info("waiting for the cluster", "reason", err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-n.ctx.Done():
			return 0, errStopped
		}
	}
}

// known refuses a data_dir that is older than what Raft knows of it. It is
// asked before the process registers, with all applied that was decided until
// then.
func (n *Node) known(self fsm.Ref, m *mark.Mark) error {
	for warned := false; ; {
		ctx, cancel := context.WithTimeout(n.ctx, proposeWait)
		err := n.raft.Barrier(ctx)
		cancel()
		if err == nil {
			break
		}
		if !warned {
			warned = true
			n.o.Log.Info("waiting for the cluster", "reason", err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-n.ctx.Done():
			return errStopped
		}
	}
	var nonce [16]byte
	var l fsm.Lease
	known := false
	n.view.Read(func(s *fsm.State) {
		nonce, known = s.Nonce(self)
		l, _ = s.LeaseOf(self)
		if rec, _ := s.Node(self.Node); m.None() && rec.Info.Features < fsm.WriteOffLevel {
			known = false // the program before this one wrote no mark
		}
	})
	if known && m.Misses(nonce, l) {
		return fmt.Errorf("cluster: the data_dir of %s is older than what this node has done since: it is an old copy, "+
			"and with it mail would be lost that the other nodes have; move it away and start with an empty one", self.Node)
	}
	return nil
}

// keepMark writes the mark anew while the node lives. What is wrong with the
// disk is the spool's to judge.
func (n *Node) keepMark(m *mark.Mark) {
	t := time.NewTicker(mark.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
		if err := m.Lives(n.control.beacons.Load()); err != nil {
			n.o.Log.Warn("the data_dir was not marked", "error", err)
		}
	}
}
