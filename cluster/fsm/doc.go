// Package fsm is what the cluster decides together: which node owns which
// segment of the spool, who holds copies of it, which process of a node is the
// current one and when its lease was last renewed, the cluster's settings and
// its configuration. It never holds a message.
//
// [State] is a pure state machine. Apply takes a command in its encoded form
// and the index that the Raft log gave it, and returns a [Result]; two States
// that were fed the same entries are equal to the last byte of their
// Snapshots. There is no clock, no randomness, no I/O and no lock in here: who
// holds a State guards it. Durations of leases are counted by the nodes and by
// the leader; the machine only records at which index a lease was renewed.
//
// A refusal is a [Code], the same on every node, and changes nothing. Every
// committed change of a segment raises its epoch and is a compare-and-swap on
// it, so a command that comes late or twice does no harm.
//
// Who reads a State acts on what it says now, however it got there: Apply
// tells which segments and nodes it touched, Restore jumps.
package fsm
