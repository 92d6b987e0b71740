package limit

import (
	"math"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/proto/control"
)

// day is the length of a window that a demand does not name, in seconds.
const day = 86400

// budgets are what is given of budgets.
type budgets struct {
	keys   map[string]*budget
	flight []*budget // of the grants under way
	grants []fsm.BudgetGrant
	id     uint64 // of the action
	swept  uint64 // hour in which windows that are over were forgotten
}

// budget is what was given of one in its window.
type budget struct {
	perS    uint32
	window  uint64
	granted uint64
	// pending is from which index on a node has what it was given last, and may
	// be given more.
	pending map[string]uint64
}

func (b *budgets) load(list []fsm.Budget) {
	b.keys = make(map[string]*budget, len(list))
	for i := range list {
		x := &list[i]
		b.keys[x.Key] = &budget{perS: x.PerS, window: x.Window, granted: x.Granted, pending: map[string]uint64{}}
	}
}

// grant proposes parts of budgets for the nodes that asked for more: smaller
// ones the less is left, so that the last ones do not lie where they are not
// used.
func (m *Machine) grant() {
	if m.budgets.flight != nil || m.wall.IsZero() || m.roster.Version == 0 {
		return
	}
	m.forget()
	b := &m.budgets
	for _, name := range m.names {
		n := m.nodes[name]
		if m.roster.Of(name) != fsm.Seated || m.now < n.waitTo {
			continue
		}
		for _, d := range n.budgets {
			each := max(d.Each, 1)
			g := fsm.BudgetGrant{Key: string(d.Key), PerS: uint32(d.Window.Seconds()), Amount: uint64(d.Units) * each, Node: name, Session: n.rec.Lease.Session}
			if g.PerS == 0 {
				g.PerS = day
			}
			k := m.budgetOf(&g)
			want := uint64(d.Want) * each
			if want == 0 || k.pending[name] > n.acked || k.granted >= g.Amount || len(b.grants) == control.MaxOps {
				continue
			}
			left := g.Amount - k.granted
			g.N = min(max(left/uint64(2*len(m.roster.Seats)), 1), want)
			k.pending[name] = math.MaxUint64
			k.granted += g.N // until the outcome is known
			b.flight, b.grants = append(b.flight, k), append(b.grants, g)
		}
	}
	if b.flight != nil {
		b.id = m.act(Action{Kind: ActGrant, Budgets: fsm.BudgetOps{AtMS: m.wall.UnixMilli(), Grants: b.grants}})
	}
}

// budgetOf gives what was given in the present window.
func (m *Machine) budgetOf(g *fsm.BudgetGrant) *budget {
	k := m.budgets.keys[g.Key]
	if k == nil {
		k = &budget{perS: g.PerS, pending: map[string]uint64{}}
		m.budgets.keys[g.Key] = k
	}
	now := uint64(m.wall.Unix()) / uint64(g.PerS)
	if k.perS != g.PerS || k.window < now {
		k.perS, k.window, k.granted = g.PerS, now, 0 // the table knows better, where the window's length changed
	}
	return k
}

// forget drops the budgets whose windows are over, once an hour.
func (m *Machine) forget() {
	hour := uint64(m.wall.Unix()) / 3600
	if hour == m.budgets.swept {
		return
	}
	m.budgets.swept = hour
	for name, k := range m.budgets.keys {
		if (k.window+1)*uint64(k.perS) <= uint64(m.wall.Unix()) {
			delete(m.budgets.keys, name)
		}
	}
}

// granted takes the outcome of the grants that were under way. Of those whose
// outcome is not known the table knows; a node that got nothing asks again.
func (m *Machine) granted(ev *Granted) {
	if ev.ID != m.budgets.id {
		return
	}
	flight, grants := m.budgets.flight, m.budgets.grants
	m.budgets.flight, m.budgets.grants = nil, nil
	for i, k := range flight {
		k.pending[grants[i].Node] = 0
		if !ev.Known || i >= len(ev.Result.Ops) {
			continue
		}
		out := ev.Result.Ops[i]
		k.granted -= grants[i].N - uint64(out.Epoch)
		if out.Code == fsm.OK {
			k.pending[grants[i].Node] = ev.Index
		} else if out.Code == fsm.LimitReached {
			k.granted = max(k.granted, grants[i].Amount)
		}
	}
}
