package spool_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/wal"
)

// TestReserve: below the reserve mail is refused, and results are recorded.
func TestReserve(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(100 << 20)
	now := time.Unix(1_800_000_000, 0)
	o := options(mem)
	o.Reserve = 50 << 20
	o.Now = func() time.Time { return now }
	s, _ := open(t, o)
	m := accept(t, s, envelope(1), content(1, 1000))
	mem.SetCapacity(20 << 20)
	now = now.Add(time.Second)
	_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(nil))
	if r := (*mail.Reply)(nil); !errors.As(err, &r) || r.Line() != "452 4.3.1 insufficient system storage" {
		t.Errorf("below the reserve: %v", err)
	}
	if err := s.SettleDurable(m, []spool.Result{delivered(0)}); err != nil {
		t.Errorf("result below the reserve: %v", err)
	}
	mem.SetCapacity(100 << 20)
	now = now.Add(time.Second)
	accept(t, s, envelope(1), nil)
	closeSpool(t, s)
}

// TestPossibleDuplicates counts what nobody knows the end of.
func TestPossibleDuplicates(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name  string
		clean bool
		boot  string
		want  int
	}{
		{"killed", false, "boot 1", 1},         // the one with an attempt and no result
		{"crashed", false, "boot 2", 3},        // and those whose time had come
		{"boot unknown", false, "", 3},         // the same
		{"stopped cleanly", true, "boot 2", 1}, // the attempt is in the log, synced
	} {
		mem := vfs.NewMem()
		o := options(mem)
		o.Now = func() time.Time { return now }
		s, _ := open(t, o)
		tried := accept(t, s, envelope(1), nil)
		if err := s.Attempt(tried, []int{0}).Wait(); err != nil {
			t.Fatal(err)
		}
		settled := accept(t, s, envelope(4), nil) // 0 untouched, 1 due, 2 not due, 3 held
		if err := s.Attempt(settled, []int{1, 2, 3}).Wait(); err != nil {
			t.Fatal(err)
		}
		results := []spool.Result{deferred(1, now.Add(-time.Minute)), deferred(2, now.Add(time.Hour)), {Recipient: 3, State: mail.StateHeld}}
		if err := s.SettleDurable(settled, results); err != nil {
			t.Fatal(err)
		}
		img := mem.CrashImage(1)
		closeSpool(t, s)
		if c.clean {
			img = mem
		}
		o.FS, o.Boot = img, c.boot
		s, rec := open(t, o)
		if rec.PossibleDuplicates != c.want {
			t.Errorf("%s: %d are counted, want %d", c.name, rec.PossibleDuplicates, c.want)
		}
		closeSpool(t, s)
	}
}

// TestUnknownKind: a record that an older spool would overlook keeps it from
// opening.
func TestUnknownKind(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	closeSpool(t, s)
	l, _, err := wal.Open(wal.Options{FS: mem, Dir: "/data/log", StoreID: storeID(t, mem), FileSize: 256 << 10}, func(wal.Pos, wal.Header, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Append(wal.Record{Header: wal.Header{Segment: 1, Kind: 99}, Data: [][]byte{[]byte("new")}})
	if err == nil {
		err = errors.Join(c.WaitDurable(), l.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := spool.Open(options(mem)); err == nil || !strings.Contains(err.Error(), "kind 99") || !strings.Contains(err.Error(), "/data/log") {
		t.Errorf("%v", err)
	}
}

func storeID(t *testing.T, fsys vfs.FS) (id [16]byte) {
	t.Helper()
	f, err := fsys.OpenFile("/data/format", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	size, _ := f.Size()
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	hexID := bytes.TrimSpace(text[bytes.LastIndexByte(bytes.TrimSpace(text), ' ')+1:])
	for i := range id {
		id[i] = hexDigit(hexID[2*i])<<4 | hexDigit(hexID[2*i+1])
	}
	return id
}

func hexDigit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// TestDirectoryIsPrivate: on a real file system data_dir is the owner's alone,
// and one process's.
func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := spool.Options{Dir: dir, Node: "mx1", FileSize: 64 << 10, Reserve: 1}
	s, _ := open(t, o)
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if _, _, err := spool.Open(o); !errors.Is(err, vfs.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("opening it twice: %v", err)
	}
	m := accept(t, s, envelope(1), content(1, 100_000))
	closeSpool(t, s)
	s, rec := open(t, o)
	if rec.Messages != 1 || rec.PossibleDuplicates != 0 {
		t.Errorf("%+v", rec)
	}
	again, _ := s.Find(m.ID())
	wantContent(t, s, again, content(1, 100_000))
	closeSpool(t, s)
}

// TestFinalStandsForEver: no result undoes a final one, and one for a
// recipient that is not there is an error.
func TestFinalStandsForEver(t *testing.T) {
	s, _ := open(t, options(vfs.NewMem()))
	m := accept(t, s, envelope(2), nil)
	failed := spool.Result{Recipient: 0, State: mail.StateFailed}
	if err := s.Settle(m, []spool.Result{failed, delivered(0)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(m, []spool.Result{deferred(0, time.Unix(1_900_000_000, 0)), delivered(0)}); err != nil {
		t.Fatal(err)
	}
	if st, err := s.States(m); err != nil || st[0].State != mail.StateFailed || st[0].Version != 1 {
		t.Errorf("%+v %v", st, err)
	}
	for _, i := range []int{-1, 2, math.MaxInt} {
		if err := s.Settle(m, []spool.Result{delivered(i)}); err == nil {
			t.Errorf("recipient %d was settled", i)
		}
		if err := s.Attempt(m, []int{i}).Wait(); err == nil {
			t.Errorf("recipient %d was attempted", i)
		}
	}
	closeSpool(t, s)
}

// TestManyRecipients settles a thousand recipients in several ways.
func TestManyRecipients(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	env := envelope(1000)
	m := accept(t, s, env, content(1, 40_000))
	var odd []spool.Result
	for i := 1; i < 1000; i += 2 {
		odd = append(odd, delivered(i))
	}
	if err := s.Settle(m, odd); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 1000; i += 4 {
		if err := s.Settle(m, []spool.Result{deferred(i, time.Unix(int64(1_900_000_000+i), 0))}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(s *spool.Spool) {
		m, _ := s.Find(env.ID)
		st, err := s.States(m)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range st {
			want := mail.StateActive
			if i%2 == 1 {
				want = mail.StateDelivered
			} else if i%4 == 0 {
				want = mail.StateDeferred
			}
			if r.State != want || want == mail.StateDeferred && r.Next.Unix() != int64(1_900_000_000+i) {
				t.Fatalf("recipient %d: %+v", i, r)
			}
		}
	}
	check(s)
	closeSpool(t, s)
	s, rec := open(t, options(mem))
	if rec.Messages != 1 || rec.Recipients != 500 {
		t.Errorf("%+v", rec)
	}
	check(s)
	closeSpool(t, s)
}
