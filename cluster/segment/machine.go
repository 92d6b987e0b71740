package segment

import (
	"errors"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// Machine is the protocol of one node. See the package comment.
type Machine struct {
	cfg Config
	now time.Duration
	out []Action // of the running Step; reused
}

// ErrConfig is wrapped by what New refuses.
var ErrConfig = errors.New("segment: not a configuration")

// New returns the machine of a process that has just started. It does nothing
// until it was told its session and has applied it.
func New(cfg Config) (*Machine, error) {
	if cfg.Self.Node == "" {
		return nil, ErrConfig
	}
	return &Machine{cfg: cfg}, nil
}

// Step takes one event and returns what to do about it. The slice is valid
// until the next call.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	m.now, m.out = now, m.out[:0]
	return m.out
}

// Holds says whether this node has a valid lease: without one no 250 is sent
// and no delivery started.
func (m *Machine) Holds(now time.Duration) bool { return now < m.LeaseUntil() }

// LeaseUntil is when the lease ends, on the clock of Step. It only grows,
// except that DropLease ends it.
func (m *Machine) LeaseUntil() time.Duration { return 0 }

// Delivers says whether this node may deliver from a segment now: to be asked
// when an attempt starts, before the final dot, and before a connection is
// used again.
func (m *Machine) Delivers(now time.Duration, id fsm.SegmentID) bool { return false }

// Pick names an own OPEN segment for a new message, another one each time.
// Arrived must follow, once, when the message will append no more to it.
func (m *Machine) Pick(now time.Duration) (fsm.SegmentID, fsm.Epoch, bool) { return 0, 0, false }

// Status counts what this node has to do with, for figures and for drain.
type Status struct {
	Active     bool // registered, and the floor applied
	Owned      int  // segments this node owns
	OwnedOpen  int
	Recovering int // of them, being taken over
	Member     int // segments of others it is a member of
	Held       int // segments it has data of, members or not
	Unders     int // owned segments with fewer healthy members than wanted
}

// Status returns the counts.
func (m *Machine) Status() Status { return Status{} }
