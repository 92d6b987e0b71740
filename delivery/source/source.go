// Package source chooses the own address that mail leaves from.
//
// A Source is an address of this machine under a name, with what EHLO says
// from there. A Pool is a list of them with weights, which routes and senders
// name. Each node has only the members of a pool that are its own: the same
// pool may mean other addresses on another node.
//
// The choice needs no memory: it is a weighted hash of what the mail is, so
// that the same mail leaves from the same address at its next attempt, on any
// node that has it and after any restart, and a member that comes or goes
// moves no more than its part (rendezvous hashing). A Set does not change
// after New; any number of goroutines may ask it.
package source

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
)

// Source is an address that mail may leave from. The zero Source is the
// system's choice. It is comparable: kept connections are told apart by it.
type Source struct {
	Name  string     // as the configuration calls it; empty: the system's choice
	Addr  netip.Addr // of this machine
	Hello string     // what EHLO says from there; empty: the node's name
}

// IsZero tells whether the system chooses.
func (s Source) IsZero() bool { return s == Source{} }

// Fits tells whether a host at an address can be reached from the source: both
// are IPv4 or both are IPv6. The system's choice fits all.
func (s Source) Fits(host netip.Addr) bool {
	return !s.Addr.IsValid() || s.Addr.Is4() == host.Unmap().Is4()
}

// Member is a source of a pool that this node has.
type Member struct {
	Source Source
	Weight int // at least 1
}

// Pool is a list of sources that mail may leave from.
type Pool struct {
	Name    string
	Members []Member // of this node; none: Wait decides
	// ByMessage spreads the messages for each domain over all members. Without
	// it a domain sees one of them, as long as that may be used.
	ByMessage bool
	// Wait keeps mail back on a node that has no member. Without it the system
	// chooses there.
	Wait bool
}

// Set is the pools of a node.
type Set struct{ pools map[string]*Pool }

// New makes a set. The order of the members does not matter.
func New(pools []Pool) *Set {
	s := &Set{pools: make(map[string]*Pool, len(pools))}
	for i := range pools {
		p := pools[i]
		p.Members = slices.Clone(p.Members)
		slices.SortFunc(p.Members, func(a, b Member) int { return cmp.Compare(a.Source.Name, b.Source.Name) })
		s.pools[p.Name] = &p
	}
	return s
}

// Order gives the sources that mail to a domain may leave from, first the one
// that it ought to, then those that stand in for it. No pool ("") is the
// system's choice. An error says why there is none.
func (s *Set) Order(pool, message, domain string) ([]Source, error) {
	if pool == "" {
		return []Source{{}}, nil
	}
	p := s.pools[pool]
	switch {
	case p == nil:
		return nil, fmt.Errorf("there is no pool %s any more", pool)
	case len(p.Members) == 0 && p.Wait:
		return nil, fmt.Errorf("this node has no source of the pool %s", pool)
	case len(p.Members) == 0:
		return []Source{{}}, nil
	case len(p.Members) == 1:
		return []Source{p.Members[0].Source}, nil
	}
	if !p.ByMessage {
		message = ""
	}
	type scored struct {
		Source
		score float64
	}
	list := make([]scored, len(p.Members))
	for i, m := range p.Members {
		list[i] = scored{m.Source, score(&m, message, domain)}
	}
	slices.SortStableFunc(list, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	out := make([]Source, len(list))
	for i := range list {
		out[i] = list[i].Source
	}
	return out, nil
}

// score is the member's draw for some mail: who has the highest gets it, and
// each gets as large a part as its weight is of all weights. It goes by the
// name, which is what a pool is made of, not by the address.
func score(m *Member, message, domain string) float64 {
	h := fnv.New64a()
	for _, part := range [...]string{m.Source.Name, message, domain} {
		_, _ = h.Write([]byte(part)) // a hash takes everything
		_, _ = h.Write([]byte{0})
	}
	u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53) // 0 < u < 1
	return -float64(m.Weight) / math.Log(u)
}

// mix spreads the last octets over all bits, which FNV does not (the finalizer
// of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
