// Package gate holds back those who wait for a limit.
//
// What is limited is a gate, by a key of the caller's: so many messages a
// second for a site, so many connections. Whoever was refused waits at its
// gate, in turn, by class; when the time has come one is let in to ask again,
// and then the next, one at a time while the gate keeps refusing, and more at
// once the longer it does not. So a limit that thousands wait for costs one
// wasted question each time it is used up, whoever they are, and gives all of
// them the same part.
//
// Gates is not safe for concurrent use. Its own times are milliseconds of Unix
// time.
package gate

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched/slab"
	"github.com/clrelay/clrelay/delivery/queue/sched/timer"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

const (
	// patience and slotPatience are after how long a gate is asked again
	// although it said to wait for longer: what it said is an estimate.
	patience     = 5 * 60_000
	slotPatience = 1_000
	// A gate lets one in at a time after it refused, and one more for each
	// streak of those that it let pass since.
	streak = 4
	// openFrom is how many at a time show that it is no bottleneck: then those
	// who wait need not ask any more.
	openFrom = 64
	// tickMax is how many gates a Tick opens at most: as many senders may each
	// wait for a limit of their own, and be let ask again together.
	tickMax = 1024
)

// Denied says why a delivery was not made now: a limit. It is about the lane
// as a whole, about the sender, whose mail to that lane then waits while that
// of others goes on, or about single recipients. It teaches nothing about the
// destination.
type Denied struct {
	Key    string      // of what was limited: whoever is denied the same waits in one queue
	Until  time.Time   // for how long it stands, if nothing changes
	Ask    time.Time   // when to ask again; zero: at Until
	Why    *mail.Reply // for operators
	Sender bool        // about the sender's mail alone
	// Slots says that it is about things that come back, as connections do when
	// a delivery ends: each one that Freed tells of lets one in before Ask.
	Slots bool
}

// Waiter is who is let in.
type Waiter struct {
	Who  uint32
	Sub  bool
	Gate uint32 // to be told of what comes of it; 0: nothing needs to be asked any more
}

// gate is one of them. It is there while anybody waits or asks.
type gate struct {
	Denied
	ask     int64 // from then on it lets in
	seq     uint32
	queues  [turns.Ranks]slab.List
	wheel   turns.Wheel
	waiting uint32
	asking  uint32 // let in, and without an answer
	passed  uint32 // since it refused last
	freed   uint32 // may be let in before ask
	pos     uint32 // place in the timer, from 1
	next    uint32 // link of those that may let in
	queued  bool   // stands there
}

// node is one that waits.
type node struct {
	gate, who uint32
	links     slab.Links
	rank      uint8
	sub       bool
}

// Gates are all that are shut, or were lately.
type Gates struct {
	byKey map[string]uint32
	gates slab.Slab[gate]
	nodes slab.Slab[node]
	shut  timer.Timer
	open  turns.FIFO // those that may let somebody in
	seq   uint32

	link    turns.Link
	inQueue slab.Find
}

// New makes none.
func New() *Gates {
	g := &Gates{byKey: map[string]uint32{}}
	g.shut = timer.Timer{
		At:    func(id uint32) int64 { return g.gates.At(id).ask },
		Place: func(id, pos uint32) { g.gates.At(id).pos = pos + 1 },
	}
	g.inQueue = func(id uint32) *slab.Links { return &g.nodes.At(id).links }
	g.link = func(id uint32) *uint32 { return &g.gates.At(id).next }
	return g
}

// Len is how many there are, and how many wait at them.
func (g *Gates) Len() (gates, waiting int) { return g.gates.Len(), g.nodes.Len() }

// Refuse shuts a gate and gives its number. If nobody waits there somebody must
// before anything else happens.
func (g *Gates) Refuse(d *Denied, now int64) uint32 {
	id, ok := g.byKey[d.Key]
	if !ok {
		var n *gate
		id, n = g.gates.Take()
		g.seq++
		n.seq = g.seq
		g.byKey[d.Key] = id
	}
	t := g.gates.At(id)
	g.disarm(t)
	t.Denied = *d
	t.passed, t.freed = 0, 0
	most := int64(patience)
	if d.Slots {
		most = slotPatience
	}
	if t.Ask.IsZero() {
		t.Ask = t.Until
	}
	t.ask = min(max(t.Ask.Add(time.Millisecond-1).UnixMilli(), now+1), now+most) // nothing is asked early
	if t.waiting > 0 {
		g.stir(id, t)
	}
	return id
}

// Wait puts somebody at the end of those of its rank, or before all others of
// it. The number given is for Leave.
func (g *Gates) Wait(id uint32, w Waiter, rank int, first bool) uint32 {
	nid, n := g.nodes.Take()
	n.gate, n.who, n.sub, n.rank = id, w.Who, w.Sub, uint8(rank)
	t := g.gates.At(id)
	t.waiting++
	before := uint32(0)
	if first {
		before = t.queues[rank].Head()
	}
	t.queues[rank].Insert(nid, before, g.inQueue)
	g.stir(id, t)
	return nid
}

// Leave takes one away that waits no more.
func (g *Gates) Leave(nid uint32) {
	id := g.nodes.At(nid).gate
	t := g.gates.At(id)
	g.unlink(t, nid)
	g.stir(id, t)
}

func (g *Gates) unlink(t *gate, nid uint32) {
	t.queues[g.nodes.At(nid).rank].Remove(nid, g.inQueue)
	t.waiting--
	g.nodes.Release(nid)
}

// Rank gives the rank that one waits with.
func (g *Gates) Rank(nid uint32) int { return int(g.nodes.At(nid).rank) }

// Gate gives the number of the gate where one waits.
func (g *Gates) Gate(nid uint32) uint32 { return g.nodes.At(nid).gate }

// Said gives what the gate where one waits said last.
func (g *Gates) Said(nid uint32) *Denied { return &g.gates.At(g.nodes.At(nid).gate).Denied }

// Find gives the gate of a key, if there is one, and until when what it said
// stands.
func (g *Gates) Find(key string) (id uint32, until time.Time, ok bool) {
	id, ok = g.byKey[key]
	if ok {
		until = g.gates.At(id).Until
	}
	return id, until, ok
}

// Ref names a gate for Freed, for longer than its number does.
func (g *Gates) Ref(id uint32) uint64 { return uint64(g.gates.At(id).seq)<<32 | uint64(id) }

// Freed tells that one of the things that a gate is about came back.
func (g *Gates) Freed(ref uint64) {
	id := uint32(ref)
	if !g.gates.Has(id) {
		return
	}
	if t := g.gates.At(id); t.seq == uint32(ref>>32) && t.freed < t.waiting {
		t.freed++
		g.stir(id, t)
	}
}

// Passed tells that one who was let in was not refused.
func (g *Gates) Passed(id uint32) {
	t := g.gates.At(id)
	t.passed++
	g.Ended(id)
}

// Ended tells that one who was let in has not asked, or was refused, which
// Refuse has said.
func (g *Gates) Ended(id uint32) {
	t := g.gates.At(id)
	t.asking--
	g.stir(id, t)
}

// Relax lets all gates be asked again now: limits may have changed.
func (g *Gates) Relax(now int64) {
	for _, id := range g.shut.IDs() { // earlier times do not change their order
		t := g.gates.At(id)
		t.ask = min(t.ask, now)
	}
}

// window is how many may ask at a time.
func (t *gate) window() uint32 { return min(1+t.passed/streak, openFrom) }

// stir puts a gate where it belongs, now that something has changed.
func (g *Gates) stir(id uint32, t *gate) {
	switch {
	case t.waiting == 0 && t.asking == 0:
		g.disarm(t)
		if !t.queued { // else Next forgets it
			g.forget(id, t)
		}
	case t.waiting == 0:
		g.disarm(t)
	case t.ask > 0 && t.freed == 0:
		if t.pos == 0 {
			g.shut.Push(id)
		}
	case t.asking < t.window() && !t.queued:
		t.queued = true
		g.open.Push(id, g.link)
	}
}

func (g *Gates) forget(id uint32, t *gate) {
	delete(g.byKey, t.Key)
	g.gates.Release(id)
}

func (g *Gates) disarm(t *gate) {
	if t.pos != 0 {
		g.shut.Remove(t.pos - 1)
		t.pos = 0
	}
}

// Tick opens the gates whose time has come. Of very many it opens a part, and
// Wake asks for the next Tick at once.
func (g *Gates) Tick(now int64) {
	for range tickMax {
		id, at, ok := g.shut.First()
		if !ok || at > now {
			return
		}
		t := g.gates.At(id)
		g.disarm(t)
		t.ask = 0
		g.stir(id, t)
	}
}

// Wake gives the time by which Tick is needed next, timer.Never when it is not.
func (g *Gates) Wake() int64 { return g.shut.Earliest() }

// Next lets the next one in; ok is false when nobody may ask now. Passed or
// Ended must follow for its gate.
func (g *Gates) Next() (w Waiter, ok bool) {
	for g.open.Head() != 0 {
		id := g.open.Pop(g.link)
		t := g.gates.At(id)
		t.queued = false
		free := t.window() == openFrom
		if t.waiting == 0 || t.ask > 0 && t.freed == 0 || t.asking >= t.window() {
			g.stir(id, t)
			continue
		}
		nid := g.first(t)
		n := *g.nodes.At(nid)
		g.unlink(t, nid)
		w = Waiter{Who: n.who, Sub: n.sub}
		if !free {
			w.Gate = id
			t.asking++
		}
		if t.ask > 0 {
			t.freed--
		}
		g.stir(id, t)
		return w, true
	}
	return Waiter{}, false
}

func (g *Gates) first(t *gate) uint32 {
	mask := uint8(0)
	for rank := range t.queues {
		if t.queues[rank].Head() != 0 {
			mask |= 1 << rank
		}
	}
	return t.queues[t.wheel.Next(mask)].Head()
}
