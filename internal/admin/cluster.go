package admin

import (
	"context"
	"errors"

	"github.com/clrelay/clrelay/internal/admin/fleet"
)

// Cluster tells how the cluster stands and who leads it. It brings to the
// leader what must go there.
type Cluster interface {
	// Status tells what this node knows, also when there is no leader.
	Status(ctx context.Context) (ClusterStatus, error)
	// TransferLeader makes another voter lead, any when to is empty, and
	// returns its name once it does.
	TransferLeader(ctx context.Context, to string) (leader string, err error)
}

// Nodes takes nodes out of service and back.
type Nodes interface {
	// Drain begins to empty a node. It does nothing when that has begun.
	Drain(ctx context.Context, node string) error
	// Progress tells how far that has come.
	Progress(ctx context.Context, node string) (DrainProgress, error)
	Resume(ctx context.Context, node string) error
	// Remove takes a node out of the cluster for good; with force one that is
	// silent and not drained.
	Remove(ctx context.Context, node string, force bool) error
}

// Peers are the other nodes.
type Peers = fleet.Peers

// Peer is another node.
type Peer = fleet.Peer

// The words for the state of a node.
const (
	NodeAlive    = "alive"
	NodeSuspect  = "suspect"
	NodeDead     = "dead"
	NodeDraining = "draining"
	NodeDrained  = "drained"
	NodeLeft     = "left"
)

// ClusterStatus is how a cluster stands.
type ClusterStatus struct {
	Leader            string // empty when none is known
	Term, CommitIndex uint64 // Raft's
	Quorum            bool
	Nodes             []ClusterNode // by name
	Copies            int           // machines that a new message is on
	UnderReplicated   int64         // segments with fewer
	Lost              int64         // segments with none
	Level             uint32        // feature level in force
	Notes             []string      // what an operator should know, in sentences
}

// ClusterNode is one node of it.
type ClusterNode struct {
	Name     string
	State    string // one of the words above
	Voter    bool
	SMTP     []string
	Segments int64 // that it owns
	Copies   int64 // segments that it has a copy of, those included
	Sessions int64
	Version  string
	Zone     string
	Addr     string // of its cluster port
	Level    uint32 // highest feature level that its program knows
}

// DrainProgress is how far the draining of a node has come.
type DrainProgress struct {
	State    string // draining or drained; anything else when it was ended
	Owned    int64  // segments
	Copies   int64  // segments it has a copy of, those included
	Sessions int64  // SMTP sessions
	Blocked  string // why it does not go on; empty when it does
}

// ErrNoNode says that there is no node of that name.
var ErrNoNode = errors.New("admin: no such node in the cluster")

// ErrAlone says that the relay is no part of a cluster.
var ErrAlone = errors.New("admin: this relay is not part of a cluster")

// RefusedError says why the cluster as it is does not allow something.
type RefusedError string

// Error says why.
func (e RefusedError) Error() string { return string(e) }

// InvalidError says what is wrong with what was asked.
type InvalidError string

// Error says what is wrong.
func (e InvalidError) Error() string { return string(e) }
