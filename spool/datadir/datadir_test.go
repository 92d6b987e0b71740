package datadir_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/datadir"
)

func open(t *testing.T, fsys vfs.FS, boot string) *datadir.Dir {
	t.Helper()
	d, err := datadir.Open(fsys, "/data", boot)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put(t *testing.T, fsys vfs.FS, name, text string) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStartsAreCounted(t *testing.T) {
	mem := vfs.NewMem()
	var id [16]byte
	for i := uint32(1); i < 4; i++ {
		d := open(t, mem, "b")
		if d.Now.Count != i || d.Last.Count != i-1 || i > 1 && (d.ID != id || !d.Last.Clean) || d.UnsyncedLost() {
			t.Errorf("start %d: %+v", i, d)
		}
		id = d.ID
		if err := d.Close(true); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnsyncedLost(t *testing.T) {
	for _, c := range []struct {
		clean         bool
		before, after string
		want          bool
	}{
		{true, "a", "b", false}, {false, "a", "a", false}, {false, "a", "b", true}, {false, "a", "", true}, {false, "", "", true},
	} {
		mem := vfs.NewMem()
		if err := open(t, mem, c.before).Close(c.clean); err != nil {
			t.Fatal(err)
		}
		d := open(t, mem, c.after)
		if d.UnsyncedLost() != c.want {
			t.Errorf("%+v: %v", c, d.UnsyncedLost())
		}
	}
}

// TestCrashAtEveryStep crashes the making of a directory, and a later start,
// at every step: the next start works, keeps the StoreID once it is there, and
// its count is higher than every one that was given out.
func TestCrashAtEveryStep(t *testing.T) {
	for _, old := range []bool{false, true} {
		base := vfs.NewMem()
		var id [16]byte
		if old {
			d := open(t, base, "b")
			id = d.ID
			if err := d.Close(false); err != nil {
				t.Fatal(err)
			}
		}
		mem := base.CrashImage(1)
		seed := uint64(0)
		mem.Watch(func(vfs.Call) {
			for range 5 {
				seed++
				again := open(t, mem.CrashImage(seed), "c")
				if old && (again.ID != id || again.Now.Count < 2) {
					t.Errorf("seed %d: %+v", seed, again)
				}
			}
		})
		d := open(t, mem, "b")
		for seed := range uint64(20) {
			again := open(t, mem.CrashImage(seed), "c")
			if again.ID != d.ID || again.Now.Count <= d.Now.Count {
				t.Errorf("seed %d: %+v after %+v", seed, again.Now, d.Now)
			}
		}
	}
}

// TestSaysWhatIsWrong: each error names the place and the way out.
func TestSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(fsys *vfs.Mem)
		want  []string
	}{
		{"newer format", func(m *vfs.Mem) { put(t, m, "/data/format", "clrelay data directory\nformat 2\nstore 00\n") }, []string{"/data/format", "format 2", "knows format 1"}},
		{"foreign format", func(m *vfs.Mem) { put(t, m, "/data/format", "") }, []string{"/data/format", "copy"}},
		{"bad store", func(m *vfs.Mem) { put(t, m, "/data/format", "clrelay data directory\nformat 1\nstore xyz\n") }, []string{"/data/format", "store ID"}},
		{"bad start", func(m *vfs.Mem) { put(t, m, "/data/start", "start many\n") }, []string{"/data/start", "start N"}},
		{"no log", func(m *vfs.Mem) {
			if err := m.Remove("/data/log"); err != nil {
				t.Fatal(err)
			}
		}, []string{"/data/log", "bring"}},
		{"no format", func(m *vfs.Mem) {
			put(t, m, "/data/log/1.wal", "x")
			if err := m.Remove("/data/format"); err != nil {
				t.Fatal(err)
			}
		}, []string{"/data", "format", "copy"}},
	} {
		mem := vfs.NewMem()
		if err := open(t, mem, "b").Close(true); err != nil {
			t.Fatal(err)
		}
		c.spoil(mem)
		_, err := datadir.Open(mem, "/data", "b")
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", c.name, err, w)
			}
		}
	}
}

func TestOneAtATime(t *testing.T) {
	mem := vfs.NewMem()
	d := open(t, mem, "b")
	if _, err := datadir.Open(mem, "/data", "b"); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("%v", err)
	}
	if _, _, _, err := datadir.Read(mem, "/data"); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("%v", err)
	}
	if err := d.Close(true); err != nil {
		t.Fatal(err)
	}
	r, unlock, errs, err := datadir.Read(mem, "/data")
	if err != nil || len(errs) > 0 || r.ID != d.ID {
		t.Errorf("%+v %v %v", r, errs, err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}
