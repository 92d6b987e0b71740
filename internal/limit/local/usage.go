package local

import (
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Usage is how a part of a limit stands on this node, for operators.
type Usage struct {
	Definition *limit.Definition // not to be changed
	Kind       limit.Kind
	Key        limit.Key // as the cluster knows it; empty for KindSuspended
	Words      string    // what it counts by: "site=google.com"; empty: all together; "*": all that are not told apart
	Units, Own uint32    // of the key, and this node's part of them
	Shared     bool      // it is not divided evenly
	Limit      int64     // this node's part: of the burst, of connections, what of the budget it may spend in the window, or has
	Free       float64
	Used       uint64        // connections that are open; of a budget, what was spent in the window; of a rate, what is taken of the part of the burst
	Lately     float64       // of a rate: what went in the time of the rate, N of it would be all; that of less than 5 s is a mean of 5 s
	Total      uint64        // all that was counted since the key is known
	Waiting    uint32        // how many were told to wait for it in the last second
	Denied     uint64        // since the key is known
	Next       time.Duration // how long until there is something; 0: there is now
}

// Pace is this node's part of a rate, in the time of the rate.
func (u *Usage) Pace() float64 {
	if u.Kind != limit.KindRate || u.Units == 0 {
		return 0
	}
	return float64(u.Definition.Rate.N) * float64(u.Own) / float64(u.Units)
}

// Usage visits what is known of all limits: the keys that were used lately, in
// no order. What it is given is valid until visit returns, which must not call
// the Limiter.
func (l *Limiter) Usage(visit func(*Usage)) {
	now, wall := l.opts.Now(), l.opts.Wall()
	for _, r := range l.index.Load().rules {
		if r.Suspended && !r.over(now) {
			visit(&Usage{Definition: &r.Definition, Kind: limit.KindSuspended, Denied: r.refused.Load(), Next: r.next(now)})
		}
	}
	l.each(func(st *state) { st.usage(func(v *Verdict) { visit(&v.Usage) }, now, wall) })
}

// next is how long until a suspension ends, 0 if it does not by itself.
func (r *rule) next(now time.Duration) time.Duration {
	if r.ends == 0 {
		return 0
	}
	return max(r.left(now), 0)
}

// window is over what time it is told how much went: that of the rate, and not so
// short that the number jumps.
func (r *rule) window() time.Duration { return max(r.Rate.Per, 5*time.Second) }

// usage tells of each part of st, and what it says to one more.
func (st *state) usage(visit func(*Verdict), now time.Duration, wall time.Time) {
	r, words := st.rule, st.words()
	part := func(kind limit.Kind) Verdict {
		v := Verdict{Usage: Usage{
			Definition: &r.Definition, Kind: kind, Key: limit.KeyOf(r.Name, kind, words), Words: words, Total: st.total, Denied: st.denials[kind],
		}}
		if st.barrier == kind && now-st.crowded <= time.Second {
			v.Waiting = st.crowd
		}
		return v
	}
	if b := &st.rate; r.Rate.N > 0 {
		b.Settle(now)
		v := part(limit.KindRate)
		v.Units, v.Own, v.Shared, v.Limit, v.Free = r.rateUnits, b.Own, b.Shared, int64(b.Most()), b.Tokens()
		v.Used, v.Lately = uint64(max(0, b.Most()-b.Tokens())), b.Lately(now)*float64(r.Rate.Per)/float64(r.window())
		v.Next, v.Wait = b.Lack(1), b.Free(1)
		v.Allowed = v.Wait == 0
		visit(&v)
	}
	if c := st.conns; c != nil && r.Connections > 0 {
		v := part(limit.KindConnections)
		v.Units, v.Own, v.Shared, v.Limit, v.Free = r.connUnits, c.own, c.shared, int64(c.may), float64(max(0, c.may-len(c.held)))
		v.Used, v.Allowed = uint64(len(c.held)), len(c.held) < c.may
		visit(&v)
	}
	if p := st.budget; p != nil && r.Budget.N > 0 {
		v := part(limit.KindBudget)
		v.Units, v.Free, v.Allowed = r.budgetUnits, float64(max(0, p.Left(wall))), p.Left(wall) > st.rate.Reserved || p.Gets(wall)
		if wall.Before(p.Ends) {
			v.Limit, v.Used = p.Spent+p.Left(wall), uint64(p.Spent)
			v.Own = uint32(min(v.Limit/r.quantum, int64(r.budgetUnits)))
		}
		anew := wall.Truncate(r.Budget.Per).Add(r.Budget.Per).Sub(wall)
		over := p.Dry(now) || p.Out(wall)
		if over && v.Free < 1 {
			v.Next = anew
		}
		if over && !v.Allowed {
			v.Wait = anew
		}
		visit(&v)
	}
}

// refusals are all denials.
func (st *state) refusals() uint64 { return st.denials[0] + st.denials[1] + st.denials[2] }

// Verdict is what a part of a limit says to a subject, and how it stands.
type Verdict struct {
	Usage
	Allowed bool
	Wait    time.Duration // until it would be, as far as is known
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
		if r.Suspended {
			left := r.next(now)
			out = append(out, Verdict{
				Usage: Usage{Definition: &r.Definition, Kind: limit.KindSuspended, Words: s.Words(r.Per), Denied: r.refused.Load(), Next: left}, Wait: left,
			})
			continue
		}
		out = append(out, l.explain(r, s, now, wall)...)
	}
	return out
}

// explain asks the state of s, or one as it would be made. l.mu is held.
func (l *Limiter) explain(r *rule, s *limit.Subject, now time.Duration, wall time.Time) (out []Verdict) {
	h := hash(s, l.seed, r.id, r.Per)
	sh := &l.shards[h%shardCount]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.find(h, r.id, s)
	if st == nil {
		st = &state{rule: r, vals: pack(s, r.Per)}
		l.assign(st, now)
		st.rate.Grow(now - max(r.since, l.grown))
	}
	st.usage(func(v *Verdict) { out = append(out, *v) }, now, wall)
	return out
}
