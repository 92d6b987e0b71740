package segment_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// world is a cluster whose log of Raft commits at once and whose streams
// deliver at once, but where a test has them not. A message is one record.
type world struct {
	t        *testing.T
	now      time.Duration
	index    uint64
	state    *fsm.State
	nodes    []*box
	leader   *box // nil: no quorum
	trace    []string
	said     map[string]string // message -> what its client heard
	got      map[string]int    // message -> deliveries
	drop     func(from, to *box, it segment.Item) bool
	noCmd    func(fsm.SegmentOp) bool // proposals that are lost
	without  segment.Rules
	balance  balance.Config
	zones    map[string]string // by node
	expect   int
	queue    []func()
	draining bool
}

// box is one node: the machines, and a store that survives them.
type box struct {
	busy   bool            // deliveries are under way that do not end
	hushed []segment.Quiet // what is to be said when they have

	w            *world
	name         string
	ref          fsm.Ref
	m            *segment.Machine
	l            *lead.Machine
	session      fsm.Session
	up           bool
	lag          bool // does not apply
	cut          map[*box]bool
	links        map[*box]bool
	nonce        byte
	store        map[fsm.SegmentID]*shelf
	waits        []*waiter
	numbers      map[fsm.SegmentID]uint64
	owns         map[fsm.SegmentID]uint64 // end of owned segments told by Own
	paused       map[fsm.SegmentID]bool
	slow         bool // the disk syncs nothing
	mute         bool // its beacons do not arrive
	alarms       []string
	moved        []fsm.SegmentID // to another node
	stayed       []string        // why what was to move did not
	resultsAcked map[fsm.SegmentID]uint64
	doubts       bool
}

type shelf struct {
	last    uint64
	msgs    map[uint64]string
	done    map[uint64]bool
	end     uint64
	endSet  bool
	owner   fsm.Ref
	epoch   fsm.Epoch
	missing []uint64
}

type waiter struct {
	msg string
	seg fsm.SegmentID
	seq uint64
}

type env struct {
	it   segment.Item
	data any
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{}
	w.begin(t, names...)
	return w
}

// begin starts the nodes of a world in which some things may be set.
func (w *world) begin(t *testing.T, names ...string) {
	w.t, w.state, w.said, w.got, w.expect, w.now = t, fsm.New(), map[string]string{}, map[string]int{}, 3, time.Hour
	for _, n := range names {
		w.add(n)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, l := range w.trace {
				t.Log(l)
			}
		}
	})
	w.leader = w.nodes[0]
	for _, b := range w.nodes {
		b.boot()
	}
	w.run(3 * time.Second)
}

func (w *world) add(name string) *box {
	b := &box{
		w: w, name: name, ref: fsm.Ref{Node: name, Store: fsm.StoreID{name[0], 1}},
		cut: map[*box]bool{}, links: map[*box]bool{}, store: map[fsm.SegmentID]*shelf{},
	}
	w.nodes = append(w.nodes, b)
	return b
}

func (w *world) node(name string) *box {
	for _, b := range w.nodes {
		if b.name == name {
			return b
		}
	}
	w.t.Fatalf("no node %s", name)
	return nil
}

func (w *world) logf(format string, args ...any) {
	if w.trace = append(w.trace, fmt.Sprintf("%8.3f ", w.now.Seconds())+fmt.Sprintf(format, args...)); len(w.trace) > 4000 {
		w.trace = w.trace[2000:]
	}
}

// boot starts a process of the node.
func (b *box) boot() {
	var held []segment.Held
	for id, s := range b.store {
		held = append(held, segment.Held{Segment: id, Last: s.last, Epoch: s.epoch, Owner: s.owner, End: s.end, EndSet: s.endSet})
	}
	slices.SortFunc(held, func(x, y segment.Held) int { return int(int64(x.Segment) - int64(y.Segment)) })
	m, err := segment.New(segment.Config{Self: b.ref, Expect: b.w.expect, Seed: 1, Held: held, Suspect: b.doubts, Without: b.w.without, Balance: b.w.balance})
	if err != nil {
		b.w.t.Fatal(err)
	}
	l, err := lead.New(lead.Config{})
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.m, b.l, b.up, b.nonce = m, l, true, b.nonce+1
	b.resultsAcked = map[fsm.SegmentID]uint64{}
	b.numbers, b.owns, b.paused, b.waits = map[fsm.SegmentID]uint64{}, map[fsm.SegmentID]uint64{}, map[fsm.SegmentID]bool{}, nil
	b.w.logf("%s boots", b.name)
	b.full()
	if b == b.w.leader {
		b.lead(&lead.Leading{Term: 1})
	}
	r := b.w.commit(fsm.Register{Node: b.name, Store: b.ref.Store, Nonce: [16]byte{b.name[0], b.nonce}, Info: fsm.NodeInfo{Features: fsm.KnownLevel, BootID: "x", MachineID: b.name, Zone: b.w.zones[b.name]}})
	b.session = r.Session
	b.step(&segment.Registered{Session: r.Session})
	b.w.connect()
}

func (b *box) crash() {
	b.w.logf("%s crashes", b.name)
	b.up, b.waits = false, nil
	b.w.connect()
	if b.w.leader == b {
		b.w.leader = nil
	}
}

func (w *world) leads(b *box) {
	w.leader = b
	b.lead(&lead.Leading{Term: w.index})
}

// connect brings the streams in line with who is up and cut off.
func (w *world) connect() {
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			want := a != b && a.up && b.up && !a.cut[b] && !b.cut[a]
			if want == a.links[b] {
				continue
			}
			a.links[b] = want
			if !a.up {
				continue
			}
			if want {
				a.step(&segment.PeerUp{Peer: b.ref, Session: b.session})
			} else {
				a.step(&segment.PeerDown{Peer: b.ref})
			}
		}
	}
}

// reconnect replaces the streams of a node: a new process, or a hiccup.
func (w *world) part(a, b *box, cut bool) {
	a.cut[b] = cut
	w.connect()
}

func (w *world) commit(c fsm.Command) fsm.Result {
	data, err := fsm.Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	r := w.state.Apply(w.index, data)
	for _, b := range w.nodes {
		if !b.up || b.lag {
			continue
		}
		var segs []fsm.Segment
		var gone, off []fsm.SegmentID
		for _, id := range r.Segments {
			if g, ok := w.state.Segment(id); ok {
				segs = append(segs, g)
			} else {
				gone = append(gone, id)
				if w.state.WrittenOff(id) {
					off = append(off, id)
				}
			}
		}
		var nodes []fsm.Node
		for _, n := range r.Nodes {
			x, _ := w.state.Node(n)
			nodes = append(nodes, x)
		}
		if r.All {
			b.full()
			continue
		}
		b.step(&segment.Applied{Index: w.index, Segments: segs, Gone: gone, WrittenOff: off, Nodes: nodes, Settings: w.state.Settings(), Forgetful: !w.state.InventoryMissing()})
		b.lead(&lead.Applied{Index: w.index, Segments: segs, Gone: gone, Nodes: nodes, Settings: w.state.Settings()})
	}
	return r
}

func (b *box) full() {
	st := b.w.state
	b.step(&segment.Applied{Index: b.w.index, Full: true, Segments: st.Segments(), WrittenOff: st.AllWrittenOff(), Nodes: st.Nodes(), Settings: st.Settings(), Forgetful: !st.InventoryMissing()})
	b.lead(&lead.Applied{Index: b.w.index, Full: true, Segments: st.Segments(), Nodes: st.Nodes(), Settings: st.Settings()})
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.now += segment.TickEvery
		for _, b := range w.nodes {
			if b.up {
				b.step(&segment.Tick{})
				b.lead(&lead.Tick{})
			}
		}
	}
}

func (b *box) lead(ev lead.Event) {
	for _, a := range slices.Clone(b.l.Step(b.w.now, ev)) {
		if b.w.leader != b {
			continue
		}
		switch a.Kind {
		case lead.ActBarrier:
			b.lead(&lead.Barred{Term: a.Term})
		case lead.ActRenew:
			b.w.commit(fsm.Renew{Renewals: a.Renewals})
		case lead.ActPropose:
			b.w.logf("leader: %v", a.Ops)
			b.w.commit(fsm.SegmentOps{Ops: a.Ops})
		}
	}
}

func (b *box) step(ev segment.Event) {
	if !b.up {
		return
	}
	switch ev.(type) {
	case *segment.Tick, *segment.Applied:
	default:
		b.w.logf("%s < %T %+v", b.name, ev, ev)
	}
	b.stepWith(ev, nil)
}

// stepWith queues an event: one is done with all its actions before the next.
func (b *box) stepWith(ev segment.Event, items []env) {
	m := b.m
	b.w.queue = append(b.w.queue, func() {
		if !b.up || b.m != m {
			return
		}
		for _, a := range m.Step(b.w.now, ev) {
			b.do(a, items)
		}
	})
	b.w.drain()
}

func (w *world) drain() {
	if w.draining {
		return
	}
	w.draining = true
	for len(w.queue) > 0 {
		f := w.queue[0]
		w.queue = w.queue[1:]
		f()
	}
	w.draining = false
}

// send files a message with the node; what the client hears is in said.
func (b *box) send(msg string) bool {
	id, epoch, ok := b.m.Pick(b.w.now)
	if !ok {
		b.w.said[msg] = "451"
		return false
	}
	s := b.shelf(id)
	s.epoch, s.owner = epoch, b.ref
	s.last++
	s.msgs[s.last] = msg
	b.waits = append(b.waits, &waiter{msg, id, s.last})
	b.step(&segment.Appended{Segment: id, First: s.last, Last: s.last})
	b.step(&segment.Arrived{Segment: id})
	if !b.slow {
		b.step(&segment.Durable{Segment: id, Seq: s.last})
	}
	return true
}

func (b *box) shelf(id fsm.SegmentID) *shelf {
	s := b.store[id]
	if s == nil {
		s = &shelf{msgs: map[uint64]string{}, done: map[uint64]bool{}}
		b.store[id] = s
	}
	return s
}

// deliver hands over everything that this node may deliver.
func (b *box) deliver() int {
	n := 0
	for _, id := range b.segments() {
		for b.deliverOne(id) {
			n++
		}
	}
	return n
}

func (b *box) segments() []fsm.SegmentID {
	var ids []fsm.SegmentID
	for id := range b.store {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (b *box) deliverOne(id fsm.SegmentID) bool {
	s := b.store[id]
	g, ok := b.w.state.Segment(id)
	if !ok || !b.m.Delivers(b.w.now, id) || b.paused[id] {
		return false
	}
	var seqs []uint64
	for q := range s.msgs {
		if !s.done[q] && (!g.EndSet || q <= g.End) && (g.EndSet || b.w.said[s.msgs[q]] == "250") {
			seqs = append(seqs, q)
		}
	}
	if len(seqs) == 0 {
		if g.State == fsm.Sealed {
			b.step(&segment.Empty{Segment: id})
		}
		return false
	}
	q := slices.Min(seqs)
	b.w.got[s.msgs[q]]++
	b.w.logf("%s delivers %s", b.name, s.msgs[q])
	s.done[q] = true
	b.numbers[id]++
	b.stepWith(&segment.ResultsAppended{Segment: id, First: b.numbers[id], Last: b.numbers[id]}, nil)
	b.step(&segment.ResultsDurable{Segment: id, Last: b.numbers[id]})
	return true
}

func (w *world) want(msg, said string, deliveries int) {
	w.t.Helper()
	if w.said[msg] != said || w.got[msg] != deliveries {
		w.t.Errorf("%s: client heard %q, delivered %d times; want %q and %d", msg, w.said[msg], w.got[msg], said, deliveries)
	}
}

func (w *world) ownedBy(name string) []fsm.Segment {
	var out []fsm.Segment
	for _, g := range w.state.Segments() {
		if g.Owner.Node == name {
			out = append(out, g)
		}
	}
	return out
}
