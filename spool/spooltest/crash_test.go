package spooltest_test

import (
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/spooltest"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run this seed alone")
	rounds   = flag.Int("rounds", 0, "how many seeds to run")
)

// options are those of a spool with tiny files, so that much happens.
func options(fs vfs.FS, boot string) spool.Options {
	return spool.Options{
		FS: fs, Dir: "/data", Node: "mx1", FileSize: 64 << 10, MaxBuffer: 1 << 20, Reserve: 1, Boot: boot,
		SyncEvery: 5 * time.Millisecond, HangLimit: 10 * time.Minute,
	}
}

func seeds(t *testing.T, n uint64) []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	if *rounds > 0 {
		n = uint64(*rounds)
	} else if testing.Short() {
		n = max(1, n/4)
	}
	start := uint64(time.Now().UnixNano())
	out := make([]uint64, n)
	for i := range out {
		out[i] = start + uint64(i)
	}
	t.Logf("seeds %d to %d (run one with -seed)", start, start+n-1)
	return out
}

// TestCrashAtEveryWrite runs a workload and opens the store as a crash would
// have left it after every single write, sync and change of a directory, with
// several ways of losing what was not synced; and, for some of them, after
// every write of the recovery, too. Recovering twice gives the same.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, seed := range seeds(t, 2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashAtEveryWrite(t, seed) })
	}
}

func crashAtEveryWrite(t *testing.T, seed uint64) {
	w := spooltest.NewWorkload(seed)
	mem := vfs.NewMem()
	var at atomic.Uint64
	mem.Watch(func(c vfs.Call) {
		n := at.Add(1)
		for i := range uint64(3) {
			before := w.Ledger.Snapshot()
			img := mem.CrashImage(seed + n*100 + i)
			if err := recoverTwice(img, before.Until(w.Ledger.Snapshot()), seed+n*100+i, n%16 == 0 && i == 0); err != nil {
				t.Errorf("crash after change %d (%+v), image %d: %v", n, c, i, err)
			}
		}
	})
	s, _, err := spool.Open(options(mem, "1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Each(nil); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if err := w.Step(s); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.FailNow()
		}
		if i != 30 {
			continue
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		w.Ledger.Durable()
		if s, err = spooltest.Verify(options(mem, "1"), w.Ledger, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes", at.Load())
}

// recoverTwice opens an image and verifies it, crashes again without having
// done anything, and verifies once more; with deep it crashes after every
// write of the first recovery.
func recoverTwice(img *vfs.Mem, l *spooltest.Ledger, seed uint64, deep bool) error {
	var mu sync.Mutex
	var inner error
	var n uint64
	done := !deep
	before := l.Snapshot()
	img.Watch(func(vfs.Call) {
		mu.Lock()
		defer mu.Unlock()
		if n++; inner == nil && !done {
			inner = recoverOnce(img.CrashImage(seed+n), before.Snapshot())
		}
	})
	s, err := spooltest.Verify(options(img, "2"), l, true)
	mu.Lock()
	done = true // from now on the first recovery's word counts
	mu.Unlock()
	if s == nil || err != nil {
		return err
	}
	again := img.CrashImage(seed)
	if err := s.Close(); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("crash in recovery: %w", inner)
	}
	if err := recoverOnce(again, l.Snapshot()); err != nil {
		return fmt.Errorf("second recovery: %w", err)
	}
	return recoverOnce(img.CrashImage(seed+1), l)
}

func recoverOnce(img *vfs.Mem, l *spooltest.Ledger) error {
	s, err := spooltest.Verify(options(img, "3"), l, true)
	if s == nil || err != nil {
		return err
	}
	return s.Close()
}
