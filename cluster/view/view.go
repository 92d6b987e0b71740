// Package view is what Raft has decided, as a node has applied it, and what has
// changed of it since somebody looked.
package view

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// View is the holder of the fsm.State. Raft's goroutine writes it; everybody reads
// it.
type View struct {
	fatal func(error)
	wake  chan struct{} // has room for one: something was applied

	mu      sync.RWMutex
	state   *fsm.State
	touched map[fsm.SegmentID]struct{} // since the last take
	nodes   map[string]struct{}
	full    bool
	cluster bool
	limits  map[string]struct{} // keys touched since the last Limits
	anew    bool                // all of them may have been
	wakes   chan struct{}       // has room for one: as wake, for who follows limits

	// Ledger is told that there may be new ones; it must not block. It is set
	// before anything is applied.
	Ledger func(audits, records bool)
}

// New makes one of a cluster that has not decided anything yet. fatal is called
// when the process must end.
func New(fatal func(error)) *View {
	return &View{
		fatal: fatal, wake: make(chan struct{}, 1), state: fsm.New(),
		touched: map[fsm.SegmentID]struct{}{}, nodes: map[string]struct{}{}, full: true,
		limits: map[string]struct{}{}, anew: true, wakes: make(chan struct{}, 1),
		Ledger: func(bool, bool) {},
	}
}

// Apply is of raftnode.FSM.
func (v *View) Apply(index uint64, data []byte) any {
	v.mu.Lock()
	res := v.state.Apply(index, data)
	for _, id := range res.Segments {
		v.touched[id] = struct{}{}
	}
	for _, name := range res.Nodes {
		v.nodes[name] = struct{}{}
	}
	for _, key := range res.Limits {
		v.limits[key] = struct{}{}
	}
	v.full = v.full || res.All
	v.cluster = v.cluster || res.Cluster || res.All
	v.mu.Unlock()
	if res.Audit.Sequence > 0 || res.Records {
		v.Ledger(res.Audit.Sequence > 0, res.Records)
	}
	if res.Fatal {
		v.fatal(fmt.Errorf("cluster: entry %d of the log is of a newer version of clrelay: %s", index, res.Text))
	}
	v.kick()
	return res
}

// Snapshot is of raftnode.FSM.
func (v *View) Snapshot() []byte { return v.Capture()() }

// Capture is of raftnode's store: a large state is written down while the log
// goes on.
func (v *View) Capture() func() []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.Capture()
}

// Restore is of raftnode.FSM. A snapshot of a newer program ends the process
// here: the library would take it for a damaged one and try an older one.
func (v *View) Restore(data []byte) error {
	err := v.restore(data)
	v.Ledger(true, true)
	if errors.Is(err, fsm.ErrTooNew) {
		v.fatal(err)
	}
	return err
}

func (v *View) restore(data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.Restore(data); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	v.full, v.cluster, v.anew = true, true, true
	v.kick()
	return nil
}

// News is what was applied since the last time.
type News struct {
	Index     uint64
	Full      bool
	Segments  []fsm.Segment
	Gone      []fsm.SegmentID
	Off       []fsm.SegmentID // of those gone, or with full of all: written off
	Nodes     []fsm.Node
	Settings  fsm.Settings
	Forgetful bool
	Cluster   bool // the configuration, the settings or the level may have changed
}

// Take gives what was applied since the last call.
func (v *View) Take() News {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := News{
		Index: v.state.Applied(), Full: v.full, Settings: v.state.Settings(),
		Forgetful: !v.state.InventoryMissing(), Cluster: v.cluster,
	}
	if v.full {
		n.Segments, n.Off, n.Nodes = v.state.Segments(), v.state.AllWrittenOff(), v.state.Nodes()
	} else {
		for id := range v.touched {
			if g, ok := v.state.Segment(id); ok {
				n.Segments = append(n.Segments, g)
			} else {
				n.Gone = append(n.Gone, id)
				if v.state.WrittenOff(id) {
					n.Off = append(n.Off, id)
				}
			}
		}
		for name := range v.nodes {
			if node, ok := v.state.Node(name); ok {
				n.Nodes = append(n.Nodes, node)
			}
		}
		slices.SortFunc(n.Segments, func(a, b fsm.Segment) int { return cmp.Compare(a.ID, b.ID) })
		slices.Sort(n.Gone)
		slices.Sort(n.Off)
		slices.SortFunc(n.Nodes, func(a, b fsm.Node) int { return cmp.Compare(a.Name, b.Name) })
	}
	clear(v.touched)
	clear(v.nodes)
	v.full, v.cluster = false, false
	return n
}

// Read calls f with the state, which must not be kept.
func (v *View) Read(f func(*fsm.State)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f(v.state)
}

// All has the next Take give everything.
func (v *View) All() {
	v.mu.Lock()
	v.full, v.cluster, v.anew = true, true, true
	v.mu.Unlock()
	v.kick()
}

// Wake is sent something when something was applied.
func (v *View) Wake() <-chan struct{} { return v.wake }

// LimitsWake is likewise, for who calls Limits.
func (v *View) LimitsWake() <-chan struct{} { return v.wakes }

// Limits calls f with the state, which must not be kept, and the keys of limits
// that were touched since the last call; with full these may have been all.
func (v *View) Limits(f func(s *fsm.State, touched []string, full bool)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.state, slices.Sorted(maps.Keys(v.limits)), v.anew)
	clear(v.limits)
	v.anew = false
}

// kick wakes those who follow what is applied.
func (v *View) kick() {
	for _, c := range []chan struct{}{v.wake, v.wakes} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
