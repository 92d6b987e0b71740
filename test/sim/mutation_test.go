package sim

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// quick is how many runs a mutation has without -seeds.
const quick = 10

// mutation is a rule that is taken out. The simulator must find what breaks
// without it within so many runs.
type mutation struct {
	name    string
	bend    func(*Options)
	seeds   int    // at most so many runs
	rare    bool   // only with -seeds: a few runs need not meet it
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
		{rare: true, name: "lease at 250 and member's epoch check", seeds: 200, bend: func(o *Options) {
			o.Without, o.LeaseFree = segment.LeaseToAck|segment.MemberEpoch, true
			o.Faults, o.Pace = Partition|Pause, 2*time.Second
		}},
		{name: "lease at delivery", bend: without(segment.LeaseToDeliver), seeds: 50},
		{name: "no ack after a Seal was proposed", bend: without(segment.SealStopsAcks), seeds: 200},
		{name: "nothing before the own Register", bend: without(segment.RegisterFirst), seeds: 200},
		{rare: true, name: "stale marking at Recovered", bend: without(segment.StaleAtRecovery), seeds: 200},
		{rare: true, name: "fresh counts from its proposal", seeds: 600, bend: func(o *Options) {
			o.Without, o.Faults, o.Pace = segment.FreshCounts, Late|Crash|Partition|Pause, 500*time.Millisecond
		}},
		{name: "leader waits G", bend: leadWithout(lead.WaitG), seeds: 50},
		{name: "barrier first", bend: func(o *Options) {
			o.WithoutLead, o.Faults, o.Pace = lead.BarrierFirst, RaftLag|Partition, time.Second
		}, seeds: 40, covered: "the refusal of a Reassign after a later Renew"},
		{rare: true, name: "barrier first and Reassign refused after a later Renew", bend: func(o *Options) {
			o.WithoutLead, o.Faults, o.Pace = lead.BarrierFirst, RaftLag|Partition, time.Second
			o.Bend = bendOps(anyRenew)
		}, seeds: 200},
		{name: "new session waits G", bend: leadWithout(lead.WaitsG), seeds: 200},
		{rare: true, name: "Reassign refused after a later Renew", seeds: 200, bend: func(o *Options) {
			o.Faults, o.Pace = RaftLag|Partition, time.Second
			o.Bend = bendOps(anyRenew)
		}},
		{rare: true, name: "Session check", seeds: 600, bend: func(o *Options) {
			o.Faults, o.Pace, o.Ambush = Late, 3*time.Second, fsm.OpTransfer
			o.Bend = bendOps(anySession)
		}},
		{rare: true, name: "compare-and-swap on the epoch", seeds: 600, bend: func(o *Options) {
			o.Faults, o.Pace = Late, time.Second
			o.Bend = bendOps(anyEpoch)
		}},
		{rare: true, name: "epoch raised by every change", seeds: 200, bend: func(o *Options) {
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

// Without -seeds there are a few runs of what is missed at once; with it as
// many of each as it may need.
func TestMutations(t *testing.T) {
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) {
			if *seeds == 0 {
				if m.rare || m.covered != "" {
					t.Skip("needs more runs than there is time for: give -seeds")
				}
				m.seeds = quick
			}
			sum, bad, err := many(t, *first, m.seeds, 40*time.Second, func(o *Options) {
				o.Backlog = 0 // so that the mix stays what it was chosen to be
				m.bend(o)
			})
			t.Logf("%d steps, seed %d: %v", sum.Steps, bad, err)
			switch {
			case m.covered != "" && err != nil:
				t.Errorf("not covered by %s: seed %d: %v", m.covered, bad, err)
			case m.covered == "" && err == nil:
				t.Errorf("not missed in %d runs", m.seeds)
			}
		})
	}
}

// The shapes that catch mutations are clean without one.
func TestShapes(t *testing.T) {
	if *seeds == 0 {
		t.Skip("with -seeds")
	}
	for _, faults := range []Fault{
		Late | Crash | Partition | Pause | DiskLoss | BadLinks | SlowDisk,
		RaftLag | Partition,
		Late | Crash | Drain,
	} {
		sum, bad, err := many(t, *first, max(1, *seeds/4), span(40*time.Second), func(o *Options) { o.Faults, o.Pace = faults, 700*time.Millisecond })
		t.Logf("faults %b: %+v", faults, sum)
		if err != nil {
			t.Errorf("faults %b, seed %d: %v", faults, bad, err)
		}
	}
}
