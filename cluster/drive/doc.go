// Package drive runs the protocol core of cluster/segment in a process: it
// feeds it what happens and carries out what it says, over the streams of
// cluster/replica, on the spool and the queue. It decides nothing itself.
//
// The Engine is the spool's Placement (where does a message go, is it safe on
// the other machines), tells the queue's Lease whether this node may deliver,
// and is the handler of the streams.
//
// # Threads and locks
//
// The engine's lock guards the core and the outboxes; it is taken under the
// spool's lock, by Append and Settled, and under it nothing waits and the
// spool is not called. What the core wants of the disk goes to the desk: one
// goroutine appends in the order of the core's actions, one waits for their
// durability in the same order and tells the core, and ownership of a segment
// changes on a goroutine of that segment, because it may wait for a delivery.
//
// # Failure
//
// Whatever is not answered is asked again by the core, so an error here is
// logged and left.
package drive
