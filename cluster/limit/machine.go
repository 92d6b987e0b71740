package limit

import (
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	limits "github.com/clrelay/clrelay/internal/limit"
)

// Machine is the leader's part. It is not safe for concurrent use.
type Machine struct {
	without Rules
	now     time.Duration
	wall    time.Time
	out     []Action
	acts    uint64 // number of the last one

	level   uint32
	nodes   map[string]*node
	names   []string // sorted
	leading bool

	// Of the reign; meaningless without one.
	reign     uint64        // 0: none is this node's
	claiming  uint64        // ID of the claim under way
	claimAt   time.Duration // when to claim again
	claimedAt time.Duration // when it began
	index     uint64        // of the last entry of the reign
	roster    fsm.Roster
	seated    uint64 // index of the entry that made the roster
	keys      map[string]*key
	list      []*key
	hot       []*key
	cursor    int
	roundAt   time.Duration
	seatAt    time.Duration // no other roster before
	flight    *flight       // an entry under way
	budgets   budgets
}

// node is what is known of a node.
type node struct {
	name    string
	rec     fsm.Node
	wanted  bool          // it is to have a seat
	gone    bool          // the operator says that it will not come back
	waitTo  time.Duration // until then an older process of it may have a lease
	heard   time.Duration // of the reign; before the first report, its beginning
	number  uint64        // of the last report of the session
	acked   uint64        // highest index that it told to have in force, in the reign
	silent  bool
	reports uint64 // counted, in the reign
	full    bool   // the last one was complete
	busy    bool   // connections beyond its part, or any at all when it is leaving
	done    bool   // leaving: it uses nothing any more
	// low is the lowest number of seats that it may divide by: of rates, of
	// connections. 0: any.
	low [2]int
	// budgets are the demands for budgets of its last report.
	budgets []limits.Demand
}

// flight is an entry that is under way.
type flight struct {
	id     uint64
	shares fsm.ShareOps
	keys   []*key
	silent map[string]bool // nodes taken for silent
}

// New returns a machine that knows nothing yet.
func New(c Config) *Machine {
	return &Machine{without: c.Without, nodes: map[string]*node{}}
}

// Step takes an event and returns what is to be done, valid until the next call.
// now never goes back.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	m.now, m.out = now, m.out[:0]
	switch ev := ev.(type) {
	case *Leading:
		m.leading, m.claimAt = true, now
		m.end()
		m.claim()
	case *Following:
		m.leading = false
		m.end()
	case *Nodes:
		m.applied(ev)
	case *Claimed:
		m.begin(ev)
	case *Failed:
		if ev.ID == m.claiming {
			m.claiming = 0
		}
	case *Proposed:
		m.proposed(ev)
	case *Granted:
		m.granted(ev)
	case *Heard:
		m.report(ev)
	case *Tick:
		m.wall = ev.Wall
		m.claim()
		m.round()
	}
	return m.out
}

// Leads tells whether this node divides limits.
func (m *Machine) Leads() bool { return m.reign != 0 }

// end forgets the reign.
func (m *Machine) end() {
	m.reign, m.claiming, m.flight = 0, 0, nil
	m.keys, m.list, m.hot, m.cursor = nil, nil, nil, 0
	m.budgets = budgets{}
	m.roster = fsm.Roster{}
}

// claim begins a reign, if there is none.
func (m *Machine) claim() {
	if !m.leading || m.reign != 0 || m.claiming != 0 || m.level < fsm.LimitLevel || m.now < m.claimAt {
		return
	}
	m.claimAt = m.now + claimEvery
	m.claiming = m.act(Action{Kind: ActClaim})
}

// begin is what a claim that counts does: nothing of before is known but what
// the log says.
func (m *Machine) begin(ev *Claimed) {
	if !m.leading || m.claiming == 0 || m.claiming != ev.ID {
		return
	}
	m.end()
	m.reign, m.index, m.seated, m.claimedAt = ev.Reign, ev.Index, ev.Index, m.now
	m.roster = ev.Limits.Roster
	for _, s := range m.roster.Seats {
		if m.nodes[s.Node] == nil { // forgotten since
			m.nodes[s.Node] = &node{name: s.Node, gone: true}
		}
	}
	m.names = slices.Sorted(maps.Keys(m.nodes))
	for _, name := range m.names {
		n := m.nodes[name]
		n.acked, n.silent, n.reports, n.full, n.busy, n.done, n.low, n.budgets = 0, false, 0, false, false, false, [2]int{}, nil
		if m.without&OwnReign == 0 {
			n.heard = m.now
		}
		if n.rec.Waits != 0 {
			n.waitTo = m.now + Silent
		}
	}
	m.keys = make(map[string]*key, len(ev.Limits.Divisions))
	for i := range ev.Limits.Divisions {
		m.load(&ev.Limits.Divisions[i])
	}
	m.budgets.load(ev.Limits.Budgets)
}

// applied takes what the log says of the nodes.
func (m *Machine) applied(ev *Nodes) {
	m.level = ev.Level
	there := make(map[string]bool, len(ev.Nodes))
	for i := range ev.Nodes {
		rec := ev.Nodes[i]
		there[rec.Name] = true
		n := m.nodes[rec.Name]
		if n == nil {
			n = &node{name: rec.Name, rec: rec, heard: m.now}
			if rec.Waits != 0 {
				n.waitTo = m.now + Silent
			}
			m.nodes[rec.Name] = n
		} else if n.rec.Lease.Session != rec.Lease.Session {
			// On the same host the process of before is certainly gone: it had
			// the lock on the disk.
			if !sameHost(&n.rec, &rec) {
				n.waitTo = m.now + Silent
			}
			n.number = 0
		}
		n.rec = rec
		n.gone = rec.State == fsm.Removed || rec.Lost
		n.wanted = !n.gone && rec.State != fsm.Drained
	}
	for name, n := range m.nodes {
		if !there[name] {
			n.wanted, n.gone = false, true
		}
	}
	m.names = slices.Sorted(maps.Keys(m.nodes))
}

func sameHost(a, b *fsm.Node) bool {
	return a.Store == b.Store && a.Info.BootID != "" && a.Info.MachineID != "" && a.Info.BootID == b.Info.BootID && a.Info.MachineID == b.Info.MachineID
}

// report takes what a node told, and answers.
func (m *Machine) report(ev *Heard) {
	n, r := m.nodes[ev.Node], &ev.Report
	if m.reign == 0 || n == nil || r.Session == 0 || r.Session != n.rec.Lease.Session || r.Number <= n.number {
		m.out = append(m.out, Action{Kind: ActAnswer})
		return
	}
	n.number, n.silent, n.heard = r.Number, false, m.now
	n.acked, n.full = max(n.acked, r.Applied), r.Complete
	n.reports++
	m.demands(n, r.Demands)
	m.settleSeats(n)
	for _, k := range m.list {
		if k.loose {
			k.settle(m, n)
		}
	}
	a := Answer{Leased: m.now >= n.waitTo, Index: m.index}
	if m.flight != nil && m.flight.silent[n.name] && m.without&NoLeaseUnsure == 0 {
		a.Leased = false // it may be taken for silent by an entry that it does not know
	}
	if m.without&AnswerIndex != 0 {
		a.Index = 0
	}
	m.out = append(m.out, Action{Kind: ActAnswer, Answer: a})
}

// settleSeats notes whether the node divides by the present number of seats.
func (m *Machine) settleSeats(n *node) {
	if n.acked < m.seated {
		return
	}
	n.low[0] = len(m.roster.Seats)
	if n.full && !n.busy {
		n.low[1] = len(m.roster.Seats)
		if m.roster.Of(n.name) == fsm.Leaving && !n.done {
			n.done = true
			for _, k := range m.list {
				k.settle(m, n)
			}
		}
	}
}

// silence notes which nodes have no lease any more.
func (m *Machine) silence() {
	after := Silent
	if m.without&WaitSilent != 0 {
		after = LeaseFor / 2
	}
	for _, name := range m.names {
		n := m.nodes[name]
		if n.silent || m.now-n.heard < after {
			continue
		}
		n.silent, n.budgets = true, nil
		if m.roster.Founded { // before, it may not know of leases
			n.low = [2]int{len(m.roster.Seats), len(m.roster.Seats)}
		}
		for _, k := range m.list {
			k.settle(m, n)
		}
	}
}

// round decides what is to change.
func (m *Machine) round() {
	if m.reign == 0 || m.now < m.roundAt {
		return
	}
	m.roundAt = m.now + RoundEvery
	m.silence()
	m.grant()
	if m.flight != nil {
		return
	}
	if next := m.seat(); next != nil && m.now >= m.seatAt {
		m.propose(&flight{shares: fsm.ShareOps{Roster: next}})
		return
	}
	if m.roster.Founded {
		m.divide()
	}
}

func (m *Machine) propose(f *flight) {
	f.shares.Reign = m.reign
	f.silent = map[string]bool{}
	for _, name := range m.names {
		if m.nodes[name].silent {
			f.silent[name] = true
		}
	}
	f.id = m.act(Action{Kind: ActPropose, Shares: f.shares})
	m.flight = f
}

// act asks for something, and gives its number.
func (m *Machine) act(a Action) uint64 {
	m.acts++
	a.ID = m.acts
	m.out = append(m.out, a)
	return a.ID
}

// proposed takes the outcome of what was under way. Of one that is not known a
// new reign tells: after its claim the entry is there, or never counts.
func (m *Machine) proposed(ev *Proposed) {
	f := m.flight
	if m.reign == 0 || f == nil || f.id != ev.ID {
		return
	}
	m.flight = nil
	refused := ev.Result.Code != fsm.OK
	if f.shares.Roster != nil && ev.Known && ev.Result.Code == fsm.LimitReached {
		m.heatAll() // a seat more needs room in every division
		m.seatAt = m.now + seatAgain
		return
	}
	if !ev.Known || refused {
		m.end()
		m.claimAt = m.now
		m.claim()
		return
	}
	m.index = ev.Index
	if f.shares.Roster != nil {
		m.reseat(ev)
	}
	for i, k := range f.keys {
		k.flying = false
		if i < len(ev.Result.Ops) {
			m.changed(k, f, i, ev)
		}
	}
}
