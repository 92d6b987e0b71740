package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kindBody wal.Kind = 1 // bulk
	kindMeta wal.Kind = 2
)

// options are those of a small log on a file system.
func options(fsys vfs.FS) wal.Options {
	return wal.Options{
		FS: fsys, Dir: "log", StoreID: [16]byte{1, 2, 3}, FileSize: 64 << 10, SyncEvery: time.Hour,
		Bulk: func(k wal.Kind) bool { return k == kindBody },
	}
}

func newDir(t testing.TB) *vfs.Mem {
	t.Helper()
	m := vfs.NewMem()
	if err := errors.Join(m.Mkdir("log", 0o700), m.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	return m
}

// entry is a record as a test sees it.
type entry struct {
	pos wal.Pos
	h   wal.Header
}

func (e entry) String() string { return fmt.Sprintf("%v seq %d", e.pos, e.h.Seq) }

// content makes the data of the record seq: anybody can check it.
func content(seq uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seq, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func record(seq uint64, kind wal.Kind, n int) wal.Record {
	b := content(seq, n)
	return wal.Record{Header: wal.Header{Segment: seq % 5, Epoch: 3, Seq: seq, Kind: kind}, Data: [][]byte{b[:n/3], nil, b[n/3:]}}
}

// open opens a log and checks that all it tells is right.
func open(t testing.TB, o wal.Options) (*wal.Log, *wal.Report, []entry) {
	t.Helper()
	var got []entry
	l, rep, err := wal.Open(o, func(pos wal.Pos, h wal.Header, data []byte) error {
		if k := len(got); k > 0 && got[k-1].pos >= pos {
			t.Errorf("%v comes after %v", pos, got[k-1].pos)
		}
		if h.Segment != h.Seq%5 || h.Epoch != 3 {
			t.Errorf("record %d has header %+v", h.Seq, h)
		}
		if h.Kind == kindBody && data != nil {
			t.Errorf("record %d is bulk and comes with data", h.Seq)
		}
		if h.Kind != kindBody && !bytes.Equal(data, content(h.Seq, int(h.Len))) {
			t.Errorf("record %d has other data", h.Seq)
		}
		got = append(got, entry{pos, h})
		return nil
	})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return l, rep, got
}

func closeLog(t testing.TB, l *wal.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// checkReads reads every entry back.
func checkReads(t testing.TB, l *wal.Log, all []entry) {
	t.Helper()
	var buf []byte
	for i, e := range all {
		h, data, err := l.ReadAt(e.pos, int(e.h.Len)*(i%3)/2, buf)
		if err != nil {
			t.Fatalf("read %v: %v", e, err)
		}
		if h != e.h || !bytes.Equal(data, content(h.Seq, int(h.Len))) {
			t.Fatalf("read %v: got %+v with %d octets", e, h, len(data))
		}
		if cap(data) > cap(buf) {
			buf = data[:0]
		}
	}
}

func mustAppend(t testing.TB, l *wal.Log, recs ...wal.Record) []entry {
	t.Helper()
	c, err := l.Append(recs...)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if err := c.WaitDurable(); err != nil {
		t.Fatalf("wait: %v", err)
	}
	return entries(c, recs)
}

func entries(c *wal.Commit, recs []wal.Record) []entry {
	var out []entry
	for i, r := range recs {
		r.Len = 0
		for _, p := range r.Data {
			r.Len += uint32(len(p))
		}
		out = append(out, entry{c.Pos(i), r.Header})
	}
	return out
}

func TestAppendReopenRead(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			m := newDir(t)
			l, rep, got := open(t, options(m))
			if len(got) != 0 || rep.Files != 0 || len(rep.Damage) != 0 {
				t.Fatalf("a new log has %v, %+v", got, rep)
			}
			var want []entry
			for i := uint64(0); i < 400; i++ {
				size := int(i*37) % 3000
				want = append(want, mustAppend(t, l, record(2*i, kindBody, size), record(2*i+1, kindMeta, size/8))...)
			}
			checkReads(t, l, want)
			var left vfs.FS = m
			if !clean {
				left = m.CrashImage(1)
			}
			closeLog(t, l)
			l, rep, got = open(t, options(left))
			if !slices.Equal(got, want) || len(rep.Damage) != 0 {
				t.Fatalf("%d records of %d, damage %v", len(got), len(want), rep.Damage)
			}
			if clean && (rep.Scanned > 1 || rep.Tail != nil) {
				t.Errorf("report after a clean end: %+v", rep)
			}
			checkReads(t, l, want)
			want = append(want, mustAppend(t, l, record(5000, kindMeta, 9))...)
			closeLog(t, l)
			l, _, got = open(t, options(left))
			if !slices.Equal(got, want) {
				t.Fatalf("%d records of %d after another start", len(got), len(want))
			}
			closeLog(t, l)
		})
	}
}

func TestConcurrentAppends(t *testing.T) {
	m := newDir(t)
	o := options(m)
	o.MaxPending = 20 << 10
	l, _, _ := open(t, o)
	var mu sync.Mutex
	var want []entry
	var wg sync.WaitGroup
	for w := range uint64(20) {
		wg.Go(func() {
			for i := range uint64(50) {
				recs := []wal.Record{record(w<<32|2*i, kindBody, int(i*700)), record(w<<32|2*i+1, kindMeta, 80)}
				c, err := l.Append(recs...)
				if err == nil && i%2 == 0 {
					err = c.WaitWritten()
				} else if err == nil {
					err = c.WaitDurable()
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want = append(want, entries(c, recs)...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(want, func(a, b entry) int { return int(int64(a.pos) - int64(b.pos)) })
	checkReads(t, l, want)
	closeLog(t, l)
	l, rep, got := open(t, o)
	if !slices.Equal(got, want) || len(rep.Damage) > 0 {
		t.Fatalf("%d records of %d, %+v", len(got), len(want), rep)
	}
	closeLog(t, l)
}

func TestFreeAndReuse(t *testing.T) {
	m := newDir(t)
	l, _, _ := open(t, options(m))
	var want []entry
	for i := uint64(0); i < 3000; i++ {
		want = append(want, mustAppend(t, l, record(i, kindBody, 1500))...)
		for _, f := range l.Files() {
			if !f.Sealed || f.Number%7 == 3 {
				continue
			}
			if err := l.Free(f.Number); err != nil {
				t.Fatal(err)
			}
			want = slices.DeleteFunc(want, func(e entry) bool { return e.pos.File() == f.Number })
			if _, _, err := l.ReadAt(wal.Pos(f.Number)<<32|8192, 0, nil); !errors.Is(err, wal.ErrNoFile) {
				t.Fatalf("read of a freed file: %v", err)
			}
			if err := l.Free(f.Number); !errors.Is(err, wal.ErrNoFile) {
				t.Fatalf("second free: %v", err)
			}
		}
	}
	checkReads(t, l, want)
	names, err := m.ReadDir("log")
	if err != nil || len(names) > 24 {
		t.Fatalf("%d files: %v", len(names), err)
	}
	closeLog(t, l)
	l, rep, got := open(t, options(m))
	if !slices.Equal(got, want) || len(rep.Damage) > 0 {
		t.Fatalf("%d records of %d, %+v", len(got), len(want), rep)
	}
	for _, f := range l.Files() {
		if err := l.Free(f.Number); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	if _, _, got := open2(t, options(m)); len(got) != 0 {
		t.Fatalf("%d freed records came back", len(got))
	}
}

func open2(t testing.TB, o wal.Options) (*wal.Log, *wal.Report, []entry) {
	t.Helper()
	l, rep, got := open(t, o)
	closeLog(t, l)
	return l, rep, got
}

func TestRefusals(t *testing.T) {
	m := newDir(t)
	o := options(m)
	l, _, _ := open(t, o)
	if _, err := l.Append(record(1, kindBody, int(o.FileSize))); !errors.Is(err, wal.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := l.Append(record(1, wal.MaxKind+1, 3)); err == nil {
		t.Error("took a kind of the log's own")
	}
	if _, err := l.Append(); err == nil {
		t.Error("took nothing")
	}
	n := int(l.MaxAppend()) - wal.HeaderSize
	want := mustAppend(t, l, record(1, kindBody, n))
	want = append(want, mustAppend(t, l, record(2, kindMeta, n))...)
	want = append(want, mustAppend(t, l, record(3, kindMeta, 1))...)
	checkReads(t, l, want)
	closeLog(t, l)
	if _, err := l.Append(record(1, kindMeta, 1)); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, _, err := l.ReadAt(want[0].pos, 0, nil); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	o.ReadOnly = true
	before := dump(t, m)
	l, _, got := open(t, o)
	if !slices.Equal(got, want) {
		t.Errorf("read only: %v, want %v", got, want)
	}
	checkReads(t, l, want)
	if _, err := l.Append(record(1, kindMeta, 1)); !errors.Is(err, wal.ErrReadOnly) {
		t.Errorf("append to a read-only log: %v", err)
	}
	if err := l.Free(want[0].pos.File()); !errors.Is(err, wal.ErrReadOnly) {
		t.Errorf("free of a read-only log: %v", err)
	}
	closeLog(t, l)
	if !slices.Equal(before, dump(t, m)) {
		t.Error("reading changed the log")
	}
}

// dump gives names and contents of a log's directory.
func dump(t testing.TB, m vfs.FS) []string {
	t.Helper()
	names, err := m.ReadDir("log")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range names {
		out = append(out, name, string(readFile(t, m, "log/"+name)))
	}
	return out
}

func readFile(t testing.TB, m vfs.FS, name string) []byte {
	t.Helper()
	f, err := m.OpenFile(name, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); n > 0 && err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
	return b
}
