// Package ranking remembers how hosts answered, and says which of several that
// are as good by the rules are to be tried first.
//
// It knows of each address how long connection and greeting took lately, and
// how often it turned mail away. A host that is much slower than the fastest,
// or refuses, comes behind the others, but for a small part of the mail, which
// shows when it is well again. Hosts that are alike, or of which nothing is
// known, stay in the order that they came in: their caller shuffles them
// (RFC 5321 5.1).
//
// What is remembered is bounded, is forgotten after minutes, and is lost at a
// restart without harm. Any number of goroutines may use a Memory.
package ranking

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// part of the past in an average: what is older than some five words of a
	// host counts for nothing.
	past = 0.7
	// A host is as good as the best if it takes no more than so many times its
	// time and so much more. What comes and goes in any network is within it.
	times, more = 1.5, 20 * time.Millisecond
	// refusal is what being refused always would be worth.
	refusal = 10 * time.Second
	// patience is the least share of refusals that counts.
	patience = 0.05
)

// Options set up a Memory. All are needed.
type Options struct {
	Size  int              // addresses that are remembered
	Keep  time.Duration    // how long after the last word of it
	Probe float64          // part of the mail that tries a worse host first, 0 to 1
	Now   func() time.Time // the clock
	Rand  func() float64   // 0 <= x < 1
}

// Memory is what is known of hosts.
type Memory struct {
	o Options

	mu    sync.Mutex
	hosts map[netip.AddrPort]*host
}

type host struct {
	took    time.Duration // average from the start of the connection to the greeting; 0: not known
	refused float64       // average of 1 for refused, 0 for taken
	at      time.Time     // of the last word
}

// New makes a memory that knows nothing.
func New(o Options) *Memory { return &Memory{o: o, hosts: map[netip.AddrPort]*host{}} }

// Greeted notes how long a host took from the start of the connection to its
// greeting.
func (m *Memory) Greeted(a netip.AddrPort, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.host(a)
	if took = max(took, 1); h.took == 0 {
		h.took = took
	} else {
		h.took = time.Duration(past*float64(h.took) + (1-past)*float64(took))
	}
}

// Took notes that a host took mail.
func (m *Memory) Took(a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.known(a); h != nil { // nothing good need be remembered of a stranger
		h.refused, h.at = h.refused*past*past, m.o.Now()
	}
}

// Refused notes that a host turned mail away that another might take.
func (m *Memory) Refused(a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.host(a)
	h.refused = past*h.refused + (1 - past)
}

// host finds a host to be written to. m.mu is held.
func (m *Memory) host(a netip.AddrPort) *host {
	h := m.known(a)
	if h == nil {
		if len(m.hosts) >= m.o.Size {
			m.forget()
		}
		h = &host{}
		m.hosts[a] = h
	}
	h.at = m.o.Now()
	return h
}

// forget makes room: of some that it meets what is old goes, and if nothing is,
// anything. m.mu is held.
func (m *Memory) forget() {
	now, looked := m.o.Now(), 0
	for a, h := range m.hosts {
		if now.Sub(h.at) >= m.o.Keep || len(m.hosts) >= m.o.Size {
			delete(m.hosts, a)
		}
		if looked++; looked == 64 {
			break
		}
	}
}

// known finds a host that is remembered. m.mu is held.
func (m *Memory) known(a netip.AddrPort) *host {
	h := m.hosts[a]
	if h != nil && m.o.Now().Sub(h.at) >= m.o.Keep {
		delete(m.hosts, a)
		return nil
	}
	return h
}

// cost is what a host is judged by: its time, and what its refusals are worth.
func (h *host) cost() time.Duration {
	if h.refused < patience {
		return h.took
	}
	return h.took + time.Duration(h.refused*float64(refusal))
}

// Order sorts hosts that are equal by the rules, best first. addr tells where
// each of them is.
func Order[T any](m *Memory, list []T, addr func(*T) netip.AddrPort) {
	if len(list) < 2 {
		return
	}
	type judged struct {
		host  T
		cost  time.Duration
		worse bool
	}
	all := make([]judged, len(list))
	best := time.Duration(-1)
	m.mu.Lock()
	for i := range list {
		all[i].host, all[i].cost = list[i], -1
		if h := m.known(addr(&list[i])); h != nil {
			if all[i].cost = h.cost(); best < 0 || all[i].cost < best {
				best = all[i].cost
			}
		}
	}
	m.mu.Unlock()
	bound := time.Duration(times*float64(best)) + more
	worse := 0
	for i := range all {
		if all[i].worse = all[i].cost > bound; all[i].worse {
			worse++
		}
	}
	if best < 0 || worse == 0 {
		return
	}
	slices.SortStableFunc(all, func(a, b judged) int {
		switch {
		case a.worse != b.worse:
			return map[bool]int{false: -1, true: 1}[a.worse]
		case a.worse:
			return cmp.Compare(a.cost, b.cost)
		}
		return 0
	})
	good := len(all) - worse
	if m.o.Rand() < m.o.Probe { // one of the worse is tried: it may be well again
		i := good + int(m.o.Rand()*float64(worse))
		probed := all[i]
		copy(all[1:i+1], all[:i])
		all[0] = probed
	}
	for i := range all {
		list[i] = all[i].host
	}
}

// Record is what is known of a host.
type Record struct {
	Greeting time.Duration // average from the start of a connection to the greeting; 0: not known
	Refused  float64       // part of the mail that it turned away lately, 0 to 1
}

// Look tells what is known of a host.
func (m *Memory) Look(a netip.AddrPort) (Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.known(a)
	if h == nil {
		return Record{}, false
	}
	return Record{Greeting: h.took, Refused: h.refused}, true
}
