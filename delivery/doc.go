// Package delivery makes one attempt at one next hop: it finds the hosts,
// speaks to them one after another until every recipient has an answer or
// nobody is left to ask, and reports one outcome for each recipient
// (RFC 5321 5.1, 7505, 8689).
//
// It does not decide when to try, how often or how many at a time: that is
// package queue, the caller. Sessions and what is said in them are package
// smtpc's. What it remembers between attempts is kept for minutes, is bounded,
// and is lost at a restart without harm: idle connections, hosts that did not
// answer, hosts whose TLS or BDAT does not work.
//
// An Agent may be used by any number of goroutines and starts none of its own
// beside those of its smtpc.Pool. Deliver blocks until it is done; cancelling
// its context ends it at once, with an outcome for everybody all the same. It
// returns no error: what goes wrong is an Outcome, temporary unless a host
// said otherwise or no later attempt can be any better.
package delivery
