package rescue_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
	"github.com/clrelay/clrelay/cluster/rescue"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/datadir"
)

// state is that of three nodes, of which a and c have an open segment together
// and a and b another.
func state(t *testing.T) *fsm.State {
	t.Helper()
	s, index := fsm.New(), uint64(0)
	apply := func(c fsm.Command) fsm.Result {
		t.Helper()
		data, err := fsm.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		index++
		res := s.Apply(index, data)
		if res.Code != fsm.OK {
			t.Fatalf("%T: %v", c, res.Code)
		}
		return res
	}
	refs := map[string]fsm.Ref{}
	var session fsm.Session
	for i, name := range []string{"c", "b", "a"} {
		refs[name] = fsm.Ref{Node: name, Store: fsm.StoreID{byte(i + 1)}}
		session = apply(fsm.Register{Node: name, Store: refs[name].Store, Nonce: [16]byte{byte(i + 1)}, Info: fsm.NodeInfo{Features: fsm.KnownLevel}}).Session
	}
	for i, other := range []string{"b", "c"} {
		op := fsm.SegmentOp{Kind: fsm.OpOpen, ID: fsm.MakeSegmentID(session, uint32(i+1)), By: session, Members: []fsm.Ref{refs["a"], refs[other]}}
		if res := apply(fsm.SegmentOps{Ops: []fsm.SegmentOp{op}}); res.Ops[0].Code != fsm.OK {
			t.Fatal(res.Ops[0].Code)
		}
	}
	return s
}

// node makes a data_dir that has the state.
func node(t *testing.T, name string) rescue.Node {
	t.Helper()
	n := rescue.Node{Name: name, Address: name + ":1", DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	d, err := datadir.Open(vfs.OS(), n.DataDir, "")
	if err == nil {
		err = d.Close(true)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := store.Offline{Dir: filepath.Join(n.DataDir, "raft"), Node: name, Address: n.Address, FSM: machine{fsm.New()}, Log: n.Log}
	s := state(t)
	if err := o.Restore(s.Snapshot(), s.Applied(), []store.Server{{Node: name, Address: n.Address}}); err != nil {
		t.Fatal(err)
	}
	return n
}

type machine struct{ *fsm.State }

func (m machine) Apply(index uint64, data []byte) any { return m.State.Apply(index, data) }

// holds checks that the node's disk has the state that was reported, as that
// of a new generation with this node alone.
func holds(t *testing.T, n rescue.Node, r rescue.Report, above uint32) {
	t.Helper()
	m := machine{fsm.New()}
	o := store.Offline{Dir: filepath.Join(n.DataDir, "raft"), Node: n.Name, Address: n.Address, FSM: m, Log: n.Log}
	if _, err := o.Export(); err != nil {
		t.Fatal(err)
	}
	if g, err := store.Generation(o.Dir); err != nil || g != m.Generation() || g != r.Generation || g <= above {
		t.Errorf("the log is of generation %d (%v), the state of %d, reported %d", g, err, m.Generation(), r.Generation)
	}
	if m.Applied() < uint64(r.Generation)<<32 {
		t.Errorf("the index goes on at %d", m.Applied())
	}
	for _, x := range m.Nodes() {
		if (x.State != fsm.Removed) != (x.Name == n.Name) {
			t.Errorf("%s is %v", x.Name, x.State)
		}
	}
	if m.Copies() != 1 {
		t.Errorf("%d copies", m.Copies())
	}
	for _, g := range m.Segments() {
		if g.State == fsm.Open {
			t.Errorf("%v is still open", g.ID)
		}
	}
}

func TestRecover(t *testing.T) {
	n := node(t, "c")
	before, _, err := n.Backup()
	if err != nil {
		t.Fatal(err)
	}
	// What a run that was cut off left is in nobody's way.
	if err := os.MkdirAll(filepath.Join(n.DataDir, "raft.new", "snapshots"), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := n.Recover()
	if err != nil {
		t.Fatal(err)
	}
	if r.Segments != 2 || r.Here != 1 || r.Elsewhere != 1 {
		t.Errorf("reported %+v", r)
	}
	holds(t, n, r, 1)
	old := rescue.Node{Name: n.Name, Address: n.Address, DataDir: t.TempDir(), Log: n.Log}
	if err := errors.Join(os.Rename(r.Kept, filepath.Join(old.DataDir, "raft")), os.WriteFile(filepath.Join(old.DataDir, "format"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if kept, _, err := old.Backup(); err != nil || string(kept) != string(before) {
		t.Errorf("what was there before is not kept: %v", err)
	}
	again, err := n.Recover()
	if err != nil {
		t.Fatal(err)
	}
	holds(t, n, again, r.Generation)
}

func TestRestore(t *testing.T) {
	from := node(t, "a")
	backup, _, err := from.Backup()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := rescue.Write(file, backup); err != nil {
		t.Fatal(err)
	}
	if err := rescue.Write(file, backup); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a backup was overwritten: %v", err)
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 {
		t.Errorf("there are %v, %v", left, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if backup, err = rescue.Read(file); err != nil {
		t.Fatal(err)
	}
	// Over a control plane of a later generation, that can be read or cannot.
	n := node(t, "c")
	first, err := n.Recover()
	if err != nil {
		t.Fatal(err)
	}
	second, err := n.Restore(backup)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, n, second, first.Generation)
	if err := os.WriteFile(filepath.Join(n.DataDir, "raft", store.File), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Recover(); err == nil {
		t.Error("recovered from a damaged log")
	}
	third, err := n.Restore(backup)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, n, third, second.Generation)
	// Into an empty data_dir, which a relay then takes for its own.
	empty := rescue.Node{Name: "b", Address: "b:1", DataDir: t.TempDir(), Log: n.Log}
	r, err := empty.Restore(backup)
	if err != nil || r.Kept != "" {
		t.Fatalf("%+v %v", r, err)
	}
	holds(t, empty, r, 1)
	d, err := datadir.Open(vfs.OS(), empty.DataDir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Recover(); !errors.Is(err, rescue.ErrRunning) {
		t.Errorf("beside a process: %v", err)
	}
	if err := d.Close(true); err != nil {
		t.Fatal(err)
	}
}

// Nothing but a whole backup has the name of one.
func TestDraft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup")
	begin := func() *rescue.Draft {
		d, err := rescue.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	half := begin()
	image := state(t).Snapshot()
	if _, err := half.Write(image[:len(image)/2]); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Look(); !errors.Is(err, rescue.ErrDamaged) {
		t.Errorf("half of one: %v", err)
	}
	half.Discard()
	first, second := begin(), begin()
	for _, d := range []*rescue.Draft{first, second} {
		if _, err := d.Write(image); err != nil {
			t.Fatal(err)
		}
		if r, err := d.Look(); err != nil || r.Segments != 2 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if err := first.Keep(); err != nil {
		t.Error(err)
	}
	first.Discard()
	if err := second.Keep(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a backup was overwritten: %v", err)
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 || left[0] != file {
		t.Errorf("there are %v, %v", left, err)
	}
}

func TestRejoin(t *testing.T) {
	n := node(t, "b")
	r, err := n.Rejoin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.Kept, store.File)); err != nil {
		t.Error(err)
	}
	if _, _, err := n.Backup(); !errors.Is(err, rescue.ErrNothing) {
		t.Errorf("there is still a control plane: %v", err)
	}
	if _, err := n.Rejoin(); !errors.Is(err, rescue.ErrNothing) {
		t.Errorf("a second time: %v", err)
	}
}

// A control plane that is past being read is put aside, too.
func TestRejoinUnread(t *testing.T) {
	n := node(t, "b")
	path := filepath.Join(n.DataDir, "raft", store.File)
	if err := os.WriteFile(path, []byte("this was a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := n.Rejoin()
	if err != nil || r.Unread == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if text, err := os.ReadFile(filepath.Join(r.Kept, store.File)); err != nil || string(text) != "this was a database" {
		t.Errorf("kept: %q, %v", text, err)
	}
}

// What root makes belongs to the relay's user afterwards.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const user = 12345
	n := node(t, "b")
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, filepath.Join(n.DataDir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(n.DataDir, user, user); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Recover(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(n.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != user {
			t.Errorf("%s belongs to %d", path, info.Sys().(*syscall.Stat_t).Uid)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(out); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Error("what a link leads to was given away")
	}
}

func TestRefusals(t *testing.T) {
	n := node(t, "stranger")
	if _, err := n.Recover(); err == nil {
		t.Error("recovered for a node that the control plane does not know")
	}
	if _, err := n.Restore([]byte("nonsense")); !errors.Is(err, rescue.ErrDamaged) {
		t.Errorf("restored nonsense: %v", err)
	}
	if _, err := n.Look([]byte("nonsense")); !errors.Is(err, rescue.ErrDamaged) {
		t.Errorf("looked at nonsense: %v", err)
	}
	n.DataDir = t.TempDir()
	if _, _, err := n.Backup(); !errors.Is(err, rescue.ErrNothing) {
		t.Errorf("backed up nothing: %v", err)
	}
}
