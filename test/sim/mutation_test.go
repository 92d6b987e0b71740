package sim

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// mutation is a rule that is taken out. The simulator must find what breaks
// without it within so many runs.
type mutation struct {
	name    string
	bend    func(*Options)
	seeds   int
	covered string // not empty: another rule covers it, and no run may fail
}

func mutations() []mutation {
	without := func(r segment.Rules) func(*Options) {
		return func(o *Options) { o.Without = r }
	}
	leadWithout := func(r lead.Rules) func(*Options) {
		return func(o *Options) { o.WithoutLead = r }
	}
	return []mutation{
		{name: "write-all", bend: without(segment.WriteAll), seeds: 20},
		{name: "lease at 250", bend: without(segment.LeaseToAck), seeds: 200},
		{name: "member's epoch check", bend: without(segment.MemberEpoch), seeds: 40, covered: "the lease at 250"},
		{name: "lease at 250, where only lost mail counts", seeds: 40, covered: "the member's epoch check", bend: func(o *Options) {
			o.Without, o.LeaseFree = segment.LeaseToAck, true
		}},
		{name: "lease at 250 and member's epoch check", seeds: 200, bend: func(o *Options) {
			o.Without, o.LeaseFree = segment.LeaseToAck|segment.MemberEpoch, true
		}},
		{name: "lease at delivery", bend: without(segment.LeaseToDeliver), seeds: 50},
		{name: "no ack after a Seal was proposed", bend: without(segment.SealStopsAcks), seeds: 200},
		{name: "nothing before the own Register", bend: without(segment.RegisterFirst), seeds: 200},
		{name: "stale marking at Recovered", bend: without(segment.StaleAtRecovery), seeds: 200},
		{name: "fresh counts from its proposal", seeds: 600, bend: func(o *Options) {
			o.Without, o.Faults, o.Pace = segment.FreshCounts, Late|Crash|Partition|Pause|DiskLoss|BadLinks|SlowDisk, 500*time.Millisecond
		}},
		{name: "leader waits G", bend: leadWithout(lead.WaitG), seeds: 50},
		{name: "barrier first", bend: func(o *Options) {
			o.WithoutLead, o.Faults, o.Pace = lead.BarrierFirst, RaftLag|Partition, time.Second
		}, seeds: 40, covered: "the refusal of a Reassign after a later Renew"},
		{name: "barrier first and Reassign refused after a later Renew", bend: func(o *Options) {
			o.WithoutLead, o.Faults, o.Pace = lead.BarrierFirst, RaftLag|Partition, time.Second
			o.Bend = bendOps(anyRenew)
		}, seeds: 200},
		{name: "new session waits G", bend: leadWithout(lead.WaitsG), seeds: 200},
		{name: "Reassign refused after a later Renew", seeds: 200, bend: func(o *Options) {
			o.Faults, o.Pace = RaftLag|Partition, time.Second
			o.Bend = bendOps(anyRenew)
		}},
		{name: "Session check", seeds: 600, bend: func(o *Options) {
			o.Faults, o.Pace = Late|Crash|Drain, 700*time.Millisecond
			o.Bend = bendOps(anySession)
		}},
		{name: "compare-and-swap on the epoch", seeds: 200, bend: func(o *Options) { o.Bend = bendOps(anyEpoch) }},
		{name: "epoch raised by every change", seeds: 200, bend: func(o *Options) {
			o.Bend = bendOps(anyEpoch)
			o.FlatEpochs = true
		}},
	}
}

// anyRenew lets a Reassign through though the session has renewed.
func anyRenew(st *fsm.State, op *fsm.SegmentOp) {
	if g, ok := st.Segment(op.ID); ok && op.Kind == fsm.OpReassign {
		if l, ok := st.LeaseOf(g.Owner); ok {
			op.Silent, op.Renewed = l.Session, l.Renewed
		}
	}
}

// anySession lets a change through whichever process of the owner made it.
func anySession(st *fsm.State, op *fsm.SegmentOp) {
	if g, ok := st.Segment(op.ID); ok && op.By != 0 {
		if n, ok := st.NodeOf(op.By); ok && n.Name != g.Owner.Node {
			return
		}
		if l, ok := st.LeaseOf(g.Owner); ok {
			op.By = l.Session
		}
	}
}

// anyEpoch lets a change through whatever epoch it was made for.
func anyEpoch(st *fsm.State, op *fsm.SegmentOp) {
	if g, ok := st.Segment(op.ID); ok && op.Epoch != 0 {
		op.Epoch = g.Epoch
	}
}

// bendOps changes the operations of a command before it is applied.
func bendOps(fn func(*fsm.State, *fsm.SegmentOp)) func(*fsm.State, fsm.Command) fsm.Command {
	return func(st *fsm.State, cmd fsm.Command) fsm.Command {
		c, ok := cmd.(fsm.SegmentOps)
		if !ok {
			return cmd
		}
		for i := range c.Ops {
			fn(st, &c.Ops[i])
		}
		return c
	}
}

func TestMutations(t *testing.T) {
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) {
			start := time.Now()
			sum, bad, err := many(t, *first, m.seeds, *rough, m.bend)
			t.Logf("%v: seed %d, %d steps: %v", time.Since(start).Round(time.Millisecond), bad, sum.Steps, err)
			if (err == nil) != (m.covered != "") {
				t.Errorf("after %d runs: %v", m.seeds, err)
			}
		})
	}
}

// The shapes that catch mutations are clean without one.
func TestShapes(t *testing.T) {
	for _, faults := range []Fault{
		Late | Crash | Partition | Pause | DiskLoss | BadLinks | SlowDisk,
		RaftLag | Partition,
		Late | Crash | Drain,
	} {
		sum, bad, err := many(t, *first, max(6, *seeds/4), *rough, func(o *Options) { o.Faults, o.Pace = faults, 700*time.Millisecond })
		t.Logf("faults %b: %+v", faults, sum)
		if err != nil {
			t.Errorf("faults %b, seed %d: %v", faults, bad, err)
		}
	}
}
