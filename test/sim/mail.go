package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment"
)

// fullAt is the records at which a segment is large enough.
const fullAt = 24

// accept begins a message: what SMTP and the spool do in production.
func (p *process) accept(m *message) {
	p.place(&arrival{m: m, since: p.n.now()})
	p.drainInbox()
}

// place finds a segment for what has arrived of a message so far.
func (p *process) place(a *arrival) {
	if a.done {
		return
	}
	id, _, ok := p.m.Pick(p.n.now())
	if !ok {
		if p.n.now()-a.since > segment.GiveUpAfter {
			p.refuse(a)
			return
		}
		p.later(50*time.Millisecond, "no place", func() { p.place(a) })
		return
	}
	o := p.seg(uint64(id))
	o.delivers = true
	o.arriving++
	o.waiting = append(o.waiting, a)
	a.at, a.first, a.commit, a.told = o, o.next+1, 0, false
	a.have = max(a.have, 1)
	p.append(a, 1, a.have)
	p.more(a)
}

// append puts records n to last of a message into its segment.
func (p *process) append(a *arrival, n, last int) {
	o := a.at
	var recs []record
	first := o.next + 1
	if n > 1 && o.next != a.first+uint64(n-2) {
		// Others came in between: in production a message's records need not
		// be neighbours, here they are. It starts again behind them.
		n, a.first = 1, first
	}
	for ; n <= last; n++ {
		o.next++
		recs = append(recs, record{seq: o.next, msg: a.m.id, first: a.first, commit: n == a.m.records})
	}
	if last == a.m.records {
		a.commit = o.next
	}
	seg, to := o.seg, o.next
	k := p.n.store.make(seg, func(im *image) {
		h := im.seg(seg)
		for _, r := range recs {
			h.recs[r.seq] = r
		}
		h.last = max(h.last, to)
	})
	p.step(&segment.Appended{Segment: fsm.SegmentID(seg), First: first, Last: to})
	p.durable(k, func() { p.step(&segment.Durable{Segment: fsm.SegmentID(seg), Seq: to}) })
}

// more appends the next record when it has come, and ends the arrival with
// the last.
func (p *process) more(a *arrival) {
	at := a.at
	if a.commit != 0 {
		p.arrived(a)
		if at.next >= fullAt {
			p.step(&segment.Full{Segment: fsm.SegmentID(at.seg)})
		}
		return
	}
	d := p.c.w.between(0, 30*time.Millisecond)
	if p.c.w.chance(30) {
		d = p.c.w.between(0, 8*time.Second)
	}
	p.later(d, "more of a message", func() {
		if a.done || a.at != at || at == nil {
			return
		}
		if p.c.w.chance(30) { // the client is gone
			p.drop(a)
			a.done = true
			p.arrived(a)
			return
		}
		a.have++
		p.append(a, a.have, a.have)
		p.more(a)
	})
}

// arrived tells, once, that a message appends no more to its segment.
func (p *process) arrived(a *arrival) {
	if a.told || a.at == nil {
		return
	}
	a.told = true
	a.at.arriving--
	p.step(&segment.Arrived{Segment: fsm.SegmentID(a.at.seg)})
	p.tellEmpty(a.at)
}

// drop takes a message from those that wait in its segment.
func (p *process) drop(a *arrival) {
	a.at.waiting = slices.DeleteFunc(a.at.waiting, func(x *arrival) bool { return x == a })
}

func (p *process) refuse(a *arrival) {
	a.done, a.m.refused = true, true
	p.c.w.logf("%s 451 m%d", p.n.name, a.m.id)
}

// acked answers 250 to what is safe, and lets it be delivered.
func (p *process) acked(seg, to uint64) {
	o := p.seg(seg)
	for _, a := range slices.Clone(o.waiting) {
		if a.commit == 0 || a.commit > to {
			continue
		}
		p.drop(a)
		a.done = true
		m := a.m
		m.acked, m.seg, m.first, m.commit = true, seg, a.first, a.commit
		p.c.w.logf("%s 250 m%d %v %d-%d", p.n.name, m.id, fsm.SegmentID(seg), m.first, m.commit)
		p.c.checkAck(p, o, m)
		o.due[m.commit] = &delivery{m: m, first: a.first, commit: a.commit}
	}
}

// moved appends elsewhere what waits above the end.
func (p *process) moved(seg, end uint64) {
	o := p.seg(seg)
	p.n.store.make(seg, func(im *image) { im.seg(seg).truncate(end) })
	for _, a := range slices.Clone(o.waiting) {
		if a.commit != 0 && a.commit <= end {
			continue
		}
		p.c.stats.Moved++
		p.drop(a)
		p.arrived(a)
		a.at, a.commit = nil, 0
		p.later(0, "moved", func() { p.place(a) })
	}
	p.tellEmpty(o)
}

// lost answers 451 to all that wait, and voids what can be.
func (p *process) lost(seg uint64) {
	o := p.seg(seg)
	for _, a := range slices.Clone(o.waiting) {
		p.c.stats.Lost++
		p.drop(a)
		p.refuse(a)
		p.arrived(a)
		if a.commit != 0 {
			p.settle(o, a.commit, result{final: true})
		}
	}
	p.tellEmpty(o)
}

// settle records a result: in the own log, and for the members where this node
// owns the segment.
func (p *process) settle(o *owned, commit uint64, r result) {
	seg := o.seg
	if !o.delivers && p.c.w.chance(500) {
		return
	}
	k := p.n.store.make(seg, func(im *image) { im.seg(seg).unite(commit, r) })
	if !o.delivers {
		return
	}
	p.numbers[seg]++
	num := p.numbers[seg]
	p.numbered[numbering{seg, num}] = finding{commit, r}
	if r.final {
		delete(o.due, commit)
	}
	id := fsm.SegmentID(seg)
	p.step(&segment.ResultsAppended{Segment: id, First: num, Last: num})
	p.durable(k, func() { p.step(&segment.ResultsDurable{Segment: id, Last: num}) })
	p.tellEmpty(o)
}

// delivery is a message to be delivered by this process.
type delivery struct {
	m             *message
	first, commit uint64
	busy          bool
	after         time.Duration // not before
	tries         int
}

// deliver starts attempts for what is due.
func (p *process) deliver() {
	now := p.n.now()
	for _, seg := range slices.Sorted(maps.Keys(p.owned)) {
		o := p.owned[seg]
		if !o.delivers || o.paused || len(o.due) == 0 || !p.m.Delivers(now, fsm.SegmentID(seg)) {
			continue
		}
		for _, commit := range slices.Sorted(maps.Keys(o.due)) {
			if d := o.due[commit]; !d.busy && now >= d.after && p.c.w.chance(300) {
				p.attempt(o, d)
			}
		}
	}
	p.later(p.c.w.between(10*time.Millisecond, 80*time.Millisecond), "deliver", p.deliver)
}

// attempt is one transaction with the next hop, up to its final dot.
func (p *process) attempt(o *owned, d *delivery) {
	if h := p.n.store.mem.segs[o.seg]; h == nil || h.results[d.commit].final {
		delete(o.due, d.commit)
		p.tellEmpty(o)
		return
	}
	d.busy = true
	o.attempts++
	p.later(p.wait(200*time.Millisecond), "final dot", func() {
		if o.due[d.commit] != d || !o.delivers || !p.m.Delivers(p.n.now(), fsm.SegmentID(o.seg)) {
			p.over(o, d)
			return
		}
		p.c.checkDot(p, o, d)
		p.dot(o, d)
	})
}

// wait is how long the next hop takes: mostly short, at times longer than a
// lease.
func (p *process) wait(short time.Duration) time.Duration {
	if p.c.w.chance(30) {
		return p.c.w.between(0, 12*time.Second)
	}
	return p.c.w.between(0, short)
}

// dot sends the final dot. From here on the next hop has the message whatever
// becomes of this process, unless it refuses.
func (p *process) dot(o *owned, d *delivery) {
	takes := p.c.w.chance(850) && !p.c.away
	p.c.w.logf("%s dot m%d %v %d takes=%v", p.n.name, d.m.id, fsm.SegmentID(o.seg), d.commit, takes)
	n, number := p.n, p.n.process
	p.c.w.after(p.wait(50*time.Millisecond), "next hop", func() {
		if takes {
			p.c.delivered(d.m)
		}
		p.c.w.after(p.wait(50*time.Millisecond), "answer", func() {
			if n.process == number {
				n.exec("answer", func(*process) { p.answered(o, d, takes) })
			}
		})
	})
}

func (p *process) answered(o *owned, d *delivery, takes bool) {
	d.tries++
	d.after = p.n.now() + p.c.w.between(0, 3*time.Second)
	p.settle(o, d.commit, result{final: takes, tries: d.tries})
	p.over(o, d)
}

func (p *process) over(o *owned, d *delivery) {
	d.busy = false
	o.attempts--
	p.quiet(o)
}
