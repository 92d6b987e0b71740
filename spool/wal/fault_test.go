package wal_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

// faulty is a log on a file system whose next faults a test can set.
type faulty struct {
	m    *vfs.Mem
	rule atomic.Pointer[func(vfs.Call) vfs.Outcome]
	o    wal.Options
	// fatal gets what Options.Fatal is called with.
	fatal chan error
}

func newFaulty(t *testing.T) *faulty {
	x := &faulty{m: newDir(t), fatal: make(chan error, 10)}
	x.set(func(vfs.Call) vfs.Outcome { return vfs.Outcome{} })
	x.o = crashOptions(vfs.NewFault(x.m, func(c vfs.Call) vfs.Outcome { return (*x.rule.Load())(c) }))
	x.o.HangLimit = 0 // the default
	x.o.Fatal = func(err error) { x.fatal <- err }
	return x
}

func (x *faulty) set(rule func(vfs.Call) vfs.Outcome) { x.rule.Store(&rule) }

// once gives an outcome to the first call of an operation on a log file in
// use, and lets all others pass.
func once(op vfs.Op, o vfs.Outcome) func(vfs.Call) vfs.Outcome {
	var done atomic.Bool
	return func(c vfs.Call) vfs.Outcome {
		if c.Op == op && !done.Swap(true) {
			return o
		}
		return vfs.Outcome{}
	}
}

// settled waits until the log has all its spares, so that the keeper rests.
func settled(t *testing.T, l *wal.Log, o wal.Options) {
	t.Helper()
	synctest.Wait()
	if l.Spares() < o.Spares {
		t.Fatalf("%d spares", l.Spares())
	}
}

func TestPoison(t *testing.T) {
	cases := []struct {
		name string
		op   vfs.Op
		out  vfs.Outcome
	}{
		{"write error", vfs.OpWrite, vfs.Outcome{Err: syscall.EIO}},
		{"short write", vfs.OpWrite, vfs.Outcome{Err: syscall.EIO, Short: 100}},
		{"no space in a file that is there", vfs.OpWrite, vfs.Outcome{Err: syscall.ENOSPC}},
		{"sync error", vfs.OpSync, vfs.Outcome{Err: syscall.EIO, Forget: true}},
		{"write hangs", vfs.OpWrite, vfs.Outcome{}},
		{"sync hangs", vfs.OpSync, vfs.Outcome{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newFaulty(t)
				x.o.Spares = 2
				l, _, _ := open(t, x.o)
				settled(t, l, x.o)
				want := mustAppend(t, l, record(1, kindMeta, 100), record(2, kindBody, 3000))
				settled(t, l, x.o)
				hang := make(chan struct{})
				cause := c.out.Err
				if cause == nil {
					c.out.Wait = hang
				}
				x.set(once(c.op, c.out))
				poisoned(t, x, l, cause)
				close(hang)
				synctest.Wait()
				if err := l.Close(); !errors.Is(err, wal.ErrPoisoned) {
					t.Errorf("close: %v", err)
				}
				synctest.Wait()
				// The next process finds what was acknowledged.
				for seed := range uint64(20) {
					_, rep, got := open2(t, crashOptions(x.m.CrashImage(seed)))
					if len(got) < 2 || !slices.Equal(got[:2], want) || len(rep.Damage) > 0 {
						t.Fatalf("after the crash: %v, %v", got, rep.Damage)
					}
				}
			})
		})
	}
}

// poisoned appends from several goroutines and wants all of them to fail, and
// everything after them.
func poisoned(t *testing.T, x *faulty, l *wal.Log, cause error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range uint64(5) {
		wg.Go(func() {
			c, err := l.Append(record(10+i, kindMeta, 50))
			if err == nil {
				err = c.WaitDurable()
			}
			if !errors.Is(err, wal.ErrPoisoned) || cause != nil && !errors.Is(err, cause) {
				t.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	if _, err := l.Append(record(99, kindMeta, 1)); !errors.Is(err, wal.ErrPoisoned) {
		t.Errorf("append later: %v", err)
	}
	if err := l.Sync(); !errors.Is(err, wal.ErrPoisoned) {
		t.Errorf("sync: %v", err)
	}
	if err := l.Free(1); !errors.Is(err, wal.ErrPoisoned) {
		t.Errorf("free: %v", err)
	}
	synctest.Wait()
	if len(x.fatal) != 1 || !errors.Is(<-x.fatal, wal.ErrPoisoned) {
		t.Errorf("Fatal was called %d more times", len(x.fatal))
	}
}

// TestSyncFailedThenRestart is the case of Linux that marks pages clean after
// a failed fsync: the next process reads them, syncs with success, and they
// are not on the disk. What it has visited has to be.
func TestSyncFailedThenRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFaulty(t)
		l, _, _ := open(t, x.o)
		settled(t, l, x.o)
		mustAppend(t, l, record(1, kindMeta, 100))
		settled(t, l, x.o)
		x.set(once(vfs.OpSync, vfs.Outcome{Err: syscall.EIO, Forget: true}))
		c, err := l.Append(record(2, kindMeta, 5000))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitDurable(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("wait: %v", err)
		}
		if err := l.Close(); !errors.Is(err, wal.ErrPoisoned) {
			t.Fatal(err)
		}
		l, _, got := open(t, crashOptions(x.m))
		if len(got) != 2 {
			t.Fatalf("got %v", got)
		}
		for seed := range uint64(50) { // whatever is lost now
			l, _, again := open(t, crashOptions(x.m.CrashImage(seed)))
			if !slices.Equal(again, got) {
				t.Fatalf("seed %d: visited %v, then lost %v", seed, got, again)
			}
			checkReads(t, l, got)
			closeLog(t, l)
		}
		closeLog(t, l)
	})
}

func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFaulty(t)
		// Room for four files and a little, the log wants more.
		x.m.SetCapacity(4*minSize + 2<<20)
		l, _, _ := open(t, x.o)
		settled(t, l, x.o)
		x.m.SetCapacity(0)
		var want []entry
		var err error
		for i := uint64(0); err == nil; i++ {
			var c *wal.Commit
			if c, err = l.Append(record(i, kindBody, 2000)); err == nil {
				want = append(want, entries(c, []wal.Record{record(i, kindBody, 2000)})...)
				err = c.WaitDurable()
			}
		}
		if !errors.Is(err, wal.ErrNoSpace) || len(x.fatal) > 0 {
			t.Fatalf("full: %v", err)
		}
		// Results still find room: half a file at least, also when each is a
		// write of its own with a mark in front.
		n := 0
		for ; n < 60; n++ {
			c, err := l.AppendReserved(record(uint64(1000+n), kindMeta, 80))
			if err != nil {
				t.Fatalf("result %d: %v", n, err)
			}
			want = append(want, entries(c, []wal.Record{record(uint64(1000+n), kindMeta, 80)})...)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; n++ { // until that is full too
			_, err = l.AppendReserved(record(uint64(1000+n), kindMeta, 80))
		}
		if !errors.Is(err, wal.ErrNoSpace) {
			t.Fatalf("very full: %v", err)
		}
		synctest.Wait() // for the footers
		first := l.Files()[0].Number
		if err := l.Free(first); err != nil {
			t.Fatalf("free on a full disk: %v", err)
		}
		if _, err := l.AppendReserved(record(5000, kindMeta, 80)); err != nil {
			t.Fatalf("result after a free: %v", err)
		}
		x.m.SetCapacity(1 << 30)
		<-time.After(3 * time.Second)
		if _, err := l.Append(record(5001, kindMeta, 80)); err != nil {
			t.Fatalf("append when there is room again: %v", err)
		}
		closeLog(t, l)
		_, rep, got := open2(t, x.o)
		want = slices.DeleteFunc(want, func(e entry) bool { return e.pos.File() == first })
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) || len(rep.Damage) > 0 {
			t.Fatalf("%d records of %d", len(got), len(want))
		}
		if len(x.fatal) > 0 {
			t.Errorf("poisoned: %v", <-x.fatal)
		}
	})
}

// TestSparesFail shows that failing to prepare a file is no failure of the
// log, at whatever step.
func TestSparesFail(t *testing.T) {
	for _, fault := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO} {
		for _, op := range []vfs.Op{vfs.OpSpace, vfs.OpOpen, vfs.OpWrite, vfs.OpSync, vfs.OpRename, vfs.OpSyncDir} {
			synctest.Test(t, func(t *testing.T) {
				x := newFaulty(t)
				x.o.Spares = 1
				l, _, _ := open(t, x.o)
				settled(t, l, x.o)
				if _, err := l.AppendReserved(record(1, kindMeta, 1)); err != nil {
					t.Fatal(err)
				}
				settled(t, l, x.o)
				x.set(func(c vfs.Call) vfs.Outcome {
					stem, isFile := strings.CutSuffix(c.Name, ".new")
					_, err := x.m.Stat(stem) // a file in use exists under its final name
					if c.Op == op && (!isFile || err != nil) {
						return vfs.Outcome{Err: fault}
					}
					return vfs.Outcome{}
				})
				var err error
				for i := uint64(2); err == nil; i++ {
					_, err = l.Append(record(i, kindMeta, 3000))
				}
				lateEIO := fault == syscall.EIO && (op == vfs.OpRename || op == vfs.OpSyncDir)
				switch {
				case fault != syscall.EIO && !errors.Is(err, wal.ErrNoSpace):
					t.Errorf("op %d, %v: %v", op, fault, err)
				case !errors.Is(err, fault):
					t.Errorf("op %d, %v: %v", op, fault, err)
				case errors.Is(err, wal.ErrPoisoned) && !lateEIO:
					t.Errorf("op %d, %v: poisoned: %v", op, fault, err)
				}
				err = l.Close()
				if err != nil && !errors.Is(err, wal.ErrPoisoned) {
					t.Errorf("op %d, %v: close: %v", op, fault, err)
				}
				x.set(func(vfs.Call) vfs.Outcome { return vfs.Outcome{} })
				if _, rep, got := open2(t, crashOptions(x.m)); len(got) == 0 || len(rep.Damage) > 0 {
					t.Errorf("op %d, %v: then %v, %v", op, fault, got, rep.Damage)
				}
			})
		}
	}
}

// TestOpenFails shows that a start that fails changes nothing that the next
// one would miss, and closes what it opened.
func TestOpenFails(t *testing.T) {
	m, want := smallLog(t, false)
	for _, op := range []vfs.Op{vfs.OpReadDir, vfs.OpOpen, vfs.OpWrite, vfs.OpSync, vfs.OpTruncate, vfs.OpRead} {
		for nth := range 12 {
			img := m.CrashImage(1)
			n := 0
			fsys := vfs.NewFault(img, func(c vfs.Call) vfs.Outcome {
				if c.Op != op {
					return vfs.Outcome{}
				}
				if n++; n-1 == nth {
					return vfs.Outcome{Err: syscall.EIO, Forget: true}
				}
				return vfs.Outcome{}
			})
			o := crashOptions(fsys)
			l, _, err := wal.Open(o, func(wal.Pos, wal.Header, []byte) error { return nil })
			if err == nil {
				_ = l.Close() // the keeper may meet the fault
			}
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("op %d, call %d: %v", op, nth, err)
			}
			if op == vfs.OpRead { // of what cannot be read, at most that is lost
				continue
			}
			if _, rep, got := open2(t, crashOptions(img)); !slices.Equal(got, want) || len(rep.Damage) > 0 {
				t.Errorf("op %d, call %d: %d records of %d, %v", op, nth, len(got), len(want), rep.Damage)
			}
		}
	}
}

func TestVisitorsError(t *testing.T) {
	m, _ := smallLog(t, true)
	if _, _, err := wal.Open(crashOptions(m), func(wal.Pos, wal.Header, []byte) error { return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("open: %v", err)
	}
}

// TestReadError shows that what the disk refuses to read is damage of one
// record.
func TestReadError(t *testing.T) {
	x := newFaulty(t)
	l, _, _ := open(t, x.o)
	want := mustAppend(t, l, record(1, kindMeta, 100), record(2, kindBody, 3000))
	x.set(func(c vfs.Call) vfs.Outcome {
		if c.Op == vfs.OpRead && c.Off >= want[1].pos.Offset() {
			return vfs.Outcome{Err: syscall.EIO}
		}
		return vfs.Outcome{}
	})
	var d *wal.DamageError
	if _, _, err := l.ReadAt(want[1].pos, 3000, nil); !errors.As(err, &d) || !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	checkReads(t, l, want[:1])
	closeLog(t, l)
}

func TestNotWritten(t *testing.T) {
	x := newFaulty(t)
	l, _, _ := open(t, x.o)
	mustAppend(t, l, record(1, kindMeta, 100))
	hang := make(chan struct{})
	x.set(once(vfs.OpWrite, vfs.Outcome{Wait: hang}))
	c, err := l.Append(record(2, kindMeta, 100))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.ReadAt(c.Pos(0), 0, nil); !errors.Is(err, wal.ErrNotWritten) {
		t.Errorf("read of what is pending: %v", err)
	}
	close(hang)
	if err := c.WaitWritten(); err != nil {
		t.Fatal(err)
	}
	checkReads(t, l, entries(c, []wal.Record{record(2, kindMeta, 100)}))
	closeLog(t, l)
}

// TestLazySync shows that what nobody waits for is durable after SyncEvery.
func TestLazySync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newDir(t)
		o := crashOptions(m)
		o.SyncEvery = 100 * time.Millisecond
		var syncs atomic.Int64
		o.Synced = func(time.Duration) { syncs.Add(1) }
		l, _, _ := open(t, o)
		c, err := l.Append(record(1, kindMeta, 100))
		if err == nil {
			err = c.WaitWritten()
		}
		if err != nil || syncs.Load() != 0 {
			t.Fatalf("written after %d syncs: %v", syncs.Load(), err)
		}
		<-time.After(101 * time.Millisecond)
		synctest.Wait()
		if _, _, got := open2(t, crashOptions(m.CrashImage(0))); len(got) != 1 || syncs.Load() != 1 {
			t.Errorf("%v after %d syncs", got, syncs.Load())
		}
		<-time.After(time.Hour)
		if syncs.Load() != 1 {
			t.Errorf("%d syncs in an idle hour", syncs.Load())
		}
		closeLog(t, l)
	})
}
