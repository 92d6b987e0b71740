package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// view is what Raft has decided, as this node has applied it: the holder of
// the fsm.State. Raft's goroutine writes it; everybody reads it.
type view struct {
	fatal func(error)
	wake  chan struct{} // has room for one: something was applied

	mu      sync.RWMutex
	state   *fsm.State
	touched map[fsm.SegmentID]struct{} // since the last take
	nodes   map[string]struct{}
	full    bool
	cluster bool
	ledger  func(audits, records bool) // told that there may be new ones; must not block
}

func newView(fatal func(error)) *view {
	return &view{
		fatal: fatal, wake: make(chan struct{}, 1), state: fsm.New(),
		touched: map[fsm.SegmentID]struct{}{}, nodes: map[string]struct{}{}, full: true,
		ledger: func(bool, bool) {},
	}
}

// Apply is of raftnode.FSM.
func (v *view) Apply(index uint64, data []byte) any {
	v.mu.Lock()
	res := v.state.Apply(index, data)
	for _, id := range res.Segments {
		v.touched[id] = struct{}{}
	}
	for _, name := range res.Nodes {
		v.nodes[name] = struct{}{}
	}
	v.full = v.full || res.All
	v.cluster = v.cluster || res.Cluster || res.All
	v.mu.Unlock()
	if res.Audit.Sequence > 0 || res.Records {
		v.ledger(res.Audit.Sequence > 0, res.Records)
	}
	if res.Fatal {
		v.fatal(fmt.Errorf("cluster: entry %d of the log is of a newer version of clrelay: %s", index, res.Text))
	}
	kick(v.wake)
	return res
}

// Snapshot is of raftnode.FSM.
func (v *view) Snapshot() []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state.Snapshot()
}

// Restore is of raftnode.FSM. A snapshot of a newer program ends the process
// here: the library would take it for a damaged one and try an older one.
func (v *view) Restore(data []byte) error {
	err := v.restore(data)
	v.ledger(true, true)
	if errors.Is(err, fsm.ErrTooNew) {
		v.fatal(err)
	}
	return err
}

func (v *view) restore(data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.Restore(data); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	v.full, v.cluster = true, true
	kick(v.wake)
	return nil
}

// news is what was applied since the last time.
type news struct {
	index     uint64
	full      bool
	segments  []fsm.Segment
	gone      []fsm.SegmentID
	off       []fsm.SegmentID // of those gone, or with full of all: written off
	nodes     []fsm.Node
	settings  fsm.Settings
	forgetful bool
	cluster   bool // the configuration, the settings or the level may have changed
}

// take gives what was applied since the last call.
func (v *view) take() news {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := news{
		index: v.state.Applied(), full: v.full, settings: v.state.Settings(),
		forgetful: !v.state.InventoryMissing(), cluster: v.cluster,
	}
	if v.full {
		n.segments, n.off, n.nodes = v.state.Segments(), v.state.AllWrittenOff(), v.state.Nodes()
	} else {
		for id := range v.touched {
			if g, ok := v.state.Segment(id); ok {
				n.segments = append(n.segments, g)
			} else {
				n.gone = append(n.gone, id)
				if v.state.WrittenOff(id) {
					n.off = append(n.off, id)
				}
			}
		}
		for name := range v.nodes {
			if node, ok := v.state.Node(name); ok {
				n.nodes = append(n.nodes, node)
			}
		}
		slices.SortFunc(n.segments, func(a, b fsm.Segment) int { return cmp.Compare(a.ID, b.ID) })
		slices.Sort(n.gone)
		slices.Sort(n.off)
		slices.SortFunc(n.nodes, func(a, b fsm.Node) int { return cmp.Compare(a.Name, b.Name) })
	}
	clear(v.touched)
	clear(v.nodes)
	v.full, v.cluster = false, false
	return n
}

// read calls f with the state, which must not be kept.
func (v *view) read(f func(*fsm.State)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f(v.state)
}

// all has the next take give everything.
func (v *view) all() {
	v.mu.Lock()
	v.full, v.cluster = true, true
	v.mu.Unlock()
	kick(v.wake)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
