// Package cluster is a node of a cluster: it wires Raft, gossip, the streams
// between nodes, the protocol core and the spool.
//
// A Node is the spool's Placement (where does a message go, is it safe on the
// other machines) and the queue's Lease (may this node deliver it now). What
// these answers follow from is decided in step functions: cluster/segment for
// the node, cluster/lead for the leader of Raft, cluster/fsm for what Raft
// agrees about. This package feeds them and carries out what they say, and
// decides nothing itself.
//
// # Threads and locks
//
// The engine's lock guards the protocol core and the outboxes; it is taken
// under the spool's lock, by Append and Settled, and under it nothing waits
// and the spool is not called. What the core wants of the disk goes to the
// desk: one goroutine appends in the order of the core's actions, one waits
// for their durability in the same order and tells the core, and ownership of
// a segment changes on a goroutine of that segment, because it may wait for a
// delivery. The control's lock guards the leader's core and is taken last.
//
// # Failure
//
// Whatever is not answered is asked again by the core, so an error here is
// logged and left. What cannot be gone on from (the control plane's store
// failed, another process has this node's name, a newer program has written
// to Raft's log) ends the process through Options.Fatal.
package cluster
