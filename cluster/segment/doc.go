// Package segment is the replication protocol of one node as a step function:
// accepting messages with copies on other nodes, sealing, taking over,
// streams of results, stale and fresh members, copies made elsewhere, handing
// over. DESIGN.md in this folder argues each rule.
//
// [Machine.Step] takes the time and one event and returns what to do. There is
// no I/O, no goroutine, no clock and no randomness in here but a seeded one:
// the same events give the same actions, in production and in simulation. The
// machine keeps control state alone (epochs, numbers, who has what) and never
// a message: sequence numbers stand for records, the driver has the bytes.
//
// A Machine is not safe for concurrent use: the driver locks. Actions are to
// be carried out in their order; what comes of them comes back as events. A
// machine lives as long as its process: after a restart there is a new one,
// which knows what [Config.Held] says and what the control plane tells it.
//
// Times are the node's own CLOCK_BOOTTIME. Only differences count, and nothing
// that keeps messages safe depends on them, only who may deliver when.
package segment
