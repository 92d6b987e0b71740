package lead_test

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
)

const g = 5 * time.Second

// desk is one machine and the levels it is told.
type desk struct {
	t     *testing.T
	m     *lead.Machine
	now   time.Duration
	index uint64
	nodes map[string]*fsm.Node
	beats map[string]bool // nodes that send beacons
	n     uint64
	renew map[string]int // how often each was renewed
	ops   []fsm.SegmentOp
	mute  bool // proposals are lost
}

func newDesk(t *testing.T, cfg lead.Config, names ...string) *desk {
	m, err := lead.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, m: m, now: time.Hour, nodes: map[string]*fsm.Node{}, beats: map[string]bool{}, renew: map[string]int{}}
	for i, name := range names {
		d.nodes[name] = &fsm.Node{
			Name: name, Store: fsm.StoreID{name[0]}, State: fsm.Alive,
			Lease: fsm.Lease{Session: fsm.Session(1<<24 | (i + 1)), Renewed: 1, G: g},
		}
		d.beats[name] = true
		d.node(name)
	}
	return d
}

func (d *desk) settings() fsm.Settings { return fsm.DefaultSettings() }

func (d *desk) node(name string) {
	d.index++
	d.step(&lead.Applied{Index: d.index, Nodes: []fsm.Node{*d.nodes[name]}, Settings: d.settings()})
}

func (d *desk) segment(s fsm.Segment) {
	d.index++
	d.step(&lead.Applied{Index: d.index, Segments: []fsm.Segment{s}, Settings: d.settings()})
}

func (d *desk) seg(n uint32, epoch fsm.Epoch, state fsm.SegmentState, owner string, members ...string) fsm.Segment {
	s := fsm.Segment{ID: fsm.MakeSegmentID(1<<24|1, n), Epoch: epoch, State: state, Owner: d.ref(owner)}
	for _, m := range members {
		s.Members = append(s.Members, d.ref(m))
	}
	return s
}

func (d *desk) ref(name string) fsm.Ref {
	n := d.nodes[name]
	return n.Ref()
}

func (d *desk) step(ev lead.Event) {
	for _, a := range d.m.Step(d.now, ev) {
		switch a.Kind {
		case lead.ActBarrier:
			if !d.mute {
				defer d.step(&lead.Barred{Term: a.Term})
			}
		case lead.ActRenew:
			if d.mute {
				continue
			}
			for _, r := range a.Renewals {
				d.renew[r.Node]++
				n := d.nodes[r.Node]
				n.Lease.Renewed, n.Lease.Beacon, n.Waits, n.WaitsG = d.index+1, r.Beacon, 0, 0
				defer d.node(r.Node)
			}
		case lead.ActPropose:
			if len(a.Ops) > fsm.MaxOps {
				d.t.Errorf("%d operations in one command", len(a.Ops))
			}
			d.ops = append(d.ops, a.Ops...)
		}
	}
}

func (d *desk) run(dur time.Duration) {
	for end := d.now + dur; d.now < end; {
		d.now += 100 * time.Millisecond
		d.n++
		for _, name := range []string{"a", "b", "c"} {
			if d.beats[name] && d.nodes[name] != nil {
				d.step(&lead.Beacon{Node: name, Session: d.nodes[name].Lease.Session, Number: d.n})
			}
		}
		d.step(&lead.Tick{})
	}
}

func TestRenewsTwiceASecond(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b", "c")
	d.run(5 * time.Second)
	if len(d.renew) != 0 {
		t.Error("a follower renews")
	}
	d.step(&lead.Leading{Term: 2})
	d.beats["c"] = false
	d.run(10 * time.Second)
	if d.renew["a"] != 20 || d.renew["b"] != 20 || d.renew["c"] > 1 {
		t.Errorf("renewals in 10 s: %v", d.renew)
	}
}

func TestSilentNodeLosesItsSegments(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b", "c")
	d.step(&lead.Leading{Term: 1})
	d.run(2 * time.Second)
	for n := range uint32(10) {
		d.segment(d.seg(n+1, 1, fsm.Sealed, "b", "a", "b", "c"))
	}
	d.beats["b"] = false
	died := d.now
	for len(d.ops) == 0 && d.now < died+10*time.Second {
		d.run(100 * time.Millisecond)
	}
	if took := d.now - died; took < g-600*time.Millisecond || took > g+600*time.Millisecond {
		t.Errorf("reassigned after %v", took)
	}
	to := map[string]int{}
	for _, o := range d.ops {
		to[o.Member.Node]++
		if o.Kind != fsm.OpReassign || o.Unclean || o.Silent != d.nodes["b"].Lease.Session || o.Renewed != d.nodes["b"].Lease.Renewed {
			t.Errorf("proposed %+v", o)
		}
	}
	if to["a"] != 5 || to["c"] != 5 {
		t.Errorf("heirs: %v", to)
	}
	d.ops = nil
	d.run(time.Second)
	if len(d.ops) < 10 || len(d.ops) > 20 {
		t.Errorf("repeated %d times in a second", len(d.ops))
	}
}

func TestANewLeaderListensFirst(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b")
	d.segment(d.seg(1, 1, fsm.Open, "b", "a", "b"))
	d.run(20 * time.Second) // no leader anywhere
	d.step(&lead.Leading{Term: 5})
	d.run(3 * time.Second)
	if len(d.ops) != 0 {
		t.Errorf("reassigned a node that is there: %+v", d.ops)
	}
	d.beats["b"] = false
	d.run(3 * time.Second)
	d.step(&lead.Following{})
	d.run(10 * time.Second)
	if len(d.ops) != 0 {
		t.Errorf("a follower reassigns: %+v", d.ops)
	}
	d.mute = true
	d.step(&lead.Leading{Term: 7})
	d.run(5 * time.Second)
	if len(d.ops) != 0 {
		t.Error("reassigned before the barrier")
	}
}

func TestAPauseIsNoSilence(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b")
	d.step(&lead.Leading{Term: 1})
	d.segment(d.seg(1, 1, fsm.Open, "b", "a", "b"))
	d.run(2 * time.Second)
	d.now += 20 * time.Second // stopped
	d.step(&lead.Tick{})
	d.run(3 * time.Second)
	if len(d.ops) != 0 {
		t.Errorf("reassigned after the own pause: %+v", d.ops)
	}
}

func TestOldProcessIsWaitedFor(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b")
	d.step(&lead.Leading{Term: 1})
	d.run(3 * time.Second)
	b := d.nodes["b"]
	b.Waits, b.WaitsG = b.Lease.Renewed, b.Lease.G
	b.Lease = fsm.Lease{Session: 1<<24 | 9, Renewed: d.index + 1, G: g}
	d.node("b")
	before := d.renew["b"]
	d.run(4 * time.Second)
	if d.renew["b"] != before {
		t.Error("renewed while an older process may hold a lease")
	}
	d.run(2 * time.Second)
	if d.renew["b"] == before {
		t.Error("never renewed again")
	}
}

func TestStaleMembersTakeOverLast(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b", "c")
	d.step(&lead.Leading{Term: 1})
	d.run(2 * time.Second)
	s := d.seg(1, 1, fsm.Sealed, "b", "a", "b")
	s.Stale = []fsm.Ref{d.ref("a")}
	d.segment(s)
	d.beats["b"] = false
	d.run(60 * time.Second)
	if len(d.ops) != 0 {
		t.Errorf("a stale member takes over: %+v", d.ops)
	}
	d.nodes["b"].Lost = true
	d.node("b")
	d.run(time.Second)
	if len(d.ops) == 0 || !d.ops[0].Unclean {
		t.Errorf("the only store left does not take over: %+v", d.ops)
	}

	d = newDesk(t, lead.Config{}, "a", "b", "c")
	d.step(&lead.Leading{Term: 1})
	d.segment(s)
	d.beats["b"] = false
	d.run(9 * time.Minute)
	if len(d.ops) != 0 {
		t.Error("too early")
	}
	d.run(2 * time.Minute)
	if len(d.ops) == 0 || !d.ops[0].Unclean {
		t.Errorf("nothing after unclean_after: %+v", d.ops)
	}
}

func TestATakeoverThatHangsGoesToAnother(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b", "c")
	d.step(&lead.Leading{Term: 1})
	d.run(2 * time.Second)
	d.segment(d.seg(1, 2, fsm.Recovering, "a", "a", "b", "c"))
	since := d.now
	for len(d.ops) == 0 && d.now < since+time.Minute {
		d.run(100 * time.Millisecond)
	}
	if took := d.now - since; took < lead.OtherAfter || took > lead.OtherAfter+time.Second {
		t.Errorf("after %v", took)
	}
	// Where nobody else can, it stays.
	d.ops = nil
	d.segment(d.seg(1, 3, fsm.Recovering, "a", "a"))
	d.run(time.Minute)
	if len(d.ops) != 0 {
		t.Errorf("given to %+v", d.ops)
	}
}

func TestFormerStoreCountsAsSilent(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b")
	d.step(&lead.Leading{Term: 1})
	d.run(2 * time.Second)
	d.segment(d.seg(1, 1, fsm.Open, "b", "a", "b"))
	b := d.nodes["b"]
	old := b.Lease
	b.Former = []fsm.Former{{Store: b.Store, Lease: old}}
	b.Store = fsm.StoreID{99}
	b.Waits, b.WaitsG = old.Renewed, old.G
	b.Lease = fsm.Lease{Session: 1<<24 | 9, Renewed: d.index + 1, G: g}
	d.node("b")
	d.run(4 * time.Second)
	if len(d.ops) != 0 {
		t.Error("before the old lease has ended")
	}
	d.run(2 * time.Second)
	if len(d.ops) == 0 || d.ops[0].Member != d.ref("a") || d.ops[0].Silent != old.Session || d.ops[0].Renewed != old.Renewed {
		t.Errorf("proposed %+v", d.ops)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	d := newDesk(t, lead.Config{}, "a", "b", "c")
	d.step(&lead.Leading{Term: 1})
	d.run(2 * time.Second)
	var all []fsm.Segment
	for n := range uint32(9000) {
		all = append(all, d.seg(n+1, 1, fsm.Sealed, "b", "a", "b", "c"))
	}
	d.index++
	d.step(&lead.Applied{Index: d.index, Segments: all, Settings: d.settings()})
	d.beats["b"] = false
	d.run(8 * time.Second)
	seen := map[fsm.SegmentID]bool{}
	for _, o := range d.ops {
		seen[o.ID] = true
	}
	if len(seen) != 9000 {
		t.Errorf("%d of 9000 segments reassigned", len(seen))
	}
}
