package suppressions

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/proto/control"
)

const folder = "data"

func disk(t *testing.T) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := errors.Join(m.Mkdir(folder, 0o700), m.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t *testing.T, disk vfs.FS) *File {
	t.Helper()
	f, err := Open(disk, folder)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func add(names ...string) (c control.SuppressOps) {
	c.AtMS = 5
	for _, n := range names {
		c.Add = append(c.Add, control.Suppression{SuppressKey: control.SuppressKey{Address: n + "@example.org"}, Reason: control.SuppressOperator, CreatedMS: 5, Text: strings.Repeat("x", 100)})
	}
	return c
}

func state(f *File) string { return string(bytes.Join(f.Suppressed().Pages(), nil)) }

// What was answered is there after a power failure at any write, and what was
// not is there whole or not at all.
func TestCrash(t *testing.T) {
	images := 0
	for seed := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := disk(t)
		f := open(t, m)
		before, during := state(f), ""
		check := func() {
			images++
			again, err := Open(m.CrashImage(r.Uint64()), folder)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got := state(again); got != before && got != during {
				t.Fatalf("seed %d: after a crash the list is neither what it was nor what it was to be", seed)
			}
		}
		twin := open(t, disk(t)) // says what the list is to be
		busy := false
		m.Watch(func(vfs.Call) {
			if busy && r.IntN(4) == 0 {
				check()
			}
		})
		for i := range 100 {
			c := add(fmt.Sprint(r.IntN(300)), fmt.Sprint(r.IntN(300)))
			for j := range i % 50 {
				c.Add = append(c.Add, add(fmt.Sprint(i, "-", j)).Add...)
			}
			c.Remove = []control.SuppressKey{{Address: fmt.Sprint(r.IntN(300)) + "@example.org"}}
			if _, err := twin.Suppress(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			during, busy = state(twin), true
			if r.IntN(20) == 0 {
				f.mu.Lock()
				if err := f.rewrite(); err != nil {
					t.Fatal(err)
				}
				f.mu.Unlock()
			}
			if _, err := f.Suppress(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			busy = false
			if before = state(f); before != during {
				t.Fatal("two lists differ")
			}
			check()
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if state(open(t, m)) != before {
			t.Fatal("after a restart it is another one")
		}
	}
	if images < 300 {
		t.Errorf("only %d crashes", images)
	}
}

// Changes that outgrow the list make a new file.
func TestTheFileStaysSmall(t *testing.T) {
	m := disk(t)
	f := open(t, m)
	for range 40 {
		var names []string
		for i := range 900 {
			names = append(names, fmt.Sprint(i))
		}
		c := add(names...)
		if _, err := f.Suppress(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		c.Add = nil
		for _, n := range names {
			c.Remove = append(c.Remove, control.SuppressKey{Address: n + "@example.org"})
		}
		if _, err := f.Suppress(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	size, err := m.Stat(folder + "/" + Name)
	if err != nil || size > 2*slack {
		t.Errorf("%d octets for an empty list: %v", size, err)
	}
}

func TestDamage(t *testing.T) {
	m := disk(t)
	f := open(t, m)
	for _, n := range []string{"anna", "bert", "carl"} {
		if _, err := f.Suppress(t.Context(), add(n)); err != nil {
			t.Fatal(err)
		}
	}
	size := f.size
	for at := range size {
		m := m.CrashImage(1)
		file, err := m.OpenFile(folder+"/"+Name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := file.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x55
		if _, err := file.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		again, err := Open(m, folder)
		switch {
		case err != nil && !strings.Contains(err.Error(), "put a copy of it back"):
			t.Fatalf("octet %d: %v", at, err)
		case err == nil && at < size*2/3:
			t.Fatalf("octet %d was changed, and nobody noticed: %d entries", at, again.Suppressed().Len())
		}
	}
	for _, text := range []string{"", "x", "clrsup1", "clrsup2\n", strings.Repeat("\x00", 100)} {
		m := disk(t)
		file, err := m.OpenFile(folder+"/"+Name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(m, folder); err == nil {
			t.Errorf("%q is a list", text)
		}
	}
}

// A full disk is told, and the list goes on once there is room; after a failed
// sync it does not.
func TestDiskErrors(t *testing.T) {
	fail, op := error(nil), vfs.OpWrite
	m := vfs.NewFault(disk(t), func(c vfs.Call) vfs.Outcome {
		if fail != nil && c.Op == op {
			return vfs.Outcome{Err: fail}
		}
		return vfs.Outcome{}
	})
	f := open(t, m)
	if _, err := f.Suppress(t.Context(), add("anna")); err != nil {
		t.Fatal(err)
	}
	fail = syscall.ENOSPC
	if _, err := f.Suppress(t.Context(), add("bert")); err == nil || f.Suppressed().Len() != 1 {
		t.Errorf("a full disk: %v", err)
	}
	fail = nil
	if _, err := f.Suppress(t.Context(), add("bert")); err != nil || state(open(t, m)) != state(f) {
		t.Errorf("when there is room again: %v", err)
	}
	fail, op = fs.ErrInvalid, vfs.OpSync
	for range 2 {
		if _, err := f.Suppress(t.Context(), add("carl")); err == nil {
			t.Error("a write that failed is answered")
		}
		fail = nil
	}
}

func FuzzOpen(f *testing.F) {
	m := vfs.NewMem()
	_ = m.Mkdir(folder, 0o700)
	list, err := Open(m, folder)
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []string{"anna", "bert"} {
		_, _ = list.Suppress(f.Context(), add(n))
	}
	b := make([]byte, list.size)
	_, _ = list.file.ReadAt(b, 0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := disk(t)
		file, err := m.OpenFile(folder+"/"+Name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = file.WriteAt(b, 0)
		list, err := Open(m, folder)
		if err != nil {
			return
		}
		if _, err := list.Suppress(t.Context(), add("dora")); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(m, folder); err != nil || state(again) != state(list) {
			t.Fatalf("a list that was read and changed cannot be read: %v", err)
		}
	})
}
