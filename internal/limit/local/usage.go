package local

import (
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Usage is how a limit stands on this node, for operators.
type Usage struct {
	Definition *limit.Definition // not to be changed
	Kind       limit.Kind
	Key        limit.Key // as the cluster knows it; empty for KindSuspended
	Words      string    // what it counts by: "site=google.com"; empty: all together; "*": all that are not told apart
	Units, Own uint32    // of the key, and this node's part of them
	Shared     bool      // it is not divided evenly
	Limit      int64     // this node's part: of the burst, of connections, what was granted of the budget
	Free       float64
	Used       uint64        // connections that are open; of a budget, what was spent in the window; of a rate, all that was counted since the key is known
	Waiting    uint32        // how many were told to wait in the last second
	Denied     uint64        // since the key is known
	Next       time.Duration // how long until there is something; 0: there is now
}

// Usage visits what is known of all limits: the keys that were used lately, in
// no order. What it is given is valid until visit returns, which must not call
// the Limiter.
func (l *Limiter) Usage(visit func(*Usage)) {
	now, wall := l.opts.Now(), l.opts.Wall()
	for _, r := range l.index.Load().rules {
		if r.Suspended && (r.ends == 0 || now < r.ends) {
			visit(&Usage{Definition: &r.Definition, Kind: limit.KindSuspended, Denied: r.refused.Load(), Next: max(r.ends-now, 0)})
		}
	}
	l.each(func(st *state) { st.usage(visit, now, wall) })
}

func (st *state) usage(visit func(*Usage), now time.Duration, wall time.Time) {
	r, words := st.rule, st.words()
	crowd := st.crowd
	if now-st.crowded > time.Second {
		crowd = 0
	}
	if b := &st.rate; r.Rate.N > 0 {
		b.settle(now)
		visit(&Usage{
			Definition: &r.Definition, Kind: limit.KindRate, Key: limit.KeyOf(r.Name, limit.KindRate, words), Words: words,
			Units: r.rateUnits, Own: b.own, Shared: b.shared, Limit: int64(b.cap), Free: b.tokens,
			Used: st.total, Waiting: crowd, Denied: st.denials, Next: b.lack(b.need(1), b.tokens),
		})
	}
	if c := st.conns; c != nil && r.Connections > 0 {
		visit(&Usage{
			Definition: &r.Definition, Kind: limit.KindConnections, Key: limit.KeyOf(r.Name, limit.KindConnections, words), Words: words,
			Units: r.connUnits, Own: c.own, Shared: c.shared, Limit: int64(c.may), Free: float64(max(0, c.may-len(c.held))),
			Used: uint64(len(c.held)), Waiting: crowd, Denied: st.denials,
		})
	}
	if p := st.budget; p != nil && r.Budget.N > 0 {
		u := Usage{
			Definition: &r.Definition, Kind: limit.KindBudget, Key: limit.KeyOf(r.Name, limit.KindBudget, words), Words: words,
			Units: r.budgetUnits, Waiting: crowd, Denied: st.denials, Free: float64(max(0, p.Left(wall))),
		}
		if wall.Before(p.Ends) {
			u.Limit, u.Used = p.Granted, uint64(p.Spent)
			u.Own = uint32(min(p.Granted/r.quantum, int64(r.budgetUnits)))
		}
		if u.Free < 1 {
			u.Next = wall.Truncate(r.Budget.Per).Add(r.Budget.Per).Sub(wall)
		}
		visit(&u)
	}
}

// Verdict is what one limit says to a subject.
type Verdict struct {
	Definition *limit.Definition // not to be changed
	Kind       limit.Kind
	Words      string // of the key
	Allowed    bool
	Wait       time.Duration // until it would be, as far as is known
}

// Explain says what each limit that applies to s says to one message, and to one
// connection, now. It changes nothing.
func (l *Limiter) Explain(side limit.Side, s *limit.Subject) []Verdict {
	now, wall := l.opts.Now(), l.opts.Wall()
	l.mu.RLock()
	defer l.mu.RUnlock()
	var f found
	l.index.Load().sides[side].find(&f, s, now)
	var out []Verdict
	for i := range f.n {
		r := f.at(i)
		words := s.Words(r.Per)
		if r.Suspended {
			out = append(out, Verdict{&r.Definition, limit.KindSuspended, words, false, max(r.ends-now, 0)})
			continue
		}
		out = append(out, l.explain(r, s, now, wall)...)
	}
	return out
}

// explain asks the state of s, or one as it would be made. l.mu is held.
func (l *Limiter) explain(r *rule, s *limit.Subject, now time.Duration, wall time.Time) []Verdict {
	h := hash(s, l.seed, r.id, r.Per)
	sh := &l.shards[h%shardCount]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.find(h, r.id, s)
	if st == nil {
		st = &state{rule: r, vals: pack(s, r.Per)}
		l.assign(st, now)
		st.rate.tokens = min(st.rate.cap, st.rate.flow*float64(now-max(r.since, l.grown)))
	}
	words := st.words()
	var out []Verdict
	if b := &st.rate; r.Rate.N > 0 {
		b.settle(now)
		wait := b.lack(b.need(1)+float64(b.reserved), b.tokens)
		out = append(out, Verdict{&r.Definition, limit.KindRate, words, wait == 0, wait})
	}
	if c := st.conns; c != nil && r.Connections > 0 {
		v := Verdict{Definition: &r.Definition, Kind: limit.KindConnections, Words: words, Allowed: len(c.held) < c.may}
		out = append(out, v)
	}
	if p := st.budget; p != nil && r.Budget.N > 0 {
		v := Verdict{Definition: &r.Definition, Kind: limit.KindBudget, Words: words, Allowed: p.Left(wall) > st.rate.reserved}
		if !v.Allowed && p.Dry(now) {
			v.Wait = wall.Truncate(r.Budget.Per).Add(r.Budget.Per).Sub(wall)
		}
		out = append(out, v)
	}
	return out
}
