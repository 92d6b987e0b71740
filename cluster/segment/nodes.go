package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
)

// Holds says whether this node has a valid lease: without one no 250 is sent
// and no delivery started.
func (m *Machine) Holds(now time.Duration) bool { return now < m.lease.Until() }

// Session returns the session of this process, 0 before it is known.
func (m *Machine) Session() fsm.Session { return m.session }

// beacon sends the next one when it is time.
func (m *Machine) beacon() {
	if m.session == 0 {
		return
	}
	if n, due := m.lease.Beacon(m.now); due {
		m.act(Action{Kind: ActBeacon, Seq: n, Session: m.session})
	}
}

// renewed looks at the record of the own node: a renewal that names this
// process's beacon gives it the lease from the moment it was sent.
func (m *Machine) renewed(n *fsm.Node) {
	if m.session == 0 || n.Lease.Session != m.session || !m.lease.Renewed(n.Lease.Beacon, n.Lease.G) || !m.Holds(m.now) {
		return
	}
	for _, s := range m.open {
		m.release(s)
	}
}

// mayAck says whether a 250 may be sent now.
func (m *Machine) mayAck() bool { return m.Holds(m.now) || m.without(LeaseToAck) }

// silentFor says how far the node's last renewal is behind the newest of all:
// where nobody can renew, nobody is dead.
func (m *Machine) silentFor(n *node) time.Duration { return m.lastRenew - n.renewedAt }

// takesPart says whether the store named is its node's present one and the
// operator wants it to hold copies.
func (m *Machine) takesPart(r fsm.Ref) bool {
	n := m.nodes[r.Node]
	return n != nil && n.Store == r.Store && n.State == fsm.Alive && !n.Lost
}

// healthy says whether a member counts as a copy: it takes part and has not
// been silent for so long that its copies are made anew.
func (m *Machine) healthy(r fsm.Ref) bool {
	return m.takesPart(r) && (r == m.cfg.Self || m.silentFor(m.nodes[r.Node]) < m.settings.RereplicateAfter)
}

// live says whether a node renews its lease like the others.
func (m *Machine) live(r fsm.Ref) bool {
	n := m.nodes[r.Node]
	return n != nil && n.Store == r.Store && m.silentFor(n) < liveWithin
}

// countCopies finds how many members a segment is to have. A cluster of two
// keeps one copy: with two, either node's death would stop both.
func (m *Machine) countCopies() {
	nodes := 0
	for _, n := range m.nodes {
		if n.State != fsm.Removed {
			nodes++
		}
	}
	m.copies = 1
	if nodes = max(nodes, m.cfg.Expect); nodes > 2 {
		m.copies = min(max(m.settings.Copies, 1), nodes)
	}
}
