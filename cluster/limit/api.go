package limit

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	limits "github.com/clrelay/clrelay/internal/limit"
)

// Times and bounds.
const (
	// LeaseFor is how long a node may use its part after it sent the report that
	// the leader answered, by its own clock, which goes on in suspend.
	LeaseFor = 4 * time.Second
	// Silent is after what time without a report a node has no lease any more,
	// by the leader's clock. The difference to LeaseFor is for clocks that are
	// not equally fast.
	Silent = 5 * time.Second
	// ReportEvery is how often a node reports, if nothing presses: twice as
	// often while it has demands.
	ReportEvery = time.Second
	// RoundEvery is how often the leader decides.
	RoundEvery = 200 * time.Millisecond
	// Turn is how long a node keeps a unit of a key that has fewer than there are
	// nodes that wait for one.
	Turn = 5 * time.Second
	// EvenAfter is how long the even division must have been enough for all
	// before a key goes back to it.
	EvenAfter = time.Minute
	// MaxDemands is how many demands a report has.
	MaxDemands = 4000

	claimEvery = 500 * time.Millisecond // between claims that fail
	sameOf     = 2 * time.Second        // for how long nodes agree about a new number of units before it counts
	seatAgain  = 2 * time.Second        // after a roster for which there was no room
	retryAfter = 10 * time.Second       // for a key that was refused
	scanRound  = 500                    // keys that nobody asks for, looked at a round
	opsOctets  = 512 << 10              // of the operations of one entry
)

// Rules names rules that the tests take out. Production never sets any.
type Rules uint32

// The rules that can be taken out.
const (
	GrowAfterAck  Rules = 1 << iota // what was taken away is given on once the node told that it does not use it
	WaitSilent                      // a node that says nothing is waited for until its lease has run out
	OwnReign                        // a new leader trusts nothing that it has not heard itself
	AnswerIndex                     // a node that was silent uses its part once it has applied what was decided meanwhile
	NoLeaseUnsure                   // a node gets no lease while an entry is under way that takes it for silent
	OpenCounts                      // connections that are open count until they end
)

// Config is what a machine is made of.
type Config struct {
	Without Rules
}

// Event is something that happened; events are pointers, so that the driver
// can reuse them.
type Event interface{ event() }

// The events.
type (
	// Leading: this node leads, and has applied all that was decided before.
	Leading struct{}

	// Following: it does not any more.
	Following struct{}

	// Nodes are all nodes as the log has them, with the feature level. It is
	// told when they may have changed, and before Leading.
	Nodes struct {
		Level uint32
		Nodes []fsm.Node
	}

	// Claimed: an ActClaim was carried out. Index is that of its entry, Limits
	// what is applied with it, or after it.
	Claimed struct {
		ID           uint64
		Reign, Index uint64
		Limits       fsm.Limits
	}

	// Failed: it was refused, or its outcome is not known.
	Failed struct{ ID uint64 }

	// Proposed is what came of an ActPropose: with Known false nothing is known
	// of it. Roster is the present one, read after it was applied.
	Proposed struct {
		ID     uint64
		Known  bool
		Index  uint64
		Result fsm.Result
		Roster fsm.Roster
	}

	// Granted is what came of an ActGrant.
	Granted struct {
		ID     uint64
		Known  bool
		Index  uint64
		Result fsm.Result
	}

	// Heard is a report that came in. It is told only when, after the report
	// came, a majority has confirmed that this node leads. It is answered by an
	// ActAnswer among the actions of the same step.
	Heard struct {
		Node   string
		Report Report
	}

	// Tick comes every 50 ms or so. Wall is the time of day.
	Tick struct{ Wall time.Time }
)

func (*Leading) event()   {}
func (*Following) event() {}
func (*Nodes) event()     {}
func (*Claimed) event()   {}
func (*Failed) event()    {}
func (*Proposed) event()  {}
func (*Granted) event()   {}
func (*Heard) event()     {}
func (*Tick) event()      {}

// Report is what a node tells the leader.
type Report struct {
	Session  fsm.Session
	Applied  uint64 // index of the last entry whose shares are in force
	Number   uint64 // rising within the session
	Complete bool   // Demands names every key that it has to
	Demands  []limits.Demand
}

// Answer is what the leader answers. With Leased the node may use its part,
// once it has applied Index, until LeaseFor after it sent the report.
type Answer struct {
	Leased bool
	Index  uint64
}

// ActionKind says what an Action asks for.
type ActionKind uint8

// The actions.
const (
	// ActClaim proposes a claim in place of the present reign; comes back as
	// Claimed or Failed. No proposal may be handed on to another node.
	ActClaim ActionKind = 1 + iota
	// ActPropose proposes Shares; comes back as Proposed.
	ActPropose
	// ActGrant proposes Budgets; comes back as Granted.
	ActGrant
	// ActAnswer answers the report of the step.
	ActAnswer
)

// Action is something the driver has to do. What it holds is the driver's. ID is
// what the event that tells of its outcome has to bear.
type Action struct {
	Kind    ActionKind
	ID      uint64
	Shares  fsm.ShareOps
	Budgets fsm.BudgetOps
	Answer  Answer
}

// Status is what the leader knows of a key, for operators.
type Status struct {
	Key   limits.Key
	Kind  limits.Kind
	Of    uint32
	Even  bool // it is divided evenly
	Nodes []NodeStatus
}

// NodeStatus is one node's part of a key.
type NodeStatus struct {
	Node   string
	Units  uint32 // it was given
	Want   uint32 // as it last said
	Used   uint32 // connections, likewise
	Leased bool   // it was heard in the last Silent; if not it has the floor
}
