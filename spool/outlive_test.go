package spool_test

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// lazy are options under which nothing is synced that nobody waits for.
func lazy(fs vfs.FS) spool.Options {
	o := options(fs)
	o.SyncEvery = time.Hour
	return o
}

// churn sends n messages of 20,000 octets through, settled at once.
func churn(t *testing.T, s *spool.Spool, n int) {
	t.Helper()
	for range n {
		m := accept(t, s, envelope(1), content(7, 20_000))
		if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
			t.Fatal(err)
		}
	}
}

func each(t *testing.T, s *spool.Spool) {
	t.Helper()
	if err := s.Each(func(*spool.Message, *mail.Envelope, []spool.RecipientState) {}); err != nil {
		t.Fatal(err)
	}
}

// TestSyncBeforeFree: a file must not be given up because of a record that is
// only written. Here a recipient's result is durable in one file; the result
// that finishes the message, and makes the first one needless, is not synced
// when compaction looks.
func TestSyncBeforeFree(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, lazy(mem))
	each(t, s)
	m := accept(t, s, envelope(2), content(1, 100))
	for range 8 { // keep the file of the commit record from being worth moving
		accept(t, s, envelope(1), content(1, 20_000))
	}
	churn(t, s, 10)
	if err := s.SettleDurable(m, []spool.Result{delivered(0)}); err != nil {
		t.Fatal(err)
	}
	churn(t, s, 40) // what lies around the result goes
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(m, []spool.Result{delivered(1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(30) {
		again, _ := open(t, options(mem.CrashImage(seed)))
		if m, ok := again.Find(m.ID()); ok {
			if st, err := again.States(m); err != nil || st[0].State != mail.StateDelivered {
				t.Errorf("seed %d: a durable final result is undone: %+v %v", seed, st, err)
			}
		}
		closeSpool(t, again)
	}
	closeSpool(t, s)
}

// TestEarlyAttemptIsDurable: after a crash of the machine only those are
// suspected whose time had come, so an attempt before its time is synced.
func TestEarlyAttemptIsDurable(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, lazy(mem))
	m := accept(t, s, envelope(1), nil)
	if err := s.SettleDurable(m, []spool.Result{deferred(0, time.Now().Add(time.Hour))}); err != nil {
		t.Fatal(err)
	}
	if err := s.Attempt(m, []int{0}).Wait(); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(30) {
		o := options(mem.CrashImage(seed))
		o.Boot = "boot 2"
		again, rec := open(t, o)
		if rec.PossibleDuplicates != 1 {
			t.Errorf("seed %d: %+v", seed, rec)
		}
		closeSpool(t, again)
	}
	closeSpool(t, s)
}

// TestAttemptOutlivesItsFile: an attempt that goes on while its file is
// compacted and freed is still counted after a kill, and is forgotten once
// there is a result.
func TestAttemptOutlivesItsFile(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	s, _ := open(t, o)
	each(t, s)
	m := accept(t, s, envelope(3), nil)
	if err := s.Attempt(m, []int{1, 2}).Wait(); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		churn(t, s, 60)
		if err := s.Compact(); err != nil {
			t.Fatal(err)
		}
		accept(t, s, envelope(1), nil) // makes the rest durable
		o.FS = mem.CrashImage(uint64(round))
		again, rec := open(t, o)
		if rec.PossibleDuplicates != 2-round {
			t.Errorf("round %d: %+v", round, rec)
		}
		each(t, again)
		churn(t, again, 60) // the next process keeps it, too
		if err := again.Compact(); err != nil {
			t.Fatal(err)
		}
		closeSpool(t, again)
		again, rec = open(t, o)
		if rec.PossibleDuplicates != 2-round {
			t.Errorf("round %d, one process later: %+v", round, rec)
		}
		closeSpool(t, again)
		if round < 2 {
			if err := s.Settle(m, []spool.Result{deferred(1+round, time.Now().Add(-time.Second))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeSpool(t, s)
}

// TestMangledFiles cuts files, empties them, and puts foreign ones between
// them: the start reports each by name, and costs no message that was not in
// them.
func TestMangledFiles(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	var all []*spool.Message
	for range 60 {
		all = append(all, accept(t, s, envelope(1), content(1, 20_000)))
	}
	closeSpool(t, s)
	names, err := mem.ReadDir("/data/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		size int64 // of the file afterwards
		cost int   // messages at most
	}{{"cut in the middle", 100_000, 15}, {"emptied", 0, 15}, {"cut by one sector", 256<<10 - 512, 2}} {
		for _, victim := range names[:3] {
			img := mem.CrashImage(1)
			f, err := img.OpenFile("/data/log/"+victim, 2, 0)
			if err == nil {
				err = f.Truncate(c.size)
			}
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				t.Fatal(err)
			}
			s, rec := open(t, options(img))
			if len(rec.Damage) == 0 || rec.Damage[0].Place[:len("/data/log/"+victim)] != "/data/log/"+victim {
				t.Errorf("%s %s: damage %v", victim, c.what, rec.Damage)
			}
			lost := 0
			for _, m := range all {
				if _, ok := s.Find(m.ID()); !ok {
					lost++
				}
			}
			if lost > c.cost {
				t.Errorf("%s %s: %d messages are lost", victim, c.what, lost)
			}
			each(t, s)
			churn(t, s, 30)
			closeSpool(t, s)
			s, _ = open(t, options(img))
			if n := s.Stats().Messages; n != len(all)-lost {
				t.Errorf("%s %s: %d messages after work and a restart, want %d", victim, c.what, n, len(all)-lost)
			}
			closeSpool(t, s)
		}
	}
}
