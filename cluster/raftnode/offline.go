package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Offline names a node's directory to work on while the node is not running.
type Offline struct {
	Dir     string
	Node    string
	Address string
	FSM     FSM // empty, of no use afterwards but to read the state from
	Log     *slog.Logger
}

// Export brings o.FSM to the newest state that the directory knows of and
// returns the index it stands for; its Snapshot is the export of the control
// plane. Entries at the end of the log of which this node never heard whether
// they were committed are in it. Nothing is changed.
func (o Offline) Export() (index uint64, err error) {
	if _, err := os.Stat(filepath.Join(o.Dir, storeFile)); err != nil {
		return 0, fmt.Errorf("raftnode: no control plane in %s: %w", o.Dir, err)
	}
	b, err := openBoltMode(filepath.Join(o.Dir, storeFile), true)
	if err != nil {
		return 0, fmt.Errorf("raftnode: opening %s (is the node running?): %w", o.Dir, err)
	}
	defer b.Close()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, snapshotsKept, bridge(o.Log))
	if err != nil {
		return 0, fmt.Errorf("raftnode: opening the snapshots in %s: %w", o.Dir, err)
	}
	s := newShim(o.FSM, func(error) {})
	after, err := restoreNewest(snaps, s)
	if err != nil {
		return 0, err
	}
	last, err := b.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("raftnode: reading the log: %w", err)
	}
	for i := after + 1; i <= last; i++ {
		var l raft.Log
		if err = b.GetLog(i, &l); err == nil {
			err = verify(i, &l)
		}
		if err != nil {
			return 0, fmt.Errorf("raftnode: reading entry %d: %w", i, err)
		}
		s.ApplyBatch([]*raft.Log{&l})
	}
	if s.applied() == 0 {
		return 0, fmt.Errorf("raftnode: the control plane in %s is empty", o.Dir)
	}
	return s.applied(), nil
}

// restoreNewest restores the newest snapshot that is whole and returns the
// index of the last entry it covers.
func restoreNewest(snaps raft.SnapshotStore, s *shim) (uint64, error) {
	list, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("raftnode: listing snapshots: %w", err)
	}
	for _, meta := range list {
		_, r, e := snaps.Open(meta.ID)
		if e == nil {
			e = s.Restore(r)
		}
		if e == nil {
			return meta.Index, nil
		}
		err = errors.Join(err, fmt.Errorf("raftnode: snapshot %s: %w", meta.ID, e))
	}
	return 0, err
}

// Recover makes the given servers the only ones of a cluster whose majority is
// lost for good, starting from what this directory holds. It is for one node
// only, usually with itself as the only server; the others start with empty
// directories and join. Entries that were never committed become committed by
// this, and entries that only the lost nodes had are gone: what they decided has
// to be settled by a new generation. Every other node must be off.
func (o Offline) Recover(servers []Server) error {
	if _, err := os.Stat(filepath.Join(o.Dir, storeFile)); err != nil {
		return fmt.Errorf("raftnode: no control plane in %s: %w", o.Dir, err)
	}
	return o.withStore(func(s *store, snaps raft.SnapshotStore, c raft.Configuration) error {
		fsm := newShim(o.FSM, func(error) {})
		_, trans := raft.NewInmemTransport(raftAddress(o.Node, o.Address))
		if err := raft.RecoverCluster(raftConfig(o.Node, o.Log), fsm, s, s, snaps, trans, c); err != nil {
			return fmt.Errorf("raftnode: recovering: %w", err)
		}
		return nil
	}, servers)
}

// Restore fills an empty directory with an exported state, as the start of a
// cluster of the given servers. As with Recover this is done for one node.
func (o Offline) Restore(state []byte, index uint64, servers []Server) error {
	if _, err := os.Stat(filepath.Join(o.Dir, storeFile)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("raftnode: restoring: %s is not empty", o.Dir)
	}
	if err := o.FSM.Restore(state); err != nil {
		return fmt.Errorf("raftnode: restoring: the export is damaged: %w", err)
	}
	if err := makeDir(o.Dir); err != nil {
		return err
	}
	return o.withStore(func(s *store, snaps raft.SnapshotStore, c raft.Configuration) error {
		_, trans := raft.NewInmemTransport(raftAddress(o.Node, o.Address))
		fsm := newShim(o.FSM, func(error) {})
		fsm.index = max(index, 1)
		to, err := snaps.Create(raft.SnapshotVersionMax, fsm.index, 1, c, 1, trans)
		if err != nil {
			return fmt.Errorf("raftnode: restoring: %w", err)
		}
		captured, err := fsm.Snapshot()
		if err == nil {
			err = captured.Persist(to)
		}
		if err == nil {
			err = s.SetUint64([]byte(keyTerm), 1)
		}
		if err != nil {
			return fmt.Errorf("raftnode: restoring: %w", err)
		}
		return nil
	}, servers)
}

// withStore opens the directory for f.
func (o Offline) withStore(f func(*store, raft.SnapshotStore, raft.Configuration) error, servers []Server) (err error) {
	var c raft.Configuration
	for _, s := range servers {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.Node), Address: raftAddress(s.Node, s.Address)})
	}
	b, err := openBolt(filepath.Join(o.Dir, storeFile))
	if err != nil {
		return fmt.Errorf("raftnode: opening %s (is the node running?): %w", o.Dir, err)
	}
	var t Timing
	t.defaults()
	s := newStore(b, t.Hang, func(error) {})
	defer func() {
		if e := s.Close(); err == nil && e != nil {
			err = fmt.Errorf("raftnode: closing %s: %w", o.Dir, e)
		}
	}()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, snapshotsKept, bridge(o.Log))
	if err == nil {
		err = syncDir(o.Dir)
	}
	if err != nil {
		return fmt.Errorf("raftnode: opening the snapshots in %s: %w", o.Dir, err)
	}
	return f(s, snaps, c)
}
