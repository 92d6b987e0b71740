package lead

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// Times and bounds.
const (
	RenewEvery   = 500 * time.Millisecond // between entries that renew leases
	HearFirst    = time.Second            // a new leader, or one that was paused, listens before it calls a node silent
	HeardWithin  = time.Second            // whoever sent a beacon in this is not silent
	ProposeEvery = 500 * time.Millisecond // between proposals to reassign
	OtherAfter   = 10 * time.Second       // a takeover not done in this goes to another member
	PausedAfter  = time.Second            // a tick later than this: the process was paused
)

// Rules names rules that the tests take out. Production never sets any.
type Rules uint32

// The rules that can be taken out.
const (
	WaitG        Rules = 1 << iota // a node is silent only G after its last renewal was applied
	BarrierFirst                   // nothing is reassigned before all earlier entries are applied
	WaitsG                         // a new session is not renewed while an older process may hold a lease
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
	// Applied tells what the control plane says at Index: all of it (Full), or
	// what has changed since the last one. It is told on every node.
	Applied struct {
		Index    uint64
		Full     bool
		Segments []fsm.Segment
		Gone     []fsm.SegmentID // unused with Full
		Nodes    []fsm.Node
		Settings fsm.Settings
	}

	// Leading: this node has become leader, in Term.
	Leading struct{ Term uint64 }

	// Following: it is leader no longer.
	Following struct{}

	// Barred: the ActBarrier of Term is done: all entries of earlier terms
	// have been told by Applied.
	Barred struct{ Term uint64 }

	// Beacon: a node sent its beacon.
	Beacon struct {
		Node    string
		Session fsm.Session
		Number  uint64
	}

	// Tick comes every 20 ms or so.
	Tick struct{}
)

func (*Applied) event()   {}
func (*Leading) event()   {}
func (*Following) event() {}
func (*Barred) event()    {}
func (*Beacon) event()    {}
func (*Tick) event()      {}

// ActionKind says what an Action asks for.
type ActionKind uint8

// The actions.
const (
	// ActBarrier asks for a Raft barrier in Term; comes back as Barred. One
	// that fails is asked for again.
	ActBarrier ActionKind = 1 + iota
	// ActRenew proposes Renewals as one command.
	ActRenew
	// ActPropose proposes Ops, at most fsm.MaxOps, as one command. What comes
	// of it is seen in Applied.
	ActPropose
)

// Action is something the driver has to do. The slices are the driver's.
type Action struct {
	Kind     ActionKind
	Term     uint64
	Renewals []fsm.Renewal
	Ops      []fsm.SegmentOp
}
