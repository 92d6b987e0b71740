// Package spool keeps the mail that the relay has taken and not got rid of.
//
// Accept is the one door to 250: when it returns nil, the message is on
// stable storage on every one of its copies and will be delivered or
// reported, whatever happens. Settle records what became of a recipient; a
// message whose recipients all have a final result is finished and forgotten.
// docs/guarantees.md lists the states of a message, DESIGN.md says why things
// are as they are.
//
// It is no queue: when to try, where and how often is decided by
// delivery/queue, which is told of each message by Options.Accepted and Each.
// It knows no network either: in a cluster a Placement says where messages go
// and brings them to other members, and what others have comes by Take, Put
// and Merge, to be the queue's from Claim to Disclaim.
// The server calls Accept, the queue everything else.
//
// # Records
//
// All state is in the log (package wal), whose records package record
// defines. A message is its commit record, which names its chunks; it
// precedes, in the same segment, every result. In memory there is an index of
// what is unfinished, rebuilt by reading the log at Open.
//
// # Threads
//
// All methods may be called from any goroutine. One lock, Spool.mu, guards
// index, segments and books and is held while records are appended, so that
// the log tells the same story as they do; the log's own locks are below it.
// Nothing is read from the disk and nobody is called back under it, and it
// is held during a wait only where the log makes appends wait, which is when
// it cannot keep up. One goroutine, the compactor, runs between Each and
// Close.
//
// # Failure
//
// What the client may hear comes from Accept as a *mail.Reply. After a failed
// write or sync nothing is acknowledged any more (ErrPoisoned), Options.Fatal
// is called once and the process has to end: the next start finds what was
// acknowledged. A full disk is no such failure. Damage costs the records it
// hit; whoever needs one of them gets a *DamageError.
package spool
