package local

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local/bucket"
)

// told is what the node knows of its part.
type told struct {
	seats  int
	leased bool
	shares map[limit.Key]limit.Share
}

// part is how many of units the node has of the key. It says whether there is a
// Share of it.
func (t *told) part(r *rule, key limit.Key, units uint32) (own uint32, shared bool) {
	if t.seats <= 0 {
		return 0, false
	}
	own = units / uint32(t.seats)
	s, shared := t.shares[key]
	if shared {
		own = 0
		if s.Of > 0 {
			own = uint32(uint64(min(s.Units, s.Of)) * uint64(units) / uint64(s.Of))
		}
	}
	switch {
	case t.leased || r.OnPartition == limit.Full:
		return own, shared
	case r.OnPartition == limit.Stop:
		return 0, shared
	}
	return min(own, units/uint32(10*max(3, t.seats))), shared
}

// Apply is a method of Local. Tokens that grew until now grew at the old rate.
func (l *Limiter) Apply(u limit.Update) {
	var v revokes
	l.mu.Lock()
	now := l.opts.Now()
	var changed []limit.Key
	if u.Full {
		for k := range l.told.shares {
			changed = append(changed, k)
		}
	}
	for i := range u.Shares {
		changed = append(changed, u.Shares[i].Key)
	}
	changed = append(changed, u.Even...)
	states := l.known(changed, now)
	grew, all := l.tell(u)
	if grew {
		l.grown = now
	}
	v.now = !l.told.leased
	if all {
		l.each(func(st *state) { l.renew(st, &v, now) })
	} else {
		for _, st := range states {
			st.home.mu.Lock()
			l.renew(st, &v, now)
			st.home.mu.Unlock()
		}
	}
	l.grants(u.Grants, now)
	l.mu.Unlock()
	v.call()
}

// tell takes u into what was told. It says whether the part of all keys changed,
// and whether it may have grown.
func (l *Limiter) tell(u limit.Update) (grew, all bool) {
	t := &l.told
	if u.Full || t.shares == nil {
		t.shares = make(map[limit.Key]limit.Share, len(u.Shares))
	}
	for i := range u.Shares {
		t.shares[u.Shares[i].Key] = u.Shares[i]
	}
	for _, k := range u.Even {
		delete(t.shares, k)
	}
	grew = u.Seats > 0 && (t.seats <= 0 || u.Seats < t.seats) || u.Leased && !t.leased
	all = u.Seats != t.seats || u.Leased != t.leased
	t.seats, t.leased = u.Seats, u.Leased
	l.ends.Store(int64(u.Ends))
	return grew, all
}

// renew gives st its new part. Its shard is locked.
func (l *Limiter) renew(st *state, v *revokes, now time.Duration) {
	l.assign(st, now)
	if st.rate.Shared || st.conns != nil && (st.conns.shared || st.conns.over()) {
		st.activate(l, now, false)
	}
	v.excess(st)
}

// known returns the states of the keys, and makes those that are not there, so
// that what is told of them now finds them as they were until now.
func (l *Limiter) known(keys []limit.Key, now time.Duration) []*state {
	states := make([]*state, 0, len(keys))
	for _, k := range keys {
		if st := l.ensure(k, now); st != nil {
			states = append(states, st)
		}
	}
	return states
}

// ensure returns the state of the key, unlocked; nil if there is no such limit.
func (l *Limiter) ensure(k limit.Key, now time.Duration) *state {
	name, _, words, ok := k.Parts()
	r := l.byName[name]
	if !ok || r == nil {
		return nil
	}
	var st *state
	if words == limit.Others && len(r.Per) > 0 {
		st = l.create(r, nil, now)
	} else {
		s, ok := limit.ParseWords(r.Per, words)
		if !ok {
			return nil
		}
		st = l.create(r, &s, now)
	}
	st.home.mu.Unlock()
	return st
}

// each visits all states, with their shards locked.
func (l *Limiter) each(visit func(*state)) {
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		for j := len(sh.all) - 1; j >= 0; j-- {
			visit(sh.all[j])
		}
		sh.mu.Unlock()
	}
}

func (l *Limiter) grants(list []limit.Grant, now time.Duration) {
	for i := range list {
		st := l.ensure(list[i].Key, now)
		if st == nil {
			continue
		}
		st.home.mu.Lock()
		if st.budget != nil {
			st.budget.Grant(list[i].Window, list[i].Ends, list[i].Granted, list[i].All)
		}
		st.home.mu.Unlock()
	}
}

// set puts definitions into the place of those in list.
func (l *Limiter) set(list *[]limit.Definition, defs []limit.Definition) error {
	names := make(map[string]struct{}, len(defs))
	for i := range defs {
		if err := defs[i].Check(); err != nil {
			return err
		}
		if _, twice := names[defs[i].Name]; twice {
			return fmt.Errorf("limit %q: %w", defs[i].Name, errTwice)
		}
		names[defs[i].Name] = struct{}{}
	}
	var v revokes
	l.mu.Lock()
	*list = slices.Clone(defs)
	l.rebuild(&v)
	l.mu.Unlock()
	v.call()
	return nil
}

// rebuild makes rules of all definitions. l.mu is held for writing.
func (l *Limiter) rebuild(v *revokes) {
	now := l.opts.Now()
	wall := l.opts.Wall()
	old := l.byName
	l.byName = make(map[string]*rule, len(l.configured)+len(l.overrides))
	rules := make([]*rule, 0, len(l.configured)+len(l.overrides))
	changed := map[uint64]*rule{} // nil: gone
	var fresh []*rule
	for _, defs := range [][]limit.Definition{l.overrides, l.configured} {
		for i := range defs {
			d := &defs[i]
			if l.byName[d.Name] != nil {
				continue
			}
			r := l.renewed(old[d.Name], d, now, wall)
			if r != old[d.Name] {
				changed[r.id] = r
				fresh = append(fresh, r)
			}
			l.byName[d.Name] = r
			rules = append(rules, r)
		}
	}
	for name, r := range old {
		if cur := l.byName[name]; cur == nil || cur.id != r.id {
			changed[r.id] = nil
		}
	}
	if len(changed) == 0 {
		return
	}
	l.index.Store(newIndex(rules))
	v.now = !l.told.leased
	l.each(func(st *state) {
		switch r, ok := changed[st.rule.id]; {
		case !ok:
		case r == nil:
			l.purses.Put(string(limit.KeyOf(st.rule.Name, limit.KindBudget, st.words())), st.rule.Budget.Per, st.budget, wall, l.opts.Keys)
			l.forget(st)
		default:
			st.rate.Settle(now)
			st.rule = r
			l.renew(st, v, now)
		}
	})
	l.attach(fresh, v, now)
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// renewed returns the rule of d: old, if it says the same.
func (l *Limiter) renewed(old *rule, d *limit.Definition, now time.Duration, wall time.Time) *rule {
	if old != nil && equal(&old.Definition, d) {
		return old
	}
	r := newRule(d)
	r.since, r.wall = now, l.opts.Wall
	if !d.Until.IsZero() {
		r.ends = max(now+d.Until.Sub(wall), 1)
	}
	if old != nil && sameKeys(&old.Definition, d) {
		r.id, r.keys = old.id, old.keys
		r.refused.Store(old.refused.Load())
		if old.Rate == d.Rate && old.Burst == d.Burst {
			r.since = old.since
		}
		return r
	}
	l.lastID++
	r.id = l.lastID
	return r
}

func equal(d, e *limit.Definition) bool {
	for f := range d.Match {
		if !slices.Equal(d.Match[f], e.Match[f]) {
			return false
		}
	}
	return sameKeys(d, e) && d.Rate == e.Rate && d.Burst == e.Burst && d.Connections == e.Connections &&
		d.Budget == e.Budget && d.OnPartition == e.OnPartition && d.Suspended == e.Suspended &&
		d.Reason == e.Reason && d.Author == e.Author && d.Until.Equal(e.Until)
}

// sameKeys tells whether what was counted for d counts for e.
func sameKeys(d, e *limit.Definition) bool {
	return d.Name == e.Name && d.Side == e.Side && d.Count == e.Count && d.Budget.Per == e.Budget.Per &&
		slices.Equal(d.Per, e.Per)
}

// attach counts the open connections under limits that are new for them.
func (l *Limiter) attach(fresh []*rule, v *revokes, now time.Duration) {
	fresh = slices.DeleteFunc(fresh, func(r *rule) bool { return r.Connections == 0 })
	if len(fresh) == 0 {
		return
	}
	x := newIndex(fresh)
	joined := map[*state]struct{}{}
	l.opened.mu.Lock()
	for o := range l.opened.all {
		var f found
		x.sides[o.side].find(&f, &o.subject, now)
		for i := range f.n {
			r := f.at(i)
			if o.in(r) {
				continue
			}
			if st := l.lock(r, &o.subject, now, true); st != nil {
				o.join(st)
				joined[st] = struct{}{}
				st.home.mu.Unlock()
			}
		}
	}
	l.opened.mu.Unlock()
	for st := range joined {
		st.home.mu.Lock()
		if st.conns.over() {
			st.activate(l, now, false)
		}
		v.excess(st)
		st.home.mu.Unlock()
	}
}

// What is used is measured over smoothing, and who lacked something wants it for
// patience, so that shares do not swing with every second.
const (
	smoothing = 2 * time.Second
	patience  = time.Second
)

// activate has Demands look at st. Its shard is locked.
func (st *state) activate(l *Limiter, now time.Duration, denied bool) {
	if denied {
		if st.short == 0 {
			select {
			case l.want <- struct{}{}:
			default:
			}
		}
		st.short = max(now, 1)
	}
	if !st.active {
		st.active = true
		st.home.active = append(st.home.active, st)
	}
}

type demand struct {
	limit.Demand
	must   bool // it is open connections of a Share, or more than the part
	weight uint64
}

// Demands is a method of Local.
func (l *Limiter) Demands(list []limit.Demand, limit int) []limit.Demand {
	now := l.opts.Now()
	l.mu.RLock()
	seats := l.told.seats
	l.mu.RUnlock()
	var out []demand
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		keep := sh.active[:0]
		for _, st := range sh.active {
			if st.gone {
				continue
			}
			st.measure(now)
			out = st.demands(out, l.opts.Wall, now, seats)
			if st.quiet(now) {
				st.active, st.pace = false, 0
				continue
			}
			keep = append(keep, st)
		}
		clear(sh.active[len(keep):])
		sh.active = keep
		sh.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b demand) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.Key, b.Key))
	})
	for i := range out {
		if i < limit || out[i].must {
			list = append(list, out[i].Demand)
		}
	}
	return list
}

// patience is for how long who was denied is taken to want it: where there is
// nothing he was told to come back after longer than from one report to the next.
func (st *state) patience() time.Duration {
	if st.rule.Rate.N > 0 && st.rate.Own == 0 {
		return 2 * bucket.NoPart
	}
	return patience
}

// quiet tells whether st has nothing to ask for.
func (st *state) quiet(now time.Duration) bool {
	if st.short > 0 && now-st.short > st.patience() {
		st.short = 0
	}
	return st.short == 0 && !st.rate.Shared && (st.conns == nil || st.conns.lacked == 0 && !st.conns.shared && !st.conns.over()) &&
		(st.budget == nil || st.pace*float64(time.Hour) < 1)
}

// measure brings the pace up to date: what is used of a rate, asked of a budget.
func (st *state) measure(now time.Duration) {
	d := now - st.measured
	if d <= 0 {
		return
	}
	share := 1 - math.Exp(-float64(d)/float64(smoothing))
	n := max(st.used, st.asked)
	st.pressed = st.denials[limit.KindRate]-st.before > uint64(max(n, 1))
	st.before = st.denials[limit.KindRate]
	st.recent = float64(n) / float64(d)
	if st.pace == 0 && d > smoothing/8 {
		share = 1 // what has just begun is not to be taken for little
	}
	st.pace += share * (st.recent - st.pace)
	st.used, st.asked, st.measured = 0, 0, now
}

func (st *state) demands(out []demand, wall func() time.Time, now time.Duration, seats int) []demand {
	lately := func(at time.Duration) bool { return at > 0 && now-at <= st.patience() }
	short, lacking := lately(st.short), lately(st.lacked)
	r, words := st.rule, st.words()
	if r.Rate.N > 0 && (short || st.rate.Shared) {
		out = append(out, demand{Demand: limit.Demand{
			Key: limit.KeyOf(r.Name, limit.KindRate, words), Kind: limit.KindRate, Units: r.rateUnits, Want: st.wantRate(lacking, seats),
		}, weight: st.refusals()})
	}
	if c := st.conns; c != nil && r.Connections > 0 && (c.lacks(now) || c.shared || c.over()) {
		d := limit.Demand{Key: limit.KeyOf(r.Name, limit.KindConnections, words), Kind: limit.KindConnections, Units: r.connUnits}
		d.Used = r.units(len(c.held))
		d.Want = d.Used
		if c.lacked > 0 {
			d.Want = min(d.Units, max(r.units(len(c.held)+int(c.sought)), 2*d.Used+4))
		}
		out = append(out, demand{d, c.shared && len(c.held) > 0 || c.over(), st.refusals()})
	}
	if p := st.budget; p != nil && r.Budget.N > 0 {
		left := max(p.Left(wall()), 0)
		aim := p.Aim(st.pace)
		if left < aim {
			q := r.quantum
			out = append(out, demand{Demand: limit.Demand{
				Key: limit.KeyOf(r.Name, limit.KindBudget, words), Kind: limit.KindBudget, Units: r.budgetUnits,
				Want: uint32(min((aim-left+q-1)/q, int64(r.budgetUnits))), Used: uint32(min(left/q, int64(r.budgetUnits))),
				Window: r.Budget.Per, Each: uint64(q),
			}, weight: st.refusals()})
		}
	}
	return out
}

// A node is up against its part of a rate when it used nearly all of it. One
// that uses less is denied now and then as well, since what comes in bursts finds
// the bucket empty: more would lie idle there, and be missed elsewhere.
const nearly = 0.8

// wantRate is what was used lately and some more; where there was not enough,
// a third more than there is, and so on with each report: how much is behind that
// nobody knows here. Where more is denied than goes there is much: it wants twice what
// there is, and an even part at least.
func (st *state) wantRate(short bool, seats int) uint32 {
	r, own := st.rule, float64(st.rate.Own)
	units := float64(r.rateUnits) / r.Rate.PerNano()
	want := 1.1 * st.pace * units
	switch used := max(st.pace, st.recent) * units; {
	case !short:
	case own == 0:
		want = max(1, float64(r.rateUnits)/8)
	case st.pressed:
		want = max(want, 2*own, float64(r.rateUnits)/float64(max(seats, 1)))
	case used >= nearly*own || float64(st.rate.Reserved) >= nearly*st.rate.Most():
		want = max(want, 1.33*own+1)
	}
	return uint32(min(math.Ceil(want), float64(r.rateUnits)))
}
