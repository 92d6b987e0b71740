package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/clrelay/clrelay/internal/vfs"
)

// worlds are the file systems that have to behave alike, with a directory to
// work in.
func worlds(t *testing.T) map[string]func(t *testing.T) (vfs.FS, string) {
	pass := func(vfs.Call) vfs.Outcome { return vfs.Outcome{} }
	return map[string]func(t *testing.T) (vfs.FS, string){
		"os":    func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"mem":   func(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "." },
		"fault": func(*testing.T) (vfs.FS, string) { return vfs.NewFault(vfs.NewMem(), pass), "/" },
	}
}

func TestConformance(t *testing.T) {
	for name, world := range worlds(t) {
		for what, test := range map[string]func(*testing.T, vfs.FS, string){
			"read and write": testReadWrite, "writev": testWritev, "names": testNames, "flags": testFlags,
			"lock": testLock, "space": testSpace, "unlinked": testUnlinked, "concurrent": testConcurrent,
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				fsys, dir := world(t)
				test(t, fsys, dir)
			})
		}
	}
}

func create(t *testing.T, fsys vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, f vfs.File) string {
	t.Helper()
	n, err := f.Size()
	noErr(t, err)
	b := make([]byte, n)
	k, err := f.ReadAt(b, 0)
	if int64(k) != n || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("read %d of %d: %v", k, n, err)
	}
	return string(b)
}

func testReadWrite(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "a"))
	n, err := f.WriteAt([]byte("hello"), 3)
	if n != 5 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if got := content(t, f); got != "\x00\x00\x00hello" {
		t.Errorf("a hole reads as %q", got)
	}
	b := make([]byte, 9)
	if n, err := f.ReadAt(b, 4); n != 4 || !errors.Is(err, io.EOF) || string(b[:n]) != "ello" {
		t.Errorf("read over the end: %d %q %v", n, b, err)
	}
	if n, err := f.ReadAt(b, 100); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read behind the end: %d %v", n, err)
	}
	noErr(t, f.Truncate(5))
	noErr(t, f.Truncate(7))
	if got := content(t, f); got != "\x00\x00\x00he\x00\x00" {
		t.Errorf("cut and grown: %q", got)
	}
	noErr(t, f.Sync())
	noErr(t, f.Close())
	if _, err := f.ReadAt(b, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read of a closed file: %v", err)
	}
	if _, err := f.WriteAt(b, 0); err == nil {
		t.Error("write to a closed file")
	}
	if f.Sync() == nil {
		t.Error("sync of a closed file")
	}
}

func testWritev(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "a"))
	var bufs [][]byte
	var want []byte
	for i := range 5000 { // more than one system call takes
		b := bytes.Repeat([]byte{byte(i)}, i%7)
		bufs = append(bufs, b)
		want = append(want, b...)
	}
	n, err := f.WritevAt(bufs, 10)
	if n != len(want) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(want), err)
	}
	if got := content(t, f); got != string(make([]byte, 10))+string(want) {
		t.Error("other content")
	}
	if n, err := f.WritevAt(nil, 3); n != 0 || err != nil {
		t.Errorf("wrote nothing: %d %v", n, err)
	}
	if n, err := f.WritevAt([][]byte{nil, {}}, 3); n != 0 || err != nil {
		t.Errorf("wrote nothing: %d %v", n, err)
	}
	noErr(t, f.Close())
}

func testNames(t *testing.T, fsys vfs.FS, dir string) {
	sub := filepath.Join(dir, "sub")
	noErr(t, fsys.Mkdir(sub, 0o700))
	if err := fsys.Mkdir(sub, 0o700); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir twice: %v", err)
	}
	if err := fsys.Mkdir(filepath.Join(dir, "no", "sub"), 0o700); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mkdir below nothing: %v", err)
	}
	for _, name := range []string{"c", "a", "b"} {
		f := create(t, fsys, filepath.Join(sub, name))
		_, err := f.WriteAt([]byte(name), 0)
		noErr(t, errors.Join(err, f.Close()))
	}
	noErr(t, fsys.Rename(filepath.Join(sub, "c"), filepath.Join(sub, "a")))
	noErr(t, fsys.SyncDir(sub))
	names, err := fsys.ReadDir(sub)
	if err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("names: %v %v", names, err)
	}
	f, err := fsys.OpenFile(filepath.Join(sub, "a"), os.O_RDONLY, 0)
	noErr(t, err)
	if got := content(t, f); got != "c" {
		t.Errorf("renamed over: %q", got)
	}
	noErr(t, f.Close())
	if err := fsys.Remove(sub); err == nil {
		t.Error("removed a full directory")
	}
	noErr(t, fsys.Remove(filepath.Join(sub, "a")))
	noErr(t, fsys.Remove(filepath.Join(sub, "b")))
	noErr(t, fsys.Remove(sub))
	for what, err := range map[string]error{
		"remove":  fsys.Remove(sub),
		"rename":  fsys.Rename(filepath.Join(sub), filepath.Join(dir, "x")),
		"syncdir": fsys.SyncDir(sub),
		"stat":    second(fsys.Stat(sub)),
		"readdir": second(fsys.ReadDir(sub)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of nothing: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func testFlags(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "a")
	if _, err := fsys.OpenFile(name, os.O_RDWR, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	f := create(t, fsys, name)
	_, err := f.WriteAt([]byte("abc"), 0)
	noErr(t, errors.Join(err, f.Close()))
	if _, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive: %v", err)
	}
	f, err = fsys.OpenFile(name, os.O_RDONLY, 0)
	noErr(t, err)
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("wrote to a file open for reading")
	}
	if n, err := fsys.Stat(name); n != 3 || err != nil {
		t.Errorf("stat: %d %v", n, err)
	}
	noErr(t, f.Close())
	f, err = fsys.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
	noErr(t, err)
	if got := content(t, f); got != "" {
		t.Errorf("truncated: %q", got)
	}
	noErr(t, f.Close())
}

func testLock(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "lock")
	l, err := fsys.Lock(name)
	noErr(t, err)
	if _, err := fsys.Lock(name); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	noErr(t, l.Close())
	l, err = fsys.Lock(name)
	noErr(t, err)
	noErr(t, l.Close())
}

func testSpace(t *testing.T, fsys vfs.FS, dir string) {
	free, total, err := fsys.Space(dir)
	if err != nil || free == 0 || free > total {
		t.Errorf("%d of %d free: %v", free, total, err)
	}
}

func testUnlinked(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "a")
	f := create(t, fsys, name)
	noErr(t, fsys.Remove(name))
	_, err := f.WriteAt([]byte("still"), 0)
	noErr(t, err)
	g := create(t, fsys, name)
	if content(t, f) != "still" || content(t, g) != "" {
		t.Error("the removed file and the new one are the same")
	}
	noErr(t, errors.Join(f.Sync(), f.Close(), g.Close()))
}

func testConcurrent(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "a"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte('a' + i)}, 100)
			for k := range 20 {
				_, err := f.WritevAt([][]byte{p[:50], p[50:]}, int64(i*2000+k*100))
				if err == nil {
					err = f.Sync()
				}
				b := make([]byte, 100)
				if _, rerr := f.ReadAt(b, int64(i*2000+k*100)); err != nil || rerr != nil || !bytes.Equal(b, p) {
					t.Errorf("writer %d: %q %v %v", i, b, err, rerr)
				}
			}
		})
	}
	wg.Wait()
	noErr(t, f.Close())
}

func TestMemIsFull(t *testing.T) {
	m := vfs.NewMem()
	m.SetCapacity(1000)
	f := create(t, m, "a")
	_, err := f.WriteAt(make([]byte, 900), 0)
	noErr(t, err)
	if _, err := f.WriteAt(make([]byte, 200), 850); !vfs.NoSpace(err) {
		t.Errorf("over the end of the disk: %v", err)
	}
	if _, err := f.WriteAt(make([]byte, 900), 0); err != nil {
		t.Errorf("over what is there: %v", err)
	}
	noErr(t, m.Rename("a", "b"))
	if free, _, err := m.Space("."); free != 100 || err != nil {
		t.Errorf("%d free: %v", free, err)
	}
	noErr(t, m.Remove("b"))
	if free, _, err := m.Space("."); free != 1000 || err != nil {
		t.Errorf("%d free: %v", free, err)
	}
}

// TestCrashKeepsWhatIsSynced looks at many crash images of a file with synced
// and unsynced parts.
func TestCrashKeepsWhatIsSynced(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "a")
	old := bytes.Repeat([]byte("o"), 4*vfs.SectorSize)
	_, err := f.WriteAt(old, 0)
	noErr(t, errors.Join(err, f.Sync(), m.SyncDir(".")))
	_, err = f.WriteAt(bytes.Repeat([]byte("1"), 2*vfs.SectorSize), 256)
	noErr(t, err)
	_, err = f.WriteAt([]byte("2"), 2*vfs.SectorSize+vfs.SectorSize/2)
	noErr(t, err)
	seen := map[string]int{}
	for seed := range uint64(400) {
		g, err := m.CrashImage(seed).OpenFile("a", os.O_RDONLY, 0)
		noErr(t, err)
		b := content(t, g)
		if len(b) != len(old) || b[:256] != string(old[:256]) || b[3*vfs.SectorSize:] != string(old[3*vfs.SectorSize:]) {
			t.Fatalf("seed %d: what was synced is gone", seed)
		}
		// The page cache never held the second write without the first.
		if b[2*vfs.SectorSize+vfs.SectorSize/2] == '2' && b[2*vfs.SectorSize] != '1' {
			t.Fatalf("seed %d: a sector from nowhere", seed)
		}
		seen[fmt.Sprintf("%c%c%c%c", b[256], b[vfs.SectorSize], b[2*vfs.SectorSize], b[2*vfs.SectorSize+vfs.SectorSize/2])]++
	}
	// Of the first write any of three sectors, the second only with the
	// third of them.
	if len(seen) != 2*2*3 {
		t.Errorf("kinds of images: %v", seen)
	}
}

func TestCrashForgetsNames(t *testing.T) {
	m := vfs.NewMem()
	for _, name := range []string{"old", "moved"} {
		noErr(t, create(t, m, name).Close())
	}
	noErr(t, m.SyncDir("."))
	noErr(t, m.Remove("old"))
	noErr(t, m.Rename("moved", "there"))
	noErr(t, m.Mkdir("dir", 0o700))
	noErr(t, create(t, m, "new").Close())
	seen := map[string]bool{}
	for seed := range uint64(400) {
		names, err := m.CrashImage(seed).ReadDir(".")
		noErr(t, err)
		if slices.Contains(names, "moved") == slices.Contains(names, "there") {
			t.Fatalf("seed %d: a renaming in halves: %v", seed, names)
		}
		seen[fmt.Sprint(names)] = true
	}
	if len(seen) != 2*2*2*2 {
		t.Errorf("%d kinds of images: %v", len(seen), seen)
	}
	noErr(t, m.SyncDir("."))
	for seed := range uint64(50) {
		names, err := m.CrashImage(seed).ReadDir(".")
		if err != nil || !slices.Equal(names, []string{"dir", "new", "there"}) {
			t.Fatalf("synced names: %v %v", names, err)
		}
	}
}

func TestFaults(t *testing.T) {
	m := vfs.NewMem()
	var next vfs.Outcome
	var last vfs.Call
	fsys := vfs.NewFault(m, func(c vfs.Call) vfs.Outcome {
		o := next
		next, last = vfs.Outcome{}, c
		return o
	})
	f := create(t, fsys, "a")
	noErr(t, fsys.SyncDir("."))
	next = vfs.Outcome{Err: syscall.EIO, Short: 4}
	if n, err := f.WritevAt([][]byte{[]byte("abc"), []byte("def")}, 0); n != 4 || !errors.Is(err, syscall.EIO) {
		t.Errorf("short write: %d %v", n, err)
	}
	if want := (vfs.Call{Op: vfs.OpWrite, Name: "a", Len: 6}); last != want || content(t, f) != "abcd" {
		t.Errorf("%+v left %q", last, content(t, f))
	}
	next = vfs.Outcome{Err: syscall.EIO, Forget: true}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	noErr(t, f.Sync())
	g := create(t, m.CrashImage(0), "a")
	if content(t, g) != "" || content(t, f) != "abcd" {
		t.Error("the second sync brought back what the first had lost")
	}
	_, err := f.WriteAt([]byte("abcd"), 0)
	noErr(t, errors.Join(err, f.Sync()))
	if g := create(t, m.CrashImage(0), "a"); content(t, g) != "abcd" {
		t.Error("written again, it is still lost")
	}
	hang := make(chan struct{})
	done := make(chan error)
	next = vfs.Outcome{Wait: hang}
	go func() { done <- f.Sync() }()
	select {
	case <-done:
		t.Fatal("did not hang")
	default:
	}
	close(hang)
	noErr(t, <-done)
}
