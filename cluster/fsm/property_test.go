package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/proto/control"
)

// chooser is where the generator's choices come from: a seed, or the fuzzer.
type chooser func(n int) int

func seeded(seed uint64) chooser {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(n int) int { return r.IntN(n) }
}

// fed takes choices from octets; when they run out it always says 0.
func fed(b []byte) chooser {
	return func(n int) int {
		if len(b) == 0 {
			return 0
		}
		c := int(b[0])
		b = b[1:]
		return c % n
	}
}

func (c chooser) oneIn(n int) bool { return c(n) == n-1 }

// history is what the test itself remembers of the log.
type history struct {
	t        testing.TB
	choose   chooser
	s, twin  *State
	face     string // of s
	index    uint64
	nonce    byte
	renewed  map[Session]uint64 // index of the last Renew that counted
	known    map[SegmentID]Segment
	opened   map[SegmentID]bool
	gone     map[SegmentID]uint32  // and the generation in which it went
	off      map[SegmentID]Segment // written off, as it was
	sessions map[Session]bool
	done     map[string]int // how often each kind of change was committed
}

func newHistory(t testing.TB, c chooser) *history {
	return &history{
		t: t, choose: c, s: New(), twin: New(), face: face(New()), renewed: map[Session]uint64{}, known: map[SegmentID]Segment{},
		opened: map[SegmentID]bool{}, gone: map[SegmentID]uint32{}, off: map[SegmentID]Segment{}, sessions: map[Session]bool{}, done: map[string]int{},
	}
}

var nodeNames = []string{"a", "b", "c", "d", "e"}

func (h *history) name() string { return nodeNames[h.choose(len(nodeNames))] }

// ref is mostly the present identity of a node.
func (h *history) ref() Ref {
	n, ok := h.s.Node(h.name())
	if !ok || h.choose.oneIn(12) {
		return Ref{Node: h.name(), Store: store(byte(h.choose(3)))}
	}
	return n.Ref()
}

func (h *history) memberOf(g Segment) Ref {
	if h.choose.oneIn(4) {
		return h.ref()
	}
	return g.Members[h.choose(len(g.Members))]
}

func (h *history) sessionOf(r Ref) Session {
	n, _ := h.s.Node(r.Node)
	if h.choose.oneIn(20) {
		return n.Lease.Session - 1
	}
	return n.Lease.Session
}

func (h *history) command() Command {
	out := len(h.s.sessions) < 4 // nodes are out: let them come back
	switch k := h.choose(45); {
	case k == 0, k < 8 && out:
		h.nonce++
		n := h.nonce
		if h.choose.oneIn(4) {
			n -= byte(h.choose(3))
		}
		i := info(fmt.Sprint("boot", h.choose(3)))
		i.Features = h.s.level + uint32(h.choose(4)) - 1
		return Register{Node: h.name(), Store: store(byte(1 + h.choose(4)/3)), Nonce: [16]byte{n}, Info: i}
	case k < 8:
		var c Renew
		for range 1 + h.choose(4) {
			r := h.ref()
			c.Renewals = append(c.Renewals, Renewal{Node: r.Node, Session: h.sessionOf(r), Beacon: uint64(h.choose(9))})
		}
		return c
	case k < 10:
		n, _ := h.s.Node(h.name())
		verb := NodeVerb(1 + h.choose(6))
		if (verb == NodeRemove || verb == NodeLost) && !h.choose.oneIn(4) {
			verb = NodeInventoried
		}
		return NodeChange{
			Node: n.Name, Verb: verb, By: n.Lease.Session, Store: n.Store,
			Renewed: n.Lease.Renewed - uint64(h.choose(4)/3), Force: h.choose.oneIn(2),
		}
	case k == 11:
		x := h.s.Settings()
		x.Version += uint64(h.choose(3))
		x.Copies = h.choose(4)
		x.G = MaxG / 30 * time.Duration(h.choose(5))
		return SettingsApply{Settings: x}
	case k == 12 && h.choose.oneIn(2):
		c, _ := h.s.Config()
		return ConfigApply{Config: Config{Version: c.Version + uint64(h.choose(3)), Text: []byte("t"), Author: "a"}}
	case k == 13 && h.choose.oneIn(16):
		return GenerationBump{Generation: h.s.Generation() + uint32(h.choose(3))}
	case k == 14:
		return FeatureRaise{Level: uint32(h.choose(4))}
	case k == 40:
		c := RecordPut{Key: fmt.Sprint("job/", h.choose(4)), Value: make([]byte, h.choose(3)), Delete: h.choose.oneIn(3)}
		if now, ok := h.s.Record(c.Key); ok {
			c.IfVersion = now.Version + uint64(h.choose(4)/3)
		}
		return c
	case k == 42:
		c := BudgetOps{AtMS: int64(h.choose(9)) * 1_000_000}
		for range h.choose(3) {
			n, _ := h.s.Node(h.name())
			c.Grants = append(c.Grants, BudgetGrant{Key: fmt.Sprint("b", h.choose(3)), PerS: 3600, Amount: 20, Node: n.Name, Session: n.Lease.Session, N: uint64(h.choose(9))})
		}
		return c
	case k > 42:
		return h.shares()
	case k == 41:
		return AuditAppend{Entry: AuditEntry{Kind: control.AuditKind(h.choose(3)), AtMS: int64(h.choose(9)), Who: h.name(), Reason: "\"x\n\""}}
	}
	if h.choose.oneIn(20) {
		return h.suppress()
	}
	var c SegmentOps
	for range 1 + h.choose(6)/4*h.choose(5) {
		c.Ops = append(c.Ops, h.op())
	}
	return c
}

func (h *history) shares() Command {
	c := ShareOps{Reign: h.s.Reign() - uint64(h.choose(9)/8)}
	r := h.s.Roster()
	if h.choose.oneIn(8) {
		c.Claim = true
		return c
	}
	if r.Version == 0 || h.choose.oneIn(6) {
		next := Roster{Version: r.Version, Founded: r.Founded || h.choose.oneIn(2)}
		for _, n := range nodeNames {
			if !h.choose.oneIn(4) {
				next.Seats = append(next.Seats, Seat{Node: n, State: SeatState(1 + h.choose(3))})
			}
		}
		c.Roster = &next
		return c
	}
	for range h.choose(4) {
		o := ShareOp{Key: fmt.Sprint("k", h.choose(4)), Of: 100, Drop: h.choose.oneIn(5)}
		if d, ok := h.s.Division(o.Key); ok {
			o.IfVersion = d.Version - uint64(h.choose(6)/5)
		}
		for _, s := range r.Seats {
			if s.State == Seated {
				o.Parts = append(o.Parts, Part{Node: s.Node, Units: uint32(h.choose(50))})
			}
		}
		c.Ops = append(c.Ops, o)
	}
	return c
}

// suppress changes the suppression list, with times that go back now and then.
func (h *history) suppress() SuppressOps {
	key := func() control.SuppressKey {
		return control.SuppressKey{Address: fmt.Sprintf("u%d@example.org", h.choose(9)), Scope: []string{"", "campus", "@example.edu", "jane@example.edu"}[h.choose(4)]}
	}
	c := SuppressOps{AtMS: int64(h.choose(100))}
	for range h.choose(3) {
		c.Remove = append(c.Remove, key())
	}
	for range h.choose(5) {
		c.Add = append(c.Add, control.Suppression{
			SuppressKey: key(), Reason: control.SuppressReason(h.choose(6)), Text: h.name(), CreatedMS: c.AtMS, ExpiresMS: int64(h.choose(4) * h.choose(50)),
		})
	}
	return c
}

func (h *history) op() SegmentOp {
	ids := slices.Sorted(maps.Keys(h.known))
	if len(ids) == 0 || len(ids) < 30 && h.choose(3) == 0 {
		n, _ := h.s.Node(h.name())
		o := SegmentOp{
			Kind: OpOpen, By: n.Lease.Session, ID: MakeSegmentID(n.Lease.Session, n.Opened+uint32(h.choose(4))),
			Members: []Ref{n.Ref()}, End: 7, EndSet: h.choose.oneIn(2),
		}
		for range h.choose(3) {
			o.Members = append(o.Members, h.ref())
		}
		if h.choose.oneIn(6) {
			o.Kind = OpAdopt
			o.ID = MakeSegmentID(Session(1<<24|h.choose(20)), 1+uint32(h.choose(5)))
		}
		return o
	}
	if off := h.s.AllWrittenOff(); len(off) > 0 && h.choose.oneIn(6) {
		g := h.off[off[h.choose(len(off))]]
		return SegmentOp{Kind: OpAdopt, ID: g.ID, By: h.sessionOf(h.memberOf(g))}
	}
	g := h.known[ids[h.choose(len(ids))]]
	o := SegmentOp{
		Kind: OpKind(2 + h.choose(int(OpWriteOff))), ID: g.ID, Epoch: g.Epoch, By: h.sessionOf(g.Owner),
		Member: h.memberOf(g), End: uint64(h.choose(3)), Unclean: h.choose.oneIn(3),
	}
	if g.EndSet && !h.choose.oneIn(4) {
		o.End = g.End
	}
	if o.Kind == OpGone && h.choose(4) > 0 { // let some live longer
		o.Kind = OpAddMember
		o.Member = h.ref()
	}
	if g.State == Sealed && h.choose.oneIn(4) { // copies made anew, to the end
		o.Kind = []OpKind{OpAddMember, OpFresh, OpRemoveMember}[h.choose(3)]
		if o.Kind == OpAddMember {
			o.Member = h.ref()
		}
	}
	if h.s.lost(&g) && h.choose.oneIn(2) {
		o.Kind = OpWriteOff
	}
	switch o.Kind {
	case OpWriteOff:
		l, _ := h.s.LeaseOf(g.Owner)
		o.By, o.Renewed = 0, l.Renewed-uint64(h.choose(4)/3)
	case OpReassign:
		l, _ := h.s.LeaseOf(g.Owner)
		o.By, o.Silent, o.Renewed = 0, l.Session, l.Renewed-uint64(h.choose(4)/3)
	case OpRecovered:
		for _, m := range g.Members {
			if m != g.Owner && h.choose.oneIn(2) {
				o.Stale = append(o.Stale, m)
			}
		}
	}
	if h.choose.oneIn(15) {
		o.Epoch -= Epoch(1 + h.choose(2))
	}
	return o
}

// step applies one command to both states and checks everything.
func (h *history) step() {
	h.t.Helper()
	c := h.command()
	data, err := Encode(c)
	if err != nil {
		h.t.Fatalf("%+v: %v", c, err)
	}
	h.index++
	before, leases := h.face, h.leases()
	r := h.s.Apply(h.index, data)
	if r2 := h.twin.Apply(h.index, data); !reflect.DeepEqual(r, r2) {
		h.t.Fatalf("%+v: one says %+v, the other %+v", c, r, r2)
	}
	h.face = face(h.s)
	h.checkTouched(c, r, before)
	for id, g := range h.known {
		now, ok := h.s.Segment(id)
		if !ok && h.s.WrittenOff(id) {
			h.off[id] = g
			h.move("write off", !slices.ContainsFunc(g.Members, h.s.Current) && !h.s.InventoryMissing(), g, now)
			continue
		}
		if !ok {
			h.gone[id] = h.s.Generation()
			h.move("gone", g.State == Sealed, g, now)
			continue
		}
		h.checkChange(g, now, c, leases)
	}
	h.checkNew(c, r)
	h.known = map[SegmentID]Segment{}
	for _, g := range h.s.Segments() {
		h.known[g.ID] = g
	}
	if h.choose.oneIn(4) {
		h.checkIndexes(h.s)
	}
	if h.choose.oneIn(10) {
		image := h.s.Snapshot()
		fresh := New()
		if err := fresh.Restore(image); err != nil {
			h.t.Fatalf("restoring: %v", err)
		}
		if !bytes.Equal(fresh.Snapshot(), image) {
			h.t.Fatal("a restored state is another one")
		}
		h.twin = fresh
		h.checkIndexes(fresh)
	} else if h.choose.oneIn(5) && h.face != face(h.twin) {
		h.t.Fatalf("the states differ after %+v", c)
	}
}

// leases is when each session was last renewed, by the test's own count.
func (h *history) leases() map[Ref]uint64 {
	out := map[Ref]uint64{}
	for _, n := range h.s.Nodes() {
		out[n.Ref()] = h.renewed[n.Lease.Session]
		for _, f := range n.Former {
			out[Ref{Node: n.Name, Store: f.Store}] = h.renewed[f.Lease.Session]
		}
	}
	return out
}

func (h *history) checkTouched(c Command, r Result, before string) {
	h.t.Helper()
	_, list := c.(SuppressOps)
	list = list && r.Code == OK // what has expired goes, whatever came of the operations
	changed := list || r.Session != 0 || len(r.Segments)+len(r.Nodes) > 0 || r.Cluster || r.Records || r.Roster || len(r.Limits) > 0 || r.Audit.Sequence > 0 || r.All
	for _, what := range []struct {
		done bool
		name string
	}{
		{r.Records, "record"}, {r.Audit.Sequence > 0, "audit"}, {r.Roster, "roster"}, {len(r.Limits) > 0, "limits"},
		{list && slices.ContainsFunc(r.Ops, func(o OpResult) bool { return o.Code == OK }), "suppress"},
	} {
		if what.done {
			h.done[what.name]++
		}
	}
	if !changed && h.face != before {
		h.t.Fatalf("%+v touched nothing and changed something: %+v", c, r)
	}
	if r.Code != OK && (changed || r.Text == "") {
		h.t.Fatalf("%+v was refused: %+v", c, r)
	}
	var want []SegmentID
	for id, g := range h.known {
		if now, ok := h.s.Segment(id); !ok || now.Epoch != g.Epoch {
			want = append(want, id)
		}
	}
	for _, g := range h.s.Segments() {
		if _, ok := h.known[g.ID]; !ok {
			want = append(want, g.ID)
		}
	}
	slices.Sort(want)
	// A segment may come and go within one batch.
	got := slices.DeleteFunc(slices.Clone(r.Segments), func(id SegmentID) bool {
		_, had := h.known[id]
		_, has := h.s.Segment(id)
		return !had && !has
	})
	if !r.All && !slices.Equal(want, got) {
		h.t.Fatalf("%+v changed %v and says %v", c, want, got)
	}
	if b, ok := c.(Renew); ok {
		for _, x := range b.Renewals {
			if n, ok := h.s.NodeOf(x.Session); ok && n.Name == x.Node && x.Beacon > 0 {
				h.renewed[x.Session] = h.index
			}
		}
	}
}

// move notes what was done, and whether it was a legal one.
func (h *history) move(what string, legal bool, was, now Segment) {
	h.t.Helper()
	h.done[what]++
	if !legal {
		h.t.Fatalf("%s: from %+v to %+v", what, was, now)
	}
}

func same(a, b Segment) bool {
	return a.ID == b.ID && a.Owner == b.Owner && a.State == b.State && a.End == b.End && a.EndSet == b.EndSet &&
		slices.Equal(a.Members, b.Members) && slices.Equal(a.Stale, b.Stale)
}

func (h *history) checkChange(was, now Segment, c Command, leases map[Ref]uint64) {
	h.t.Helper()
	if was.Epoch == now.Epoch {
		if !same(was, now) {
			h.t.Fatalf("%+v changed %+v into %+v under the same epoch", c, was, now)
		}
		return
	}
	h.move("epoch", now.Epoch > was.Epoch && now.Sound(), was, now)
	if was.EndSet {
		h.move("end", now.EndSet && now.End == was.End, was, now)
	}
	list, one := c.(SegmentOps)
	if one && len(list.Ops) > 1 {
		return // several steps in one: the rules below are about one
	}
	if was.State != now.State {
		h.move(fmt.Sprint(was.State, " to ", now.State), now.State != Open, was, now)
	}
	if was.Owner != now.Owner {
		h.move("owner", was.IsMember(now.Owner), was, now)
		o := list.Ops[0]
		switch {
		case o.Kind == OpTransfer:
			h.move("transfer", was.State == Sealed && now.State == Sealed && was.IsFresh(now.Owner), was, now)
		case was.State == Recovering:
			h.move("reassign again", now.State == Recovering, was, now)
		default:
			h.move("reassign", now.State == Recovering && o.Renewed >= leases[was.Owner] &&
				(o.Unclean || was.IsFresh(now.Owner)), was, now)
		}
	}
	for _, m := range now.Members {
		if !was.IsMember(m) {
			h.move("new member", now.IsStale(m), was, now)
		}
	}
	for _, m := range was.Members {
		if !now.IsMember(m) {
			h.move("old member", m != was.Owner && was.State == Sealed && len(now.Members) > 0, was, now)
		}
	}
}

func (h *history) checkNew(c Command, r Result) {
	h.t.Helper()
	if x, ok := c.(Register); ok && r.Code == OK {
		n, _ := h.s.Node(x.Node)
		if again := h.sessions[r.Session]; again && len(r.Nodes) > 0 || n.Lease.Session != r.Session {
			h.t.Fatalf("session %v: %+v", r.Session, n)
		}
		h.sessions[r.Session] = true
		h.done["register"]++
	}
	for _, g := range h.s.Segments() {
		if _, ok := h.known[g.ID]; ok {
			continue
		}
		if !g.Sound() || h.s.WrittenOff(g.ID) {
			h.t.Fatalf("%+v", g)
		}
		if was, ok := h.off[g.ID]; ok {
			h.move("take back", g.State == Recovering && g.Epoch > was.Epoch+1 && (!was.EndSet || g.End == was.End), was, g)
			delete(h.off, g.ID)
			continue
		}
		if g.State == Recovering {
			h.done["adopt"]++
			if was, ok := h.gone[g.ID]; ok && was == h.s.Generation() && g.ID.Session().Generation() == was {
				h.t.Fatalf("%v came back", g.ID)
			}
			continue
		}
		h.done["open"]++
		if h.opened[g.ID] {
			h.t.Fatalf("%v was opened twice", g.ID)
		}
	}
	if list, ok := c.(SegmentOps); ok && r.Code == OK {
		for i, o := range list.Ops {
			if o.Kind == OpOpen && r.Ops[i].Code == OK {
				h.opened[o.ID] = true
			}
		}
	}
}

// checkIndexes compares what a State counts along the way with what it counts
// from scratch.
func (h *history) checkIndexes(s *State) {
	h.t.Helper()
	held, owned := map[string]map[SegmentID]struct{}{}, map[Ref]counts{}
	for _, g := range s.segments {
		for _, m := range g.Members {
			if held[m.Node] == nil {
				held[m.Node] = map[SegmentID]struct{}{}
			}
			held[m.Node][g.ID] = struct{}{}
		}
		c := owned[g.Owner]
		c.all++
		if g.State == Open {
			c.open++
		}
		owned[g.Owner] = c
	}
	total := 0
	for name, n := range s.nodes {
		if !maps.Equal(held[name], n.held) {
			h.t.Fatalf("%s holds %v and is said to hold %v", name, held[name], n.held)
		}
		for st, c := range n.owned {
			total++
			if owned[Ref{Node: name, Store: st}] != c || c.open > c.all || c.all == 0 {
				h.t.Fatalf("%s owns %v and is said to own %v", name, owned[Ref{Node: name, Store: st}], c)
			}
			if _, ok := s.LeaseOf(Ref{Node: name, Store: st}); !ok {
				h.t.Fatalf("%s: a store that owns segments is forgotten", name)
			}
		}
		for _, f := range n.Former {
			if n.owned[f.Store].all == 0 || f.Store == n.Store {
				h.t.Fatalf("%s: former store %v should be forgotten", name, f.Store)
			}
		}
	}
	missing, copies, alive := s.missing, s.copies, s.alive
	s.recount()
	if total != len(owned) || missing != s.missing || copies != s.copies || alive != s.alive {
		h.t.Fatal("a count is wrong")
	}
}

func TestRandomLogs(t *testing.T) {
	done := map[string]int{}
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			h := newHistory(t, seeded(seed))
			if seed%2 == 1 { // from the start, and for long
				h.s.level, h.twin.level = LimitLevel, LimitLevel
				h.face = face(h.s)
			}
			for range 700 {
				h.step()
			}
			for k, n := range h.done {
				done[k] += n
			}
		})
	}
	t.Log(done)
	for _, k := range []string{
		"open", "adopt", "register", "gone", "epoch", "end", "owner", "transfer", "reassign", "reassign again", "new member", "old member",
		"open to recovering", "open to sealed", "recovering to sealed", "sealed to recovering", "write off", "take back", "record", "audit", "roster", "limits", "suppress",
	} {
		if done[k] == 0 {
			t.Errorf("%q happened %d times: the generator misses it", k, done[k])
		}
	}
}

func FuzzCommands(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		h := newHistory(t, fed(b))
		for range 4 + len(b)/12 {
			h.step()
		}
	})
}

// FuzzApply gives a State of some content any octets at all.
func FuzzApply(f *testing.F) {
	w := newWorld(f, "a", "b", "c").at(LimitLevel)
	id := w.open(1, "a", "b")
	image := w.s.Snapshot()
	for _, c := range []Command{
		w.seal(id, 1), ops(w.reassign(id, "b")), ops(w.openOp(2, "a", "c")), Renew{Renewals: []Renewal{{Node: "a", Session: w.session("a"), Beacon: 1}}},
		Register{Node: "a", Store: store(1), Nonce: [16]byte{7}, Info: info("x")}, NodeChange{Node: "a", Verb: NodeDrain},
		ConfigApply{Config: Config{Version: 1}}, SettingsApply{Settings: DefaultSettings()}, FeatureRaise{Level: 2}, GenerationBump{Generation: 3},
		ShareOps{Claim: true}, ShareOps{Roster: &Roster{Founded: true, Seats: []Seat{{Node: "a", State: Seated}}}},
		ShareOps{Ops: []ShareOp{{Key: "k", Of: 10, Parts: []Part{{Node: "a", Units: 9}}}}},
		BudgetOps{AtMS: 9, Grants: []BudgetGrant{{Key: "k", PerS: 3600, Amount: 20, Node: "a", Session: 1, N: 3}}},
		RecordPut{Key: "job/1", Value: []byte("v")}, AuditAppend{Entry: AuditEntry{Kind: control.AuditRequest, Who: "x"}},
		SuppressOps{AtMS: 1, Remove: []control.SuppressKey{{Address: "a@b"}}, Add: []control.Suppression{{SuppressKey: control.SuppressKey{Address: "a@b"}, Reason: control.SuppressOperator}}},
	} {
		b, _ := Encode(c)
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, twin := New(), New()
		if err := s.Restore(image); err != nil {
			t.Fatal(err)
		}
		_ = twin.Restore(image)
		before := face(s)
		r := s.Apply(9, b)
		if !reflect.DeepEqual(r, twin.Apply(9, b)) || !bytes.Equal(s.Snapshot(), twin.Snapshot()) {
			t.Fatal("two states differ")
		}
		if r.Code != OK && face(s) != before {
			t.Fatal("a refusal changed something")
		}
		fresh := New()
		if err := fresh.Restore(s.Snapshot()); err != nil || !bytes.Equal(fresh.Snapshot(), s.Snapshot()) {
			t.Fatalf("a state cannot be restored: %v", err)
		}
		out, err := EncodeResult(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeResult(out); err != nil {
			t.Fatal(err)
		}
	})
}

func sealed(body []byte) []byte {
	b := append(make([]byte, snapshotHeader), body...)
	putHeader(b)
	return b
}

// FuzzRestore puts any octets at all behind a sound header.
func FuzzRestore(f *testing.F) {
	h := newHistory(f, seeded(3))
	for range 30 {
		h.step()
	}
	f.Add(h.s.Snapshot()[snapshotHeader:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		s := New()
		if s.Restore(body) == nil {
			t.Fatal("octets without a header are a snapshot")
		}
		if s.Restore(sealed(body)) != nil {
			return
		}
		again := New()
		if err := again.Restore(s.Snapshot()); err != nil || !bytes.Equal(again.Snapshot(), s.Snapshot()) {
			t.Fatalf("a state that was restored cannot be restored: %v", err)
		}
		for _, g := range s.Segments() {
			if !g.Sound() {
				t.Fatalf("%+v", g)
			}
		}
		register, _ := Encode(Register{Node: "a", Store: store(1), Nonce: [16]byte{7}, Info: info("x")})
		s.Apply(1, register)
		bump, _ := Encode(GenerationBump{Generation: s.Generation() + 1})
		s.Apply(2, bump)
		s.Snapshot()
	})
}
