// Package lead is what the leader of Raft does for the protocol of
// cluster/segment, as a step function: it renews the nodes' leases, one entry
// twice a second, and gives the segments of nodes that have been silent for
// the grace period to other members.
//
// A Machine runs on every node and is told what is applied from the start, so
// that a node that becomes leader goes on counting. Like package segment it
// has no clock, no I/O and no goroutine; [Machine.Step] takes the time of
// CLOCK_BOOTTIME and an event, and the driver carries out the actions.
package lead
