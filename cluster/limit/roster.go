package limit

import (
	"slices"
	"strings"

	"github.com/clrelay/clrelay/cluster/fsm"
	limits "github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/proto/control"
)

// seat gives the next roster, if it has to change: one seat at a time. A node
// enters in two steps, so that the others divide by one more before it uses
// anything, and leaves in two, so that it uses nothing before they divide by one
// less.
func (m *Machine) seat() *fsm.Roster {
	next := m.roster
	next.Seats = slices.Clone(next.Seats)
	if next.Version == 0 {
		for _, name := range m.names {
			n := m.nodes[name]
			if n.reports == 0 && !n.silent && n.rec.State != fsm.Removed {
				return nil // it is to have a lease by then
			}
			if n.rec.State != fsm.Removed && len(next.Seats) < fsm.MaxSeats {
				next.Seats = append(next.Seats, fsm.Seat{Node: name, State: fsm.Seated})
			}
		}
		return &next
	}
	settled := m.settled()
	for i := range next.Seats {
		s := &next.Seats[i]
		n := m.nodes[s.Node]
		switch {
		case s.State == fsm.Seated && !n.wanted:
			s.State = fsm.Leaving
			return &next
		case s.State == fsm.Leaving && n.wanted:
			s.State = fsm.Seated
			return &next
		case s.State == fsm.Leaving && settled && (n.done || n.silent && n.gone), s.State == fsm.Entering && settled && !n.wanted:
			next.Seats = slices.Delete(next.Seats, i, i+1)
			return &next
		case s.State == fsm.Entering && settled && n.wanted:
			s.State = fsm.Seated
			return &next
		}
	}
	if !next.Founded {
		next.Founded = settled
		if settled {
			return &next
		}
		return nil
	}
	for _, name := range m.names {
		if !m.nodes[name].wanted || m.roster.Of(name) != 0 || len(next.Seats) >= fsm.MaxSeats {
			continue
		}
		if slices.ContainsFunc(m.list, func(k *key) bool { return k.version != 0 && !m.room(k) }) {
			m.heatAll()
			return nil
		}
		next.Seats = append(next.Seats, fsm.Seat{Node: name, State: fsm.Entering})
		slices.SortFunc(next.Seats, func(a, b fsm.Seat) int { return strings.Compare(a.Node, b.Node) })
		return &next
	}
	return nil
}

// settled tells whether every node divides by the present number of seats.
func (m *Machine) settled() bool {
	for _, s := range m.roster.Seats {
		n := m.nodes[s.Node]
		if s.State == fsm.Seated && (n.low[0] != len(m.roster.Seats) || n.low[1] != len(m.roster.Seats)) {
			return false
		}
	}
	return true
}

// coming is for how many seats more there has to be room.
func (m *Machine) coming() (n int) {
	for _, name := range m.names {
		if m.nodes[name].wanted && m.roster.Of(name) == 0 {
			n++
		}
	}
	return min(n, fsm.MaxSeats-min(fsm.MaxSeats, len(m.roster.Seats)))
}

// room tells whether a division leaves room for one seat more.
func (m *Machine) room(k *key) bool {
	least := control.Reserve(k.of)
	sum := uint32(0)
	for i := range k.parts {
		sum += max(k.parts[i].units, least)
	}
	for i := range k.rest {
		sum += k.rest[i].Units
	}
	return m.coming() == 0 || sum+least <= k.of
}

// reseat takes the new roster.
func (m *Machine) reseat(ev *Proposed) {
	was := m.roster
	m.roster, m.seated = ev.Roster, ev.Index
	for _, s := range m.roster.Seats {
		n := m.nodes[s.Node]
		if s.State != was.Of(s.Node) {
			n.done = false
		}
		for i := range n.low {
			if n.low[i] != 0 {
				n.low[i] = min(n.low[i], len(m.roster.Seats))
			}
		}
		if s.State == fsm.Seated && was.Of(s.Node) == fsm.Entering {
			n.low = [2]int{len(m.roster.Seats), len(m.roster.Seats)} // it used nothing before
		}
	}
	for _, k := range slices.Clone(m.list) {
		if k.version == 0 {
			m.drop(k) // somebody asks for it again
			continue
		}
		m.refit(k, &was, ev.Index)
	}
	m.hot = slices.DeleteFunc(m.hot, func(k *key) bool { return k.version == 0 })
}

// refit gives a key the parts of the new roster. What the log says that a node has
// of the key is still so when it has a seat again: nobody can have been given it,
// or the log would say something else.
func (m *Machine) refit(k *key, was *fsm.Roster, index uint64) {
	parts := make([]part, len(m.roster.Seats))
	for i, s := range m.roster.Seats {
		p := part{named: m.now}
		if at := slices.IndexFunc(was.Seats, func(w fsm.Seat) bool { return w.Node == s.Node }); at >= 0 {
			p = k.parts[at]
		} else if at := slices.IndexFunc(k.rest, func(r fsm.Part) bool { return r.Node == s.Node }); at >= 0 {
			p.units = k.rest[at].Units
			k.rest = slices.Delete(k.rest, at, at+1)
		}
		if s.State == fsm.Seated && was.Of(s.Node) != fsm.Seated {
			p.held, p.index = max(p.held, p.units), index
		}
		parts[i] = p
	}
	for i, s := range was.Seats {
		if m.roster.Of(s.Node) == 0 && k.parts[i].units > 0 {
			k.rest = append(k.rest, fsm.Part{Node: s.Node, Units: k.parts[i].units})
		}
	}
	k.parts, k.loose = parts, true
}

// Status tells what is known of the keys that are not divided evenly, and of
// those of which somebody wants more than it has; nil on a node that does not
// divide them.
func (m *Machine) Status() []Status {
	if m.reign == 0 {
		return nil
	}
	list := make([]Status, 0, len(m.list))
	for _, k := range m.list {
		s := Status{Key: limits.Key(k.name), Kind: k.kind, Of: k.of, Even: k.version == 0}
		for i := range k.parts {
			p, n := &k.parts[i], m.nodes[m.roster.Seats[i].Node]
			x := NodeStatus{Node: n.name, Want: m.wants(k, i), Leased: !n.silent}
			if m.roster.Seats[i].State == fsm.Seated {
				x.Units = p.units
			}
			if p.report == n.reports {
				x.Used = p.used
			}
			s.Nodes = append(s.Nodes, x)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return list
}
