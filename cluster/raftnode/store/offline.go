package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

const offlineHang = time.Minute // a tool may wait longer for a disk than a node does

// Offline names a node's directory to work on while the node is not running.
type Offline struct {
	Dir     string
	Node    string
	Address string
	// Generation is that of the group that Restore begins; 0: the first.
	Generation uint32
	FSM        FSM // empty, of no use afterwards but to read the state from
	Log        *slog.Logger
}

// Export brings o.FSM to the newest state that the directory knows of and
// returns the index it stands for; its Snapshot is the export of the control
// plane. Entries at the end of the log of which this node never heard whether
// they were committed are in it. Nothing is changed.
func (o Offline) Export() (index uint64, err error) {
	if _, err := os.Stat(filepath.Join(o.Dir, File)); err != nil {
		return 0, fmt.Errorf("store: no control plane in %s: %w", o.Dir, err)
	}
	b, err := openBoltMode(filepath.Join(o.Dir, File), true)
	if err != nil {
		return 0, fmt.Errorf("store: opening %s (is the node running?): %w", o.Dir, err)
	}
	defer b.Close()
	snaps, err := Snapshots(o.Dir, o.Log)
	if err != nil {
		return 0, err
	}
	s := NewMachine(o.FSM, func(error) {})
	after, err := restoreNewest(snaps, s)
	if err != nil {
		return 0, err
	}
	last, err := b.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("store: reading the log: %w", err)
	}
	for i := after + 1; i <= last; i++ {
		var l raft.Log
		if err = b.GetLog(i, &l); err == nil {
			err = verify(i, &l)
		}
		if err != nil {
			return 0, fmt.Errorf("store: reading entry %d: %w", i, err)
		}
		s.ApplyBatch([]*raft.Log{&l})
	}
	if s.Applied() == 0 {
		return 0, fmt.Errorf("store: the control plane in %s is empty", o.Dir)
	}
	return s.Applied(), nil
}

// restoreNewest restores the newest snapshot that is whole and returns the
// index of the last entry it covers.
func restoreNewest(snaps raft.SnapshotStore, s *Machine) (uint64, error) {
	list, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("store: listing snapshots: %w", err)
	}
	for _, meta := range list {
		_, r, e := snaps.Open(meta.ID)
		if e == nil {
			e = s.Restore(r)
		}
		if e == nil {
			return meta.Index, nil
		}
		err = errors.Join(err, fmt.Errorf("store: snapshot %s: %w", meta.ID, e))
	}
	return 0, err
}

// Restore fills an empty directory with an exported state, as the start of a
// cluster of the given servers: for one node only, usually with itself as the
// only server; the others start with empty directories and join.
func (o Offline) Restore(state []byte, index uint64, servers []Server) error {
	if _, err := os.Stat(filepath.Join(o.Dir, File)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: restoring: %s is not empty", o.Dir)
	}
	if err := o.FSM.Restore(state); err != nil {
		return fmt.Errorf("store: restoring: the export is damaged: %w", err)
	}
	if err := MakeDir(o.Dir); err != nil {
		return err
	}
	if o.Generation != 0 {
		if err := SetGeneration(o.Dir, o.Generation); err != nil {
			return err
		}
	}
	return o.withStore(func(s *Store, snaps raft.SnapshotStore, c raft.Configuration) error {
		_, trans := raft.NewInmemTransport(Address(o.Node, o.Address))
		fsm := NewMachine(o.FSM, func(error) {})
		fsm.index = max(index, 1)
		to, err := snaps.Create(raft.SnapshotVersionMax, fsm.index, 1, c, 1, trans)
		if err != nil {
			return fmt.Errorf("store: restoring: %w", err)
		}
		captured, err := fsm.Snapshot()
		if err == nil {
			err = captured.Persist(to)
		}
		if err == nil {
			err = s.SetUint64([]byte(keyTerm), 1)
		}
		if err != nil {
			return fmt.Errorf("store: restoring: %w", err)
		}
		return nil
	}, servers)
}

// withStore opens the directory for f.
func (o Offline) withStore(f func(*Store, raft.SnapshotStore, raft.Configuration) error, servers []Server) (err error) {
	var c raft.Configuration
	for _, s := range servers {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.Node), Address: Address(s.Node, s.Address)})
	}
	b, err := OpenBolt(filepath.Join(o.Dir, File))
	if err != nil {
		return fmt.Errorf("store: opening %s (is the node running?): %w", o.Dir, err)
	}
	s := New(b, offlineHang, func(error) {})
	defer func() {
		if e := s.Close(); err == nil && e != nil {
			err = fmt.Errorf("store: closing %s: %w", o.Dir, e)
		}
	}()
	snaps, err := Snapshots(o.Dir, o.Log)
	if err != nil {
		return err
	}
	return f(s, snaps, c)
}
