package wal_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal"
)

// BenchmarkAppend appends records to a log on the real disk, each waited for
// until it is durable, and frees files as soon as they are sealed.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{2 << 10, 10 << 10, 100 << 10, 1 << 20} {
		for _, writers := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("size=%dK/writers=%d", size>>10, writers), func(b *testing.B) {
				benchAppend(b, size, writers)
			})
		}
	}
}

func benchOptions(b *testing.B) wal.Options {
	return wal.Options{
		FS: vfs.OS(), Dir: b.TempDir(), Bulk: func(k wal.Kind) bool { return k == kindBody },
		Fatal: func(err error) { panic(err) },
	}
}

func benchAppend(b *testing.B, size, writers int) {
	var syncs atomic.Int64
	o := benchOptions(b)
	o.Synced = func(time.Duration) { syncs.Add(1) }
	l, _, err := wal.Open(o, nil)
	if err != nil {
		b.Fatal(err)
	}
	stop := make(chan struct{})
	var freer sync.WaitGroup
	freer.Go(func() { freeSealed(b, l, stop) })
	// The pool of recycled files is what a log in use has.
	data := content(1, size)
	run(b, l, data, 100, (512<<20)/int64(size))
	b.SetBytes(int64(size))
	before := syncs.Load()
	cpu := cpuTime()
	b.ResetTimer()
	run(b, l, data, writers, int64(b.N))
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/n, "cpu-us/record")
	b.ReportMetric(float64(syncs.Load()-before)/n, "fsyncs/record")
	close(stop)
	freer.Wait()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

func run(b *testing.B, l *wal.Log, data []byte, writers int, total int64) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			parts := [][]byte{data}
			for {
				n := next.Add(1)
				if n > total {
					return
				}
				c, err := l.Append(wal.Record{Header: wal.Header{Seq: uint64(n), Kind: kindBody}, Data: parts})
				if err == nil {
					err = c.WaitDurable()
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

// freeSealed frees every file once it is sealed.
func freeSealed(b *testing.B, l *wal.Log, stop chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for _, f := range l.Files() {
			if !f.Sealed {
				continue
			}
			if err := l.Free(f.Number); err != nil {
				b.Error(err)
			}
		}
	}
}

func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkOpen opens a log with a million small records.
func BenchmarkOpen(b *testing.B) {
	for _, body := range []int{0, 2 << 10} {
		b.Run(fmt.Sprintf("body=%d", body), func(b *testing.B) {
			o := benchOptions(b)
			l, _, err := wal.Open(o, nil)
			if err != nil {
				b.Fatal(err)
			}
			const records = 1 << 20
			data, meta := [][]byte{make([]byte, body)}, [][]byte{make([]byte, 200)}
			for i := range uint64(records) {
				recs := []wal.Record{{Header: wal.Header{Seq: i, Kind: kindMeta}, Data: meta}}
				if body > 0 {
					recs = append(recs, wal.Record{Header: wal.Header{Seq: i, Kind: kindBody}, Data: data})
				}
				if _, err := l.Append(recs...); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			o.ReadOnly = true
			for b.Loop() {
				n := 0
				l, rep, err := wal.Open(o, func(wal.Pos, wal.Header, []byte) error { n++; return nil })
				if err != nil || n < records {
					b.Fatalf("%d records: %v", n, err)
				}
				b.ReportMetric(float64(rep.Scanned), "scanned-files")
				b.ReportMetric(float64(rep.Files), "files")
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadAt reads records of 10 KB in any order.
func BenchmarkReadAt(b *testing.B) {
	l, _, err := wal.Open(benchOptions(b), nil)
	if err != nil {
		b.Fatal(err)
	}
	data := content(1, 10<<10)
	var at []wal.Pos
	for range 1000 {
		c, err := l.Append(wal.Record{Header: wal.Header{Kind: kindBody}, Data: [][]byte{data}})
		if err == nil {
			err = c.WaitWritten()
		}
		if err != nil {
			b.Fatal(err)
		}
		at = append(at, c.Pos(0))
	}
	buf := make([]byte, len(data)+wal.HeaderSize)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, _, err := l.ReadAt(at[i%len(at)], len(data), buf); err != nil {
			b.Fatal(err)
		}
		i++
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
