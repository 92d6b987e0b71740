package sched_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func lanes(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("mx:domain%06d.example.org", i)
	}
	return out
}

// BenchmarkStep is a message's way through the scheduler: added, delivered,
// gone.
func BenchmarkStep(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			keys := lanes(n)
			s := sched.New[int](sched.Config{}, rand.New(rand.NewPCG(1, 2)))
			now := time.Unix(1_800_000_000, 0)
			s.Step(now, &sched.Event[int]{Kind: sched.Run})
			add := &sched.Event[int]{Kind: sched.Add, Recipients: make([]sched.Recipient, 1)}
			var running []sched.JobID
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				add.Ref, add.Arrived, add.Sender, add.Recipients[0].Lane = i, now, uint32(i%50), keys[i*7919%n]
				for _, a := range s.Step(now, add) {
					running = append(running, a.Job)
				}
				if len(running) > 50 || len(running) > 0 && n == 1 {
					fin := &sched.Event[int]{Kind: sched.Finished, Job: running[0], Reach: sched.Working, Results: []sched.Result{{State: mail.StateDelivered}}}
					running = running[1:]
					for _, a := range s.Step(now, fin) {
						running = append(running, a.Job)
					}
				}
				now = now.Add(time.Millisecond)
			}
		})
	}
}

// BenchmarkMillionDeferred fills the scheduler with recipients that wait, and
// then lets all of them become due.
func BenchmarkMillionDeferred(b *testing.B) {
	const million = 1_000_000
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("lanes=%d", n), func(b *testing.B) {
			for b.Loop() {
				keys := lanes(n)
				now := time.Unix(1_800_000_000, 0)
				before := heapBytes()
				s := sched.New[*int](sched.Config{}, rand.New(rand.NewPCG(1, 2)))
				rnd := rand.New(rand.NewPCG(3, 4))
				ev := &sched.Event[*int]{Kind: sched.Add, Recipients: make([]sched.Recipient, 1)}
				ref := new(int)
				began := time.Now()
				for i := range million {
					ev.Ref, ev.Arrived, ev.Sender = ref, now, uint32(i%1000)
					ev.Recipients[0] = sched.Recipient{Lane: keys[i%n], State: mail.StateDeferred, Attempts: 3, Next: now.Add(time.Duration(rnd.Int64N(int64(4 * time.Hour))))}
					s.Step(now, ev)
				}
				b.ReportMetric(float64(time.Since(began).Nanoseconds())/million, "ns/insert")
				b.ReportMetric(float64(heapBytes()-before)/million, "B/recipient")
				began = time.Now()
				s.Step(now, &sched.Event[*int]{Kind: sched.Run})
				worst, ticks := time.Duration(0), 0
				for end := now.Add(4 * time.Hour); ; ticks++ {
					at, ok := s.Wake()
					if !ok || at.After(end) {
						break
					}
					t0 := time.Now()
					s.Step(end, &sched.Event[*int]{Kind: sched.Tick})
					worst = max(worst, time.Since(t0))
				}
				b.ReportMetric(float64(time.Since(began).Nanoseconds())/million, "ns/due")
				b.ReportMetric(float64(worst.Microseconds()), "us-worst-step")
				b.ReportMetric(float64(heapBytes()-before)/million, "B/ready")
				runtime.KeepAlive(s)
			}
		})
	}
}
