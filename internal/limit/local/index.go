package local

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// rule is a Definition, made ready to be asked.
type rule struct {
	limit.Definition
	id    uint64        // the same for all forms of the limit whose keys are the same
	since time.Duration // when it became what it is: what it has not seen counts as emptied then
	ends  time.Duration // when Until is, if the wall clock goes on as it did; 0: never
	wall  func() time.Time

	refused atomic.Uint64 // while it is suspended
	keys    *atomic.Int64 // how many keys are told apart, of all its forms

	rateUnits, connUnits, budgetUnits uint32
	quantum                           int64 // how much a unit of the budget is
	match                             []limit.Wanted
}

func newRule(d *limit.Definition) *rule {
	r := &rule{Definition: *d, keys: new(atomic.Int64)}
	r.rateUnits = uint32(min(d.Burst, limit.MaxUnits))
	r.connUnits = uint32(min(d.Connections, limit.MaxUnits))
	r.quantum = max(1, (d.Budget.N+1<<31-1)>>31)
	r.budgetUnits = uint32(d.Budget.N / r.quantum)
	for f, values := range d.Match {
		if len(values) == 0 {
			continue
		}
		w := limit.Wanted{Field: limit.Field(f)}
		for _, v := range values {
			w.Add(v)
		}
		r.match = append(r.match, w)
	}
	return r
}

// left is how long it is until a rule ends that does so by itself, not more than 0
// when it has. The wall clock, which may have been set, has the last word: until
// its day is over there must be no gap.
func (r *rule) left(now time.Duration) time.Duration {
	if left := r.ends - now; left > 0 {
		return left
	}
	return r.Until.Sub(r.wall())
}

func (r *rule) over(now time.Duration) bool { return r.ends > 0 && r.left(now) <= 0 }

// applies tells whether the rule is for s at this time.
func (r *rule) applies(s *limit.Subject, now time.Duration) bool {
	if r.over(now) {
		return false
	}
	for _, f := range r.Per {
		if !s.Has(f) {
			return false
		}
	}
	for i := range r.match {
		if !r.match[i].Matches(s) {
			return false
		}
	}
	return true
}

// amount is what the rule counts of n.
func (r *rule) amount(n limit.Amount) int64 {
	switch r.Count {
	case limit.Recipients:
		return int64(n.Recipients)
	case limit.Octets:
		return n.Octets
	}
	return int64(n.Messages)
}

// index finds the rules that may be for a subject without a look at the others:
// each rule lies under the values of one of its fields.
type index struct {
	rules []*rule
	sides [2]lookup

	// What limits on delivery look at of recipients' domains.
	domains limit.Wanted
	each    bool // one counts by all that there are
}

type lookup struct {
	every []*rule // match all, or nothing that can be looked up
	exact [limit.Fields]map[string][]*rule
	below [limit.Fields]map[string][]*rule // by ".example.org"
	nets  map[netip.Prefix][]*rule
	bits  []netip.Prefix // one of each family and length in nets, narrow ones first
}

func newIndex(rules []*rule) *index {
	x := &index{rules: rules, domains: limit.Wanted{Field: limit.RecipientDomain}}
	for _, r := range rules {
		x.sides[r.Side].add(r)
		if r.Side != limit.Deliver || !r.AboutDomain() {
			continue
		}
		for _, d := range r.Match[limit.RecipientDomain] {
			x.domains.Add(d)
		}
		x.each = x.each || len(r.Match[limit.RecipientDomain]) == 0
	}
	return x
}

// ByDomain tells whether a limit on delivery that looks at recipients' domains
// may be about this one.
func (l *Limiter) ByDomain(domain string) bool {
	x := l.index.Load()
	return x.each || x.domains.Matches(&limit.Subject{Domain: domain})
}

func (x *lookup) add(r *rule) {
	var best *limit.Wanted
	for i := range r.match {
		if w := &r.match[i]; best == nil || w.Cost() < best.Cost() {
			best = w
		}
	}
	if best == nil {
		x.every = append(x.every, r)
		return
	}
	f := best.Field
	for v := range best.Exact {
		put(&x.exact[f], v, r)
	}
	for _, v := range best.Below {
		put(&x.below[f], v, r)
	}
	for _, p := range best.Nets {
		put(&x.nets, p, r)
		same := func(q netip.Prefix) bool { return q.Bits() == p.Bits() && q.Addr().Is4() == p.Addr().Is4() }
		if !slices.ContainsFunc(x.bits, same) {
			x.bits = append(x.bits, p)
		}
	}
}

func put[K comparable](m *map[K][]*rule, k K, r *rule) {
	if *m == nil {
		*m = map[K][]*rule{}
	}
	if have := (*m)[k]; len(have) == 0 || have[len(have)-1] != r {
		(*m)[k] = append(have, r)
	}
}

// found are the rules for a subject. Up to eight need no memory of their own.
type found struct {
	n    int
	few  [8]*rule
	more []*rule
}

func (f *found) at(i int) *rule {
	if i < len(f.few) {
		return f.few[i]
	}
	return f.more[i-len(f.few)]
}

func (f *found) add(rules []*rule, s *limit.Subject, now time.Duration) {
next:
	for _, r := range rules {
		if !r.applies(s, now) {
			continue
		}
		for i := range f.n {
			if f.at(i) == r {
				continue next
			}
		}
		if f.n < len(f.few) {
			f.few[f.n] = r
		} else {
			f.more = append(f.more, r)
		}
		f.n++
	}
}

// find collects the rules for s.
func (x *lookup) find(out *found, s *limit.Subject, now time.Duration) {
	out.add(x.every, s, now)
	for f := range limit.Fields {
		if x.exact[f] != nil {
			if v := s.Value(f); v != "" {
				out.add(x.exact[f][v], s, now)
			}
		}
		if x.below[f] != nil {
			v := s.Value(f)
			for i := 1; i < len(v); i++ {
				if v[i] == '.' {
					out.add(x.below[f][v[i:]], s, now)
				}
			}
		}
	}
	if x.nets == nil || !s.Client.IsValid() {
		return
	}
	a := s.Client.Unmap().WithZone("")
	for _, b := range x.bits {
		if b.Addr().Is4() != a.Is4() {
			continue
		}
		if p, err := a.Prefix(b.Bits()); err == nil {
			out.add(x.nets[p], s, now)
		}
	}
}
