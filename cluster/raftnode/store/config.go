package store

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Bounds of what is kept.
const (
	trailingLogs      = 4096 // entries kept behind a snapshot, so that a node that was away for half an hour needs none
	snapshotThreshold = 4096 // entries since the last snapshot that make a new one worth it
	snapshotInterval  = time.Minute
	snapshotsKept     = 2
	maxAppendEntries  = 256
)

// Server is a node as Raft knows it.
type Server struct {
	Node    string // name, unique, and what its certificate says
	Address string // host:port of its cluster port
	Voter   bool
}

// Config is what all nodes have in common.
func Config(node string, log *slog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(node)
	c.Logger = Bridge(log)
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false
	c.TrailingLogs = trailingLogs
	c.SnapshotThreshold = snapshotThreshold
	c.SnapshotInterval = snapshotInterval
	c.NoLegacyTelemetry = true
	return c
}

// Snapshots opens the snapshots in a node's directory.
func Snapshots(dir string, log *slog.Logger) (raft.SnapshotStore, error) {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, Bridge(log))
	if err == nil {
		err = SyncDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("store: opening the snapshots in %s: %w", dir, err)
	}
	return snaps, nil
}

// Address is a server's address as Raft keeps it: NAME@HOST:PORT.
func Address(node, address string) raft.ServerAddress {
	return raft.ServerAddress(node + "@" + address)
}

// SplitAddress takes an Address apart.
func SplitAddress(a raft.ServerAddress) (node, address string, ok bool) {
	return strings.Cut(string(a), "@")
}

// HostPort is the part of an Address that can be dialled.
func HostPort(a raft.ServerAddress) string {
	_, address, _ := SplitAddress(a)
	return address
}
