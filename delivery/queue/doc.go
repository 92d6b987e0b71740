// Package queue delivers what the spool holds: it says when to try which
// recipient, lets a Deliverer try, records the results in the spool and
// reports to senders.
//
// The decisions are those of package sched, a step function; Runner is what
// surrounds it. It is no store: all that it knows it was told by the spool,
// and what must survive is recorded there before anything else follows from
// it. It opens no connection either.
//
// cmd makes a Runner with New, gives its Enqueue to the spool as
// Options.Accepted, starts it with Start and ends it with Shutdown. The admin
// API calls Counts, List, Change, Show and SetRules.
//
// # The life of an attempt
//
//  1. The scheduler gives out a Deliver job: recipients of one message that
//     share a next hop. The envelope is at hand or read from the spool, and
//     routed again, so that changed routes count from the next attempt on.
//     Those that a Rule matches are recorded as held instead of being tried.
//  2. The Lease is asked, the attempt is marked in the log (spool.Attempt),
//     and the Deliverer starts. Right before the final dot it asks BeforeDot:
//     the mark must have been written and the Lease still be held.
//  3. For recipients that failed for good a report to the sender (package
//     dsn) is accepted by the spool: durable before the failure is recorded.
//     If that is not possible they are deferred instead. Reports of success,
//     where they are asked for, go the same way.
//  4. All results are recorded (spool.Settle).
//  5. The scheduler is told; only now the slot is free.
//
// # Threads
//
// All methods may be called from any goroutine. One mutex guards the
// scheduler; nobody is called while it is held. Each job that runs has a
// goroutine, a queued message has none; a timer wakes the scheduler. Jobs are
// bounded by sched.Config and, for operators' commands, by changeWindow.
//
// # Failure
//
// What can't be recorded because the disk is full is recorded when there is
// room; until then the job keeps its slot. Of other errors the spool ends the
// process itself; what was not recorded is tried again after the restart. A
// message whose content is damaged goes back to its sender with 5.3.0; one
// whose envelope can't be read is held for the operator.
package queue
