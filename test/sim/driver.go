package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/lead"
	"github.com/clrelay/clrelay/cluster/segment"
)

// wire is an item on its way with what the driver attached.
type wire struct {
	it      segment.Item
	recs    []record
	results []finding
	inv     *inventory
	missing []uint64
}

// finding is a result of one message.
type finding struct {
	commit uint64
	r      result
}

// inventory is what a store has of a segment.
type inventory struct {
	last uint64
	live []alive
}

type alive struct {
	first, commit uint64
	r             result
	tried         bool
}

// owned is what the driver knows of a segment it appends to or delivers from.
type owned struct {
	seg      uint64
	next     uint64 // last seq given
	delivers bool
	paused   bool
	quiesce  uint64 // token of what waits for quiet; 0: nothing
	empty    bool   // Empty was told
	arriving int
	waiting  []*arrival
	due      map[uint64]*delivery // by commit
	attempts int
	settled  uint64 // results up to this number are said to be on all fresh members
}

// arrival is a message on its way in.
type arrival struct {
	m      *message
	at     *owned // nil: between two segments
	first  uint64
	commit uint64 // 0: not all is appended
	have   int    // records come in
	told   bool   // Arrived was told for at
	since  time.Duration
	done   bool
}

// do carries out an action.
func (p *process) do(a *segment.Action, in *inboxed) {
	seg := uint64(a.Segment)
	switch a.Kind {
	case segment.ActSend:
		p.send(a)
	case segment.ActPropose:
		p.proposeOps(a.Ops)
	case segment.ActProposeNode:
		p.propose(fsm.NodeChange{Node: p.n.name, Verb: a.Verb, By: p.session, Store: p.n.ref.Store}, nil)
	case segment.ActAcked:
		p.acked(seg, a.Seq)
	case segment.ActMoved:
		p.moved(seg, a.Seq)
	case segment.ActLost:
		p.lost(seg)
	case segment.ActResultsAcked:
		for o := p.seg(seg); o.settled < a.Seq; {
			o.settled++
			p.c.checkSettled(p, seg, p.numbered[numbering{seg, o.settled}])
		}
	case segment.ActStore:
		p.storeItem(a, &in.items[a.Index])
	case segment.ActStoreResults:
		p.storeResults(a, &in.items[a.Index], in.from)
	case segment.ActSetSegment:
		p.setSegment(*a.Record)
	case segment.ActOwn:
		p.own(seg, a.Takeover)
	case segment.ActDisown:
		p.disown(seg)
	case segment.ActPause, segment.ActResume:
		p.seg(seg).paused = a.Kind == segment.ActPause
	case segment.ActQuiesce:
		o := p.seg(seg)
		o.paused, o.quiesce = true, a.Token
		p.quiet(o)
	case segment.ActSendInventory:
		p.sendInventory(a)
	case segment.ActMerge:
		p.merge(a, &in.items[a.Index], in.from)
	case segment.ActFetch:
		p.fetch(seg, a.Epoch, a.Peer, a.Token)
	case segment.ActServe:
		p.serve(a, &in.items[a.Index], in.from)
	case segment.ActPut:
		p.put(a, &in.items[a.Index], in.from)
	case segment.ActForget:
		p.forget(seg, a.Seq)
	case segment.ActMoving:
		p.moving(a)
	case segment.ActBeacon:
		p.beacon(a.Seq)
	case segment.ActFatal:
		p.fatal(a)
	}
}

func (p *process) fatal(a *segment.Action) {
	if p.newer() {
		p.c.w.logf("%s ends: %s", p.n.name, a.Why)
		i := p.n.index
		p.n.end(false)
		p.c.w.after(time.Second, "restart", func() { p.c.start(i) })
		return
	}
	p.c.w.fail("%s: fatal: %s", p.n.name, a.Why)
}

// newer is whether another process of this node has registered.
func (p *process) newer() bool {
	n, ok := p.c.truth.Node(p.n.name)
	return ok && p.session != 0 && n.Lease.Session != p.session
}

// seg is what is known of a segment, made if need be.
func (p *process) seg(id uint64) *owned {
	o := p.owned[id]
	if o == nil {
		o = &owned{seg: id, due: map[uint64]*delivery{}}
		p.owned[id] = o
	}
	return o
}

func (p *process) nodeOf(r fsm.Ref) int {
	for i, n := range p.c.nodes {
		if n.name == r.Node {
			return i
		}
	}
	return -1
}

func (p *process) proposeOps(ops []fsm.SegmentOp) {
	p.c.w.logf("%s proposes %v", p.n.name, opsText(ops))
	if p.c.caught(p.n, ops) {
		return
	}
	p.propose(fsm.SegmentOps{Ops: ops}, func(index uint64) {
		if index == 0 {
			return
		}
		res := p.c.results[index-1]
		for i := range ops {
			code := res.Code
			if i < len(res.Ops) {
				code = res.Ops[i].Code
			}
			if code != fsm.OK {
				p.c.w.logf("%s is refused %v: %v", p.n.name, opsText(ops[i:i+1]), code)
				p.step(&segment.Refused{Op: ops[i], Code: code})
			}
		}
	})
}

func (p *process) beacon(number uint64) {
	to := p.c.raft.peers[p.n.index].leader
	if to < 0 {
		return
	}
	name, session := p.n.name, p.session
	p.c.net.datagram(p.n.index, to, "beacon", func() {
		p.c.nodes[to].exec("beacon", func(l *process) {
			l.leadStep(&lead.Beacon{Node: name, Session: session, Number: number})
		})
	})
}

// send attaches what the item stands for, cut into pieces.
func (p *process) send(a *segment.Action) {
	to := p.nodeOf(a.Peer)
	if to < 0 {
		return
	}
	h := p.n.store.mem.segs[uint64(a.Item.Segment)]
	switch a.Item.Kind {
	case segment.ItemAppend, segment.ItemResults:
		for first := a.Item.Seq; first <= a.Item.Arg; {
			last := first + p.c.w.rng.Uint64N(a.Item.Arg-first+1)
			w := wire{it: a.Item}
			w.it.Seq, w.it.Arg = first, last
			for s := first; s <= last; s++ {
				if a.Item.Kind == segment.ItemResults {
					w.results = append(w.results, p.numbered[numbering{uint64(a.Item.Segment), s}])
				} else if r, ok := h.rec(s); ok {
					w.recs = append(w.recs, r)
				}
			}
			p.c.streams.send(p.n.index, to, w)
			first = last + 1
		}
	default:
		p.c.streams.send(p.n.index, to, wire{it: a.Item})
	}
}

func (h *held) rec(seq uint64) (record, bool) {
	if h == nil {
		return record{}, false
	}
	r, ok := h.recs[seq]
	return r, ok
}

// setSegment writes what the record says into the header.
func (p *process) setSegment(g fsm.Segment) {
	seg := uint64(g.ID)
	p.n.store.make(seg, func(im *image) {
		h := im.seg(seg)
		if g.Epoch < h.rec0.Epoch {
			return
		}
		h.rec0 = g
		if g.EndSet {
			h.truncate(g.End)
		}
	})
	if g.State == fsm.Open && g.Owner == p.n.ref {
		p.seg(seg).delivers = true
	}
	o := p.owned[seg]
	if o == nil {
		return
	}
	if g.EndSet {
		for commit := range o.due {
			if commit > g.End {
				delete(o.due, commit)
			}
		}
		p.tellEmpty(o)
	}
}

func (p *process) storeItem(a *segment.Action, w *wire) {
	seg, last := uint64(a.Segment), a.Seq
	var recs []record
	for _, r := range w.recs {
		if r.seq >= a.First && r.seq <= a.Seq {
			recs = append(recs, r)
		}
	}
	k := p.n.store.make(seg, func(im *image) {
		h := im.seg(seg)
		for _, r := range recs {
			h.recs[r.seq] = r
		}
		h.last = max(h.last, last)
	})
	p.durable(k, func() { p.step(&segment.Taken{Segment: a.Segment, Seq: last}) })
}

func (p *process) storeResults(a *segment.Action, w *wire, from fsm.Ref) {
	seg, session, last := uint64(a.Segment), a.Session, a.Seq
	list := w.results
	k := p.n.store.make(seg, func(im *image) {
		for _, f := range list {
			im.seg(seg).unite(f.commit, f.r)
		}
	})
	if o := p.owned[seg]; o != nil {
		p.prune(o) // the owner before told its last results late
	}
	id := a.Segment
	p.durable(k, func() {
		p.step(&segment.TakenResults{Segment: id, From: from, Session: session, Last: last})
	})
}

// own lets the segment's messages be delivered.
func (p *process) own(seg uint64, takeover bool) {
	o := p.seg(seg)
	p.c.stats.Takeovers += b2i(takeover)
	o.delivers, o.paused, o.quiesce, o.empty = true, false, 0, false
	o.settled = p.numbers[seg] // what was numbered in an earlier ownership is not settled by this one
	p.c.w.logf("%s owns %v takeover=%v", p.n.name, fsm.SegmentID(seg), takeover)
	if h := p.n.store.mem.segs[seg]; h != nil {
		for _, commit := range h.whole() {
			if o.due[commit] == nil && !h.results[commit].final {
				o.due[commit] = &delivery{commit: commit, first: h.recs[commit].first, m: p.c.msgs[h.recs[commit].msg]}
			}
		}
	}
	p.tellEmpty(o)
}

func (p *process) disown(seg uint64) {
	o := p.seg(seg)
	o.delivers = false
	clear(o.due)
}

// tellEmpty tells that nothing unfinished is left, once.
func (p *process) tellEmpty(o *owned) {
	h := p.n.store.mem.segs[o.seg]
	if o.empty || !o.delivers || len(o.due) > 0 || o.arriving > 0 || len(o.waiting) > 0 || h == nil || !h.endSet {
		return
	}
	o.empty = true
	p.step(&segment.Empty{Segment: fsm.SegmentID(o.seg)})
}

func (p *process) quiet(o *owned) {
	if token := o.quiesce; token != 0 && o.attempts == 0 {
		o.quiesce = 0
		p.step(&segment.Quiet{Segment: fsm.SegmentID(o.seg), Token: token})
	}
}

// invEach is how many messages a piece of an inventory names.
const invEach = 3

func (p *process) sendInventory(a *segment.Action) {
	to := p.nodeOf(a.Peer)
	if to < 0 {
		return
	}
	inv := p.n.store.mem.inventory(uint64(a.Segment))
	it := segment.Item{Kind: segment.ItemInventory, Segment: a.Segment, Epoch: a.Epoch, Arg: a.Token}
	for {
		n := min(invEach, len(inv.live))
		piece := &inventory{last: inv.last, live: inv.live[:n]}
		inv.live = inv.live[n:]
		w := wire{it: it, inv: piece}
		if len(inv.live) == 0 {
			w.it.Seq |= segment.LastPiece
		}
		p.c.streams.send(p.n.index, to, w)
		if len(inv.live) == 0 {
			return
		}
		it.Seq++
	}
}

// merge gathers the pieces of an inventory and, with the last, unites.
func (p *process) merge(a *segment.Action, w *wire, from fsm.Ref) {
	k := merging{uint64(a.Segment), a.Token, from.Node}
	if w.it.Seq&^segment.LastPiece == 0 || p.merges[k] == nil {
		p.merges[k] = &inventory{}
	}
	got := p.merges[k]
	got.last = w.inv.last
	got.live = append(got.live, w.inv.live...)
	if w.it.Seq&segment.LastPiece == 0 {
		return
	}
	delete(p.merges, k)
	bound, complete := a.Seq, a.Complete
	inv := *got
	p.fetches[k] = p.n.store.mem.seg(k.seg).missing(inv, bound)
	missing := len(p.fetches[k])
	n := p.n.store.make(k.seg, func(im *image) { im.seg(k.seg).merge(inv, bound, complete) })
	if o := p.owned[k.seg]; o != nil {
		p.prune(o)
	}
	p.durable(n, func() {
		p.step(&segment.Merged{Segment: fsm.SegmentID(k.seg), From: from, Token: k.token, Missing: missing})
	})
}

// prune takes what is finished from the list of what is to be delivered.
func (p *process) prune(o *owned) {
	h := p.n.store.mem.seg(o.seg)
	for commit := range o.due {
		if h.results[commit].final {
			delete(o.due, commit)
		}
	}
	p.tellEmpty(o)
}

// missing are the commits that are live there and neither whole nor finished
// here: what is not here at or below last was here once.
func (h *held) missing(inv inventory, bound uint64) []uint64 {
	whole := map[uint64]bool{}
	for _, commit := range h.whole() {
		whole[commit] = true
	}
	var out []uint64
	for _, l := range inv.live {
		if l.commit <= bound && l.commit > h.last && !whole[l.commit] && !h.results[l.commit].final {
			out = append(out, l.commit)
		}
	}
	return out
}

func (h *held) merge(inv inventory, bound uint64, complete bool) {
	live := map[uint64]bool{}
	for _, l := range inv.live {
		if l.commit > bound {
			continue
		}
		live[l.commit] = true
		if l.tried {
			h.unite(l.commit, l.r)
		}
	}
	if !complete {
		return
	}
	if len(h.missing(inv, bound)) == 0 { // a copy that is complete proves as much as what was appended
		h.last = max(h.last, min(inv.last, bound))
	}
	for _, commit := range h.whole() {
		if commit <= inv.last && commit <= bound && !live[commit] {
			h.unite(commit, result{final: true, tries: h.results[commit].tries})
		}
	}
}

// fetchEach is how many messages are asked for at once.
const fetchEach = 2

func (p *process) fetch(seg uint64, epoch fsm.Epoch, peer fsm.Ref, token uint64) {
	to := p.nodeOf(peer)
	ask := p.fetches[merging{seg, token, peer.Node}]
	if to >= 0 {
		p.c.streams.send(p.n.index, to, wire{
			it:      segment.Item{Kind: segment.ItemFetch, Segment: fsm.SegmentID(seg), Epoch: epoch, Arg: token},
			missing: slices.Clone(ask[:min(fetchEach, len(ask))]),
		})
	}
}

func (p *process) serve(a *segment.Action, w *wire, from fsm.Ref) {
	out := wire{it: segment.Item{Kind: segment.ItemCopy, Segment: w.it.Segment, Epoch: w.it.Epoch, Arg: w.it.Arg}, missing: w.missing}
	out.recs, out.results = p.n.store.mem.seg(uint64(a.Segment)).copies(w.missing)
	p.c.streams.send(p.n.index, p.nodeOf(from), out)
}

func (p *process) put(a *segment.Action, w *wire, from fsm.Ref) {
	k := merging{uint64(a.Segment), w.it.Arg, from.Node}
	recs, results := w.recs, w.results
	n := p.n.store.make(k.seg, func(im *image) { im.seg(k.seg).take(recs, results) })
	if o := p.owned[k.seg]; o != nil {
		p.prune(o)
	}
	rest := slices.DeleteFunc(p.fetches[k], func(c uint64) bool { return slices.Contains(w.missing, c) })
	p.fetches[k] = rest
	if len(rest) > 0 {
		p.fetch(k.seg, w.it.Epoch, from, k.token)
		return
	}
	p.durable(n, func() {
		p.step(&segment.Fetched{Segment: fsm.SegmentID(k.seg), From: from, Token: k.token})
	})
}

func (p *process) forget(seg, index uint64) {
	p.c.w.logf("%s forgets %v", p.n.name, fsm.SegmentID(seg))
	p.n.store.make(seg, func(im *image) {
		im.floor = max(im.floor, index)
		delete(im.segs, seg)
	})
	delete(p.owned, seg)
}

// inventory is what an image has of a segment.
func (im image) inventory(seg uint64) *inventory {
	inv := &inventory{}
	if h := im.segs[seg]; h != nil {
		inv.last = h.last
		for _, commit := range h.whole() {
			if r, tried := h.results[commit]; !r.final {
				inv.live = append(inv.live, alive{h.recs[commit].first, commit, r, tried})
			}
		}
	}
	return inv
}

// copies are the records and results of messages that were asked for.
func (h *held) copies(commits []uint64) (recs []record, results []finding) {
	for _, commit := range commits {
		r, ok := h.recs[commit]
		for s := r.first; ok && s <= commit; s++ {
			if x, there := h.recs[s]; there {
				recs = append(recs, x)
			}
		}
		if r, ok := h.results[commit]; ok {
			results = append(results, finding{commit, r})
		}
	}
	return recs, results
}

// take keeps what was asked for.
func (h *held) take(recs []record, results []finding) {
	for _, r := range recs {
		if !h.endSet || r.seq <= h.end {
			h.recs[r.seq] = r
		}
	}
	for _, r := range recs {
		if res := h.results[r.seq]; r.commit && res.final { // finished meanwhile
			delete(h.results, r.seq)
			h.unite(r.seq, res)
		}
	}
	for _, f := range results {
		h.unite(f.commit, f.r)
	}
}

// held is what a process finds on its disk.
func (s *store) held() []segment.Held {
	var out []segment.Held
	for _, id := range slices.Sorted(maps.Keys(s.mem.segs)) {
		h := s.mem.segs[id]
		out = append(out, segment.Held{
			Segment: fsm.SegmentID(id), Last: h.last, Epoch: h.rec0.Epoch, Owner: h.rec0.Owner,
			Members: h.rec0.Members, End: h.end, EndSet: h.endSet,
		})
	}
	return out
}

func (c *cluster) peerUp(node int, peer ident) {
	c.nodes[node].exec("up", func(p *process) {
		p.step(&segment.PeerUp{Peer: peer.ref, Session: peer.session})
	})
}

func (c *cluster) peerDown(node int, peer ident) {
	c.nodes[node].exec("down", func(p *process) { p.step(&segment.PeerDown{Peer: peer.ref}) })
}

func (c *cluster) received(node int, peer ident, items []wire) {
	c.nodes[node].exec("items", func(p *process) {
		list := make([]segment.Item, len(items))
		for i := range items {
			list[i] = items[i].it
		}
		p.inbox = append(p.inbox, inboxed{ev: &segment.Received{From: peer.ref, Items: list}, items: items, from: peer.ref})
		p.drainInbox()
	})
}
