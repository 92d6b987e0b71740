package limit

import "time"

// Key names one thing that is divided between the nodes: the name of a limit,
// which part of it, and the values that it counts by. It is the same on all
// nodes and after a restart.
type Key string

// MaxKey bounds a Key, in octets.
const MaxKey = 1024

// Demand is what a node wants of a key.
type Demand struct {
	Key   Key
	Kind  Kind   // KindRate, KindConnections or KindBudget
	Units uint32 // into how many the key is divided, from the Definition: 1 to MaxUnits. Of a budget: how much it is in all
	Want  uint32 // units that would be enough for what is asked for now; of a budget, how much more
	Used  uint32 // connections that are open; of a budget, what is left of what was granted
	// Of a budget alone.
	Window time.Duration // an hour or a day; 0: a day
	Each   uint64        // how many one of Units, Want and Used stands for, where 32 bits are too few; 0: one
}

// MaxUnits bounds into how many units a key is divided: a limit of more has
// units of more than one.
const MaxUnits = 1000

// Share is what a node was given of a key that is not divided evenly.
type Share struct {
	Key   Key
	Units uint32 // of the node
	Of    uint32 // all
}

// Grant is what a node was given of a budget.
type Grant struct {
	Key     Key
	Window  uint64    // number of the hour or day, since 1970
	Ends    time.Time // of the window
	Granted uint64    // to this process since the window began, rising; not in units
	All     uint64    // to all processes since then
}

// Update is what a node is told of its part. An Update with Full is the whole
// state: what it does not name is divided evenly.
type Update struct {
	Full bool
	// Seats is among how many a key is divided that has no Share: everybody has
	// Units/Seats of it, rounded down. 0: this node has nothing, whatever it was
	// given.
	Seats  int
	Shares []Share // new or changed
	Even   []Key   // have no Share any more
	Grants []Grant
	// Leased tells whether this node hears from the others. If not, it has the
	// floor: Units/(10*max(3,Seats)), rounded down, of every key.
	Leased bool
	// Ends is when it ceases to be Leased by itself, on CLOCK_BOOTTIME, so that a
	// process that was stopped goes on with the floor at once; 0: never,
	// or it is not Leased.
	Ends time.Duration
}

// Local is a node's limiter, as the cluster sees it.
type Local interface {
	// Demands appends to list what was wanted since the last call of keys where
	// the node's part was not enough, or is more than enough and not even, most
	// wanted first, at most max; and all keys of connections that are open and
	// have a Share, or of which more are open than the part. Fewer than max say
	// that this is all.
	Demands(list []Demand, max int) []Demand
	// Apply puts an Update into force. When it returns nothing more is begun on
	// what was taken away; connections beyond the new part are still open and
	// count in Demand.Used, until they end.
	Apply(Update)
}
