// Package shape learns from what mail hosts say how much they bear, and makes
// the whole cluster keep to it.
//
// Two things are learned of a site (package delivery/site). Rules read its
// replies: a Rule names replies and what follows from them for a while, such as
// a suspension, fewer connections or a lower rate; the first that matches
// counts. And a host that says that there are too many connections is taken at
// its word: each node tells how many it had that were good, their sum is what
// all nodes together may have, and it grows again by one at a time while the
// site is calm, the more slowly the more often it was too much.
//
// What is learned is a State for each site. It lies in a record that all nodes
// read, so what one of them is told slows all of them, and a restart forgets
// nothing; and it becomes definitions of limits (package internal/limit), which
// is where it is obeyed. Each has a reason, which is the host's reply, and an
// end, and an operator can undo it.
//
// Core is the thinking: a step function without clock, disk or network. Shaper
// runs it: it takes words from delivery, writes records, at most one a second
// for a site, and hands the definitions out. A node that cannot write still
// keeps to what it has heard itself.
package shape
