package sim

import (
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// step gives node i an event and carries out what comes of it.
func (s *mstate) step(i int, ev segment.Event, w *wire) {
	n := s.nodes[i]
	if n.m == nil {
		return
	}
	n.inbox = append(n.inbox, mevent{ev, w})
	if n.busy {
		return
	}
	n.busy = true
	for len(n.inbox) > 0 {
		in := n.inbox[0]
		n.inbox = n.inbox[1:]
		for _, a := range slices.Clone(n.m.Step(s.now, in.ev)) {
			s.do(i, &a, in.w)
		}
	}
	n.busy, n.inbox = false, nil
}

// do carries out an action; see process.do.
func (s *mstate) do(i int, a *segment.Action, w *wire) {
	n, seg := s.nodes[i], uint64(a.Segment)
	switch a.Kind {
	case segment.ActSend:
		s.send(i, a)
	case segment.ActPropose:
		s.props = append(s.props, mprop{i, encode(fsm.SegmentOps{Ops: a.Ops})})
	case segment.ActAcked:
		s.acked(i, seg, a.Seq)
	case segment.ActMoved:
		s.moved(i, seg, a.Seq)
	case segment.ActLost:
		s.lost(i, seg)
	case segment.ActResultsAcked:
		for k := range s.msgs {
			for num := range n.results {
				m := &s.msgs[k]
				m.settled = m.settled || m.acked && m.seg == seg && num.seg == seg && num.num <= a.Seq && n.results[num].commit == m.commit
			}
		}
	case segment.ActStore:
		h := n.mem.seg(seg)
		for _, r := range w.recs {
			if r.seq >= a.First && r.seq <= a.Seq {
				h.recs[r.seq] = r
			}
		}
		h.last = max(h.last, a.Seq)
		n.waits = append(n.waits, &segment.Taken{Segment: a.Segment, Seq: a.Seq})
	case segment.ActStoreResults:
		for _, f := range w.results {
			n.mem.seg(seg).unite(f.commit, f.r)
		}
		n.prune(seg)
		n.waits = append(n.waits, &segment.TakenResults{Segment: a.Segment, From: s.nodes[1-i].ref, Session: a.Session, Last: a.Seq})
	case segment.ActSetSegment:
		s.setSegment(i, *a.Record)
	case segment.ActOwn:
		s.own(i, seg)
	case segment.ActDisown:
		n.owns[seg] = false
		delete(n.due, seg)
	case segment.ActPause, segment.ActResume:
		n.paused[seg] = a.Kind == segment.ActPause
	case segment.ActQuiesce:
		n.paused[seg], n.quiesce[seg] = true, a.Token
		s.after(i, seg)
	case segment.ActForget:
		n.mem.floor = max(n.mem.floor, a.Seq)
		delete(n.mem.segs, seg)
		delete(n.owns, seg)
		delete(n.due, seg)
	case segment.ActBeacon:
		if !n.silent && s.nodes[1].m != nil {
			if i == 0 {
				s.copyNode(1)
			}
			s.lead(1, &lead.Beacon{Node: n.ref.Node, Session: n.session, Number: a.Seq})
		}
	case segment.ActFatal:
		s.fail("node %d: fatal: %s", i, a.Why)
	default:
		s.doCopies(i, a, w)
	}
}

// doCopies carries out the actions around inventories.
func (s *mstate) doCopies(i int, a *segment.Action, w *wire) {
	n, seg := s.nodes[i], uint64(a.Segment)
	peer := s.nodes[1-i].ref
	k := merging{seg: seg, token: a.Token, from: peer.Node}
	switch a.Kind {
	case segment.ActSendInventory:
		it := segment.Item{Kind: segment.ItemInventory, Segment: a.Segment, Epoch: a.Epoch, Seq: segment.LastPiece, Arg: a.Token}
		s.put(i, wire{it: it, inv: n.mem.inventory(seg)})
	case segment.ActMerge:
		inv := *w.inv
		h := n.mem.seg(seg)
		n.fetches[k] = h.missing(inv, a.Seq)
		h.merge(inv, a.Seq, a.Complete)
		n.prune(seg)
		n.waits = append(n.waits, &segment.Merged{Segment: a.Segment, From: peer, Token: a.Token, Missing: len(n.fetches[k])})
	case segment.ActFetch:
		it := segment.Item{Kind: segment.ItemFetch, Segment: a.Segment, Epoch: a.Epoch, Arg: a.Token}
		s.put(i, wire{it: it, missing: n.fetches[k]})
	case segment.ActServe:
		it := segment.Item{Kind: segment.ItemCopy, Segment: a.Segment, Epoch: w.it.Epoch, Arg: w.it.Arg}
		recs, results := n.mem.seg(seg).copies(w.missing)
		s.put(i, wire{it: it, missing: w.missing, recs: recs, results: results})
	case segment.ActPut:
		n.mem.seg(seg).take(w.recs, w.results)
		n.waits = append(n.waits, &segment.Fetched{Segment: a.Segment, From: peer, Token: w.it.Arg})
	}
}

// prune takes what is finished from what is to be delivered.
func (n *mnode) prune(seg uint64) {
	for commit, phase := range n.due[seg] {
		if phase == 0 && n.mem.seg(seg).results[commit].final {
			delete(n.due[seg], commit)
		}
	}
}

// put queues an item for the other node.
func (s *mstate) put(i int, w wire) {
	if s.linked {
		s.flow[i] = append(s.flow[i], w)
	}
}

func (s *mstate) send(i int, a *segment.Action) {
	if a.Peer != s.nodes[1-i].ref {
		return
	}
	n, seg := s.nodes[i], uint64(a.Item.Segment)
	w := wire{it: a.Item}
	for k := a.Item.Seq; k <= a.Item.Arg; k++ {
		switch a.Item.Kind {
		case segment.ItemResults:
			w.results = append(w.results, n.results[numbering{seg, k}])
		case segment.ItemAppend:
			if r, ok := n.mem.segs[seg].rec(k); ok {
				w.recs = append(w.recs, r)
			}
		default:
			k = a.Item.Arg
		}
	}
	s.put(i, w)
}

// place appends a message to a segment, if there is one.
func (s *mstate) place(i int, a marrival) {
	n := s.nodes[i]
	id, _, ok := n.m.Pick(s.now)
	a.seg = 0
	if ok {
		a.seg = uint64(id)
		n.next[a.seg]++
		a.commit = n.next[a.seg]
		n.owns[a.seg] = true
		h := n.mem.seg(a.seg)
		h.recs[a.commit] = record{seq: a.commit, msg: a.msg, first: a.commit, commit: true}
		h.last = a.commit
		n.waits = append(n.waits, &segment.Durable{Segment: id, Seq: a.commit})
	}
	n.waiting = append(n.waiting, a)
	if ok {
		s.step(i, &segment.Appended{Segment: id, First: a.commit, Last: a.commit}, nil)
		s.step(i, &segment.Arrived{Segment: id}, nil)
	}
}

func (s *mstate) acked(i int, seg, to uint64) {
	n := s.nodes[i]
	for _, a := range slices.Clone(n.waiting) {
		if a.seg != seg || a.commit > to {
			continue
		}
		n.waiting = slices.DeleteFunc(n.waiting, func(x marrival) bool { return x.msg == a.msg })
		m := &s.msgs[a.msg]
		m.acked, m.seg, m.commit = true, seg, a.commit
		if !n.m.Holds(s.now) {
			s.fail("I1: 250 without a lease")
		}
		g, ok := s.truth().Segment(fsm.SegmentID(seg))
		if !ok || g.EndSet && a.commit > g.End {
			s.fail("I1: 250 for %d of %v, which has ended", a.commit, fsm.SegmentID(seg))
		}
		for _, r := range g.Members {
			if d := s.holder(r); d != nil && !d.disk.holds(&message{seg: seg, first: a.commit, commit: a.commit}) {
				s.fail("I1: 250 for %d of %v, and %v does not have it on its disk", a.commit, g.ID, r)
			}
		}
		s.makeDue(i, seg, a.commit)
	}
}

func (s *mstate) makeDue(i int, seg, commit uint64) {
	n := s.nodes[i]
	if n.due[seg] == nil {
		n.due[seg] = map[uint64]int{}
	}
	if _, ok := n.due[seg][commit]; !ok {
		n.due[seg][commit] = 0
	}
}

func (s *mstate) moved(i int, seg, end uint64) {
	n := s.nodes[i]
	n.mem.seg(seg).truncate(end)
	for _, a := range slices.Clone(n.waiting) {
		if a.seg == seg && a.commit > end {
			n.waiting = slices.DeleteFunc(n.waiting, func(x marrival) bool { return x.msg == a.msg })
			s.place(i, a)
		}
	}
}

func (s *mstate) lost(i int, seg uint64) {
	n := s.nodes[i]
	n.waiting = slices.DeleteFunc(n.waiting, func(x marrival) bool { return x.seg == seg })
	s.after(i, seg)
}

func (s *mstate) setSegment(i int, g fsm.Segment) {
	n, seg := s.nodes[i], uint64(g.ID)
	h := n.mem.seg(seg)
	if g.Epoch < h.rec0.Epoch {
		return
	}
	h.rec0 = g
	if g.State == fsm.Open && g.Owner == n.ref {
		n.owns[seg] = true
	}
	if g.EndSet {
		h.truncate(g.End)
		for commit := range n.due[seg] {
			if commit > g.End {
				delete(n.due[seg], commit)
			}
		}
	}
	s.after(i, seg)
}

func (s *mstate) own(i int, seg uint64) {
	n := s.nodes[i]
	n.owns[seg], n.paused[seg], n.quiesce[seg], n.emptied[seg] = true, false, 0, false
	h := n.mem.seg(seg)
	for _, commit := range h.whole() {
		if !h.results[commit].final {
			s.makeDue(i, seg, commit)
		}
	}
	s.after(i, seg)
}

// after tells what became so: nothing left, or nothing under way.
func (s *mstate) after(i int, seg uint64) {
	n := s.nodes[i]
	busy := false
	for _, phase := range n.due[seg] {
		busy = busy || phase == 1
	}
	if token := n.quiesce[seg]; token != 0 && !busy {
		n.quiesce[seg] = 0
		s.step(i, &segment.Quiet{Segment: fsm.SegmentID(seg), Token: token}, nil)
	}
	waits := slices.ContainsFunc(n.waiting, func(a marrival) bool { return a.seg == seg })
	h := n.mem.segs[seg]
	if n.owns[seg] && !n.emptied[seg] && len(n.due[seg]) == 0 && !waits && h != nil && h.endSet {
		n.emptied[seg] = true
		s.step(i, &segment.Empty{Segment: fsm.SegmentID(seg)}, nil)
	}
}
