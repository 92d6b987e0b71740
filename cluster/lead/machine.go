package lead

import (
	"cmp"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// Machine counts since when nodes have been silent, and, while its node leads,
// renews and reassigns. Not safe for concurrent use.
type Machine struct {
	cfg      Config
	now      time.Duration
	ticked   time.Duration
	index    uint64
	settings fsm.Settings
	nodes    map[string]*node
	names    []string // of nodes, sorted
	segs     map[fsm.SegmentID]*seg
	list     []*seg // of segs, in an order that depends on events alone
	owned    map[string]int

	leading   bool
	barred    bool
	term      uint64
	barAt     time.Duration // when the barrier is asked for again
	listening time.Duration // nobody is called silent before
	renewAt   time.Duration
	assignAt  time.Duration
	out       []Action
}

// node is what is known of one node of the cluster.
type node struct {
	fsm.Node
	at      time.Duration          // when its Lease.Renewed was applied here
	waitsAt time.Duration          // when Waits was, or a later moment
	former  map[fsm.StoreID]former // the same of its former stores
	heardAt time.Duration          // of the newest beacon of the present session
	beacon  uint64                 // its number
	heard   bool                   // there was one
}

type former struct {
	renewed uint64
	at      time.Duration
}

// seg is what is known of one segment.
type seg struct {
	rec     fsm.Segment
	pos     int
	since   time.Duration // when the present epoch was applied here
	asked   time.Duration // when a Reassign was proposed at this epoch; 0: not yet
	noFresh time.Duration // since when it has been waiting for a fresh member; 0: it has not
}

// maxBatches bounds what is proposed in one step.
const maxBatches = 4

// New returns the machine of a process that has just started.
func New(cfg Config) (*Machine, error) {
	return &Machine{
		cfg:   cfg,
		nodes: map[string]*node{},
		segs:  map[fsm.SegmentID]*seg{},
		owned: map[string]int{},
	}, nil
}

// Step takes one event and returns what to do about it. now is CLOCK_BOOTTIME;
// the slice is valid until the next call.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	clear(m.out)
	m.now, m.out = max(now, m.now), m.out[:0]
	switch ev := ev.(type) {
	case *Applied:
		m.applied(ev)
	case *Leading:
		m.leading, m.barred, m.term = true, false, ev.Term
		m.barAt, m.listening = m.now, m.now+HearFirst
	case *Following:
		m.leading, m.barred = false, false
	case *Barred:
		m.barred = m.barred || m.leading && ev.Term == m.term
	case *Beacon:
		m.beacon(ev)
	case *Tick:
		m.tick()
	}
	return m.out
}

func (m *Machine) applied(ev *Applied) {
	if ev.Index < m.index {
		return
	}
	m.index, m.settings = ev.Index, ev.Settings
	for i := range ev.Nodes {
		m.node(&ev.Nodes[i])
	}
	for i := range ev.Segments {
		m.segment(&ev.Segments[i])
	}
	if !ev.Full {
		for _, id := range ev.Gone {
			m.gone(id)
		}
		return
	}
	there := make(map[fsm.SegmentID]bool, len(ev.Segments))
	for i := range ev.Segments {
		there[ev.Segments[i].ID] = true
	}
	for _, s := range slices.Clone(m.list) {
		if !there[s.rec.ID] {
			m.gone(s.rec.ID)
		}
	}
}

func (m *Machine) node(rec *fsm.Node) {
	n := m.nodes[rec.Name]
	if n == nil {
		n = &node{at: m.now, former: map[fsm.StoreID]former{}}
		m.nodes[rec.Name] = n
		at, _ := slices.BinarySearch(m.names, rec.Name)
		m.names = slices.Insert(m.names, at, rec.Name)
		n.waitsAt = m.now
	}
	old := n.Node
	if rec.Waits != old.Waits {
		n.waitsAt = m.now
		if rec.Waits == old.Lease.Renewed && old.Lease.Renewed != 0 {
			n.waitsAt = n.at
		}
	}
	for _, f := range rec.Former {
		k, ok := n.former[f.Store]
		if !ok || k.renewed != f.Lease.Renewed {
			k = former{f.Lease.Renewed, m.now}
			if f.Store == old.Store && f.Lease.Renewed == old.Lease.Renewed {
				k.at = n.at
			}
			n.former[f.Store] = k
		}
	}
	for store := range n.former {
		if !slices.ContainsFunc(rec.Former, func(f fsm.Former) bool { return f.Store == store }) {
			delete(n.former, store)
		}
	}
	if rec.Lease.Renewed != old.Lease.Renewed {
		n.at = m.now
	}
	if rec.Lease.Session != old.Lease.Session {
		n.heard, n.beacon = false, 0
	}
	n.Node = *rec
}

func (m *Machine) segment(rec *fsm.Segment) {
	s := m.segs[rec.ID]
	if s == nil {
		s = &seg{pos: len(m.list)}
		m.segs[rec.ID] = s
		m.list = append(m.list, s)
	} else {
		if rec.Epoch <= s.rec.Epoch {
			return
		}
		m.owned[s.rec.Owner.Node]--
	}
	m.owned[rec.Owner.Node]++
	s.rec, s.since, s.asked, s.noFresh = *rec, m.now, 0, 0
}

func (m *Machine) gone(id fsm.SegmentID) {
	s := m.segs[id]
	if s == nil {
		return
	}
	m.owned[s.rec.Owner.Node]--
	delete(m.segs, id)
	last := len(m.list) - 1
	m.list[s.pos] = m.list[last]
	m.list[s.pos].pos = s.pos
	m.list[last] = nil
	m.list = m.list[:last]
}

// beacon notes that a node is there. Only the process that is the node's
// present one counts.
func (m *Machine) beacon(ev *Beacon) {
	n := m.nodes[ev.Node]
	if n == nil || ev.Session == 0 || n.Lease.Session != ev.Session || n.heard && ev.Number <= n.beacon {
		return
	}
	n.heard, n.heardAt, n.beacon = true, m.now, ev.Number
}

func (m *Machine) tick() {
	if m.now-m.ticked > PausedAfter {
		// The process was stopped: others may have renewed meanwhile, and the
		// beacons of the last second are still to come in.
		m.listening = m.now + HearFirst
	}
	m.ticked = m.now
	if !m.leading {
		return
	}
	if !m.barred && m.now >= m.barAt {
		m.barAt = m.now + ProposeEvery
		m.out = append(m.out, Action{Kind: ActBarrier, Term: m.term})
	}
	if m.now >= m.renewAt {
		m.renewAt = m.now + RenewEvery
		m.renew()
	}
	ready := m.barred || m.cfg.Without&BarrierFirst != 0
	if ready && m.now >= m.listening && m.now >= m.assignAt {
		m.assignAt = m.now + ProposeEvery/5
		m.reassign()
	}
}

// renew proposes one entry with the newest beacon of every node that was heard
// since its last renewal.
func (m *Machine) renew() {
	var list []fsm.Renewal
	for _, name := range m.names {
		n := m.nodes[name]
		if !n.heard || n.beacon <= n.Lease.Beacon || n.State == fsm.Removed || n.Lost || len(list) == fsm.MaxOps {
			continue
		}
		if n.Waits != 0 && m.now-n.waitsAt < n.WaitsG && m.cfg.Without&WaitsG == 0 {
			continue // an older process of the node may still deliver
		}
		list = append(list, fsm.Renewal{Node: name, Session: n.Lease.Session, Beacon: n.beacon})
	}
	if len(list) > 0 {
		m.out = append(m.out, Action{Kind: ActRenew, Term: m.term, Renewals: list})
	}
}

// reassign gives away the segments of nodes that have been silent for G, and
// takeovers that do not end.
func (m *Machine) reassign() {
	silent := map[fsm.Ref]bool{}
	var ops []fsm.SegmentOp
	for _, s := range m.list {
		owner := s.rec.Owner
		quiet, ok := silent[owner]
		if !ok {
			quiet = m.silent(owner)
			silent[owner] = quiet
		}
		if !m.due(s, quiet) || s.asked != 0 && m.now-s.asked < ProposeEvery {
			continue
		}
		to, unclean, ok := m.heir(s)
		if !ok {
			continue
		}
		_, lease := m.leaseOf(owner)
		s.asked = max(m.now, 1)
		ops = append(ops, fsm.SegmentOp{
			Kind: fsm.OpReassign, ID: s.rec.ID, Epoch: s.rec.Epoch, Member: to,
			Silent: lease.Session, Renewed: lease.Renewed, Unclean: unclean,
		})
		m.owned[to.Node]++ // so that the next goes elsewhere
		if len(ops) == fsm.MaxOps*maxBatches {
			break
		}
	}
	for i := range ops {
		m.owned[ops[i].Member.Node]--
	}
	for len(ops) > 0 {
		n := min(len(ops), fsm.MaxOps)
		m.out = append(m.out, Action{Kind: ActPropose, Term: m.term, Ops: ops[:n:n]})
		ops = ops[n:]
	}
}

// due says whether the segment is to get another owner.
func (m *Machine) due(s *seg, quiet bool) bool {
	if s.rec.State != fsm.Recovering {
		return quiet
	}
	// Whoever owned it before may deliver until G after it became RECOVERING.
	wait := m.settings.G
	for _, name := range m.names {
		wait = max(wait, m.nodes[name].Lease.G)
	}
	if m.cfg.Without&WaitG != 0 {
		wait = 0
	}
	if !quiet {
		wait = max(wait, OtherAfter)
	}
	return m.now-s.since >= wait
}

// leaseOf returns what the log says about a store's lease, and when the last
// renewal was applied here.
func (m *Machine) leaseOf(r fsm.Ref) (time.Duration, fsm.Lease) {
	n := m.nodes[r.Node]
	if n == nil {
		return m.now, fsm.Lease{}
	}
	if n.Store == r.Store {
		return n.at, n.Lease
	}
	for _, f := range n.Former {
		if f.Store == r.Store {
			return n.former[r.Store].at, f.Lease
		}
	}
	return m.now, fsm.Lease{}
}

// silent says whether whoever delivers under r cannot have a lease any more.
func (m *Machine) silent(r fsm.Ref) bool {
	n := m.nodes[r.Node]
	if n == nil {
		return false
	}
	at, lease := m.leaseOf(r)
	if m.cfg.Without&WaitG == 0 && m.now-at < max(lease.G, fsm.MinG) {
		return false
	}
	return !m.live(r)
}

// live says whether a node was heard just now.
func (m *Machine) live(r fsm.Ref) bool {
	n := m.nodes[r.Node]
	return n != nil && n.Store == r.Store && n.heard && m.now-n.heardAt < HeardWithin && n.State != fsm.Removed && !n.Lost
}

// heir finds the member that takes the segment over: a live fresh one, rather
// one that is not draining, with the fewest segments. A stale one only when no
// fresh one can come back, or none has for a long time.
func (m *Machine) heir(s *seg) (to fsm.Ref, unclean, ok bool) {
	var fresh, stale []fsm.Ref
	coming := false // a fresh member's store still exists
	for _, r := range s.rec.Members {
		if !s.rec.IsStale(r) {
			coming = coming || m.exists(r)
		}
		if r == s.rec.Owner || !m.live(r) {
			continue
		}
		if s.rec.IsStale(r) {
			stale = append(stale, r)
		} else {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) > 0 {
		s.noFresh = 0
		return slices.MinFunc(fresh, m.compare), false, true
	}
	if len(stale) == 0 || s.rec.State == fsm.Recovering && m.live(s.rec.Owner) {
		return fsm.Ref{}, false, false
	}
	if s.noFresh == 0 {
		s.noFresh = max(m.now, 1)
	}
	if coming && m.now-s.noFresh < m.settings.UncleanAfter {
		return fsm.Ref{}, false, false
	}
	return slices.MinFunc(stale, m.compare), true, true
}

// exists says whether a store may come back.
func (m *Machine) exists(r fsm.Ref) bool {
	n := m.nodes[r.Node]
	return n != nil && n.Store == r.Store && n.State != fsm.Removed && !n.Lost
}

func (m *Machine) compare(a, b fsm.Ref) int {
	da, db := m.nodes[a.Node].State != fsm.Alive, m.nodes[b.Node].State != fsm.Alive
	if da != db {
		if da {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(m.owned[a.Node], m.owned[b.Node]), cmp.Compare(a.Node, b.Node))
}
