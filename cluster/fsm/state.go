package fsm

import (
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/cluster/fsm/records"
	"github.com/clrelay/clrelay/cluster/fsm/shares"
	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
)

// FirstGeneration is that of a cluster that was never recovered or restored.
const FirstGeneration = 1

const (
	firstGeneration = FirstGeneration
	maxSessionN     = 1<<24 - 1
	keepNonces      = 8
)

// State is what the cluster has decided. The zero value is of no use: New
// makes one. It is not safe for concurrent use.
type State struct {
	applied    uint64
	known      uint32 // KnownLevel, but in tests
	level      uint32
	generation uint32
	lastN      uint32 // number of the last session given in this generation
	settings   Settings
	configs    []Config // oldest first
	nodes      map[string]*node
	sessions   map[Session]*node // the newest session of each node that may act
	segments   map[SegmentID]*Segment
	writtenOff map[SegmentID]*Segment // as they were, for the disk that turns up
	records    records.Table
	audit      audit.Chain
	shares     shares.Table
	suppressed *suppressed.Table // the same one as long as the State lives

	// Counted anew when a node changes.
	missing int // nodes that owe an inventory
	copies  int // State.Copies
	alive   int // nodes that may take new copies
}

// node is a Node and what readers do not need.
type node struct {
	Node
	nonces    [][16]byte // of its Registers, the last one the present session's
	removedAt uint64
	held      map[SegmentID]struct{} // segments it is a member of, with any store
	owned     map[StoreID]counts
}

type counts struct{ all, open int }

// DefaultSettings returns what a new cluster starts with.
func DefaultSettings() Settings {
	return Settings{
		Version: 1, Copies: 2, G: 5 * time.Second,
		RereplicateAfter: time.Minute, UncleanAfter: 10 * time.Minute,
	}
}

// New returns the state of a cluster that has not decided anything yet.
func New() *State {
	return &State{
		known: KnownLevel, copies: 1, level: firstLevel, generation: firstGeneration,
		settings: DefaultSettings(),
		nodes:    map[string]*node{},
		sessions: map[Session]*node{},
		segments: map[SegmentID]*Segment{}, writtenOff: map[SegmentID]*Segment{}, suppressed: suppressed.New(),
	}
}

// current returns the node whose present identity is r, if data may be trusted
// to it: known by this store, not removed, not lost.
func (s *State) current(r Ref) (*node, bool) {
	n := s.nodes[r.Node]
	if n == nil || n.Store != r.Store || n.State == Removed || n.Lost {
		return nil, false
	}
	return n, true
}

// lost says whether no store that data may be trusted to has a copy.
func (s *State) lost(g *Segment) bool { return !slices.ContainsFunc(g.Members, s.Current) }

// insert adds a new record.
func (s *State) insert(g *Segment) {
	s.segments[g.ID] = g
	for _, m := range g.Members {
		s.hold(m, g.ID)
	}
	s.count(g, 1)
}

// remove takes a record out.
func (s *State) remove(g *Segment) {
	delete(s.segments, g.ID)
	s.count(g, -1)
	members := g.Members
	g.Members = nil
	for _, m := range members {
		s.release(m, g)
	}
}

func (s *State) hold(m Ref, id SegmentID) {
	if n := s.nodes[m.Node]; n != nil {
		n.held[id] = struct{}{}
	}
}

// release forgets that m holds g, unless another store of the same node does.
func (s *State) release(m Ref, g *Segment) {
	n := s.nodes[m.Node]
	if n == nil || slices.ContainsFunc(g.Members, func(r Ref) bool { return r.Node == m.Node }) {
		return
	}
	delete(n.held, g.ID)
}

// count adds d to the owner's counts. It is called with -1 before a change of
// owner or state and with 1 after it.
func (s *State) count(g *Segment, d int) {
	n := s.nodes[g.Owner.Node]
	if n == nil {
		return
	}
	c := n.owned[g.Owner.Store]
	c.all += d
	if g.State == Open {
		c.open += d
	}
	if c.all > 0 {
		n.owned[g.Owner.Store] = c
		return
	}
	delete(n.owned, g.Owner.Store)
}

// prune forgets former stores that own nothing any more.
func (n *node) prune() {
	n.Former = slices.DeleteFunc(slices.Clone(n.Former), func(f Former) bool { return n.owned[f.Store].all == 0 })
	if len(n.Former) == 0 {
		n.Former = nil
	}
}

// recount counts anew what a change of a node or of the settings may change.
func (s *State) recount() {
	in := 0
	s.missing, s.alive = 0, 0
	for _, n := range s.nodes {
		if n.State != Removed {
			in++
		}
		if n.State == Removed || n.Lost {
			continue
		}
		if !n.Inventoried {
			s.missing++
		}
		if n.State == Alive {
			s.alive++
		}
	}
	s.copies = 1
	if in > 2 {
		s.copies = min(s.settings.Copies, in)
	}
}
