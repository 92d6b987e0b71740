package segment_test

import (
	"maps"
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
)

// inventory is what a node has of a segment.
type inventory struct {
	last uint64
	msgs map[uint64]string
	done map[uint64]bool
	bad  bool
}

// do carries out one action; items are those of the Received event it answers.
func (b *box) do(a segment.Action, items []env) {
	w := b.w
	if a.Kind != segment.ActBeacon {
		w.logf("%s > %s", b.name, a)
	}
	switch a.Kind {
	case segment.ActSend:
		b.transmit(a)
	case segment.ActPropose:
		b.propose(a.Ops)
	case segment.ActProposeNode:
		if w.leader != nil {
			w.commit(fsm.NodeChange{Node: b.name, Verb: a.Verb, By: a.Session})
		}
	case segment.ActAcked, segment.ActMoved, segment.ActLost:
		b.answer(a)
	case segment.ActResultsAcked:
		b.resultsAcked[a.Segment] = a.Seq
	case segment.ActStore:
		s := b.shelf(a.Segment)
		for q, msg := range items[a.Index].data.(map[uint64]string) {
			if q >= a.First && q <= a.Seq {
				s.msgs[q] = msg
			}
		}
		s.last = a.Seq
		if !b.slow {
			b.step(&segment.Taken{Segment: a.Segment, Seq: a.Seq})
		}
	case segment.ActStoreResults:
		maps.Copy(b.shelf(a.Segment).done, items[a.Index].data.(map[uint64]bool))
		b.step(&segment.TakenResults{Segment: a.Segment, From: a.Peer, Session: a.Session, Last: a.Seq})
	case segment.ActSetSegment:
		b.setSegment(a.Record)
	case segment.ActOwn:
		b.owns[a.Segment], b.paused[a.Segment] = a.Seq, false
	case segment.ActDisown:
		delete(b.owns, a.Segment)
	case segment.ActPause:
		b.paused[a.Segment] = true
	case segment.ActResume:
		b.paused[a.Segment] = false
	case segment.ActQuiesce:
		quiet := segment.Quiet{Segment: a.Segment, Token: a.Token}
		if b.busy {
			b.hushed = append(b.hushed, quiet)
		} else {
			b.step(&quiet)
		}
	case segment.ActForget:
		delete(b.store, a.Segment)
	case segment.ActBeacon:
		b.sendBeacon(a.Seq)
	case segment.ActAlarm:
		b.alarms = append(b.alarms, a.Why)
	case segment.ActMoving:
		if a.Complete {
			b.moved = append(b.moved, a.Segment)
		} else if a.Why != "" {
			b.stayed = append(b.stayed, a.Why)
		}
	case segment.ActFatal:
		w.t.Errorf("%s: fatal: %v %s", b.name, a.Segment, a.Why)
	default:
		b.doSync(a, items)
	}
}

func (b *box) setSegment(g *fsm.Segment) {
	s := b.shelf(g.ID)
	s.epoch, s.owner, s.end, s.endSet = g.Epoch, g.Owner, g.End, g.EndSet
	if !g.EndSet {
		return
	}
	for q := range s.msgs {
		if q > g.End {
			delete(s.msgs, q)
		}
	}
	s.last = min(s.last, g.End)
}

// doSync carries out what concerns copies of whole segments.
func (b *box) doSync(a segment.Action, items []env) {
	s := b.shelf(a.Segment)
	switch a.Kind {
	case segment.ActSendInventory:
		inv := inventory{last: s.last, msgs: maps.Clone(s.msgs), done: maps.Clone(s.done), bad: b.doubts}
		b.w.transmit(b, a.Peer, segment.Item{Kind: segment.ItemInventory, Segment: a.Segment, Epoch: a.Epoch, Seq: segment.LastPiece, Arg: a.Token}, inv)
	case segment.ActMerge:
		inv := items[a.Index].data.(inventory)
		for q, done := range inv.done {
			s.done[q] = s.done[q] || done
		}
		s.missing = nil
		for q := range inv.msgs {
			if _, ok := s.msgs[q]; !ok && q <= a.Seq && !inv.done[q] && !s.done[q] {
				s.missing = append(s.missing, q)
			}
		}
		if len(s.missing) == 0 && a.Complete {
			s.last = max(s.last, a.Seq)
		}
		b.step(&segment.Merged{Segment: a.Segment, From: a.Peer, Token: a.Token, Missing: len(s.missing)})
	case segment.ActFetch:
		b.w.transmit(b, a.Peer, segment.Item{Kind: segment.ItemFetch, Segment: a.Segment, Epoch: a.Epoch, Arg: a.Token}, slices.Clone(s.missing))
	case segment.ActServe:
		got := map[uint64]string{}
		for _, q := range items[a.Index].data.([]uint64) {
			if msg, ok := s.msgs[q]; ok {
				got[q] = msg
			}
		}
		b.w.transmit(b, a.Peer, segment.Item{Kind: segment.ItemCopy, Segment: a.Segment, Epoch: a.Epoch, Arg: a.Token}, got)
	case segment.ActPut:
		maps.Copy(s.msgs, items[a.Index].data.(map[uint64]string))
		left := slices.DeleteFunc(s.missing, func(q uint64) bool { return s.msgs[q] != "" })
		s.missing = nil
		if g, ok := b.w.state.Segment(a.Segment); ok && len(left) == 0 {
			s.last = max(s.last, g.End)
		}
		b.step(&segment.Fetched{Segment: a.Segment, From: a.Peer, Token: a.Token, Missing: len(left)})
	default:
		b.w.t.Errorf("unknown action %v", a)
	}
}

func (b *box) answer(a segment.Action) {
	var left []*waiter
	var moved []string
	for _, x := range b.waits {
		switch {
		case x.seg != a.Segment:
			left = append(left, x)
		case a.Kind == segment.ActLost:
			b.w.said[x.msg] = "451"
		case a.Kind == segment.ActAcked && x.seq <= a.Seq:
			b.w.said[x.msg] = "250"
		case a.Kind == segment.ActMoved && x.seq > a.Seq:
			moved = append(moved, x.msg)
		default:
			left = append(left, x)
		}
	}
	b.waits = left
	for _, msg := range moved {
		b.send(msg)
	}
}

func (b *box) propose(ops []fsm.SegmentOp) {
	if b.w.leader == nil {
		return
	}
	var go_ []fsm.SegmentOp
	for _, o := range ops {
		if b.w.noCmd == nil || !b.w.noCmd(o) {
			go_ = append(go_, o)
		}
	}
	if len(go_) == 0 {
		return
	}
	r := b.w.commit(fsm.SegmentOps{Ops: go_})
	for i, o := range r.Ops {
		if o.Code != fsm.OK {
			b.w.logf("%s: %+v refused: %v", b.name, go_[i], o.Code)
			b.step(&segment.Refused{Op: go_[i], Code: o.Code})
		}
	}
}

func (b *box) sendBeacon(n uint64) {
	l := b.w.leader
	if l != nil && l.up && !b.mute && (l == b || b.links[l]) {
		l.lead(beaconOf(b, n))
	}
}

// transmit attaches to an item what the receiver needs of this store.
func (b *box) transmit(a segment.Action) {
	var data any
	switch a.Item.Kind {
	case segment.ItemAppend:
		s := b.shelf(a.Item.Segment)
		recs := map[uint64]string{}
		for q := a.Item.Seq; q <= a.Item.Arg; q++ {
			recs[q] = s.msgs[q]
		}
		data = recs
	case segment.ItemResults:
		data = maps.Clone(b.shelf(a.Item.Segment).done)
	}
	b.w.transmit(b, a.Peer, a.Item, data)
}

func (w *world) transmit(from *box, to fsm.Ref, it segment.Item, data any) {
	for _, b := range w.nodes {
		if b.ref != to || !from.links[b] || !b.links[from] || w.drop != nil && w.drop(from, b, it) {
			continue
		}
		ev := &segment.Received{From: from.ref, Items: []segment.Item{it}}
		w.logf("%s < from %s %v", b.name, from.name, it)
		b.stepWith(ev, []env{{it, data}})
	}
}
