package spooltest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/spooltest"
	"github.com/clrelay/clrelay/spool/wal"
)

// world is a few spools and the little of a cluster that they need: who owns
// which segment, in one goroutine, with all that goes from one to another
// delivered at once, unless a test holds it back.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	nodes []*node
	segs  []*seg
	index uint64 // of Raft
	msgs  map[mail.ID]*letter
	order []mail.ID // of msgs
	work  *spooltest.Workload
	// plot says what the next ticket of a segment does.
	plot  func(g *seg) error
	moved int
}

type node struct {
	w    *world
	i    int
	fs   *vfs.Mem
	s    *spool.Spool
	boot int
	turn int
	own  map[uint64]bool // as this process knows
	cam  camera
}

type seg struct {
	id, epoch  uint64
	owner      int
	members    []int
	open       bool
	end, acked uint64
	gone       bool
	picks      int
	lag        []spool.Copy // results not yet sent
}

type letter struct {
	env    *mail.Envelope
	body   []byte
	n      int // in order
	acked  bool
	seg    *seg
	first  uint64
	states []mail.State // as acknowledged by SettleDurable
}

func newWorld(t *testing.T, seed uint64, n int) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 0xc1)), msgs: map[mail.ID]*letter{}, work: spooltest.NewWorkload(seed), index: 10}
	for i := range n {
		nd := &node{w: w, i: i, fs: vfs.NewMem(), own: map[uint64]bool{}}
		w.nodes = append(w.nodes, nd)
		nd.start()
	}
	for i := range n {
		w.openSeg(i)
		w.openSeg(i)
	}
	return w
}

func (n *node) start() {
	n.boot++
	n.cam.watch(n.fs)
	o := options(n.fs, fmt.Sprint(n.boot))
	o.Node = fmt.Sprint("mx", n.i)
	o.Placement = n
	s, rec, err := spool.Open(o)
	if err != nil {
		n.w.t.Fatal(err)
	}
	if len(rec.Damage) > 0 || rec.Messages > 0 {
		n.w.t.Fatalf("node %d: recovery %+v", n.i, rec)
	}
	if err := s.Each(func(m *spool.Message, _ *mail.Envelope, _ []spool.RecipientState) {
		n.w.t.Errorf("node %d: %s is for the queue before any Claim", n.i, m.ID())
	}); err != nil {
		n.w.t.Fatal(err)
	}
	n.s, n.own = s, map[uint64]bool{}
}

func (w *world) member(i int) record.Member {
	return record.Member{Node: fmt.Sprint("mx", i), StoreID: w.nodes[i].s.StoreID()}
}

// set tells all members what Raft says now.
func (w *world) set(g *seg) {
	g.epoch++
	w.index++
	for _, i := range g.members {
		w.setAt(g, i)
	}
}

func (w *world) setAt(g *seg, i int) {
	v := spool.Segment{ID: g.id, Epoch: g.epoch, State: record.SegmentOpen, Owner: w.member(g.owner)}
	if !g.open {
		v.State, v.End, v.EndSet = record.SegmentSealed, g.end, true
	}
	for _, m := range g.members {
		v.Members = append(v.Members, w.member(m))
	}
	c, err := w.nodes[i].s.SetSegment(v)
	w.must(errors.Join(err, c.WaitDurable()))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) openSeg(owner int) *seg {
	other := (owner + 1 + w.rnd.IntN(len(w.nodes)-1)) % len(w.nodes)
	g := &seg{id: 1<<63 | uint64(owner)<<24 | uint64(len(w.segs)+1), owner: owner, members: []int{owner, other}, open: true}
	w.segs = append(w.segs, g)
	w.set(g)
	w.nodes[owner].own[g.id] = true
	return g
}

func (w *world) seg(id uint64) *seg {
	for _, g := range w.segs {
		if g.id == id {
			return g
		}
	}
	w.t.Fatalf("no segment %x", id)
	return nil
}

// Pick is of spool.Placement.
func (n *node) Pick() (uint64, uint64, error) {
	for range w2(n.w.segs) {
		n.turn++
		g := n.w.segs[n.turn%len(n.w.segs)]
		if g.open && g.owner == n.i && n.own[g.id] {
			g.picks++
			return g.id, g.epoch, nil
		}
	}
	return 0, 0, mail.NewReply(451, "4.3.2", "no segment")
}

func w2[T any](s []T) []T { return append(s, s...) }

// Arrived is of spool.Placement.
func (n *node) Arrived(segment uint64) { n.w.seg(segment).picks-- }

type ticket struct {
	n    *node
	g    *seg
	recs []spool.Copy
	c    *wal.Commit
	res  bool
}

func copies(recs []wal.Record) (out []spool.Copy) {
	for _, r := range recs {
		out = append(out, spool.Copy{Seq: r.Seq, Kind: uint8(r.Kind), Data: [][]byte{slices.Concat(r.Data...)}})
	}
	return out
}

// Append is of spool.Placement.
func (n *node) Append(recs []wal.Record, c *wal.Commit) spool.Ticket {
	return &ticket{n: n, g: n.w.seg(recs[0].Segment), recs: copies(recs), c: c}
}

// Settled is of spool.Placement.
func (n *node) Settled(rec wal.Record, c *wal.Commit) spool.Ticket {
	g := n.w.seg(rec.Segment)
	g.lag = append(g.lag, copies([]wal.Record{rec})...)
	return &ticket{n: n, g: g, c: c, res: true}
}

func (t *ticket) Wait() error {
	w, g := t.n.w, t.g
	if t.res {
		w.flush(g)
		return t.c.WaitDurable()
	}
	if err := w.plot(g); err != nil {
		if !errors.Is(err, spool.ErrMoved) || w.rnd.IntN(2) == 0 { // it may have reached the member all the same
			w.send(g, t.recs)
		}
		if errors.Is(err, spool.ErrMoved) && g.open {
			g.open, g.end = false, g.acked
			w.openSeg(g.owner)
			w.moved++
			w.set(g)
		}
		return err
	}
	if !g.open {
		return spool.ErrMoved
	}
	w.send(g, t.recs)
	w.must(t.c.WaitDurable())
	g.acked = t.recs[len(t.recs)-1].Seq
	return nil
}

// send brings records to the other members.
func (w *world) send(g *seg, recs []spool.Copy) {
	for _, i := range g.members {
		if i != g.owner {
			c, err := w.nodes[i].s.Take(g.id, g.epoch, recs)
			w.must(errors.Join(err, c.WaitDurable()))
		}
	}
}

func (w *world) flush(g *seg) {
	w.send(g, g.lag)
	g.lag = nil
}

func (w *world) accept(n *node) {
	env := w.work.Envelope(1 + w.rnd.IntN(3))
	sizes := []int{0, 1, 300, 2000, 7000, 20_000, 50_000}
	body := make([]byte, sizes[w.rnd.IntN(len(sizes))])
	for i := range body {
		body[i] = byte(w.rnd.Uint32())
	}
	l := &letter{env: env, body: body, states: make([]mail.State, len(env.Recipients))}
	m, err := n.s.Accept(context.Background(), env, bytes.NewReader(body))
	if err != nil {
		var r *mail.Reply
		if !errors.As(err, &r) || r.Code != 451 {
			w.t.Fatalf("accept: %v", err)
		}
		return
	}
	l.acked = true
	w.add(m.ID(), l)
	w.locate(n, m.ID(), l)
}

func (w *world) add(id mail.ID, l *letter) {
	w.msgs[id] = l
	l.n = len(w.order)
	w.order = append(w.order, id)
}

// locate finds the segment of a message that node n owns.
func (w *world) locate(n *node, id mail.ID, l *letter) {
	m, ok := n.s.Find(id)
	if !ok {
		w.t.Fatalf("node %d does not know %s", n.i, id)
	}
	for _, g := range w.segs {
		if !g.gone && g.owner == n.i && m.Owns(wal.Header{Segment: g.id}, m.First()) {
			l.seg, l.first = g, m.First()
			return
		}
	}
	w.t.Fatalf("%s is in no segment", id)
}

func (w *world) settle(l *letter, id mail.ID) {
	n := w.nodes[l.seg.owner]
	m, ok := n.s.Find(id)
	if !ok {
		w.t.Fatalf("%s cannot be found at its owner", id)
	}
	i := w.rnd.IntN(len(l.states))
	st := []mail.State{mail.StateDelivered, mail.StateDelivered, mail.StateFailed, mail.StateDeferred, mail.StateTrashed}[w.rnd.IntN(5)]
	if l.states[i].Final() {
		return
	}
	w.must(n.s.Attempt(m, []int{i}).Wait())
	w.must(n.s.SettleDurable(m, []spool.Result{{Recipient: i, State: st, Attempts: 1, Reply: mail.Reply{Code: 250, Text: "ok"}}}))
	l.states[i] = st
}

func (l *letter) finished() bool {
	return !slices.ContainsFunc(l.states, func(s mail.State) bool { return !s.Final() })
}

// inventory passes an inventory over the wire.
func (w *world) inventory(i int, id uint64) (out []spool.Inventory) {
	inv, err := w.nodes[i].s.Inventory(id)
	w.must(err)
	for _, p := range inv.Pieces() {
		piece, err := record.ParseInventory(p)
		w.must(err)
		out = append(out, piece)
	}
	return out
}

// merge brings node to up to what node from has, and gives the number of
// messages it had to fetch.
func (w *world) merge(g *seg, from, to int) (fetched int) {
	for round := 0; ; round++ {
		var missing []uint64
		var last uint64
		for _, inv := range w.inventory(from, g.id) {
			last = inv.Last
			more, c, err := w.nodes[to].s.Merge(g.id, inv, true)
			w.must(errors.Join(err, c.WaitDurable()))
			missing = append(missing, more...)
		}
		if len(missing) == 0 {
			if !g.open && to != g.owner {
				c, err := w.nodes[to].s.Complete(g.id, min(last, g.end))
				w.must(errors.Join(err, c.WaitDurable()))
			}
			return fetched
		}
		if round > 0 {
			w.t.Fatalf("segment %x: still missing at %d: %v", g.id, to, missing)
		}
		for _, first := range missing {
			w.must(w.nodes[from].s.Read(g.id, first, func(c spool.Copy) error {
				c.Data = [][]byte{bytes.Clone(c.Data[0])}
				_, err := w.nodes[to].s.Put(g.id, g.epoch, []spool.Copy{c})
				return err
			}))
			fetched++
		}
	}
}

// crash loses a node's process and what it had not synced, has other members
// take its segments over, or itself, and brings it back.
func (w *world) crash(i int) {
	n := w.nodes[i]
	for _, g := range w.segs {
		if !g.gone && slices.Contains(g.members, i) && g.owner != i {
			w.flush(g)
		}
	}
	img := n.fs.CrashImage(w.rnd.Uint64())
	w.must(n.s.Close())
	n.fs = img
	n.start()
	for _, g := range w.segs {
		if g.gone || !slices.Contains(g.members, i) {
			continue
		}
		if g.owner != i {
			w.comeBack(g, i)
			continue
		}
		g.lag = nil
		heir := g.members[w.rnd.IntN(len(g.members))]
		for _, from := range g.members {
			if from != heir {
				for _, inv := range w.inventory(from, g.id) {
					_, c, err := w.nodes[heir].s.Merge(g.id, inv, true)
					w.must(errors.Join(err, c.WaitDurable()))
				}
			}
		}
		if g.open {
			g.open, g.end = false, ^uint64(0)
			for _, m := range g.members {
				g.end = min(g.end, w.held(m, g.id).Last)
			}
			if g.end < g.acked {
				w.t.Fatalf("segment %x: ends at %d, acknowledged was %d", g.id, g.end, g.acked)
			}
		}
		g.owner = heir
		w.set(g)
		w.claim(g, heir)
		for _, m := range g.members {
			if m != heir {
				w.merge(g, heir, m)
			}
		}
	}
	for !slices.ContainsFunc(w.segs, func(g *seg) bool { return g.open && g.owner == i }) {
		w.openSeg(i)
	}
}

// comeBack is a member after its restart.
func (w *world) comeBack(g *seg, i int) {
	w.setAt(g, i)
	if last := w.held(i, g.id).Last; last < g.acked && g.open {
		w.t.Fatalf("segment %x: node %d has %d, acknowledged was %d", g.id, i, last, g.acked)
	}
	if n := w.merge(g, g.owner, i); n > 0 {
		w.t.Fatalf("segment %x: node %d had lost %d messages", g.id, i, n)
	}
}

func (w *world) held(i int, id uint64) spool.HeldSegment {
	for _, h := range w.nodes[i].s.Held() {
		if h.ID == id {
			return h
		}
	}
	w.t.Fatalf("node %d has no segment %x", i, id)
	return spool.HeldSegment{}
}

func (w *world) claim(g *seg, i int) {
	seen := map[mail.ID]bool{}
	w.must(w.nodes[i].s.Claim(g.id, true, func(m *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
		seen[m.ID()] = true
		l := w.msgs[m.ID()]
		if l == nil {
			l = &letter{env: env, acked: true, seg: g, first: m.First()} // not acknowledged, whole all the same
			w.add(m.ID(), l)
			for _, st := range states {
				l.states = append(l.states, st.State)
			}
			l.body = nil
			l.body, _ = spooltest.Read(w.nodes[i].s, m)
		}
		if l.seg != g {
			w.t.Errorf("%s is in two segments, %x and %x", m.ID(), l.seg.id, g.id)
		}
		for j, st := range states {
			if st.State != l.states[j] {
				w.t.Errorf("%s: recipient %d is %v, was acknowledged as %v", m.ID(), j, st.State, l.states[j])
			}
		}
	}))
	for id, l := range w.msgs {
		if l.seg == g && !l.finished() && !seen[id] {
			w.t.Errorf("%s was acknowledged and is not there", id)
		}
	}
}

// replace has a new member take the place of an old one, or the owner hand
// the segment over.
func (w *world) replace(g *seg) {
	w.flush(g)
	if g.open {
		g.open, g.end = false, g.acked
		w.set(g)
		w.openSeg(g.owner)
	}
	fresh := w.rnd.IntN(len(w.nodes))
	if slices.Contains(g.members, fresh) {
		if fresh != g.owner {
			w.must(w.nodes[g.owner].s.Disclaim(g.id))
			delete(w.nodes[g.owner].own, g.id)
			g.owner = fresh
			w.set(g)
			w.claim(g, fresh)
		}
		return
	}
	w.setAt(g, fresh)
	if w.rnd.IntN(3) == 0 { // a copy that is cut off, and begun again after a crash
		part := w.inventory(g.owner, g.id)[0]
		for _, l := range part.Live[len(part.Live)/2:] {
			w.must(w.nodes[g.owner].s.Read(g.id, l.First, func(c spool.Copy) error {
				c.Data = [][]byte{bytes.Clone(c.Data[0])}
				_, err := w.nodes[fresh].s.Put(g.id, g.epoch, []spool.Copy{c})
				return err
			}))
		}
		w.crash(fresh)
		if g.owner == fresh || slices.Contains(g.members, fresh) {
			w.t.Fatal("not a member yet")
		}
		w.setAt(g, fresh)
	}
	w.merge(g, g.owner, fresh)
	old := slices.IndexFunc(g.members, func(i int) bool { return i != g.owner })
	leaving := g.members[old]
	g.members[old] = fresh
	w.set(g)
	w.must(w.nodes[leaving].s.Forget(g.id, w.index))
	if f := w.nodes[leaving].s.Floor(); f != w.index {
		w.t.Errorf("floor %d, want %d", f, w.index)
	}
}

// bury ends a segment that has nothing left.
func (w *world) bury(g *seg) {
	for _, l := range w.msgs {
		if l.seg == g && !l.finished() {
			return
		}
	}
	if g.open {
		return
	}
	w.index++
	g.gone = true
	for _, i := range g.members {
		w.must(w.nodes[i].s.Forget(g.id, w.index))
	}
}

// check holds all spools against what was acknowledged.
func (w *world) check() {
	w.t.Helper()
	for _, g := range w.segs {
		if g.gone {
			continue
		}
		w.flush(g)
		want := map[uint64]*letter{}
		for _, l := range w.msgs {
			if l.seg == g && !l.finished() {
				want[l.first] = l
			}
		}
		for _, i := range g.members {
			live := map[uint64]bool{}
			for _, inv := range w.inventory(i, g.id) {
				for _, m := range inv.Live {
					live[m.First] = true
					if want[m.First] == nil && !g.open {
						w.t.Errorf("segment %x, node %d: message %d is finished, void or unknown, and is there", g.id, i, m.First)
					}
				}
			}
			for first, l := range want {
				if !live[first] {
					w.t.Errorf("segment %x (owner %d), node %d: message %d, %s, is lost", g.id, g.owner, i, first, l.env.ID)
					continue
				}
				if err := compare(w.nodes[i].s, g, l); err != nil {
					w.t.Errorf("node %d: %v", i, err)
				}
			}
		}
	}
	for _, n := range w.nodes {
		for _, h := range n.s.Held() {
			if g := w.seg(h.ID); g.gone || !slices.Contains(g.members, n.i) {
				w.t.Errorf("node %d: segment %x was forgotten and is back", n.i, h.ID)
			}
		}
		if st := n.s.Stats(); st.TakenOver+st.Recovered+st.Accepted != st.Finished+st.HandedOver+uint64(st.Messages) {
			w.t.Errorf("node %d: the ledger does not balance: %+v", n.i, st)
		}
	}
}

// compare holds a copy of a message against what was accepted.
func compare(s *spool.Spool, g *seg, l *letter) error {
	var body bytes.Buffer
	err := s.Read(g.id, l.first, func(c spool.Copy) error {
		if c.Kind == record.KindChunk {
			_, err := io.Copy(&body, bytes.NewReader(c.Data[0][record.ChunkHeaderLen:]))
			return err
		}
		var rec record.Commit
		var env mail.Envelope
		if err := record.ParseCommit(c.Data[0], &rec, &env); err != nil || env.ID != l.env.ID {
			return fmt.Errorf("commit of %s: %w", env.ID, err)
		}
		return nil
	})
	if err != nil || !bytes.Equal(body.Bytes(), l.body) {
		return fmt.Errorf("segment %x, %s: %d octets, want %d: %w", g.id, l.env.ID, body.Len(), len(l.body), err)
	}
	return nil
}

func (w *world) step() {
	w.plot = func(*seg) error {
		switch w.rnd.IntN(12) {
		case 0:
			return spool.ErrMoved
		case 1:
			return errors.New("nobody knows")
		}
		return nil
	}
	switch k := w.rnd.IntN(40); {
	case k < 14:
		w.accept(w.nodes[w.rnd.IntN(len(w.nodes))])
	case k < 30:
		for _, id := range w.order {
			if l := w.msgs[id]; !l.finished() && (w.rnd.IntN(9) == 0 || l.n%8 != 0) {
				w.settle(w.msgs[id], id)
				break
			}
		}
	case k < 33:
		w.must(w.nodes[w.rnd.IntN(len(w.nodes))].s.Compact())
	case k < 35:
		w.crash(w.rnd.IntN(len(w.nodes)))
	case k < 37:
		if g := w.segs[w.rnd.IntN(len(w.segs))]; !g.gone {
			w.replace(g)
		}
	case k < 38:
		if g := w.segs[w.rnd.IntN(len(w.segs))]; !g.gone {
			w.bury(g)
		}
	}
}

// drain finishes all there is: nothing is left on the disks then.
func (w *world) drain() {
	for _, id := range w.order {
		l := w.msgs[id]
		for i, st := range l.states {
			if !st.Final() {
				m, ok := w.nodes[l.seg.owner].s.Find(id)
				if !ok {
					w.t.Fatalf("%s cannot be found at its owner", id)
				}
				w.must(w.nodes[l.seg.owner].s.SettleDurable(m, []spool.Result{{Recipient: i, State: mail.StateDelivered}}))
				l.states[i] = mail.StateDelivered
			}
		}
	}
	for _, g := range w.segs {
		if g.open {
			g.open, g.end = false, g.acked
			w.set(g)
		}
		if g.picks != 0 {
			w.t.Errorf("segment %x: %d messages have not arrived", g.id, g.picks)
		}
		if !g.gone {
			w.bury(g)
		}
	}
	w.check()
	for _, n := range w.nodes {
		w.must(n.s.Compact())
		if st := n.s.Stats(); st.Files > 4 || st.LiveBytes > 8<<10 || st.Segments > 0 {
			w.t.Errorf("node %d: all is finished, and there is %+v", n.i, st)
		}
	}
}

// TestMembers lets three spools carry each other's copies through moves,
// crashes, takeovers, new members and compaction: what was acknowledged is at
// every member, whole and once; what was finished or void is nowhere.
func TestMembers(t *testing.T) {
	for _, seed := range seeds(t, 8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 3)
			for i := range 250 {
				w.step()
				if i%10 == 0 {
					w.check()
				}
				if t.Failed() {
					t.Fatalf("after step %d", i)
				}
			}
			w.check()
			w.drain()
			for _, n := range w.nodes {
				w.must(n.s.Close())
			}
		})
	}
}
