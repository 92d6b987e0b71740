// Package smtpc is the client side of SMTP and LMTP: sessions with one next
// host, the transactions in them, and the pool that keeps idle sessions for
// the next message (RFC 5321, 2033, 2920, 3030, 3207, 3461, 4954, 6531, 8689).
//
// It knows hosts, not destinations: which host to try, what a failure means
// for the next attempt and what to remember of a host is the business of
// package delivery, its one caller. It resolves no names and retries nothing.
//
// A Pool may be used by many goroutines; a Conn belongs to one at a time, from
// Dial or Idle until Put. The only goroutines started here say QUIT, and Close
// waits for them. Cancelling the context of Dial or Send closes the connection
// at once.
//
// Failures come in two shapes. What the host said about a recipient is its
// Result. A session that cannot go on is a *Failure; the recipients that have
// no Result then were certainly not delivered. Once the end of the content may
// have reached the host, whatever goes wrong is a Result with Unsure set.
// Everything a host sends is bounded: lines, length, time.
package smtpc
