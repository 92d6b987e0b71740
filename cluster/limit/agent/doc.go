// Package agent holds a node's limiter to its part: it tells it what the log
// says of how keys are divided, ends what the leader's answers allow when their
// time is over, and tells the leader what the node has in force and wants.
//
// A process begins with nothing. Once the leader has answered a report, and what
// the answer names is applied, it has its part for limit.LeaseFor from the moment
// that it sent the report, on its own clock, which goes on in suspend. Before
// there is a roster, as in a cluster of which some nodes run an older program,
// there are no leases, and every key is divided evenly among the nodes.
package agent
