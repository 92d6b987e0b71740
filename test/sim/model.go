package sim

import (
	"fmt"
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// The explicit-state checker: breadth first through every order of events of a
// small cluster. States are values: a step copies the one node that takes it.
// Two nodes act; a third has a place in the control plane alone, so that two
// copies are wanted.

// Scope bounds what may happen in the states that are looked at.
type Scope struct {
	Name     string
	Messages int
	Crashes  int
	Disks    int // crashes that lose the disk
	Cuts     int // of the stream
	Times    int // steps of the clock, of Stride each
	Early    int // of them, with something under way; else the clock waits
	Stride   time.Duration
	Lost     int  // proposals that are lost
	Late     int  // proposals that overtake others
	Beaten   bool // beacons of node 0 may be lost from some step on
	Results  bool // deliveries happen
	States   int  // at most so many; 0: all
	Without  segment.Rules
	Lead     lead.Rules
}

// budget is what may still happen: part of a state.
type budget struct{ messages, crashes, disks, cuts, times, early, lost, late int }

// mnode is a node of the checker.
type mnode struct {
	m       *segment.Machine // nil: its process is down
	lead    *lead.Machine
	ref     fsm.Ref
	session fsm.Session
	starts  int
	applied int
	mem     image
	disk    image
	waits   []segment.Event // told with the next sync
	next    map[uint64]uint64
	waiting []marrival
	due     map[uint64]map[uint64]int // segment, commit: 0 waits, 1 dot was sent
	owns    map[uint64]bool
	paused  map[uint64]bool
	quiesce map[uint64]uint64 // token of what waits for quiet
	emptied map[uint64]bool
	num     map[uint64]uint64
	results map[numbering]finding
	merges  map[merging]*inventory
	fetches map[merging][]uint64
	silent  bool // its beacons are lost
	inbox   []mevent
	busy    bool
}

// mevent is an event that waits for its turn.
type mevent struct {
	ev segment.Event
	w  *wire
}

// marrival is a message of one record that waits for its 250.
type marrival struct {
	msg    int
	seg    uint64 // 0: to be placed again
	commit uint64
}

// mprop is a proposal on its way.
type mprop struct {
	from int
	data []byte
}

// mentry is an entry of the log and the control plane after it.
type mentry struct {
	data  []byte
	after *fsm.State
	res   fsm.Result
}

// mmsg is the truth of a message.
type mmsg struct {
	acked, settled bool
	seg, commit    uint64
	delivered      int
}

// mstate is one state. Everything in it is shared between states and copied
// before it is written.
type mstate struct {
	sc     *Scope
	nodes  [2]*mnode
	hash   [2]uint64
	flow   [2][]wire // from node 0, from node 1
	linked bool
	log    []mentry
	props  []mprop
	now    time.Duration
	left   budget
	msgs   []mmsg
	stale  bool
	seed   maphash.Seed
	failed string
	parent *mstate
	did    string
}

// fork copies what an action at node i (or none: -1) may write.
func (s *mstate) fork(did string, i int) *mstate {
	n := *s
	n.parent, n.did = s, did
	n.msgs = slices.Clone(s.msgs)
	n.props = slices.Clip(s.props)
	n.log = slices.Clip(s.log)
	n.flow[0], n.flow[1] = slices.Clip(s.flow[0]), slices.Clip(s.flow[1])
	if i >= 0 {
		n.copyNode(i)
	}
	return &n
}

func (s *mstate) copyNode(i int) {
	s.nodes[i] = deepCopy(s.nodes[i])
	s.hash[i] = 0
}

// scrub clears what machines keep for reuse alone: it is no part of the state.
func (n *mnode) scrub() {
	for _, m := range []any{n.m, n.lead} {
		if v := reflect.ValueOf(m).Elem(); v.IsValid() {
			open(v.FieldByName("out")).SetZero()
		}
	}
}

// key is the state's fingerprint.
func (s *mstate) key() uint64 {
	for i := range s.nodes {
		if s.hash[i] == 0 {
			s.nodes[i].scrub()
			s.hash[i] = deepHash(s.seed, *s.nodes[i])
		}
	}
	var log uint64
	for _, e := range s.log {
		log = log*1099511628211 ^ maphash.Bytes(s.seed, e.data)
	}
	return deepHash(s.seed, struct {
		a, b, log uint64
		flow      [2][]wire
		props     []mprop
		linked    bool
		now       time.Duration
		left      budget
		msgs      []mmsg
	}{s.hash[0], s.hash[1], log, s.flow, s.props, s.linked, s.now, s.left, s.msgs})
}

func (s *mstate) fail(format string, args ...any) {
	if s.failed == "" {
		s.failed = fmt.Sprintf(format, args...)
	}
}

func (s *mstate) truth() *fsm.State { return s.log[len(s.log)-1].after }

// history is how the state came about.
func (s *mstate) history() string {
	var lines []string
	for t := s; t != nil && t.did != ""; t = t.parent {
		lines = append(lines, t.did)
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// newModel is the first state: the settings are made, nobody has started.
func newModel(sc *Scope) *mstate {
	s := &mstate{sc: sc, seed: maphash.MakeSeed(), log: []mentry{{after: fsm.New()}}}
	s.left = budget{sc.Messages, sc.Crashes, sc.Disks, sc.Cuts, sc.Times, sc.Early, sc.Lost, sc.Late}
	for i := range s.nodes {
		s.nodes[i] = &mnode{ref: modelRef(i, 0), mem: newImage(), disk: newImage()}
	}
	set := fsm.DefaultSettings()
	set.Version++
	s.commit(encode(fsm.SettingsApply{Settings: set}))
	s.commit(encode(fsm.Register{Node: "n2", Store: fsm.StoreID{2, 2}, Nonce: [16]byte{2}, Info: fsm.NodeInfo{Address: "n2", Features: 1}}))
	return s
}

func modelRef(i, disk int) fsm.Ref {
	return fsm.Ref{Node: fmt.Sprintf("n%d", i), Store: fsm.StoreID{byte(i + 1), byte(disk + 1)}}
}

// commit appends to the log.
func (s *mstate) commit(data []byte) fsm.Result {
	st := fsm.New()
	before := s.truth()
	if err := st.Restore(before.Snapshot()); err != nil {
		s.fail("restore: %v", err)
	}
	res := st.Apply(uint64(len(s.log)), data)
	s.log = append(s.log, mentry{data, st, res})
	for _, id := range res.Segments {
		old, had := before.Segment(id)
		g, has := st.Segment(id)
		s.checkChange(&old, &g, had, has)
	}
	return res
}

func (s *mstate) checkChange(old, g *fsm.Segment, had, has bool) {
	switch {
	case had && !has:
		for _, m := range s.msgs {
			if m.acked && m.seg == uint64(old.ID) && m.delivered == 0 {
				s.fail("I6: %v is gone with a message in it", old.ID)
			}
		}
	case had && g.Owner != old.Owner:
		s.stale = s.stale || old.IsStale(g.Owner)
		for _, n := range s.nodes {
			if n.ref == old.Owner && n.m != nil && n.m.Delivers(s.now, g.ID) {
				s.fail("I4: %v was taken from %v, which may deliver", g.ID, old.Owner)
			}
		}
	case had && old.EndSet && old.End != g.End:
		s.fail("I6: end of %v changed", g.ID)
	}
	if has && !g.IsMember(g.Owner) {
		s.fail("I3: %v is owned by no member", g.ID)
	}
}

// checkAll is I2, I5, I6 for the state as it is.
func (s *mstate) checkAll() {
	for k := range s.msgs {
		m := &s.msgs[k]
		if !m.acked || m.delivered > 0 {
			continue
		}
		g, ok := s.truth().Segment(fsm.SegmentID(m.seg))
		if !ok {
			continue
		}
		if g.EndSet && m.commit > g.End {
			s.fail("I6: message %d at %d is above the end %d", k, m.commit, g.End)
		}
		for _, r := range g.Members {
			n := s.holder(r)
			if n == nil {
				continue
			}
			if !n.disk.holds(&message{seg: m.seg, first: m.commit, commit: m.commit}) {
				s.fail("I2: message %d at %d of %v is not on the disk of %v", k, m.commit, g.ID, r)
			}
			if h := n.disk.segs[m.seg]; h != nil && h.results[m.commit].final {
				s.fail("I6: %v has message %d as finished, which was not delivered", r, k)
			}
		}
	}
	for _, g := range s.truth().Segments() {
		if s.nodes[0].m != nil && s.nodes[1].m != nil && s.nodes[0].m.Delivers(s.now, g.ID) && s.nodes[1].m.Delivers(s.now, g.ID) {
			s.fail("I5: both nodes may deliver from %v", g.ID)
		}
	}
}

// holder is the node that has the disk r; nil: nobody has it any more.
func (s *mstate) holder(r fsm.Ref) *mnode {
	for _, n := range s.nodes {
		if n.ref == r {
			return n
		}
	}
	return nil
}

// Explored is what a search found.
type Explored struct {
	States, Edges, Depth int
	Complete             bool
	Err                  error
}

// Explore goes through all states of a scope, breadth first.
func Explore(sc Scope) Explored {
	root := newModel(&sc)
	root.opening()
	var out Explored
	if root.failed != "" {
		out.Err = fmt.Errorf("in the opening: %s", root.failed)
		return out
	}
	seen := map[uint64]struct{}{root.key(): {}}
	level := []*mstate{root}
	for len(level) > 0 {
		var next []*mstate
		for _, s := range level {
			for _, t := range s.successors() {
				out.Edges++
				t.checkAll()
				if t.failed != "" {
					out.States = len(seen)
					out.Err = fmt.Errorf("%s\nafter\n%s", t.failed, t.history())
					return out
				}
				k := t.key()
				if _, ok := seen[k]; ok {
					continue
				}
				seen[k] = struct{}{}
				next = append(next, t)
			}
			if sc.States > 0 && len(seen) >= sc.States {
				out.States = len(seen)
				return out
			}
		}
		level = next
		out.Depth++
	}
	out.States, out.Complete = len(seen), true
	return out
}

// underWay is whether anything would go on without the clock.
func (s *mstate) underWay() bool {
	for _, n := range s.nodes {
		if n.m != nil && (n.applied < len(s.log)-1 || len(n.waits) > 0) {
			return true
		}
	}
	return len(s.props)+len(s.flow[0])+len(s.flow[1]) > 0
}

func sortedKeys[V any](m map[uint64]V) []uint64 { return slices.Sorted(maps.Keys(m)) }
