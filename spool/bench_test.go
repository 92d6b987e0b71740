package spool_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// cpu is the processor time that the process has used.
func cpu() time.Duration {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkAcceptSettle takes messages, announces an attempt and settles, on
// the disk that TMPDIR is on.
func BenchmarkAcceptSettle(b *testing.B) {
	for _, size := range []int{2 << 10, 10 << 10, 100 << 10, 1_000_000} {
		for _, par := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("%dKB/%d", size/1000, par), func(b *testing.B) { benchAcceptSettle(b, size, par) })
		}
	}
}

func benchAcceptSettle(b *testing.B, size, par int) {
	s, _, err := spool.Open(spool.Options{Dir: filepath.Join(b.TempDir(), "data"), Node: "mx1", Reserve: 1, Fatal: func(err error) { b.Error(err) }})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Each(nil); err != nil {
		b.Fatal(err)
	}
	body := content(1, size)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.SetBytes(int64(size))
	used := cpu()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range par {
		wg.Go(func() {
			env := envelope(1)
			r := bytes.NewReader(nil)
			for left.Add(-1) >= 0 {
				env.ID = mail.NewID(time.Now())
				r.Reset(body)
				m, err := s.Accept(context.Background(), env, plainReader{r})
				if err == nil {
					err = s.Attempt(m, []int{0}).Wait()
				}
				if err == nil {
					err = s.Settle(m, []spool.Result{delivered(0)})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// plainReader hides bytes.Reader's WriteTo.
type plainReader struct{ r *bytes.Reader }

func (p plainReader) Read(b []byte) (int, error) { return p.r.Read(b) }

// BenchmarkMillion measures what a queue of a million messages with one
// recipient each takes in memory, and how long a restart takes.
func BenchmarkMillion(b *testing.B) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	dir := b.TempDir()
	if d := os.Getenv("CLRELAY_BENCH_DIR"); d != "" {
		dir = d
	}
	o := spool.Options{Dir: filepath.Join(dir, "million"), Node: "mx1", Reserve: 1, Fatal: func(err error) { b.Error(err) }}
	s, rec, err := spool.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Each(func(*spool.Message, *mail.Envelope, []spool.RecipientState) {}); err != nil {
		b.Fatal(err)
	}
	fillSpool(b, s, n-rec.Messages)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	s = nil
	for b.Loop() {
		before := heap()
		began, used := time.Now(), cpu()
		s, rec, err := spool.Open(o)
		if err != nil {
			b.Fatal(err)
		}
		opened := time.Since(began)
		// Now, because what compaction has in hand later on is no part of it.
		b.ReportMetric(float64(heap()-before)/float64(n), "octets/message")
		began = began.Add(time.Since(began) - opened)
		seen := 0
		if err := s.Each(func(*spool.Message, *mail.Envelope, []spool.RecipientState) { seen++ }); err != nil {
			b.Fatal(err)
		}
		if rec.Messages != n || seen != n {
			b.Fatalf("%d messages, %d seen, want %d; damage %v", rec.Messages, seen, n, rec.Damage)
		}
		b.ReportMetric(opened.Seconds(), "s/open")
		b.ReportMetric((time.Since(began) - opened).Seconds(), "s/each")
		b.ReportMetric((cpu() - used).Seconds(), "cpu-s")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// fillSpool puts n messages of 1,000 octets in, each deferred once.
func fillSpool(b *testing.B, s *spool.Spool, n int) {
	b.Helper()
	body := content(1, 1000)
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				m, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(body))
				if err == nil {
					err = s.Settle(m, []spool.Result{deferred(0, time.Unix(1_900_000_000, 0))})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func heap() uint64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// TestMemoryPerMessage holds the index to its budget: with 250 octets for a
// queued recipient in all, the spool may have 130.
func TestMemoryPerMessage(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	const n = 50_000
	o := options(vfs.OS())
	o.Dir = filepath.Join(t.TempDir(), "data")
	o.FileSize = 16 << 20
	s, _ := open(t, o)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range n / 100 {
				m, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(nil))
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Settle(m, []spool.Result{deferred(0, time.Unix(1_900_000_000, 0))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	closeSpool(t, s)
	s = nil
	before := heap()
	s, _ = open(t, o)
	per := float64(heap()-before) / n
	t.Logf("%.0f octets a message", per)
	if per > 140 {
		t.Errorf("%.0f octets a message", per)
	}
	closeSpool(t, s)
}
