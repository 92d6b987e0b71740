package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// instant takes everything at once.
func instant(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	outs := make([]mail.Outcome, len(at.Recipients))
	err := at.BeforeDot()
	for i, rc := range at.Recipients {
		outs[i] = mail.Outcome{Recipient: rc, Remote: "mx[192.0.2.1]:25", Reply: mail.Reply{Code: 250, Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "ok"}}
		if err != nil {
			outs[i].Reply = mail.Reply{Code: 451}
		}
	}
	return outs
}

type keys []mail.NextHop

func (k keys) Route(_, domain string) (mail.NextHop, *mail.Reply) {
	n := 0
	for i := range len(domain) {
		n = n*31 + int(domain[i])
	}
	return k[uint(n)%uint(len(k))], nil
}

func (k keys) Via(_, sender, domain string) (mail.NextHop, *mail.Reply) {
	return k.Route(sender, domain)
}

func hopKeys(n int) keys {
	k := make(keys, n)
	for i := range k {
		k[i] = mail.NextHop{Key: fmt.Sprintf("mx:domain%06d.example.org", i)}
	}
	return k
}

// BenchmarkRunner accepts and delivers messages of 2 KB with 64 senders at a
// time, on a spool in memory and to a next hop that takes no time. spool-only
// is the same without the queue: the difference is the scheduler's share.
func BenchmarkRunner(b *testing.B) {
	body := bytes.Repeat([]byte("0123456789abcde\n"), 128)
	for _, with := range []bool{false, true} {
		b.Run(map[bool]string{false: "spool-only", true: "queue"}[with], func(b *testing.B) {
			var left sync.WaitGroup
			var sp *spool.Spool
			r := queue.New(queue.Options{Router: hopKeys(1000), Deliverer: deliverFunc(func(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
				defer left.Done()
				return instant(ctx, hop, at)
			})})
			accepted := r.Enqueue
			if !with {
				accepted = func(m *spool.Message, env *mail.Envelope) {
					_ = sp.Attempt(m, []int{0}).Wait()
					_ = sp.Settle(m, []spool.Result{{State: mail.StateDelivered, Attempts: 1, At: time.Now(), Remote: "mx[192.0.2.1]:25", Reply: mail.Reply{Code: 250, Text: "ok"}}})
					left.Done()
				}
			}
			var err error
			sp, _, err = spool.Open(spool.Options{FS: vfs.NewMem(), Dir: "/data", Node: "mx1", Boot: "b", Reserve: 1, HangLimit: time.Hour, Accepted: accepted})
			if err != nil {
				b.Fatal(err)
			}
			if err := r.Start(sp); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			began := cpu()
			left.Add(b.N)
			var next atomic.Int64
			var senders sync.WaitGroup
			for g := range 64 {
				senders.Go(func() {
					for next.Add(1) <= int64(b.N) {
						env := envelope(fmt.Sprintf("user%d@here.test", g), fmt.Sprintf("to@domain%d.test", next.Load()))
						if _, err := sp.Accept(context.Background(), env, bytes.NewReader(body)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			senders.Wait()
			left.Wait()
			b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.StopTimer()
			if err := r.Shutdown(context.Background()); err != nil {
				b.Fatal(err)
			}
			if err := sp.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkMillion stores a million deferred recipients, one a message, and
// measures what they take in memory, spool and queue together, and how long
// the queue takes to be back after a restart.
func BenchmarkMillion(b *testing.B) {
	const million = 1_000_000
	for b.Loop() {
		fs := vfs.NewMem()
		open := func(accepted func(*spool.Message, *mail.Envelope)) *spool.Spool {
			sp, _, err := spool.Open(spool.Options{FS: fs, Dir: "/data", Node: "mx1", Boot: "b", FileSize: 8 << 20, Reserve: 1, HangLimit: time.Hour, Accepted: accepted})
			if err != nil {
				b.Fatal(err)
			}
			return sp
		}
		var sp *spool.Spool
		sp = open(func(m *spool.Message, env *mail.Envelope) {
			err := sp.Settle(m, []spool.Result{{State: mail.StateDeferred, Attempts: 1, Next: time.Now().Add(time.Hour), At: time.Now(), Remote: "mx.example.org[192.0.2.1]:25", Reply: mail.Reply{Code: 450, Text: "try again later"}}})
			if err != nil {
				b.Error(err)
			}
		})
		var next atomic.Int64
		var senders sync.WaitGroup
		for range 256 {
			senders.Go(func() {
				for n := next.Add(1); n <= million; n = next.Add(1) {
					env := envelope(fmt.Sprintf("user%d@here.test", n%5000), fmt.Sprintf("someone%d@domain%d.example.org", n, n%20000))
					if _, err := sp.Accept(context.Background(), env, bytes.NewReader([]byte(text))); err != nil {
						b.Error(err)
					}
				}
			})
		}
		senders.Wait()
		if err := sp.Close(); err != nil {
			b.Fatal(err)
		}
		sp = nil
		disk := heap()
		began, used := time.Now(), cpu()
		lap := func(what string) {
			b.ReportMetric(time.Since(began).Seconds(), "s-"+what)
			b.ReportMetric((cpu() - used).Seconds(), "cpu-s-"+what)
			began, used = time.Now(), cpu()
		}
		r := queue.New(queue.Options{Router: hopKeys(20000), Deliverer: deliverFunc(instant), Schedule: sched.Config{}})
		sp = open(r.Enqueue)
		lap("open")
		afterOpen := heap()
		began, used = time.Now(), cpu()
		if err := r.Start(sp); err != nil {
			b.Fatal(err)
		}
		lap("load")
		after := heap()
		b.ReportMetric(float64(afterOpen-disk)/million, "B/spool")
		b.ReportMetric(float64(after-afterOpen)/million, "B/queue")
		if c := r.Counts(); c.Deferred != million {
			b.Fatalf("%+v", c)
		}
		began, used = time.Now(), cpu()
		n := 0
		if err := r.List(context.Background(), selector{}, func(*queue.Row) error { n++; return nil }); err != nil || n != million {
			b.Fatal(n, err)
		}
		lap("list")
		if c, err := r.Change(context.Background(), queue.Change{Op: sched.Hold, Selector: selector{}}); err != nil || c.Recipients != million || c.Failed != 0 {
			b.Fatal(c, err)
		}
		lap("hold")
		if err := r.Shutdown(context.Background()); err != nil {
			b.Fatal(err)
		}
		if err := sp.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
