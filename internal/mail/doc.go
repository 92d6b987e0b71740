// Package mail holds the nouns of the trade: addresses, envelopes, recipients,
// message IDs, replies, verdicts, outcomes and next hops.
//
// Everybody imports it and it imports the standard library alone. It does no
// I/O and starts no goroutine; its values are safe to copy. What crosses the
// border between two parts of the program as an error a client or a next hop
// may hear is a *Reply; everything else is a plain wrapped error.
package mail
