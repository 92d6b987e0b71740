package fsm

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/proto/control"
)

// world is a State with a log and short words for commands.
type world struct {
	t     testing.TB
	s     *State
	index uint64
}

func newWorld(t testing.TB, nodes ...string) *world {
	w := &world{t: t, s: New()}
	for _, n := range nodes {
		w.register(n, 1, 1)
	}
	return w
}

func (w *world) apply(c Command) Result {
	w.t.Helper()
	b, err := Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	return w.s.Apply(w.index, b)
}

func (w *world) must(c Command) Result {
	w.t.Helper()
	r := w.apply(c)
	if r.Code != OK {
		w.t.Fatalf("%T%+v: %v", c, c, r.Code)
	}
	for i, o := range r.Ops {
		if o.Code != OK {
			w.t.Fatalf("%T operation %d: %v", c, i, o.Code)
		}
	}
	return r
}

// refused wants code, and the state unchanged.
func (w *world) refused(c Command, code Code) {
	w.t.Helper()
	before := w.face()
	r := w.apply(c)
	got := r.Code
	if got == OK && len(r.Ops) == 1 {
		got = r.Ops[0].Code
	}
	if got != code {
		w.t.Errorf("%T%+v: %v, want %v", c, c, got, code)
	}
	if before != w.face() {
		w.t.Errorf("%T%+v was refused and changed something", c, c)
	}
	if len(r.Segments)+len(r.Nodes) > 0 || r.Cluster || r.All {
		w.t.Errorf("%T was refused and says that it touched something", c)
	}
}

// face is the state without the index of the last entry.
func (w *world) face() string { return face(w.s) }

func face(s *State) string {
	keep := s.applied
	s.applied = 0
	b := s.Snapshot()
	s.applied = keep
	return string(b)
}

func store(n byte) StoreID { return StoreID{15: n} }

func (w *world) register(name string, st, nonce byte) Session {
	w.t.Helper()
	r := w.must(Register{Node: name, Store: store(st), Nonce: [16]byte{nonce}, Info: info("boot" + name)})
	return r.Session
}

func info(boot string) NodeInfo {
	return NodeInfo{Address: "10.0.0.1:7070", SMTP: "10.0.0.1:25", Zone: "z", Version: "1", Features: 1, BootID: boot, MachineID: boot}
}

func (w *world) ref(name string) Ref {
	n, _ := w.s.Node(name)
	return n.Ref()
}

func (w *world) session(name string) Session {
	n, _ := w.s.Node(name)
	return n.Lease.Session
}

func (w *world) renew(name string, beacon uint64) uint64 {
	w.t.Helper()
	w.must(Renew{Renewals: []Renewal{{Node: name, Session: w.session(name), Beacon: beacon}}})
	return w.index
}

// open opens the n-th segment of the first of the members.
func (w *world) open(n uint32, members ...string) SegmentID {
	w.t.Helper()
	id := MakeSegmentID(w.session(members[0]), n)
	w.must(ops(w.openOp(n, members...)))
	return id
}

func (w *world) openOp(n uint32, members ...string) SegmentOp {
	by := w.session(members[0])
	o := SegmentOp{Kind: OpOpen, ID: MakeSegmentID(by, n), By: by}
	for _, m := range members {
		o.Members = append(o.Members, w.ref(m))
	}
	return o
}

func ops(list ...SegmentOp) SegmentOps { return SegmentOps{Ops: list} }

// op fills in what the record says: epoch and the owner's session.
func (w *world) op(kind OpKind, id SegmentID) SegmentOp {
	g, _ := w.s.Segment(id)
	return SegmentOp{Kind: kind, ID: id, Epoch: g.Epoch, By: w.session(g.Owner.Node)}
}

func (w *world) about(kind OpKind, id SegmentID, member string) SegmentOps {
	o := w.op(kind, id)
	o.Member = w.ref(member)
	return ops(o)
}

func (w *world) seal(id SegmentID, end uint64) SegmentOps {
	o := w.op(OpSeal, id)
	o.End = end
	return ops(o)
}

func (w *world) recovered(id SegmentID, end uint64, stale ...string) SegmentOps {
	o := w.op(OpRecovered, id)
	o.End = end
	for _, m := range stale {
		o.Stale = append(o.Stale, w.ref(m))
	}
	return ops(o)
}

func (w *world) reassign(id SegmentID, to string) SegmentOp {
	g, _ := w.s.Segment(id)
	l, _ := w.s.LeaseOf(g.Owner)
	return SegmentOp{Kind: OpReassign, ID: id, Epoch: g.Epoch, Member: w.ref(to), Silent: l.Session, Renewed: l.Renewed}
}

func (w *world) segment(id SegmentID) Segment {
	w.t.Helper()
	g, ok := w.s.Segment(id)
	if !ok {
		w.t.Fatalf("no segment %v", id)
	}
	return g
}

func names(refs []Ref) string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Node)
	}
	return fmt.Sprint(out)
}

func (w *world) want(id SegmentID, state SegmentState, owner, members, stale string) {
	w.t.Helper()
	g := w.segment(id)
	if g.State != state || g.Owner.Node != owner || names(g.Members) != members || names(g.Stale) != stale {
		w.t.Errorf("segment %v is %v, owner %s, members %s, stale %s; want %v, %s, %s, %s", id,
			g.State, g.Owner.Node, names(g.Members), names(g.Stale), state, owner, members, stale)
	}
}

func TestNumbers(t *testing.T) {
	s := Session(MaxGeneration)<<24 | maxSessionN
	id := MakeSegmentID(s, MaxSegmentN)
	if id.Session() != s || id.N() != MaxSegmentN || !id.Replicated() || s.Generation() != MaxGeneration {
		t.Errorf("the highest numbers do not fit: %v %v", id, s)
	}
	if SegmentID(7).Replicated() || SegmentID(7).String() != "local-7" {
		t.Error("a local segment is not told apart")
	}
	if got := MakeSegmentID(1<<24|5, 9).String(); got != "1.5-9" {
		t.Errorf("an id reads %q", got)
	}
	if got, ok := control.ParseSegmentID(id.String()); !ok || got != id {
		t.Errorf("%v was read as %v", id, got)
	}
	for _, text := range []string{"", "1.5", "1.5-9x", "01.5-9", "1.5-99999999", "1.99999999-1", "40000.1-1", "-1.5-9", "local-7"} {
		if got, ok := control.ParseSegmentID(text); ok {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	one := w.register("a", 1, 1)
	if one != 1<<24|1 {
		t.Errorf("the first session is %v", one)
	}
	if again := w.register("a", 1, 1); again != one {
		t.Errorf("the same nonce got %v after %v", again, one)
	}
	two := w.register("a", 1, 2)
	if two == one {
		t.Error("another process got the same session")
	}
	w.refused(Register{Node: "a", Store: store(1), Nonce: [16]byte{1}, Info: info("x")}, OldNonce)
	w.refused(Register{Node: "", Store: store(1), Nonce: [16]byte{3}, Info: info("x")}, Malformed)
	old := info("x")
	old.Features = 0
	w.refused(Register{Node: "b", Store: store(1), Nonce: [16]byte{3}, Info: old}, FeatureMissing)
	if _, ok := w.s.NodeOf(one); ok {
		t.Error("the old session is still known")
	}
	if n, ok := w.s.NodeOf(two); !ok || n.Name != "a" {
		t.Error("the new session is not known")
	}
}

func TestRegisterRecoversItsOpenSegments(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	open, sealed, other := w.open(1, "a", "b"), w.open(2, "a", "c"), w.open(1, "b", "a")
	w.must(w.seal(sealed, 7))
	before := w.segment(open).Epoch
	r := w.must(Register{Node: "a", Store: store(1), Nonce: [16]byte{2}, Info: info("boota")})
	if !slices.Equal(r.Segments, []SegmentID{open}) {
		t.Errorf("touched %v", r.Segments)
	}
	w.want(open, Recovering, "a", "[a b]", "[]")
	w.want(sealed, Sealed, "a", "[a c]", "[]")
	w.want(other, Open, "b", "[b a]", "[]")
	if w.segment(open).Epoch != before+1 {
		t.Error("the epoch did not rise by one")
	}
	if all, open := w.s.Owns(w.ref("a")); all != 2 || open != 0 {
		t.Errorf("a owns %d, %d of them open", all, open)
	}
}

func TestNewStoreLeavesTheOldOnesSegments(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b")
	oldRef := w.ref("a")
	at := w.renew("a", 1)
	old, _ := w.s.LeaseOf(oldRef)
	w.register("a", 2, 2)
	w.want(id, Open, "a", "[a b]", "[]")
	l, ok := w.s.LeaseOf(oldRef)
	if !ok || l != old || l.Renewed != at {
		t.Fatalf("the old store's lease is %+v, was %+v", l, old)
	}
	w.renew("a", 1) // the new session's renewals do not matter to the old store
	w.refused(ops(SegmentOp{Kind: OpSeal, ID: id, Epoch: w.segment(id).Epoch, By: old.Session}), OldSession)
	w.refused(ops(SegmentOp{Kind: OpSeal, ID: id, Epoch: w.segment(id).Epoch, By: w.session("a")}), OldSession)
	w.must(ops(w.reassign(id, "b")))
	w.want(id, Recovering, "b", "[a b]", "[]")
	if _, ok := w.s.LeaseOf(oldRef); ok {
		t.Error("the old store owns nothing and is still remembered")
	}
	w.must(ops(SegmentOp{Kind: OpRecovered, ID: id, Epoch: w.segment(id).Epoch, By: w.session("b"), End: 3, Stale: []Ref{oldRef}}))
	w.refused(ops(SegmentOp{Kind: OpReassign, ID: id, Epoch: w.segment(id).Epoch, Member: oldRef, Silent: w.session("b"), Renewed: w.index, Unclean: true}), UnknownNode)
	// The old disk comes back: it is a member again, by its store.
	w.register("a", 1, 3)
	w.must(w.about(OpFresh, id, "a"))
	w.want(id, Sealed, "b", "[a b]", "[]")
}

func TestLeases(t *testing.T) {
	w := newWorld(t, "a", "b")
	if l, _ := w.s.LeaseOf(w.ref("a")); l.Renewed != 1 || l.Beacon != 0 {
		t.Errorf("a new session's lease is %+v", l)
	}
	r := w.must(Renew{Renewals: []Renewal{{Node: "a", Session: w.session("a"), Beacon: 4}, {Node: "b", Session: w.session("a"), Beacon: 9}, {Node: "b", Session: 77, Beacon: 1}, {Node: "b", Session: w.session("b"), Beacon: 0}}})
	if !slices.Equal(r.Nodes, []string{"a"}) {
		t.Errorf("renewed %v", r.Nodes)
	}
	w.renew("a", 3)
	if l, _ := w.s.LeaseOf(w.ref("a")); l.Beacon != 4 || l.Renewed != w.index || l.G != 5*time.Second {
		t.Errorf("after a late beacon the lease is %+v", l)
	}
}

func TestWaitOfANewSession(t *testing.T) {
	w := newWorld(t, "a")
	waits := func() uint64 { n, _ := w.s.Node("a"); return n.Waits }
	reg := func(nonce byte, boot string, st byte) {
		w.must(Register{Node: "a", Store: store(st), Nonce: [16]byte{nonce}, Info: info(boot)})
	}
	w.renew("a", 1)
	reg(2, "boota", 1)
	if waits() != 0 {
		t.Error("the same data_dir on the same boot of the same host has to wait")
	}
	last := w.renew("a", 1)
	reg(3, "elsewhere", 1)
	if waits() != last {
		t.Errorf("after a move waits for %d, want %d", waits(), last)
	}
	reg(4, "elsewhere", 1) // never renewed in between: the wait goes on
	if waits() != last {
		t.Errorf("after a second start waits for %d, want %d", waits(), last)
	}
	last = w.renew("a", 1)
	if waits() != 0 {
		t.Error("waits though it was renewed")
	}
	reg(5, "elsewhere", 2)
	if waits() != last {
		t.Error("another store does not wait, though nobody's lock keeps the old process out")
	}
	if n, _ := w.s.Node("a"); n.WaitsG != 5*time.Second {
		t.Errorf("waits for a G of %v", n.WaitsG)
	}
}

func TestGNeverFallsWithinASession(t *testing.T) {
	w := newWorld(t, "a")
	g := func() time.Duration { n, _ := w.s.Node("a"); return n.Lease.G }
	set := func(d time.Duration) {
		t.Helper()
		x := w.s.Settings()
		x.Version++
		x.G = d
		w.must(SettingsApply{Settings: x})
	}
	w.renew("a", 1)
	set(2 * time.Second)
	w.renew("a", 2)
	if g() != 5*time.Second {
		t.Errorf("G fell to %v under a lease of 5 s", g())
	}
	set(10 * time.Second)
	w.renew("a", 3)
	if g() != 10*time.Second {
		t.Errorf("G is %v, want 10 s", g())
	}
	set(2 * time.Second)
	w.register("a", 1, 2)
	if g() != 10*time.Second {
		t.Errorf("a new session that was never renewed is waited for %v; the old process may hold 10 s", g())
	}
	w.renew("a", 1)
	if g() != 2*time.Second {
		t.Errorf("the new session's G is %v", g())
	}
}
