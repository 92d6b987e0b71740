package wal_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

// smallLog makes a log of one file. It was closed, or crashed after the idle
// mark that states all of it durable.
func smallLog(t *testing.T, clean bool) (m *vfs.Mem, want []entry) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m = newDir(t)
		o := crashOptions(m)
		o.SyncEvery = time.Millisecond
		l, _, _ := open(t, o)
		for i := range uint64(8) {
			want = append(want, mustAppend(t, l, record(2*i, kindBody, int(i*11)), record(2*i+1, kindMeta, int(i*5)))...)
		}
		<-time.After(time.Second)
		left := m
		if !clean {
			left = m.CrashImage(keepAll(m)) // with the mark, which is not synced
		}
		closeLog(t, l)
		m = left
	})
	// Without the spares, so that one file is all there is.
	names, err := m.ReadDir("log")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != "00000001.wal" {
			if err := m.Remove("log/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m, want
}

// patch copies the file system with one file changed.
func patch(t testing.TB, m *vfs.Mem, name string, change func(b []byte) []byte) *vfs.Mem {
	t.Helper()
	img := m.CrashImage(1)
	b := []byte(nil)
	if _, err := m.Stat(name); err == nil {
		b = readFile(t, m, name)
	}
	b = change(b)
	f, err := img.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err := errors.Join(err, f.Sync(), f.Close(), img.SyncDir(filepath.Dir(name))); err != nil {
		t.Fatal(err)
	}
	return img
}

func hits(e entry, off int64) bool {
	return off >= e.pos.Offset() && off < e.pos.Offset()+wal.HeaderSize+int64(e.h.Len)
}

// named tells whether one of the reports names the octet.
func named(damage []*wal.DamageError, path string, off int64) bool {
	return slices.ContainsFunc(damage, func(d *wal.DamageError) bool {
		return d.Path == path && off >= d.Offset && off < d.Offset+d.Len && strings.Contains(d.Error(), path)
	})
}

func TestBitFlips(t *testing.T) {
	const name = "log/00000001.wal"
	for _, clean := range []bool{true, false} {
		m, all := smallLog(t, clean)
		size := int64(len(readFile(t, m, name)))
		step := int64(1)
		if testing.Short() {
			step = 7
		}
		for off := int64(0); off < size; off += step {
			switch end := all[len(all)-1].pos.Offset(); {
			case off%4096 == 64 && off < 8192:
				off += 4000 // between the copies of the file header is nothing
			case !clean && off > end+1000:
				off = min(off+100, size-1) // nor behind the records
			}
			img := patch(t, m, name, func(b []byte) []byte { b[off] ^= 1 << (off % 8); return b })
			want := slices.DeleteFunc(slices.Clone(all), func(e entry) bool { return hits(e, off) })
			o := crashOptions(img)
			o.ReadOnly = true
			o.Verify = clean
			flipped(t, o, off, want, len(want) < len(all))
			if off%13 != 0 {
				continue
			}
			o.ReadOnly, o.Verify = false, false
			if clean {
				footed(t, o, all, off)
				continue
			}
			flipped(t, o, off, want, len(want) < len(all))
			flipped(t, o, off, want, len(want) < len(all)) // and it is still known
		}
		if t.Failed() {
			t.Fatalf("clean=%v", clean)
		}
	}
}

// flipped opens a log with a changed octet and wants exactly these records,
// and a report where one is missing.
func flipped(t *testing.T, o wal.Options, off int64, want []entry, lost bool) {
	t.Helper()
	l, rep, got := open(t, o)
	defer closeLog(t, l)
	if !slices.Equal(got, want) {
		t.Errorf("octet %d: %d records instead of %d: %v", off, len(got), len(want), rep.Damage)
	}
	if lost && !named(rep.Damage, "log/00000001.wal", off) {
		t.Errorf("octet %d: not reported: %v", off, rep.Damage)
	}
	checkReads(t, l, want)
	for _, f := range l.Files() {
		if f.Damaged != (len(rep.Damage) > 0) {
			t.Errorf("octet %d: damage %v, but %+v", off, rep.Damage, f)
		}
		if lost && !o.ReadOnly && !errors.Is(l.Free(f.Number), wal.ErrDamaged) {
			t.Errorf("octet %d: freed a damaged file", off)
		}
	}
}

// footed opens a closed log with a changed octet: the footer still tells all,
// and reading the record hit says what happened.
func footed(t *testing.T, o wal.Options, all []entry, off int64) {
	t.Helper()
	l, rep, got := open(t, o)
	defer closeLog(t, l)
	// With footer and record gone both, the record is lost.
	if !slices.Equal(got, all) {
		t.Errorf("octet %d: %d records instead of %d: %v", off, len(got), len(all), rep.Damage)
	}
	for _, e := range all {
		_, _, err := l.ReadAt(e.pos, int(e.h.Len), nil)
		var d *wal.DamageError
		if hits(e, off) != errors.As(err, &d) || d != nil && !named([]*wal.DamageError{d}, "log/00000001.wal", off) {
			t.Errorf("octet %d: reading %v: %v", off, e, err)
		}
		if d != nil && !l.Files()[0].Damaged {
			t.Errorf("octet %d: the file is not marked", off)
		}
	}
}

func TestOtherFiles(t *testing.T) {
	m, want := smallLog(t, true)
	const name = "log/00000001.wal"
	whole := readFile(t, m, name)
	cases := []struct {
		name, file, what string
		content          []byte
		lost             bool
	}{
		{"empty", "00000007.wal", "empty", nil, false},
		{"foreign", "00000007.wal", "not a file of the log", []byte(strings.Repeat("something else ", 1000)), false},
		{"foreign name", "README", "not a file of the log", []byte("hello"), false},
		{"copy", "00000007.wal", "copy of", whole, false},
		{"version", "00000007.wal", "unknown format version 2", newVersion(whole), false},
		{"other store", "00000007.wal", "another store", otherStore(t), false},
		{"truncated", "00000001.wal", "octets instead of", whole[:len(whole)/2], true},
		{"truncated in the header", "00000001.wal", "file header damaged", whole[:20], true},
		{"emptied", "00000001.wal", "empty", nil, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := "log/" + c.file
			img := patch(t, m, path, func([]byte) []byte { return c.content })
			for again := range uint64(2) {
				l, rep, got := open(t, crashOptions(img))
				old := slices.DeleteFunc(slices.Clone(got), func(e entry) bool { return e.h.Seq >= 100 })
				if c.lost && !slices.Equal(old, want[:len(old)]) || !c.lost && !slices.Equal(old, want) || len(got)-len(old) != int(again) {
					t.Errorf("start %d: got %v", again, got)
				}
				found := slices.ContainsFunc(rep.Damage, func(d *wal.DamageError) bool { return d.Path == path })
				if !found || again == 0 && !strings.Contains(rep.Damage[0].Error(), c.what) {
					t.Errorf("report %v, want one about %s: %s", rep.Damage, path, c.what)
				}
				mustAppend(t, l, record(100+again, kindMeta, 10))
				closeLog(t, l)
				if after := readFile(t, img, path); !c.lost && string(after) != string(c.content) {
					t.Error("the file was changed")
				}
			}
		})
	}
}

func newVersion(b []byte) []byte {
	b = slices.Clone(b)
	b[8], b[4096+8] = 2, 2
	return b
}

func otherStore(t *testing.T) []byte {
	m := newDir(t)
	o := crashOptions(m)
	o.StoreID[0]++
	l, _, _ := open(t, o)
	mustAppend(t, l, record(1, kindMeta, 100))
	closeLog(t, l)
	return readFile(t, m, "log/00000001.wal")
}

// TestDamageStays shows that what lies behind damage in the middle of a log is
// found again at every start, whatever was appended and freed in between.
func TestDamageStays(t *testing.T) {
	m, all := smallLog(t, false)
	off := all[5].pos.Offset() + 3
	img := patch(t, m, "log/00000001.wal", func(b []byte) []byte { b[off]++; return b })
	want := slices.Delete(slices.Clone(all), 5, 6)
	for i := range uint64(4) {
		l, rep, got := open(t, crashOptions(img))
		if !slices.Equal(got, want) || !named(rep.Damage, "log/00000001.wal", off) || len(rep.Damage) != 1 {
			t.Fatalf("start %d: %v, damage %v", i, got, rep.Damage)
		}
		want = append(want, mustAppend(t, l, record(1000+i, kindMeta, 300))...)
		img = img.CrashImage(i)
		closeLog(t, l)
	}
}
