package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// opening brings the cluster to where it takes mail: both nodes registered,
// with leases and connected, node 0 with an OPEN segment whose members both are.
func (s *mstate) opening() {
	s.start(0)
	s.start(1)
	s.link()
	for range 400 {
		s.settleDown()
		if _, _, ok := s.nodes[0].m.Pick(s.now); ok {
			break
		}
		s.time(20 * time.Millisecond)
	}
	s.settleDown()
	if _, _, ok := s.nodes[0].m.Pick(s.now); !ok {
		s.fail("no segment was opened")
	}
	s.parent, s.did = nil, ""
}

// settleDown lets everything happen that needs no time.
func (s *mstate) settleDown() {
	for range 10000 {
		switch {
		case len(s.props) > 0:
			s.commitProp(0)
		case s.nodes[0].applied < len(s.log)-1:
			s.apply(0)
		case s.nodes[1].applied < len(s.log)-1:
			s.apply(1)
		case len(s.flow[0]) > 0:
			s.deliver(0)
		case len(s.flow[1]) > 0:
			s.deliver(1)
		case len(s.nodes[0].waits) > 0:
			s.sync(0)
		case len(s.nodes[1].waits) > 0:
			s.sync(1)
		default:
			return
		}
	}
}

// calmDown does at once what has no bearing on the order of anything else: a
// renewal where nothing else is on its way to the log, and, where no crash can
// come any more, syncs.
func (s *mstate) calmDown() {
	for again := true; again; {
		again = false
		if len(s.props) == 1 {
			if cmd, _ := fsm.Decode(s.props[0].data); cmd != nil {
				_, again = cmd.(fsm.Renew)
			}
			for _, n := range s.nodes {
				again = again && (n.m == nil || n.applied == len(s.log)-1)
			}
			if again {
				s.commitProp(0)
				for i, n := range s.nodes {
					if n.m != nil {
						s.copyNode(i)
						s.apply(i)
					}
				}
			}
		}
		if s.left.crashes+s.left.disks > 0 {
			continue
		}
		for i := range s.nodes {
			if len(s.nodes[i].waits) > 0 {
				again = true
				s.copyNode(i)
				s.sync(i)
			}
		}
	}
}

// successors are all states that one action leads to.
func (s *mstate) successors() []*mstate {
	var out []*mstate
	act := func(did string, node int, fn func(*mstate)) {
		t := s.fork(did, node)
		fn(t)
		t.calmDown()
		out = append(out, t)
	}
	for i, n := range s.nodes {
		if n.m == nil {
			act(fmt.Sprintf("start %d", i), i, func(t *mstate) { t.start(i) })
			continue
		}
		if n.applied < len(s.log)-1 {
			act(fmt.Sprintf("apply %d: %d", i, n.applied+1), i, func(t *mstate) { t.apply(i) })
		}
		if len(n.waits) > 0 {
			act(fmt.Sprintf("sync %d", i), i, func(t *mstate) { t.sync(i) })
		}
		if len(s.flow[1-i]) > 0 {
			act(fmt.Sprintf("deliver to %d: %s", i, itemText(s.flow[1-i][0].it)), i, func(t *mstate) { t.deliver(1 - i) })
		}
		if s.left.crashes > 0 {
			act(fmt.Sprintf("crash %d", i), i, func(t *mstate) { t.left.crashes--; t.crash(i, false) })
		}
		if s.left.disks > 0 && s.mayLose(i) {
			act(fmt.Sprintf("crash %d, disk lost", i), i, func(t *mstate) { t.left.disks--; t.crash(i, true) })
		}
		if s.sc.Results {
			for _, seg := range sortedKeys(n.due) {
				for _, commit := range sortedKeys(n.due[seg]) {
					s.deliveries(i, seg, commit, act)
				}
			}
		}
	}
	s.shared(act)
	return out
}

func (s *mstate) deliveries(i int, seg, commit uint64, act func(string, int, func(*mstate))) {
	n := s.nodes[i]
	switch {
	case n.due[seg][commit] == 1:
		act(fmt.Sprintf("%d hears the answer for %d", i, commit), i, func(t *mstate) { t.answered(i, seg, commit) })
	case !n.paused[seg] && n.m.Delivers(s.now, fsm.SegmentID(seg)):
		act(fmt.Sprintf("%d sends the final dot of %d", i, commit), i, func(t *mstate) { t.dot(i, seg, commit) })
	}
}

// shared are the actions that belong to no node.
func (s *mstate) shared(act func(string, int, func(*mstate))) {
	for k := range s.props {
		if k > 0 && s.left.late == 0 {
			break
		}
		act(fmt.Sprintf("commit of %s", s.propText(k)), -1, func(t *mstate) {
			t.left.late -= b2i(k > 0)
			t.commitProp(k)
		})
	}
	if len(s.props) > 0 && s.left.lost > 0 {
		act(fmt.Sprintf("loss of %s", s.propText(0)), -1, func(t *mstate) {
			t.left.lost--
			t.props = slices.Delete(slices.Clone(t.props), 0, 1)
		})
	}
	if busy := s.underWay(); s.left.times > 0 && (!busy || s.left.early > 0) {
		act("time", -1, func(t *mstate) {
			t.left.times--
			t.left.early -= b2i(busy)
			t.copyNode(0)
			t.copyNode(1)
			t.pass(t.sc.Stride)
		})
	}
	if s.sc.Beaten && !s.nodes[0].silent && s.nodes[0].m != nil {
		act("beacons of 0 are lost", 0, func(t *mstate) { t.nodes[0].silent = true })
	}
	if s.left.messages > 0 && s.nodes[0].m != nil {
		act("message", 0, func(t *mstate) {
			t.left.messages--
			t.msgs = append(t.msgs, mmsg{})
			t.place(0, marrival{msg: len(t.msgs) - 1})
		})
	}
	if s.linked && s.left.cuts > 0 {
		act("cut", -1, func(t *mstate) { t.left.cuts--; t.copyNode(0); t.copyNode(1); t.unlink() })
	}
	if !s.linked && s.nodes[0].m != nil && s.nodes[1].m != nil && s.nodes[0].session != 0 && s.nodes[1].session != 0 {
		act("link", -1, func(t *mstate) { t.copyNode(0); t.copyNode(1); t.link() })
	}
}

func (s *mstate) propText(k int) string {
	cmd, _ := fsm.Decode(s.props[k].data)
	if ops, ok := cmd.(fsm.SegmentOps); ok {
		return opsText(ops.Ops)
	}
	return fmt.Sprintf("%T", cmd)
}

func (s *mstate) mayLose(i int) bool {
	for _, m := range s.msgs {
		o := s.nodes[1-i]
		if m.acked && m.delivered == 0 && !o.disk.holds(&message{seg: m.seg, first: m.commit, commit: m.commit}) {
			return false
		}
	}
	return true
}

// start is a new process of node i, which knows the newest state of the
// control plane; what it does not know yet has no bearing before its Register.
func (s *mstate) start(i int) {
	n := s.nodes[i]
	n.starts++
	n.disk = n.mem.clone()
	st := store{mem: n.mem}
	m, err := segment.New(segment.Config{Self: n.ref, Expect: 3, Open: 1, Seed: 1, Held: st.held(), Floor: n.mem.floor, Without: s.sc.Without})
	if err != nil {
		s.fail("segment.New: %v", err)
		return
	}
	l, err := lead.New(lead.Config{Without: s.sc.Lead})
	if err != nil {
		s.fail("lead.New: %v", err)
		return
	}
	*n = mnode{
		m: m, lead: l, ref: n.ref, starts: n.starts, mem: n.mem, disk: n.disk, silent: n.silent,
		next: map[uint64]uint64{}, due: map[uint64]map[uint64]int{}, owns: map[uint64]bool{}, paused: map[uint64]bool{}, quiesce: map[uint64]uint64{}, emptied: map[uint64]bool{},
		num: map[uint64]uint64{}, results: map[numbering]finding{}, merges: map[merging]*inventory{}, fetches: map[merging][]uint64{},
	}
	s.props = append(s.props, mprop{i, encode(fsm.Register{Node: n.ref.Node, Store: n.ref.Store, Nonce: [16]byte{byte(i + 1), byte(n.starts)},
		Info: fsm.NodeInfo{Address: n.ref.Node, Features: 1, BootID: "b", MachineID: n.ref.Node}})})
	n.applied = 0
	s.apply(i)
	if i == 1 { // it has applied all there is: the barrier is done at once
		s.lead(1, &lead.Leading{Term: uint64(n.starts)})
	}
}

func (s *mstate) crash(i int, disk bool) {
	n := s.nodes[i]
	n.m, n.lead, n.waits = nil, nil, nil
	n.mem = n.disk.clone()
	if disk {
		n.ref = modelRef(i, n.starts)
		n.mem, n.disk = newImage(), newImage()
	}
	n.session, n.waiting, n.due, n.results, n.merges, n.fetches = 0, nil, nil, nil, nil, nil
	n.next, n.owns, n.paused, n.quiesce, n.emptied, n.num = nil, nil, nil, nil, nil, nil
	n.applied = 0
	s.copyNode(1 - i)
	s.unlink()
}

func (s *mstate) link() {
	s.linked = true
	for i := range s.nodes {
		s.step(i, &segment.PeerUp{Peer: s.nodes[1-i].ref, Session: s.nodes[1-i].session}, nil)
	}
}

func (s *mstate) unlink() {
	if !s.linked {
		return
	}
	s.linked = false
	s.flow = [2][]wire{}
	for i, n := range s.nodes {
		if n.m != nil {
			s.step(i, &segment.PeerDown{Peer: s.nodes[1-i].ref}, nil)
		}
	}
}

// apply tells node i the next entry; a process that has just started jumps to
// the end of what is known.
func (s *mstate) apply(i int) {
	n := s.nodes[i]
	full := n.applied == 0
	if full {
		n.applied = len(s.log) - 1
	} else {
		n.applied++
	}
	e := s.log[n.applied]
	set, forgetful := e.after.Settings(), !e.after.InventoryMissing()
	var segs []fsm.Segment
	var gone []fsm.SegmentID
	for _, id := range e.res.Segments {
		if g, ok := e.after.Segment(id); ok {
			segs = append(segs, g)
		} else {
			gone = append(gone, id)
		}
	}
	nodes := e.after.Nodes()
	if full {
		segs, gone = e.after.Segments(), nil
	}
	if cmd, err := fsm.Decode(e.data); err == nil && e.res.Session != 0 {
		if c, ok := cmd.(fsm.Register); ok && c.Node == n.ref.Node && c.Nonce == [16]byte{byte(i + 1), byte(n.starts)} && n.session == 0 {
			n.session = e.res.Session
			s.step(i, &segment.Registered{Session: n.session}, nil)
		}
	}
	s.lead(i, &lead.Applied{Index: uint64(n.applied), Full: full, Segments: segs, Gone: gone, Nodes: nodes, Settings: set})
	s.step(i, &segment.Applied{Index: uint64(n.applied), Full: full, Segments: segs, Gone: gone, Nodes: nodes, Settings: set, Forgetful: forgetful}, nil)
}

func (s *mstate) commitProp(k int) {
	p := s.props[k]
	s.props = slices.Delete(slices.Clone(s.props), k, k+1)
	s.commit(p.data)
}

// pass lets d go by in steps that no process takes for a pause of its own.
func (s *mstate) pass(d time.Duration) {
	const each = 500 * time.Millisecond
	for ; d > 0; d -= each {
		s.time(min(d, each))
		s.calmDown()
	}
}

// time lets d go by on both clocks.
func (s *mstate) time(d time.Duration) {
	s.now += d
	for i, n := range s.nodes {
		if n.m != nil {
			s.step(i, &segment.Tick{}, nil)
		}
	}
	s.lead(1, &lead.Tick{})
}

func (s *mstate) deliver(from int) {
	list := s.flow[from]
	s.flow[from] = nil
	for k := range list {
		s.step(1-from, &segment.Received{From: s.nodes[from].ref, Items: []segment.Item{list[k].it}}, &list[k])
	}
}

func (s *mstate) sync(i int) {
	n := s.nodes[i]
	n.disk = n.mem.clone()
	list := n.waits
	n.waits = nil
	for _, ev := range list {
		s.step(i, ev, nil)
	}
}

func (s *mstate) lead(i int, ev lead.Event) {
	n := s.nodes[i]
	if n.lead == nil {
		return
	}
	for _, a := range n.lead.Step(s.now, ev) {
		switch a.Kind {
		case lead.ActBarrier:
			s.lead(i, &lead.Barred{Term: a.Term})
			return
		case lead.ActRenew:
			s.props = append(s.props, mprop{i, encode(fsm.Renew{Renewals: a.Renewals})})
		case lead.ActPropose:
			s.props = append(s.props, mprop{i, encode(fsm.SegmentOps{Ops: a.Ops})})
		}
	}
}

func (s *mstate) dot(i int, seg, commit uint64) {
	n := s.nodes[i]
	n.due[seg][commit] = 1
	msg := n.mem.seg(seg).recs[commit].msg
	m := &s.msgs[msg]
	if m.settled && m.seg == seg && !s.stale {
		s.fail("I9: message %d is delivered again", msg)
	}
	if g, ok := s.truth().Segment(fsm.SegmentID(seg)); ok && (g.EndSet && commit > g.End || g.State == fsm.Open && !m.acked) {
		s.fail("message %d at %d is delivered from %v, end %d", msg, commit, g.ID, g.End)
	}
	m.delivered++
}

func (s *mstate) answered(i int, seg, commit uint64) {
	n := s.nodes[i]
	delete(n.due[seg], commit)
	n.mem.seg(seg).unite(commit, result{final: true, tries: 1})
	if n.owns[seg] {
		n.num[seg]++
		k := n.num[seg]
		n.results[numbering{seg, k}] = finding{commit, result{final: true, tries: 1}}
		n.waits = append(n.waits, &segment.ResultsDurable{Segment: fsm.SegmentID(seg), Last: k})
		s.step(i, &segment.ResultsAppended{Segment: fsm.SegmentID(seg), First: k, Last: k}, nil)
	}
	s.after(i, seg)
}
