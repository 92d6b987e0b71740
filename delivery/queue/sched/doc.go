// Package sched decides which recipient is tried when: it is the scheduler of
// the queue as a step function.
//
// Scheduler.Step takes the time and one Event and gives back the Actions that
// follow from it. There is no goroutine, no clock, no I/O in here, and the
// only randomness is the source that New is given, so equal events give equal
// actions: the tests are text scenarios and seeded simulations, and what they
// test is what runs in production. The package does not deliver, does not
// store and knows no address; delivery/queue does the work and reports back
// with events. It is not safe for concurrent use: its caller serializes.
//
// The parts, from the small to the large:
//
//   - A recipient is ready, deferred (in a timer), held, or busy, which means
//     that it is part of a Job that the caller carries out.
//   - A lane holds the recipients of one next hop. Its ready mail stands in
//     one queue a sender, served in turn, so that a bulk sender delays a
//     small one by one transaction and not by its whole backlog.
//   - Lanes are served in turn as well, by sender and then by destination. A lane's concurrency starts small,
//     grows with success and is halved by failure; and it never holds more
//     than twice the slots that are still free, so that a few slow
//     destinations leave room for the others.
//   - A lane whose next hop can't be reached is down: its waiting mail is
//     deferred in bulk, each recipient on its own schedule, without a try for
//     each; then one probe at a time finds out whether it is back.
//   - Mail has a class. Transactional mail has 16 turns of 21, normal mail 4,
//     bulk mail 1, in a lane and among the lanes; and a part of the slots is
//     kept free of bulk mail.
//   - A lane that a limit refuses waits at that limit's gate, with all others
//     that it has refused, and so does a sender whose mail it is about. When
//     the time has come they are let in to ask, in turn. What a limit on a
//     domain refuses is set apart, a queue a lane, sender and limit, which
//     waits there. Each recipient finds that out by asking once, for a lane
//     does not know its recipients' domains, or lines up without a question
//     where the wait is short.
//   - Lanes that are down, and lanes not proven yet, may hold only a part of
//     the slots, whatever their number.
//
// Everything is kept in slabs and linked by 32-bit numbers: a deferred
// message to one recipient takes less than 100 octets.
package sched
