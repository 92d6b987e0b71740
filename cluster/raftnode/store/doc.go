// Package store is what a node of the Raft group has on its disk: the log and
// the votes (Store, over raft-boltdb), the snapshots, the state machine they
// bring back (Machine), and the tools that work on all of it while the node is
// not running (Offline). Package raftnode is its caller; the commands that
// export or rescue a control plane use Offline.
//
// The first error of a write or sync latches a Store and is told to its owner,
// who ends the process: the library would go on and might be leader again a
// second later, and a sync repeated after an error can lie. An operation that
// hangs is told as well, for heartbeats have goroutines of their own, so that a
// leader whose disk hangs would lead for ever. Votes are written candidate
// first, term second: the library writes them the other way round, and a crash
// between the two could vote twice in one term. Each entry carries a checksum.
// Where the library would panic on a store that has failed, its goroutine is
// ended instead, so that the owner has the last word and not a stack trace.
package store
