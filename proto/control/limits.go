package control

import "unicode/utf8"

// Bounds of what the State holds about limits.
const (
	MaxLimitKey  = 1024       // octets of a key
	MaxUnits     = 1000       // units that a key is divided into
	MaxSeats     = 24         // nodes among whom limits are divided: the floors of all must fit into a key
	MaxDivisions = 200_000    // keys that are not divided evenly
	MaxBudgets   = 200_000    // budgets of which something was given
	MaxLimits    = 32 << 20   // octets of both: keys, names of nodes, and LimitCost and PartCost each
	LimitCost    = 64         // octets that a key counts beside its text
	PartCost     = 16         // octets that a part counts beside its node's name
	MinBudgetPer = 60         // seconds of the shortest window of a budget
	MaxBudgetPer = 31 * 86400 // and of the longest
)

// SeatState says what a node may use.
type SeatState uint8

// The states of a seat.
const (
	Entering SeatState = 1 + iota // nothing yet, but it is counted
	Seated                        // its part
	Leaving                       // nothing any more, but it may not know
)

func (s SeatState) String() string {
	switch s {
	case Entering:
		return "entering"
	case Seated:
		return "seated"
	case Leaving:
		return "leaving"
	}
	return "no seat"
}

// Seat is one node's place in the Roster.
type Seat struct {
	Node  string
	State SeatState
}

// Roster is among whom limits are divided. A key without a Division is divided
// evenly: each node that is Seated may use Units/len(Seats), rounded down. The
// slice is never written again.
type Roster struct {
	Version uint64 // 0: there is none yet; in a command, that of the one it replaces
	// Founded says that every node heeds the roster: before that there are no
	// Divisions.
	Founded bool
	Seats   []Seat
}

// Of returns the state of a node's seat; 0: it has none.
func (r *Roster) Of(node string) SeatState {
	for i := range r.Seats {
		if r.Seats[i].Node == node {
			return r.Seats[i].State
		}
	}
	return 0
}

// Even is what each seat has of a key that is divided evenly.
func (r *Roster) Even(units uint32) uint32 {
	if len(r.Seats) == 0 {
		return 0
	}
	return units / uint32(len(r.Seats))
}

// Reserve is what is kept of a key for a node that is cut off: whatever number
// of seats it knows, it uses no more.
func Reserve(units uint32) uint32 { return units / 30 }

// Part is what one node may use of a key.
type Part struct {
	Node  string
	Units uint32
}

// Division is how a key is divided that is not divided evenly. Parts is by node,
// and is never written again.
type Division struct {
	Key     string
	Kind    uint8 // limit.Kind
	Of      uint32
	Parts   []Part
	Version uint64 // number of the change that wrote it, never given twice
}

// Units returns what a node may use.
func (d *Division) Units(node string) uint32 {
	for i := range d.Parts {
		if d.Parts[i].Node == node {
			return d.Parts[i].Units
		}
	}
	return 0
}

// ShareOps changes who may use how much. Feature level 4.
//
// With Claim it begins a reign: Reign is the number of the one before, and
// Result.Version that of the new one. Everything else is refused with
// WrongVersion unless Reign is the present one, so that nothing counts that a
// leader decided before another one began. Roster, where it is not nil, is
// changed first. Answered with Result.Ops, whose Epoch is the key's version now.
type ShareOps struct {
	Reign  uint64
	Claim  bool
	Roster *Roster
	Ops    []ShareOp // at most MaxOps
}

// ShareOp writes or drops a Division, if its version still is IfVersion; 0
// stands for a key that is divided evenly. The parts, with no less than Reserve
// for every seat, must not be more than Of together, and all be of nodes that
// are Seated.
type ShareOp struct {
	Key       string
	IfVersion uint64
	Drop      bool // nothing below is looked at
	Kind      uint8
	Of        uint32
	Parts     []Part
}

// BudgetOps gives parts of budgets away. The window is that of the latest AtMS
// of all BudgetOps so far: time never goes back. Answered with Result.Ops, whose
// Epoch is what was given. Feature level 4.
type BudgetOps struct {
	AtMS   int64
	Grants []BudgetGrant // at most MaxOps
}

// BudgetGrant gives the process Session of Node N more of a budget, or what is
// left of it.
type BudgetGrant struct {
	Key     string
	PerS    uint32 // length of the window in seconds
	Amount  uint64 // of the whole budget, a window
	Node    string
	Session Session
	N       uint64
}

// Budget is what was given of a budget in one window. Parts is by node, and is
// never written again.
type Budget struct {
	Key     string
	PerS    uint32
	Window  uint64 // number of the window since 1970
	Granted uint64 // in all, also to processes that are no more
	Parts   []BudgetPart
}

// BudgetPart is what was given to the newest process of a node.
type BudgetPart struct {
	Node    string
	Session Session
	Granted uint64
}

// EndsMS is when the window ends, as Unix time in milliseconds.
func (b *Budget) EndsMS() int64 { return int64(b.Window+1) * int64(b.PerS) * 1000 }

// Limits is all that the State holds about limits, as a snapshot tells it.
type Limits struct {
	Reign     uint64
	Version   uint64 // of the last change
	Roster    Roster
	Divisions []Division // by key
	ClockMS   int64      // latest AtMS of a BudgetOps
	Budgets   []Budget   // by key
}

// ValidLimitKey says whether a text may be a key.
func ValidLimitKey(key string) bool {
	return key != "" && len(key) <= MaxLimitKey && utf8.ValidString(key)
}

// LeaderOnly implements Command.
func (ShareOps) LeaderOnly() bool { return true }

// LeaderOnly implements Command.
func (BudgetOps) LeaderOnly() bool { return true }
