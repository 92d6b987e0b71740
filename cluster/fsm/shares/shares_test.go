package shares_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm/shares"
	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
	"github.com/clrelay/clrelay/proto/control/wire"
	"google.golang.org/protobuf/proto"
)

func seats(names ...string) (list []control.Seat) {
	for _, n := range names {
		list = append(list, control.Seat{Node: n, State: control.Seated})
	}
	return list
}

func parts(units ...uint32) (list []control.Part) {
	for i, u := range units {
		list = append(list, control.Part{Node: string(rune('a' + i)), Units: u})
	}
	return list
}

// founded is a table with three nodes, in its first reign.
func founded(t testing.TB) *shares.Table {
	t.Helper()
	var s shares.Table
	s.Share(control.ShareOps{Claim: true})
	if r := s.Share(control.ShareOps{Reign: 1, Roster: &control.Roster{Founded: true, Seats: seats("a", "b", "c")}}); r.Code != control.OK || !r.Roster {
		t.Fatalf("the first roster: %+v", r)
	}
	return &s
}

func one(t testing.TB, s *shares.Table, o control.ShareOp) control.OpResult {
	t.Helper()
	r := s.Share(control.ShareOps{Reign: s.Reign(), Ops: []control.ShareOp{o}})
	if r.Code != control.OK || len(r.Ops) != 1 {
		t.Fatalf("%+v: %+v", o, r)
	}
	if touched := len(r.Limits) == 1; touched != (r.Ops[0].Code == control.OK) {
		t.Errorf("%+v: touched %q", r.Ops[0], r.Limits)
	}
	return r.Ops[0]
}

func TestReignsEndEachOther(t *testing.T) {
	s := founded(t)
	o := control.ShareOps{Reign: 1, Ops: []control.ShareOp{{Key: "k", Of: 10, Parts: parts(1, 1, 1)}}}
	if r := s.Share(control.ShareOps{Reign: 1, Claim: true}); r.Version != 2 || s.Reign() != 2 {
		t.Fatalf("the claim: %+v", r)
	}
	if r := s.Share(o); r.Code != control.WrongVersion || r.Version != 2 {
		t.Errorf("what was decided in the reign before: %+v", r)
	}
	if r := s.Share(control.ShareOps{Reign: 1, Claim: true}); r.Code != control.WrongVersion {
		t.Errorf("a claim that came late: %+v", r)
	}
}

// A division is changed as it was seen, for nodes that have a seat, and never
// gives more than there is.
func TestDivisions(t *testing.T) {
	s := founded(t)
	for name, c := range map[string]struct {
		o    control.ShareOp
		want control.Code
	}{
		"too many units":         {control.ShareOp{Key: "k", Of: 10, Parts: parts(4, 4, 3)}, control.LimitReached},
		"no room for the floor":  {control.ShareOp{Key: "k", Of: 100, Parts: parts(98, 1)}, control.LimitReached},
		"not even for one's own": {control.ShareOp{Key: "k", Of: 100, Parts: parts(95, 2, 2)}, control.LimitReached},
		"a stranger":             {control.ShareOp{Key: "k", Of: 10, Parts: parts(1, 1, 1, 1)}, control.UnknownNode},
		"no key":                 {control.ShareOp{Of: 10}, control.Malformed},
		"too long a key":         {control.ShareOp{Key: strings.Repeat("k", 1025), Of: 10}, control.Malformed},
		"not in order":           {control.ShareOp{Key: "k", Of: 10, Parts: []control.Part{{Node: "b"}, {Node: "a"}}}, control.Malformed},
		"no units":               {control.ShareOp{Key: "k"}, control.Malformed},
		"too fine":               {control.ShareOp{Key: "k", Of: 1001}, control.Malformed},
		"not there":              {control.ShareOp{Key: "k", Drop: true}, control.WrongVersion},
		"never there":            {control.ShareOp{Key: "k", Of: 10, IfVersion: 7}, control.WrongVersion},
	} {
		if got := one(t, s, c.o); got.Code != c.want {
			t.Errorf("%s: %v", name, got.Code)
		}
	}
	if got := one(t, s, control.ShareOp{Key: "k", Of: 100, Parts: parts(94, 3, 3)}); got.Code != control.OK || got.Epoch == 0 {
		t.Fatalf("a sound one: %+v", got)
	}
	d, _ := s.Division("k")
	if d.Units("a") != 94 || d.Units("z") != 0 {
		t.Errorf("it is %+v", d)
	}
	if got := one(t, s, control.ShareOp{Key: "k", Of: 1, Parts: parts(1)}); got.Code != control.WrongVersion || uint64(got.Epoch) != d.Version {
		t.Errorf("of another version: %+v", got)
	}
	before := s.Size()
	one(t, s, control.ShareOp{Key: "k", IfVersion: d.Version, Of: 1, Parts: parts(1)})
	if d2, _ := s.Division("k"); d2.Version <= d.Version || d.Units("a") != 94 || s.Size() >= before {
		t.Errorf("it became %+v, what was read %+v", d2, d)
	}
}

// A roster for which the divisions leave no room has to wait.
func TestRosters(t *testing.T) {
	s := founded(t)
	one(t, s, control.ShareOp{Key: "k", Of: 60, Parts: parts(56, 2, 2)})
	next := s.Roster()
	next.Seats = append(slices.Clone(next.Seats), control.Seat{Node: "d", State: control.Entering})
	put := func(r control.Roster) control.Code {
		return s.Share(control.ShareOps{Reign: 1, Roster: &r}).Code
	}
	if code := put(next); code != control.LimitReached {
		t.Errorf("there is no floor for the fourth: %v", code)
	}
	d, _ := s.Division("k")
	one(t, s, control.ShareOp{Key: "k", IfVersion: d.Version, Of: 60, Parts: parts(54, 2, 2)})
	if code := put(next); code != control.OK {
		t.Errorf("there is now: %v", code)
	}
	if code := put(next); code != control.WrongVersion {
		t.Errorf("twice: %v", code)
	}
	now := s.Roster()
	if now.Of("d") != control.Entering || now.Even(60) != 15 {
		t.Errorf("the roster is %+v", now)
	}
	d, _ = s.Division("k")
	if got := one(t, s, control.ShareOp{Key: "k", IfVersion: d.Version, Of: 60, Parts: parts(10, 10, 10, 10)}); got.Code != control.UnknownNode {
		t.Errorf("a part for who only enters: %v", got.Code)
	}
	now.Founded = false
	if code := put(now); code != control.WrongState {
		t.Errorf("unfounded again: %v", code)
	}
	now.Founded, now.Seats = true, seats("b", "a")
	if code := put(now); code != control.Malformed {
		t.Errorf("not in order: %v", code)
	}
	var fresh shares.Table
	fresh.Share(control.ShareOps{Claim: true})
	fresh.Share(control.ShareOps{Reign: 1, Roster: &control.Roster{Seats: seats("a")}})
	if got := one(t, &fresh, control.ShareOp{Key: "k", Of: 1, Parts: parts(1)}); got.Code != control.WrongState {
		t.Errorf("before the cluster heeds the roster: %v", got.Code)
	}
}

func TestBudgets(t *testing.T) {
	var s shares.Table
	const hour = 3_600_000
	grant := func(at int64, g control.BudgetGrant) (uint64, control.Code) {
		t.Helper()
		r := s.Grant(control.BudgetOps{AtMS: at, Grants: []control.BudgetGrant{g}})
		if r.Code != control.OK || len(r.Ops) != 1 {
			t.Fatalf("%+v", r)
		}
		return uint64(r.Ops[0].Epoch), r.Ops[0].Code
	}
	g := control.BudgetGrant{Key: "k", PerS: 3600, Amount: 100, Node: "a", Session: 7, N: 60}
	if n, code := grant(10*hour, g); n != 60 || code != control.OK {
		t.Fatalf("%d: %v", n, code)
	}
	g.Node = "b"
	if n, _ := grant(9*hour, g); n != 40 {
		t.Errorf("what is left of the hour, although the clock went back: %d", n)
	}
	if n, code := grant(10*hour+1, g); n != 0 || code != control.LimitReached {
		t.Errorf("nothing is left, and: %d %v", n, code)
	}
	g.Session = 6
	if _, code := grant(10*hour+1, g); code != control.OldSession {
		t.Errorf("a process of before: %v", code)
	}
	g.Session, g.PerS, g.Amount = 8, 86400, 130
	if n, _ := grant(10*hour+2, g); n != 30 {
		t.Errorf("another window while the first lasts: %d", n)
	}
	b, _ := s.Budget("k")
	if b.Granted != 130 || len(b.Parts) != 1 || b.Parts[0].Granted != 30 || b.EndsMS() != 24*hour {
		t.Errorf("the budget is %+v", b)
	}
	other := g
	other.Key = "other"
	grant(25*hour, other)
	if _, ok := s.Budget("k"); ok {
		t.Error("a window that is over is still there")
	}
	for name, bad := range map[string]control.BudgetGrant{
		"no key": {PerS: 3600, Amount: 1, Node: "a", Session: 1, N: 1}, "no node": {Key: "k", PerS: 3600, Amount: 1, Session: 1, N: 1},
		"no session": {Key: "k", PerS: 3600, Amount: 1, Node: "a", N: 1}, "no window": {Key: "k", Amount: 1, Node: "a", Session: 1, N: 1},
	} {
		if _, code := grant(26*hour, bad); code != control.Malformed {
			t.Errorf("%s: %v", name, code)
		}
	}
	if r := s.Grant(control.BudgetOps{AtMS: -1}); r.Code != control.Malformed {
		t.Errorf("before 1970: %v", r.Code)
	}
}

func again(t testing.TB, s *shares.Table) *shares.Table {
	t.Helper()
	l := s.Limits()
	b, err := proto.Marshal(&controlv1.Snapshot{Limits: wire.PutLimits(&l)})
	if err != nil {
		t.Fatal(err)
	}
	var m controlv1.Snapshot
	if err := proto.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	read, ok := wire.GetLimits(m.GetLimits())
	if !ok {
		t.Fatal("a snapshot cannot be read")
	}
	out, ok := shares.New(read)
	if !ok {
		t.Fatalf("a table is none: %+v", l)
	}
	return &out
}

// TestRandomOps holds random operations to the rules: no key gives more than
// there is, counting for every seat at least what a node uses that is cut off;
// no budget gives more than its amount a window; two tables that did the same
// are the same.
func TestRandomOps(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var s, twin shares.Table
		done := map[string]int{}
		given := map[string]uint64{} // by key and window
		clock := int64(0)
		for range 3000 {
			if r.IntN(4) == 0 {
				c := control.BudgetOps{AtMS: clock + int64(r.IntN(20*60_000)) - 120_000}
				for range r.IntN(4) {
					c.Grants = append(c.Grants, control.BudgetGrant{
						Key: fmt.Sprint("b", r.IntN(3)), PerS: 3600, Amount: 50, Node: string(rune('a' + r.IntN(4))), Session: control.Session(1 + r.IntN(3)), N: uint64(r.IntN(20)),
					})
				}
				a, b := s.Grant(c), twin.Grant(c)
				if !reflect.DeepEqual(a, b) {
					t.Fatalf("seed %d: %+v and %+v", seed, a, b)
				}
				if len(a.Limits) > 0 {
					clock = max(clock, c.AtMS)
				}
				for i, o := range a.Ops {
					key := fmt.Sprint(c.Grants[i].Key, "/", clock/3_600_000)
					if given[key] += uint64(o.Epoch); given[key] > 50 {
						t.Fatalf("seed %d: %d given of %s", seed, given[key], key)
					}
				}
				continue
			}
			c := randomShares(r, &s)
			a, b := s.Share(c), twin.Share(c)
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d: %+v: %+v and %+v", seed, c, a, b)
			}
			done[a.Code.String()]++
			for _, o := range a.Ops {
				done["op "+o.Code.String()]++
			}
			check(t, &s)
			if r.IntN(50) == 0 {
				twin = *again(t, &s)
			}
		}
		if !reflect.DeepEqual(s.Limits(), twin.Limits()) || s.Size() != twin.Size() {
			t.Fatalf("seed %d: the tables differ", seed)
		}
		if done["op ok"] < 100 || done["op a limit is reached"] == 0 {
			t.Errorf("seed %d: the generator misses something: %v", seed, done)
		}
	}
}

func check(t *testing.T, s *shares.Table) {
	t.Helper()
	l := s.Limits()
	for _, d := range l.Divisions {
		sum := uint32(0)
		counted := map[string]bool{}
		for _, p := range d.Parts {
			u := p.Units
			if l.Roster.Of(p.Node) != 0 {
				u = max(u, d.Of/30)
			}
			counted[p.Node] = true
			sum += u
		}
		for _, seat := range l.Roster.Seats {
			if !counted[seat.Node] {
				sum += d.Of / 30
			}
		}
		if sum > d.Of {
			t.Fatalf("%d of %d units are in use: %+v of %+v", sum, d.Of, d, l.Roster)
		}
	}
}

func randomShares(r *rand.Rand, s *shares.Table) control.ShareOps {
	c := control.ShareOps{Reign: s.Reign()}
	switch r.IntN(40) {
	case 0:
		c.Claim = true
		return c
	case 1:
		c.Reign--
	case 2, 3, 4:
		next := s.Roster()
		next.Founded = next.Founded || r.IntN(2) == 0
		next.Seats = nil
		for _, n := range "abcdef" {
			if r.IntN(3) > 0 {
				next.Seats = append(next.Seats, control.Seat{Node: string(n), State: control.SeatState(r.IntN(20)/6 + 1)})
			}
		}
		c.Roster = &next
	}
	for range r.IntN(5) {
		o := control.ShareOp{Key: fmt.Sprint("k", r.IntN(6)), Kind: uint8(r.IntN(2)), Of: []uint32{1, 2, 10, 100, 1000}[r.IntN(5)], Drop: r.IntN(6) == 0}
		if d, ok := s.Division(o.Key); ok && r.IntN(8) > 0 {
			o.IfVersion = d.Version
		}
		for _, seat := range s.Roster().Seats {
			if seat.State == control.Seated || r.IntN(20) == 0 {
				o.Parts = append(o.Parts, control.Part{Node: seat.Node, Units: uint32(r.IntN(int(o.Of)/2 + 1))})
			}
		}
		c.Ops = append(c.Ops, o)
	}
	return c
}

func TestLimitsThatAreNoTables(t *testing.T) {
	s := founded(t)
	one(t, s, control.ShareOp{Key: "k", Of: 100, Parts: parts(94, 3, 3)})
	s.Grant(control.BudgetOps{AtMS: 5_000_000, Grants: []control.BudgetGrant{{Key: "b", PerS: 3600, Amount: 9, Node: "a", Session: 1, N: 5}}})
	for name, spoil := range map[string]func(*control.Limits){
		"more than there is":       func(l *control.Limits) { l.Divisions[0].Parts[0].Units++ },
		"a version never given":    func(l *control.Limits) { l.Divisions[0].Version = l.Version + 1 },
		"a key twice":              func(l *control.Limits) { l.Divisions = append(l.Divisions, l.Divisions[0]) },
		"divided before it may be": func(l *control.Limits) { l.Roster.Founded = false },
		"a seat without a state":   func(l *control.Limits) { l.Roster.Seats[0].State = 0 },
		"parts above the whole":    func(l *control.Limits) { l.Budgets[0].Granted = 4 },
		"a window of no length":    func(l *control.Limits) { l.Budgets[0].PerS = 0 },
		"after the end of time":    func(l *control.Limits) { l.Budgets[0].Window = 1 << 60 },
		"a clock before time":      func(l *control.Limits) { l.ClockMS = -1 },
	} {
		l := again(t, s).Limits()
		spoil(&l)
		if _, ok := shares.New(l); ok {
			t.Errorf("%s: it is a table", name)
		}
	}
}

// TestBounds fills a table, and says what it takes.
func TestBounds(t *testing.T) {
	s := founded(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for full := false; !full; {
		c := control.ShareOps{Reign: 1}
		for range control.MaxOps {
			n++
			c.Ops = append(c.Ops, control.ShareOp{Key: fmt.Sprintf("per-sender/rate/sender=user-%07d@example.org", n), Of: 100, Parts: parts(40, 30, 30)})
		}
		for _, o := range s.Share(c).Ops {
			full = full || o.Code == control.LimitReached
		}
		if n == 100_000 {
			runtime.GC()
			runtime.ReadMemStats(&after)
			t.Logf("100,000 divided keys take %d MiB, counted as %d MiB", (after.HeapAlloc-before.HeapAlloc)>>20, s.Size()>>20)
		}
		if n > control.MaxDivisions+control.MaxOps {
			t.Fatal("there is no bound")
		}
	}
	if s.Size() > control.MaxLimits {
		t.Errorf("%d octets", s.Size())
	}
	d, _ := s.Division("per-sender/rate/sender=user-0000001@example.org")
	if got := one(t, s, control.ShareOp{Key: d.Key, IfVersion: d.Version, Drop: true}); got.Code != control.OK {
		t.Errorf("dropping one: %v", got.Code)
	}
	if got := one(t, s, control.ShareOp{Key: "new", Of: 1}); got.Code != control.OK {
		t.Errorf("and there is room again, but: %v", got.Code)
	}
}

// FuzzLimits reads any octets as what a snapshot says of limits.
func FuzzLimits(f *testing.F) {
	s := founded(f)
	one(f, s, control.ShareOp{Key: "k", Of: 100, Parts: parts(94, 3, 3)})
	s.Grant(control.BudgetOps{AtMS: 5_000_000, Grants: []control.BudgetGrant{{Key: "b", PerS: 3600, Amount: 9, Node: "a", Session: 1, N: 5}}})
	l := s.Limits()
	b, err := proto.Marshal(wire.PutLimits(&l))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m controlv1.Limits
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		l, ok := wire.GetLimits(&m)
		if !ok {
			return
		}
		s, ok := shares.New(l)
		if !ok {
			return
		}
		if !reflect.DeepEqual(again(t, &s).Limits(), s.Limits()) {
			t.Fatal("a table that was restored is another one when it is restored again")
		}
		s.Grant(control.BudgetOps{AtMS: 9_000_000, Grants: []control.BudgetGrant{{Key: "b", PerS: 3600, Amount: 9, Node: "a", Session: 1, N: 5}}})
		s.Share(control.ShareOps{Reign: s.Reign(), Ops: []control.ShareOp{{Key: "k", Drop: true}}})
	})
}

// BenchmarkShare applies entries of 1,000 changes to a table of 100,000 keys.
func BenchmarkShare(b *testing.B) {
	s := founded(b)
	keys := make([]string, 100_000)
	fill := control.ShareOps{Reign: 1}
	for i := range keys {
		keys[i] = fmt.Sprintf("per-sender/rate/sender=user-%07d@example.org", i)
		fill.Ops = append(fill.Ops, control.ShareOp{Key: keys[i], Of: 100, Parts: parts(40, 30, 30)})
	}
	s.Share(fill)
	n := 0
	for b.Loop() {
		b.StopTimer()
		c := control.ShareOps{Reign: 1}
		for range control.MaxOps {
			key := keys[n%len(keys)]
			n++
			d, _ := s.Division(key)
			c.Ops = append(c.Ops, control.ShareOp{Key: key, IfVersion: d.Version, Of: 100, Parts: parts(30, 40, 30)})
		}
		b.StartTimer()
		if r := s.Share(c); r.Ops[0].Code != control.OK {
			b.Fatal(r.Ops[0].Code)
		}
	}
}
