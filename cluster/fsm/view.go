package fsm

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
)

// Applied returns the index of the last entry applied.
func (s *State) Applied() uint64 { return s.applied }

// Level returns the feature level.
func (s *State) Level() uint32 { return s.level }

// Common returns the highest feature level that every node announces that is
// not removed, whether it runs or not.
func (s *State) Common() uint32 {
	common := uint32(math.MaxUint32)
	for _, n := range s.nodes {
		if n.State != Removed {
			common = min(common, n.Info.Features)
		}
	}
	return common
}

// Generation returns the generation, from 1.
func (s *State) Generation() uint32 { return s.generation }

// Settings returns the settings in force.
func (s *State) Settings() Settings { return s.settings }

// Copies returns how many members a new segment is to have: what the settings
// say, but never more than there are nodes, and 1 while there are fewer than
// three. Two nodes cannot outvote each other: a second copy would only make
// each machine's loss the loss of both.
func (s *State) Copies() int { return s.copies }

// InventoryMissing says that a new generation has begun and not every node has
// told all it holds: nothing may be deleted yet.
func (s *State) InventoryMissing() bool { return s.missing > 0 }

// Config returns the newest version of the configuration; ok is false before
// the first.
func (s *State) Config() (c Config, ok bool) {
	if len(s.configs) == 0 {
		return Config{}, false
	}
	return s.configs[len(s.configs)-1], true
}

// Configs returns the versions kept, oldest first.
func (s *State) Configs() []Config { return slices.Clone(s.configs) }

// Node returns the record of a node.
func (s *State) Node(name string) (Node, bool) {
	n := s.nodes[name]
	if n == nil {
		return Node{}, false
	}
	return n.Node, true
}

// Nodes returns all nodes, removed ones too, sorted by name.
func (s *State) Nodes() []Node {
	out := make([]Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		out = append(out, n.Node)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// NodeOf returns the node whose newest session this is.
func (s *State) NodeOf(session Session) (Node, bool) {
	n := s.sessions[session]
	if n == nil {
		return Node{}, false
	}
	return n.Node, true
}

// LeaseOf returns what the log says about the lease under which r delivers:
// that of the present session, or, of a store that the node had before, that
// of the store's last. This is what a Reassign has to name.
func (s *State) LeaseOf(r Ref) (Lease, bool) {
	n := s.nodes[r.Node]
	if n == nil {
		return Lease{}, false
	}
	if n.Store == r.Store {
		return n.Lease, true
	}
	for _, f := range n.Former {
		if f.Store == r.Store {
			return f.Lease, true
		}
	}
	return Lease{}, false
}

// Nonce returns that of the last process of r that was given a session in this
// generation, if r is its node's present store.
func (s *State) Nonce(r Ref) (nonce [16]byte, ok bool) {
	n := s.nodes[r.Node]
	if n == nil || n.Store != r.Store || len(n.nonces) == 0 {
		return nonce, false
	}
	return n.nonces[len(n.nonces)-1], true
}

// Current says whether r is the present identity of a node that is neither
// removed nor lost.
func (s *State) Current(r Ref) bool {
	_, ok := s.current(r)
	return ok
}

// Segment returns the record of a segment; ok is false if there is none.
func (s *State) Segment(id SegmentID) (g Segment, ok bool) {
	p := s.segments[id]
	if p == nil {
		return Segment{}, false
	}
	return *p, true
}

// Len returns the number of segments.
func (s *State) Len() int { return len(s.segments) }

// Holds returns the number of segments that the node is a member of.
func (s *State) Holds(node string) int {
	if n := s.nodes[node]; n != nil {
		return len(n.held)
	}
	return 0
}

// Owns returns how many segments r owns, and how many of them are OPEN.
func (s *State) Owns(r Ref) (all, open int) {
	if n := s.nodes[r.Node]; n != nil {
		c := n.owned[r.Store]
		return c.all, c.open
	}
	return 0, 0
}

// SegmentsOf returns the segments that the node is a member of with any of its
// stores, as owner or not, sorted by id. The cost grows with their number.
func (s *State) SegmentsOf(node string) []Segment {
	n := s.nodes[node]
	if n == nil {
		return nil
	}
	out := make([]Segment, 0, len(n.held))
	for id := range n.held {
		out = append(out, *s.segments[id])
	}
	slices.SortFunc(out, byID)
	return out
}

// Segments returns all segments sorted by id.
func (s *State) Segments() []Segment {
	out := make([]Segment, 0, len(s.segments))
	for _, g := range s.segments {
		out = append(out, *g)
	}
	slices.SortFunc(out, byID)
	return out
}

// Lost returns the segments of which no member's store is left, sorted by id:
// each was replaced or declared lost, or its node removed. The cost grows with
// the number of all segments.
func (s *State) Lost() (out []Segment) {
	for _, g := range s.segments {
		if s.lost(g) {
			out = append(out, *g)
		}
	}
	slices.SortFunc(out, byID)
	return out
}

// WrittenOff says whether a segment was written off and has not come back.
func (s *State) WrittenOff(id SegmentID) bool { return s.writtenOff[id] != nil }

// AllWrittenOff returns the segments that were, sorted.
func (s *State) AllWrittenOff() []SegmentID { return slices.Sorted(maps.Keys(s.writtenOff)) }

// Record returns one of the operators' records.
func (s *State) Record(key string) (Record, bool) { return s.records.Get(key) }

// Records returns the records whose keys begin with prefix, sorted.
func (s *State) Records(prefix string) []Record { return s.records.List(prefix) }

// Audit returns the place of the last audit entry.
func (s *State) Audit() AuditMark { return s.audit.Head() }

// AuditsAfter returns the audit entries kept that come after number n, the
// oldest first.
func (s *State) AuditsAfter(n uint64) []AuditLine { return s.audit.After(n) }

// Limits returns all that is said about limits. The cost grows with it.
func (s *State) Limits() Limits { return s.shares.Limits() }

// Roster returns among whom limits are divided.
func (s *State) Roster() Roster { return s.shares.Roster() }

// Reign returns the number of the present reign over limits.
func (s *State) Reign() uint64 { return s.shares.Reign() }

// Division returns how a key is divided; ok is false where that is evenly.
func (s *State) Division(key string) (Division, bool) { return s.shares.Division(key) }

// Budget returns what was given of a budget last.
func (s *State) Budget(key string) (Budget, bool) { return s.shares.Budget(key) }

// Suppressed returns the suppression list, which may be read at any time, and
// is the same one after a Restore.
func (s *State) Suppressed() *suppressed.Table { return s.suppressed }

func byID(a, b Segment) int { return cmp.Compare(a.ID, b.ID) }
