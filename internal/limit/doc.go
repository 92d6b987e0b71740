// Package limit says what may be done how often: rates, connections at a time
// and budgets, of whatever the operator counts by. These are the nouns; package
// local holds a node to its part of them.
//
// A Definition is a limit as it is configured, or as an operator or a rule of
// shaping has set it for a while. It is for the whole cluster. What it counts by
// (its fields Per) makes keys of it, and every key is divided into units: of a
// rate a unit carries one message of the burst and its part of the rate, of
// connections it is one connection. Each node may use the units that it was
// given and no more; who gets how many is package cluster/limit's matter, which
// is where it is told why the nodes together never exceed a limit. A machine
// that is alone has all of them.
//
// Nothing here asks another node anything: what a node answers it answers from
// memory, at once.
package limit
