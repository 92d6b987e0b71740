// Package sim runs whole clusters in one goroutine, with time, network, disks
// and Raft made up from a seed: the same step functions that production runs
// (cluster/fsm, cluster/segment, cluster/lead), three to five nodes of them,
// under loss, delay, partitions, crashes, lost disks, pauses and clocks that
// run at different rates. What the relay promises is checked after every step
// with knowledge that no node has.
//
// A run is a function of its seed and options alone. A run that fails names
// its seed; the same seed fails the same way, and prints its events when asked
// (see the flags in sim_test.go).
//
// What is not simulated: Raft itself (a log that behaves as Raft's users may
// see it behave stands in for it), the octets of messages, and SMTP.
package sim
