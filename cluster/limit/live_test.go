package limit_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/limit"
	limits "github.com/clrelay/clrelay/internal/limit"
)

// quiet is a world of three nodes that knows no trouble any more.
func quiet(t *testing.T, seed uint64, defs ...def) *world {
	t.Helper()
	w := newWorld(t, seed, defs, "a", "b", "c")
	w.run(5 * time.Second)
	return w
}

// within runs until a fact is true, and tells how long that took.
func (w *world) within(t *testing.T, what string, most time.Duration, fact func() bool) time.Duration {
	t.Helper()
	from := w.now
	for !fact() {
		if w.now-from > most {
			for _, s := range w.servers {
				if s.leads {
					t.Logf("the leader %s: %+v", s.name, s.machine.Status())
				}
			}
			t.Fatalf("seed %d: not within %v: %s", w.seed, most, what)
		}
		w.run(stepLen)
		if w.broken != "" {
			t.Fatal(w.broken)
		}
	}
	return w.now - from
}

func (w *world) parts(d *def) (list []uint32) {
	for _, s := range w.servers {
		list = append(list, s.purse.part(d))
	}
	return list
}

// TestDemandMoves: who alone wants a limit has nearly all of it soon, and gives
// it back as soon when another wants it.
func TestDemandMoves(t *testing.T) {
	for seed := range uint64(10) {
		for _, kind := range []limits.Kind{limits.KindRate, limits.KindConnections} {
			w := quiet(t, seed, def{key: "k", kind: kind, units: 100})
			d := &w.defs[0]
			w.server("a").want[d.key] = 100
			took := w.within(t, "a has 90 of 100", 3*time.Second, func() bool { return w.parts(d)[0] >= 90 })
			w.server("b").want[d.key], w.server("c").want[d.key] = 100, 100
			again := w.within(t, "all have a third", 4*time.Second, func() bool {
				p := w.parts(d)
				return min(p[0], p[1], p[2]) >= 30
			})
			t.Logf("seed %d, %v: after %v, shared again after %v", seed, kind, took, again)
			w.run(5 * time.Second)
			before := w.entries
			w.run(time.Minute)
			if w.entries-before > 2 {
				t.Errorf("%d entries in a minute in which nothing changed", w.entries-before)
			}
			w.server("b").want[d.key], w.server("c").want[d.key] = 0, 0
			w.server("a").want[d.key] = 20
			w.within(t, "the key is divided evenly again", 3*time.Minute, func() bool {
				_, ok := w.servers[0].state.Division(string(d.key))
				return !ok
			})
		}
	}
}

// TestEvenDemand: where all want the same, nothing is written at all.
func TestEvenDemand(t *testing.T) {
	w := quiet(t, 1, def{key: "k", kind: limits.KindRate, units: 100})
	for _, s := range w.servers {
		s.want["k"] = 100
	}
	before := w.entries
	w.run(time.Minute)
	if w.entries != before {
		t.Errorf("%d entries", w.entries-before)
	}
	for i, p := range w.parts(&w.defs[0]) {
		if p != 33 {
			t.Errorf("node %d has %d of 100 units", i, p)
		}
	}
}

// TestTurns: a unit that all wait for goes round.
func TestTurns(t *testing.T) {
	for units := range uint32(2) {
		for _, kind := range []limits.Kind{limits.KindRate, limits.KindConnections} {
			w := quiet(t, uint64(units), def{key: "k", kind: kind, units: units + 1})
			for _, s := range w.servers {
				s.want["k"] = 1
			}
			w.run(10 * time.Second)
			for _, s := range w.servers {
				s.sent["k"] = 0
			}
			w.run(90 * time.Second)
			total := 0
			for _, s := range w.servers {
				total += s.sent["k"]
			}
			for _, s := range w.servers {
				if s.sent["k"]*6 < total {
					t.Errorf("%d units, %v: %s got %d of %d", units+1, kind, s.name, s.sent["k"], total)
				}
			}
			if kind == limits.KindRate && total < 90*int(units+1)*6/10 {
				t.Errorf("%d units: %d messages in 90 s", units+1, total)
			}
		}
	}
}

// TestADeadNodesShare: what a node had that died is with those who want it
// within 8 s; with the leader, once there is one that has waited.
func TestADeadNodesShare(t *testing.T) {
	for seed := range uint64(10) {
		for _, leader := range []bool{false, true} {
			w := quiet(t, seed, def{key: "k", kind: limits.KindRate, units: 100})
			d := &w.defs[0]
			victim, heir, most := w.servers[1], w.servers[2], 8*time.Second
			if leader {
				victim, most = w.leader, 10*time.Second
			}
			victim.want[d.key] = 100
			w.run(5 * time.Second)
			heir.want[d.key] = 100
			w.run(3 * time.Second)
			w.kill(victim, 0)
			took := w.within(t, "the other has it", most, func() bool { return heir.purse.part(d) >= 90 })
			if seed == 0 {
				t.Logf("leader %v: after %v", leader, took)
			}
		}
	}
}

// TestCutOff: a node that is cut off keeps its floor, and nothing is stopped.
func TestCutOff(t *testing.T) {
	w := quiet(t, 3, def{key: "k", kind: limits.KindRate, units: 100})
	lone := w.servers[2]
	for _, s := range w.servers {
		s.want["k"] = 100
		w.cut[[2]string{s.name, lone.name}], w.cut[[2]string{lone.name, s.name}] = true, true
	}
	w.within(t, "the others have the rest", 9*time.Second, func() bool { p := w.parts(&w.defs[0]); return p[0]+p[1] >= 95 })
	if got := lone.purse.part(&w.defs[0]); got != 3 {
		t.Errorf("the node that is cut off has %d units", got)
	}
	clear(w.cut)
	w.within(t, "a third each", 5*time.Second, func() bool { return min(w.parts(&w.defs[0])[2], 30) == 30 })
}

// TestNoEntryAMessage: what is spent leaves nothing in the log.
func TestNoEntryAMessage(t *testing.T) {
	w := quiet(t, 4, def{key: "k", kind: limits.KindRate, units: 200}, def{key: "b", kind: limits.KindBudget, units: 100_000, per: time.Hour})
	w.servers[0].want["k"], w.servers[1].want["k"] = 200, 60
	w.run(5 * time.Second)
	before := w.entries
	count := func() (n int) {
		for _, s := range w.servers {
			n += s.sent["k"]
		}
		return n
	}
	from := count()
	for count()-from < 10_000 {
		w.run(time.Second)
	}
	t.Logf("%d messages, %d entries", count()-from, w.entries-before)
	if w.entries-before > 5 {
		t.Errorf("%d entries for %d messages", w.entries-before, count()-from)
	}
}

// TestBudgetIsUsedUp: the last of a budget is found, wherever it is wanted.
func TestBudgetIsUsedUp(t *testing.T) {
	w := quiet(t, 5, def{key: "b", kind: limits.KindBudget, units: 300, per: 24 * time.Hour})
	for _, s := range w.servers {
		s.want["b"] = 100
	}
	count := func() (n int) {
		for _, s := range w.servers {
			n += s.sent["b"]
		}
		return n
	}
	w.within(t, "all of it is spent", 3*time.Minute, func() bool { return count() == 300 })
}

// TestMembers: a node that comes gets a seat, one that is drained gives it up,
// and one that is lost is not waited for.
func TestMembers(t *testing.T) {
	w := quiet(t, 6, def{key: "k", kind: limits.KindRate, units: 120}, def{key: "other", kind: limits.KindConnections, units: 100})
	w.servers[0].want["other"] = 100
	d := &w.defs[0]
	change := func(c fsm.Command) {
		data, err := fsm.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		w.log = append(w.log, data)
	}
	seats := func() int { return len(w.servers[0].state.Roster().Seats) }
	w.add("d")
	w.within(t, "the fourth has a seat", 10*time.Second, func() bool { return len(w.servers) == 4 && w.parts(d)[3] == 30 && w.parts(d)[0] == 30 })
	change(fsm.NodeChange{Node: "d", Verb: fsm.NodeDrain})
	w.run(time.Second)
	change(fsm.NodeChange{Node: "d", Verb: fsm.NodeDrained, By: w.servers[3].session})
	w.within(t, "the drained node has none", 10*time.Second, func() bool { return seats() == 3 && w.parts(d)[3] == 0 && w.parts(d)[0] == 40 })
	rec, _ := w.servers[0].state.Node("c")
	w.kill(w.server("c"), 0)
	change(fsm.NodeChange{Node: "c", Verb: fsm.NodeLost, Store: rec.Store, Renewed: rec.Lease.Renewed})
	w.within(t, "the lost node has none", 20*time.Second, func() bool { return seats() == 2 && w.parts(d)[0] == 60 })
}

// TestAnOlderCluster: below the feature level everybody has an even part, and no
// lease is asked for.
func TestAnOlderCluster(t *testing.T) {
	w := newWorld(t, 7, []def{{key: "k", kind: limits.KindRate, units: 90}}, "a", "b", "c")
	w.log = w.log[:len(w.log)-1] // the level is not raised
	w.run(20 * time.Second)
	for i, p := range w.parts(&w.defs[0]) {
		if p != 30 {
			t.Errorf("node %d has %d units", i, p)
		}
	}
	if w.entries != 0 {
		t.Errorf("%d entries", w.entries)
	}
	raise, err := fsm.Encode(fsm.FeatureRaise{Level: fsm.LimitLevel})
	if err != nil {
		t.Fatal(err)
	}
	w.log = append(w.log, raise)
	w.within(t, "the roster is founded", 5*time.Second, func() bool {
		for i, p := range w.parts(&w.defs[0]) {
			if p != 30 {
				t.Fatalf("while the level rises node %d has %d units", i, p)
			}
		}
		return w.servers[2].state.Roster().Founded
	})
}

// TestWire: what nodes tell each other comes out as it went in, and what is too
// long says that it is not all.
func TestWire(t *testing.T) {
	r := limit.Report{Session: 7, Applied: 8, Number: 9, Complete: true, Demands: []limits.Demand{
		{Key: "k", Kind: limits.KindBudget, Units: 1, Want: 2, Used: 3, Window: time.Hour, Each: 4}, {Key: "l"},
	}}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := limit.DecodeReport(b); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("%+v became %+v: %v", r, again, err)
	}
	for range limit.MaxDemands - 2 {
		r.Demands = append(r.Demands, limits.Demand{Key: limits.Key(strings.Repeat("x", 1000))})
	}
	if b, err = r.Encode(); err != nil || len(b) > 2<<20 {
		t.Fatalf("%d octets: %v", len(b), err)
	}
	if again, err := limit.DecodeReport(b); err != nil || again.Complete || len(again.Demands) < 500 {
		t.Errorf("a long one: complete %v, %d demands: %v", again.Complete, len(again.Demands), err)
	}
	for range 10 {
		r.Demands = append(r.Demands, limits.Demand{})
	}
	list := []limit.Status{
		{Key: "a", Kind: limits.KindConnections, Of: 3, Even: true, Nodes: []limit.NodeStatus{{Node: "x", Units: 1, Want: 2, Used: 3, Leased: true}}}, {Key: "b"},
	}
	if b, err = limit.EncodeStatus(list, 1000); err != nil {
		t.Fatal(err)
	}
	if again, err := limit.DecodeStatus(b); err != nil || !reflect.DeepEqual(again, list) {
		t.Errorf("%+v became %+v: %v", list, again, err)
	}
	if b, _ = limit.EncodeStatus(list, 30); len(b) > 30 {
		t.Errorf("%d octets of 30", len(b))
	}
	if b, err = (limit.Answer{Leased: true, Index: 5}).Encode(); err != nil {
		t.Fatal(err)
	}
	if a, err := limit.DecodeAnswer(b); err != nil || a != (limit.Answer{Leased: true, Index: 5}) {
		t.Errorf("the answer became %+v: %v", a, err)
	}
}

// FuzzReport reads any octets as a report, and has the leader hear it.
func FuzzReport(f *testing.F) {
	r := limit.Report{Session: 1, Applied: 8, Number: 9, Complete: true, Demands: []limits.Demand{{Key: "k", Units: 10, Want: 7}, {Key: "b", Kind: limits.KindBudget, Units: 1, Want: 2}}}
	b, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := limit.DecodeReport(b)
		if err != nil {
			return
		}
		r.Session = 1
		m := limit.New(limit.Config{})
		m.Step(1, &limit.Nodes{Level: fsm.LimitLevel, Nodes: []fsm.Node{{Name: "a", State: fsm.Alive, Lease: fsm.Lease{Session: 1}}}})
		a := m.Step(1, &limit.Leading{})
		m.Step(1, &limit.Claimed{ID: a[0].ID, Reign: 1, Index: 1, Limits: fsm.Limits{
			Reign: 1, Version: 2, Roster: fsm.Roster{Version: 1, Founded: true, Seats: []fsm.Seat{{Node: "a", State: fsm.Seated}}},
			Divisions: []fsm.Division{{Key: "k", Of: 10, Version: 2, Parts: []fsm.Part{{Node: "a", Units: 3}}}},
		}})
		m.Step(2, &limit.Heard{Node: "a", Report: r})
		for _, a := range m.Step(time.Second, &limit.Tick{Wall: time.Unix(1_000_000, 0)}) {
			if _, err := fsm.Encode(a.Shares); a.Kind == limit.ActPropose && err != nil {
				t.Error(err)
			}
			if _, err := fsm.Encode(a.Budgets); a.Kind == limit.ActGrant && err != nil {
				t.Error(err)
			}
		}
		m.Status()
	})
}

// TestAnotherNumberOfUnits: a limit that was changed is divided anew.
func TestAnotherNumberOfUnits(t *testing.T) {
	w := quiet(t, 8, def{key: "k", kind: limits.KindRate, units: 100})
	w.servers[0].want["k"] = 1000
	w.run(5 * time.Second)
	w.defs[0].units = 200
	w.within(t, "it is divided into 200", 10*time.Second, func() bool {
		d, ok := w.servers[1].state.Division("k")
		return ok && d.Of == 200 && d.Units("a") > 150
	})
}

// BenchmarkTick is the leader's round with 2,000 keys that three nodes want.
func BenchmarkTick(b *testing.B) {
	m := limit.New(limit.Config{})
	now := time.Hour
	var nodes []fsm.Node
	roster := fsm.Roster{Version: 1, Founded: true}
	for i, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, fsm.Node{Name: name, State: fsm.Alive, Lease: fsm.Lease{Session: fsm.Session(i + 1)}})
		roster.Seats = append(roster.Seats, fsm.Seat{Node: name, State: fsm.Seated})
	}
	m.Step(now, &limit.Nodes{Level: fsm.LimitLevel, Nodes: nodes})
	a := m.Step(now, &limit.Leading{})
	m.Step(now, &limit.Claimed{ID: a[0].ID, Reign: 1, Index: 1, Limits: fsm.Limits{Reign: 1, Version: 1, Roster: roster}})
	index, version, number, ops := uint64(1), uint64(1), uint64(0), 0
	round := func() {
		now += limit.RoundEvery
		number++
		for i, n := range nodes {
			r := limit.Report{Session: n.Lease.Session, Applied: index, Number: number, Complete: true}
			for k := range 2000 {
				r.Demands = append(r.Demands, limits.Demand{
					Key: limits.Key(keyNames[k]), Kind: limits.KindRate, Units: 100, Want: uint32((k*7+i*31+int(number)*13)%100 + 34),
				})
			}
			m.Step(now, &limit.Heard{Node: n.Name, Report: r})
		}
		for _, a := range m.Step(now, &limit.Tick{Wall: time.Unix(1, 0)}) {
			if a.Kind != limit.ActPropose {
				continue
			}
			index++
			res := fsm.Result{}
			for range a.Shares.Ops {
				version++
				ops++
				res.Ops = append(res.Ops, fsm.OpResult{Epoch: fsm.Epoch(version)})
			}
			m.Step(now, &limit.Proposed{ID: a.ID, Known: true, Index: index, Result: res, Roster: roster})
		}
	}
	for b.Loop() {
		round()
	}
	b.ReportMetric(float64(ops)/float64(b.N), "changes/op")
}

// keyNames are names of 2,000 keys.
var keyNames = func() (list []string) {
	for i := range 2000 {
		list = append(list, fmt.Sprintf("per-site#rate,site=mail-%04d.example.net", i))
	}
	return list
}()
