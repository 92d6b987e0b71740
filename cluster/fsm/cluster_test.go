package fsm

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/clrelay/clrelay/proto/control"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestNodeStates(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b")
	self := func(v NodeVerb) NodeChange { return NodeChange{Node: "b", Verb: v, By: w.session("b")} }
	w.refused(NodeChange{Node: "x", Verb: NodeDrain}, UnknownNode)
	w.refused(NodeChange{Node: "b", Verb: 77}, Malformed)
	w.refused(NodeChange{Node: "b", Verb: NodeResume}, WrongState)
	w.refused(self(NodeDrained), WrongState)
	w.must(NodeChange{Node: "b", Verb: NodeDrain})
	w.refused(NodeChange{Node: "b", Verb: NodeDrain}, WrongState)
	w.refused(NodeChange{Node: "a", Verb: NodeDrain}, TooFewCopies)
	w.refused(self(NodeDrained), StillHolds)
	w.refused(NodeChange{Node: "b", Verb: NodeDrained, By: w.session("a")}, OldSession)
	w.must(w.seal(id, 1))
	w.must(w.about(OpAddMember, id, "c"))
	w.must(w.about(OpFresh, id, "c"))
	w.must(w.about(OpRemoveMember, id, "b"))
	w.must(self(NodeDrained))
	w.register("b", 1, 2)
	if n, _ := w.s.Node("b"); n.State != Drained {
		t.Errorf("after a restart the node is %v", n.State)
	}
	w.refused(w.about(OpAddMember, id, "b"), NodeNotAlive)
	w.must(NodeChange{Node: "b", Verb: NodeResume})
	w.must(NodeChange{Node: "b", Verb: NodeDrain})
	w.must(self(NodeDrained))
	w.must(NodeChange{Node: "b", Verb: NodeRemove})
	w.refused(NodeChange{Node: "b", Verb: NodeRemove}, WrongState)
	w.refused(Register{Node: "b", Store: store(1), Nonce: [16]byte{3}, Info: info("x")}, NodeNotAlive)
	w.refused(Register{Node: "b", Store: store(1), Nonce: [16]byte{2}, Info: info("x")}, OldNonce)
	w.refused(Renew{Renewals: []Renewal{{Node: "b", Session: w.session("b"), Beacon: 1}}}, OK)
	w.register("b", 2, 4)
	if n, _ := w.s.Node("b"); n.State != Alive {
		t.Errorf("with a new store the node is %v", n.State)
	}
}

func TestRemoveOfADeadNode(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b")
	w.must(w.seal(id, 1))
	seen := w.renew("b", 1)
	w.renew("b", 2)
	w.refused(NodeChange{Node: "b", Verb: NodeRemove, Renewed: w.index}, WrongState)
	w.refused(NodeChange{Node: "b", Verb: NodeRemove, Renewed: seen, Force: true}, RenewedSince)
	// b's copy counts for nothing once b is out.
	w.must(w.about(OpAddMember, id, "c"))
	w.must(NodeChange{Node: "b", Verb: NodeRemove, Renewed: w.index, Force: true})
	if w.s.Copies() != 1 {
		t.Errorf("two nodes keep %d copies", w.s.Copies())
	}
	w.must(w.about(OpRemoveMember, id, "b"))
	w.must(NodeChange{Node: "c", Verb: NodeRemove, Renewed: w.index, Force: true})
	w.refused(NodeChange{Node: "a", Verb: NodeRemove, Renewed: w.index, Force: true}, TooFewCopies)
}

func TestALostStore(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	id := w.open(1, "a", "b")
	w.must(w.seal(id, 1))
	w.must(w.about(OpAddMember, id, "c"))
	w.must(w.about(OpFresh, id, "c"))
	lost := NodeChange{Node: "b", Verb: NodeLost, Store: store(1), Renewed: w.renew("b", 1)}
	other := lost
	other.Store = store(7)
	w.refused(other, UnknownNode)
	w.renew("b", 2)
	w.refused(lost, RenewedSince)
	lost.Renewed = w.index
	w.must(lost)
	w.refused(lost, WrongState)
	w.refused(NodeChange{Node: "b", Verb: NodeDrain}, NodeNotAlive)
	w.refused(Renew{Renewals: []Renewal{{Node: "b", Session: w.session("b"), Beacon: 3}}}, OK)
	w.refused(Register{Node: "b", Store: store(1), Nonce: [16]byte{3}, Info: info("x")}, NodeNotAlive)
	w.refused(ops(w.reassign(id, "b")), UnknownNode)
	w.must(w.about(OpStale, id, "c"))
	w.refused(w.about(OpRemoveMember, id, "c"), TooFewCopies) // b is no copy
	w.register("b", 2, 4)
	if w.s.Current(Ref{Node: "b", Store: store(1)}) || !w.s.Current(Ref{Node: "b", Store: store(2)}) {
		t.Error("the wrong store is current")
	}
}

func TestSettingsAndConfig(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	x := w.s.Settings()
	w.refused(SettingsApply{Settings: x}, WrongVersion)
	x.Version++
	for _, f := range []func(*Settings){
		func(x *Settings) { x.Copies = 0 }, func(x *Settings) { x.Copies = MaxMembers + 1 },
		func(x *Settings) { x.G = 0 }, func(x *Settings) { x.G = time.Hour }, func(x *Settings) { x.UncleanAfter = -1 },
	} {
		y := x
		f(&y)
		w.refused(SettingsApply{Settings: y}, Malformed)
	}
	x.Copies = 3
	w.must(SettingsApply{Settings: x})
	if w.s.Copies() != 3 || w.s.Settings() != x {
		t.Errorf("settings %+v, copies %d", w.s.Settings(), w.s.Copies())
	}
	if _, ok := w.s.Config(); ok {
		t.Error("a configuration before the first")
	}
	at := time.UnixMilli(1_800_000_000_123).UTC()
	for v := uint64(1); v <= KeepConfigs+5; v++ {
		w.must(ConfigApply{Config: Config{Version: v, Text: fmt.Append(nil, "v", v), Author: "me", Reason: "because", At: at}})
		w.refused(ConfigApply{Config: Config{Version: v}}, WrongVersion)
	}
	w.refused(ConfigApply{Config: Config{Version: KeepConfigs + 6, Text: make([]byte, MaxConfigText+1)}}, LimitReached)
	c, _ := w.s.Config()
	if len(w.s.Configs()) != KeepConfigs || c.Version != KeepConfigs+5 || string(c.Text) != "v25" || c.At != at {
		t.Errorf("newest %+v of %d", c, len(w.s.Configs()))
	}
}

func TestCopies(t *testing.T) {
	w := newWorld(t)
	for i, want := range []int{1, 1, 1, 2, 2} {
		if got := w.s.Copies(); got != want {
			t.Errorf("%d nodes keep %d copies, want %d", i, got, want)
		}
		w.register(fmt.Sprint("n", i), 1, 1)
	}
}

func TestFeatureLevel(t *testing.T) {
	w := newWorld(t, "a")
	w.s.known = 2
	next := func(c Command) []byte {
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 2)
	}
	register := Register{Node: "a", Store: store(1), Nonce: [16]byte{2}, Info: info("x")}
	if r := w.s.Apply(9, next(register)); r.Code != LevelTooLow {
		t.Errorf("a command of level 2: %v", r.Code)
	}
	w.refused(FeatureRaise{Level: 1}, WrongVersion)
	if w.s.Common() != 1 {
		t.Errorf("all nodes know level %d", w.s.Common())
	}
	w.refused(FeatureRaise{Level: 2}, FeatureMissing)
	register.Info.Features = 2
	w.must(register)
	if w.s.Common() != 2 {
		t.Errorf("all nodes know level %d", w.s.Common())
	}
	image := w.s.Snapshot()
	old := New()
	old.known = 1
	if err := old.Restore(image); err != nil {
		t.Fatal(err)
	}
	raise, _ := Encode(FeatureRaise{Level: 2})
	before := face(old)
	if r := old.Apply(10, raise); !r.Fatal || face(old) != before {
		t.Errorf("a program of level 1 goes on at level 2: %+v", r)
	}
	w.must(FeatureRaise{Level: 2})
	if r := w.s.Apply(11, next(Renew{})); r.Code != OK {
		t.Errorf("a command of level 2 at level 2: %v", r.Code)
	}
	if err := old.Restore(w.s.Snapshot()); err == nil || face(old) != before {
		t.Errorf("a program of level 1 takes a snapshot of level 2: %v", err)
	}
	register.Nonce, register.Info.Features = [16]byte{3}, 1
	w.refused(register, FeatureMissing)
	// A command that was never seen, at a level that is in force.
	unknown := protowire.AppendBytes(protowire.AppendTag([]byte{8, 2}, 15, protowire.BytesType), []byte("x"))
	if r := w.s.Apply(12, unknown); r.Code != Malformed || r.Fatal {
		t.Errorf("an unknown command: %+v", r)
	}
	w.s.known = 1
	if r := w.s.Apply(12, unknown); !r.Fatal {
		t.Errorf("an unknown command of a level in force: %+v", r)
	}
}

func TestGeneration(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	open, sealed := w.open(1, "a", "b"), w.open(2, "a", "b")
	w.must(w.seal(sealed, 8))
	w.renew("a", 1)
	lost := MakeSegmentID(w.session("a"), 7)
	w.refused(GenerationBump{Generation: 1}, WrongVersion)
	w.refused(GenerationBump{Generation: MaxGeneration + 1}, LimitReached)
	oldSession := w.session("a")
	if r := w.must(GenerationBump{Generation: 4}); !r.All {
		t.Error("a generation does not touch all")
	}
	w.want(open, Recovering, "a", "[a b]", "[]")
	w.want(sealed, Sealed, "a", "[a b]", "[]")
	if e := w.segment(sealed).Epoch; e != 4<<32|1 {
		t.Errorf("the epoch is %v", e)
	}
	w.refused(ops(SegmentOp{Kind: OpGone, ID: sealed, Epoch: w.segment(sealed).Epoch, By: oldSession}), OldSession)
	if s := w.register("a", 1, 1); s != 4<<24|1 {
		t.Errorf("the first session is %v", s)
	}
	w.register("b", 1, 1)
	w.refused(ops(w.op(OpGone, sealed)), InventoryMissing)

	// a and b hold a segment that the backup did not know.
	adopt := func(by string, id SegmentID) SegmentOps {
		return ops(SegmentOp{Kind: OpAdopt, ID: id, By: w.session(by), Members: []Ref{w.ref("a"), w.ref("b"), {Node: "never", Store: store(1)}}})
	}
	w.must(adopt("a", lost))
	w.want(lost, Recovering, "a", "[b a]", "[]")
	w.refused(adopt("b", lost), AlreadyMember)
	w.register("c", 1, 9)
	w.must(adopt("c", lost))
	w.want(lost, Recovering, "a", "[b a c]", "[c]")
	w.refused(adopt("a", MakeSegmentID(w.session("a"), 1)), Malformed) // of this generation: gone
	for _, n := range []string{"a", "b", "c"} {
		if !w.s.InventoryMissing() {
			t.Error("no inventory is missing")
		}
		w.must(NodeChange{Node: n, Verb: NodeInventoried, By: w.session(n)})
	}
	w.refused(NodeChange{Node: "a", Verb: NodeInventoried, By: w.session("a")}, WrongState)
	w.refused(adopt("a", lost+1), WrongState)
	w.must(ops(w.op(OpGone, sealed)))
	w.register("d", 1, 1) // nobody knows what it holds
	if !w.s.InventoryMissing() {
		t.Error("an unknown node is believed to hold nothing")
	}
}

func TestNodesAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range MaxNodes {
		w.register(fmt.Sprintf("n%04d", i), 1, 1)
	}
	late := Register{Node: "late", Store: store(1), Nonce: [16]byte{1}, Info: info("x")}
	w.refused(late, LimitReached)
	for _, n := range []string{"n0007", "n0003"} {
		w.must(NodeChange{Node: n, Verb: NodeRemove, Force: true, Renewed: w.index})
	}
	w.must(late)
	if _, ok := w.s.Node("n0007"); ok {
		t.Error("the node that was removed first is still known")
	}
	if _, ok := w.s.Node("n0003"); !ok {
		t.Error("the node that was removed last is forgotten")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	w := newWorld(t, "a")
	w.s.lastN = maxSessionN - 1
	w.register("a", 1, 2)
	w.refused(Register{Node: "a", Store: store(1), Nonce: [16]byte{3}, Info: info("x")}, LimitReached)
}

func TestViews(t *testing.T) {
	w := newWorld(t, "b", "a", "c")
	first, second := w.open(1, "b", "a"), w.open(1, "a", "c")
	list := w.s.SegmentsOf("a")
	if len(list) != 2 || list[0].ID != first || list[1].ID != second || len(w.s.Segments()) != 2 || w.s.SegmentsOf("x") != nil {
		t.Errorf("the segments of a are %+v", list)
	}
	nodes := w.s.Nodes()
	if len(nodes) != 3 || nodes[0].Name != "a" || nodes[2].Name != "c" {
		t.Errorf("nodes %+v", nodes)
	}
	if w.s.Applied() != w.index || w.s.Level() != 1 || w.s.Generation() != 1 {
		t.Error("numbers are wrong")
	}
}

func TestResultTravels(t *testing.T) {
	r := Result{
		Code: WrongEpoch, Text: "x", Session: 5, Ops: []OpResult{{Code: OK, Epoch: 7}, {Code: WrongEpoch, Epoch: 0}},
		Segments: []SegmentID{1, 2}, Nodes: []string{"a"}, Cluster: true, Records: true, All: true, Fatal: true,
		Version: 9, Audit: AuditMark{Sequence: 3, Hash: [32]byte{1}},
	}
	b, err := EncodeResult(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeResult(b)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(r) {
		t.Errorf("%+v came back as %+v, %v", r, got, err)
	}
	if _, err := DecodeResult([]byte{0xff}); err == nil {
		t.Error("nonsense is a result")
	}
}

func TestCommandTravels(t *testing.T) {
	member := Ref{Node: "b", Store: store(2)}
	for _, c := range []Command{
		Register{Node: "a", Store: store(1), Nonce: [16]byte{1}, Info: info("x")},
		Renew{Renewals: []Renewal{{Node: "a", Session: 5, Beacon: 6}}},
		ops(SegmentOp{Kind: OpReassign, ID: 1 << 63, Epoch: 2, By: 3, Member: member, Members: []Ref{member}, Stale: []Ref{member}, End: 4, EndSet: true, Silent: 5, Renewed: 6, Unclean: true}),
		NodeChange{Node: "a", Verb: NodeLost, By: 1, Store: store(1), Renewed: 5, Force: true},
		ConfigApply{Config: Config{Version: 1, Text: []byte("t"), Author: "a", Reason: "r", At: time.UnixMilli(5).UTC()}},
		SettingsApply{Settings: DefaultSettings()},
		FeatureRaise{Level: 2},
		GenerationBump{Generation: 3},
		RecordPut{Key: "job/1", Value: []byte("v"), IfVersion: 7, Delete: true},
		AuditAppend{Entry: AuditEntry{
			Kind: control.AuditOutcome, AtMS: 5, Call: "c", Node: "n", Who: "w", Role: "r", Method: "m", Action: "a", Target: "t", Reason: "y",
			Of: 4, Code: "OK", Text: "x", Counts: []control.AuditCount{{Name: "done", N: 3}},
		}},
	} {
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c) {
			t.Errorf("%+v came back as %+v, %v", c, got, err)
		}
	}
	if _, err := Encode(nil); err == nil {
		t.Error("nothing was encoded")
	}
	if _, err := Encode(Renew{Renewals: []Renewal{{Node: "\xff", Session: 1, Beacon: 1}}}); err == nil {
		t.Error("a name that is not UTF-8 was encoded")
	}
	if !ops(SegmentOp{}, SegmentOp{Kind: OpReassign}).LeaderOnly() || ops(SegmentOp{Kind: OpOpen}).LeaderOnly() {
		t.Error("who may propose a batch is wrong")
	}
}

func TestSnapshotIsRefused(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.open(1, "a", "b")
	image := w.s.Snapshot()
	for i := range image {
		bad := bytes.Clone(image)
		bad[i] ^= 0x10
		if err := New().Restore(bad); err == nil {
			t.Fatalf("octet %d of the snapshot is damaged and nobody noticed", i)
		}
		if err := New().Restore(image[:i]); err == nil {
			t.Fatalf("a snapshot cut to %d octets is one", i)
		}
	}
}

// A snapshot written by the first program that had this format.
const goldenSnapshot = "636c7266736d000188d5a01000000000000001f308081001180120042a18080110021880e497d0122080b09dc2df012880e0" +
	"a596bb11321a08011204746578741a026d65220566697273742880a0f1c2b1343a740a150a01611210000000000000000000" +
	"000000000000011001220f0881808008100518042080e497d0122a320a0d31302e302e302e313a37303730120b31302e302e" +
	"302e313a32351a017a22013128013205626f6f74613a05626f6f7461400148015a1001000000000000000000000000000000" +
	"3a82010a150a01621210000000000000000000000000000000021001220d088480800810082080e497d0122a320a0d31302e" +
	"302e302e313a37303730120b31302e302e302e313a32351a017a22013128013205626f6f74623a05626f6f746248015a1001" +
	"0000000000000000000000000000005a10020000000000000000000000000000003a700a150a016312100000000000000000" +
	"00000000000000011001220d088380800810032080e497d0122a320a0d31302e302e302e313a37303730120b31302e302e30" +
	"2e313a32351a017a22013128013205626f6f74633a05626f6f746348015a100100000000000000000000000000000042150a" +
	"016112100000000000000000000000000000000142150a01621210000000000000000000000000000000014a180901000001" +
	"00000180108280808010220200012a01013001"

func TestGoldenSnapshot(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	id := w.open(1, "a", "b")
	w.renew("a", 4)
	w.must(w.about(OpStale, id, "b"))
	w.must(ConfigApply{Config: Config{Version: 1, Text: []byte("text"), Author: "me", Reason: "first", At: time.UnixMilli(1_800_000_000_000)}})
	w.register("b", 2, 2)
	want, err := hex.DecodeString(goldenSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.s.Snapshot(); !bytes.Equal(got, want) {
		t.Errorf("the snapshot reads\n%x", got)
	}
	old := New()
	if err := old.Restore(want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old.Snapshot(), want) {
		t.Error("a snapshot of old changes on its way")
	}
}
