// Package shares is the table of how limits are divided between the nodes: the
// roster, the keys that are not divided evenly, and what was given of budgets.
// It is bounded, changed by compare-and-swap alone, and at no time gives more of
// a key than there is. It knows no time but the one that entries bring, and no
// disk: who holds a Table guards it.
package shares

import (
	"cmp"
	"maps"
	"slices"

	"github.com/clrelay/clrelay/proto/control"
)

// latestMS is the last time that a BudgetOps may name: the end of the year 9999.
const latestMS = 253_402_300_799_999

// sweepMS is how often budgets are dropped whose window has ended.
const sweepMS = 3600 * 1000

// Table is how limits are divided. The zero value is that of a new cluster.
type Table struct {
	reign   uint64
	version uint64 // of the last change
	roster  control.Roster
	byKey   map[string]*control.Division
	clock   int64
	budgets map[string]*control.Budget
	size    int // octets, as MaxLimits counts
}

// New makes a table of what Limits gave; ok is false if that is none of a
// table.
func New(l control.Limits) (t Table, ok bool) {
	t = Table{
		reign: l.Reign, version: l.Version, roster: l.Roster, clock: l.ClockMS,
		byKey: make(map[string]*control.Division, len(l.Divisions)), budgets: make(map[string]*control.Budget, len(l.Budgets)),
	}
	if !soundRoster(&l.Roster) || l.Roster.Version > l.Version || l.ClockMS < 0 || l.ClockMS > latestMS || len(l.Divisions) > 0 && !l.Roster.Founded {
		return Table{}, false
	}
	seen := make(map[uint64]bool, len(l.Divisions))
	for i := range l.Divisions {
		d := &l.Divisions[i]
		if t.byKey[d.Key] != nil || seen[d.Version] || d.Version == 0 || d.Version > l.Version || !sound(d.Key, d.Of, d.Parts) || !fits(d.Of, d.Parts, &l.Roster) {
			return Table{}, false
		}
		seen[d.Version] = true
		t.byKey[d.Key] = d
		t.size += costOf(d.Key, d.Parts)
	}
	for i := range l.Budgets {
		b := &l.Budgets[i]
		if t.budgets[b.Key] != nil || !soundBudget(b) {
			return Table{}, false
		}
		t.budgets[b.Key] = b
		t.size += costOfBudget(b)
	}
	return t, len(t.byKey) <= control.MaxDivisions && len(t.budgets) <= control.MaxBudgets && t.size <= control.MaxLimits
}

// Limits gives all of it, sorted. The slices of the records are the table's.
func (t *Table) Limits() control.Limits {
	l := control.Limits{Reign: t.reign, Version: t.version, Roster: t.roster, ClockMS: t.clock}
	for _, k := range slices.Sorted(maps.Keys(t.byKey)) {
		l.Divisions = append(l.Divisions, *t.byKey[k])
	}
	for _, k := range slices.Sorted(maps.Keys(t.budgets)) {
		l.Budgets = append(l.Budgets, *t.budgets[k])
	}
	return l
}

// Reign is the number of the present one; 0 before the first.
func (t *Table) Reign() uint64 { return t.reign }

// Roster is among whom keys are divided.
func (t *Table) Roster() control.Roster { return t.roster }

// Division gives that of a key; ok is false where it is divided evenly.
func (t *Table) Division(key string) (d control.Division, ok bool) {
	p := t.byKey[key]
	if p == nil {
		return d, false
	}
	return *p, true
}

// Budget gives what was given of a budget last.
func (t *Table) Budget(key string) (b control.Budget, ok bool) {
	p := t.budgets[key]
	if p == nil {
		return b, false
	}
	return *p, true
}

// Size is what the records take, as MaxLimits counts.
func (t *Table) Size() int { return t.size }

// Share does a ShareOps.
func (t *Table) Share(c control.ShareOps) control.Result {
	switch {
	case c.Reign != t.reign:
		return t.refuse(control.WrongVersion)
	case c.Claim && (c.Roster != nil || len(c.Ops) > 0):
		return t.refuse(control.Malformed)
	case c.Claim:
		t.reign++
		t.version++
		return control.Result{Version: t.reign, Roster: true}
	}
	r := control.Result{Version: t.reign}
	if c.Roster != nil {
		if code := t.seat(c.Roster); code != control.OK {
			return t.refuse(code)
		}
		r.Roster = true
	}
	for i := range c.Ops {
		code := t.op(&c.Ops[i])
		out := control.OpResult{Code: code}
		if d := t.byKey[c.Ops[i].Key]; d != nil {
			out.Epoch = control.Epoch(d.Version)
		}
		r.Ops = append(r.Ops, out)
		if code == control.OK {
			r.Limits = append(r.Limits, c.Ops[i].Key)
		}
	}
	slices.Sort(r.Limits)
	r.Limits = slices.Compact(r.Limits)
	return r
}

func (t *Table) refuse(c control.Code) control.Result {
	return control.Result{Code: c, Text: c.String(), Version: t.reign}
}

// seat replaces the roster.
func (t *Table) seat(r *control.Roster) control.Code {
	next := control.Roster{Version: t.version + 1, Founded: r.Founded, Seats: r.Seats}
	switch {
	case r.Version != t.roster.Version:
		return control.WrongVersion
	case !soundRoster(&next):
		return control.Malformed
	case t.roster.Founded && !r.Founded:
		return control.WrongState
	}
	for _, d := range t.byKey {
		if !fits(d.Of, d.Parts, &next) {
			return control.LimitReached
		}
	}
	t.version++
	t.roster = next
	return control.OK
}

// op changes one key.
func (t *Table) op(o *control.ShareOp) control.Code {
	now := t.byKey[o.Key]
	var version uint64
	size := t.size
	if now != nil {
		version = now.Version
		size -= costOf(now.Key, now.Parts)
	}
	switch {
	case version != o.IfVersion:
		return control.WrongVersion
	case o.Drop && now == nil:
		return control.WrongVersion
	case o.Drop:
		t.version++
		t.size = size
		delete(t.byKey, o.Key)
		return control.OK
	}
	size += costOf(o.Key, o.Parts)
	switch {
	case !sound(o.Key, o.Of, o.Parts):
		return control.Malformed
	case !t.roster.Founded:
		return control.WrongState
	case slices.ContainsFunc(o.Parts, func(p control.Part) bool { return t.roster.Of(p.Node) != control.Seated }):
		return control.UnknownNode
	case !fits(o.Of, o.Parts, &t.roster), now == nil && len(t.byKey) >= control.MaxDivisions, size > control.MaxLimits:
		return control.LimitReached
	}
	if t.byKey == nil {
		t.byKey = map[string]*control.Division{}
	}
	t.version++
	t.size = size
	t.byKey[o.Key] = &control.Division{Key: o.Key, Kind: o.Kind, Of: o.Of, Parts: o.Parts, Version: t.version}
	return control.OK
}

// fits says whether the parts leave no seat less than it uses when it is cut
// off, and are no more than there is.
func fits(of uint32, parts []control.Part, r *control.Roster) bool {
	sum, least := uint64(0), control.Reserve(of)
	for i := range parts {
		units := parts[i].Units
		if units < least && r.Of(parts[i].Node) != 0 {
			units = least
		}
		sum += uint64(units)
	}
	for i := range r.Seats {
		if !slices.ContainsFunc(parts, func(p control.Part) bool { return p.Node == r.Seats[i].Node }) {
			sum += uint64(least)
		}
	}
	return sum <= uint64(of)
}

func sound(key string, of uint32, parts []control.Part) bool {
	return control.ValidLimitKey(key) && of >= 1 && of <= control.MaxUnits && len(parts) <= control.MaxSeats &&
		ordered(parts, func(p *control.Part) string { return p.Node })
}

func soundRoster(r *control.Roster) bool {
	if r.Version == 0 {
		return len(r.Seats) == 0 && !r.Founded
	}
	for _, s := range r.Seats {
		if s.State < control.Entering || s.State > control.Leaving {
			return false
		}
	}
	return len(r.Seats) <= control.MaxSeats && ordered(r.Seats, func(s *control.Seat) string { return s.Node })
}

func soundBudget(b *control.Budget) bool {
	sum := uint64(0)
	for _, p := range b.Parts {
		if p.Session == 0 || p.Granted > b.Granted-sum {
			return false
		}
		sum += p.Granted
	}
	return control.ValidLimitKey(b.Key) && b.PerS >= control.MinBudgetPer && b.PerS <= control.MaxBudgetPer &&
		b.Window <= latestMS/1000/uint64(b.PerS) && len(b.Parts) <= control.MaxSeats &&
		ordered(b.Parts, func(p *control.BudgetPart) string { return p.Node })
}

// ordered says whether the names are names, and rise.
func ordered[T any](list []T, name func(*T) string) bool {
	last := ""
	for i := range list {
		n := name(&list[i])
		if n <= last || len(n) > control.MaxText {
			return false
		}
		last = n
	}
	return true
}

// Grant does a BudgetOps.
func (t *Table) Grant(c control.BudgetOps) control.Result {
	if c.AtMS < 0 || c.AtMS > latestMS {
		return control.Result{Code: control.Malformed, Text: control.Malformed.String()}
	}
	now := max(t.clock, c.AtMS)
	var r control.Result
	for i := range c.Grants {
		n, code := t.grant(&c.Grants[i], now)
		r.Ops = append(r.Ops, control.OpResult{Code: code, Epoch: control.Epoch(n)})
		if code == control.OK {
			r.Limits = append(r.Limits, c.Grants[i].Key)
		}
	}
	slices.Sort(r.Limits)
	r.Limits = slices.Compact(r.Limits)
	if len(r.Limits) > 0 {
		if now/sweepMS > t.clock/sweepMS {
			t.sweep(now)
		}
		t.clock = now
	}
	return r
}

// sweep drops the budgets of windows that are over.
func (t *Table) sweep(now int64) {
	for k, b := range t.budgets {
		if b.EndsMS() <= now {
			t.size -= costOfBudget(b)
			delete(t.budgets, k)
		}
	}
}

// grant gives one part at a time, and says how much it was.
func (t *Table) grant(g *control.BudgetGrant, at int64) (uint64, control.Code) {
	if !control.ValidLimitKey(g.Key) || g.PerS < control.MinBudgetPer || g.PerS > control.MaxBudgetPer || g.Node == "" || len(g.Node) > control.MaxText || g.Session == 0 {
		return 0, control.Malformed
	}
	next := control.Budget{Key: g.Key, PerS: g.PerS, Window: uint64(at) / 1000 / uint64(g.PerS)}
	now := t.budgets[g.Key]
	size := t.size
	if now != nil {
		size -= costOfBudget(now)
		switch {
		case now.PerS == g.PerS && now.Window == next.Window:
			next.Granted, next.Parts = now.Granted, now.Parts
		case now.PerS != g.PerS && now.EndsMS() > at:
			// The limit became another one: what was given still counts.
			next.Granted = now.Granted
		}
	}
	place, there := slices.BinarySearchFunc(next.Parts, g.Node, func(p control.BudgetPart, n string) int { return cmp.Compare(p.Node, n) })
	n := min(g.N, g.Amount-min(g.Amount, next.Granted))
	switch {
	case there && next.Parts[place].Session > g.Session:
		return 0, control.OldSession
	case n == 0, !there && len(next.Parts) >= control.MaxSeats, now == nil && len(t.budgets) >= control.MaxBudgets:
		return 0, control.LimitReached
	}
	next.Parts = slices.Clone(next.Parts)
	part := control.BudgetPart{Node: g.Node, Session: g.Session}
	if there {
		if next.Parts[place].Session == g.Session {
			part.Granted = next.Parts[place].Granted
		}
	} else {
		next.Parts = slices.Insert(next.Parts, place, part)
	}
	part.Granted += n
	next.Parts[place] = part
	next.Granted += n
	if size += costOfBudget(&next); size > control.MaxLimits {
		return 0, control.LimitReached
	}
	if t.budgets == nil {
		t.budgets = map[string]*control.Budget{}
	}
	t.size = size
	t.budgets[g.Key] = &next
	return n, control.OK
}

func costOf(key string, parts []control.Part) int {
	n := len(key) + control.LimitCost
	for i := range parts {
		n += len(parts[i].Node) + control.PartCost
	}
	return n
}

func costOfBudget(b *control.Budget) int {
	n := len(b.Key) + control.LimitCost
	for i := range b.Parts {
		n += len(b.Parts[i].Node) + 2*control.PartCost
	}
	return n
}
