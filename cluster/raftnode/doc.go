// Package raftnode keeps the control plane of the cluster in agreement: it
// feeds one log of commands, in one order, to the state machine of every node.
// It is hashicorp/raft with the edges taken off that hurt a program whose
// promise hangs on it. What the commands mean it does not know, and no message
// ever passes through it.
//
// The driver in package cluster opens one Node, proposes commands through it
// (on any node: they are passed on to the leader) and reads outcomes from its
// own state machine. The port that carries the traffic is package
// cluster/port; this package only sees listeners and a dial function.
//
// # Who is told what
//
// Propose ends in one of four ways. A result: the command is in the log and
// this node's own state machine has applied it. ErrNoLeader: it was certainly
// not proposed. ErrUnknownOutcome: it may be in the log, now or later.
// ErrClosed or ErrFailed: this node is over. Loss of leadership is no outcome:
// a command that has to happen is repeated until the state machine shows it,
// so every command is a compare-and-swap or carries a number that makes a
// repetition harmless. A follower takes the result from its own state machine
// at the index that the leader names, so no result is ever sent over the wire
// and a proposer always sees its own command applied.
//
// Leadership is read as a level (Changes), never as a sequence of events: of
// two changes in a row only the newer may be seen. Status.Ready says that the
// leader has applied everything of earlier terms (a Barrier after winning);
// leader's duties begin there.
//
// # The disk
//
// Package store keeps log, votes and snapshots and says what it does about
// disks that fail or hang: Options.Fatal is called, and the process ends.
//
// # Membership
//
// A server's ID is the node's name. Its raft address is NAME@HOST:PORT, so that
// whoever dials knows which certificate to ask for. A node whose directory is
// empty keeps its raft door closed until the leader has taken it in as a
// non-voter, and the leader takes a vote away from a name that comes back
// empty before it lets it in: otherwise a node that lost its disk would vote and
// acknowledge without knowing what it had promised.
//
// A new cluster is born by Bootstrap: the first of the expected nodes, by name,
// asks every other to pledge itself to this very set; a pledge is on disk before
// it is given and is never given twice. Two births can so never share a node.
//
// Votes are kept by the leader in a loop of our own (keeper, package votes) instead of
// raft-autopilot: its promoter interface knows "every healthy server gets a
// vote", removes dead servers from the cluster, which here only the operator
// may do, and wants five delegate methods for it; the rules needed here are one
// pure function. Kept from it: stabilisation before promotion, one change at a
// time, never a change that endangers the quorum of those that remain.
//
// # Threads
//
// A Node is safe for many goroutines. The FSM is called from one goroutine of
// the library at a time. All goroutines end with Close.
package raftnode
