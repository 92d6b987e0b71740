// Package cluster is a node of a cluster: it wires Raft, gossip, the streams
// between nodes, the protocol core and the spool.
//
// What a node does follows from step functions: cluster/segment for the node,
// which cluster/drive runs, cluster/lead for the leader of Raft, cluster/fsm
// for what Raft agrees about. This package brings them together: it gets the
// node into the cluster, proposes what the cores want, tells them what was
// applied, and answers operators.
//
// # Locks
//
// The control's lock guards the leader's core. It is taken alone or under the
// engine's lock, never the other way round.
//
// # Failure
//
// A proposal without an outcome is repeated by whoever made it. What cannot be gone on from (the control plane's store
// failed, another process has this node's name, a newer program has written
// to Raft's log) ends the process through Options.Fatal.
package cluster
