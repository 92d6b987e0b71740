package local

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// fifty limits, three of which are about the subject.
func fifty() []limit.Definition {
	defs := []limit.Definition{
		{Name: "site", Per: []limit.Field{limit.Site}, Rate: rate(1<<40, time.Second), Burst: 1 << 40},
		{Name: "sender", Per: []limit.Field{limit.Sender}, Rate: rate(1<<40, time.Second), Burst: 1 << 40},
		{Name: "all", Rate: rate(1<<40, time.Second), Burst: 1 << 40},
	}
	for i := range 47 {
		d := limit.Definition{Name: fmt.Sprint("other", i), Rate: rate(10, time.Second), Burst: 10}
		d.Match[limit.Site] = []string{fmt.Sprintf("site%d.example", i)}
		defs = append(defs, d)
	}
	return defs
}

func benchLimiter(b *testing.B, overrides int) *Limiter {
	start := time.Now()
	l := New(Options{Now: func() time.Duration { return time.Since(start) + time.Hour }, Wall: time.Now})
	if err := l.Configure(fifty()); err != nil {
		b.Fatal(err)
	}
	var defs []limit.Definition
	for i := range overrides {
		d := limit.Definition{Name: fmt.Sprint("shaping/", i), Connections: 3, Rate: rate(10, time.Second), Burst: 10}
		d.Match[limit.Site] = []string{fmt.Sprintf("learned%d.example", i)}
		defs = append(defs, d)
	}
	if err := l.Override(defs); err != nil {
		b.Fatal(err)
	}
	l.Apply(alone())
	return l
}

func BenchmarkReserveUse(b *testing.B) {
	for _, overrides := range []int{0, 10_000} {
		b.Run(fmt.Sprint("overrides=", overrides), func(b *testing.B) {
			l := benchLimiter(b, overrides)
			s := &limit.Subject{Site: "google.com", Sender: "a@example.org", SenderDomain: "example.org", Domain: "gmail.com", Group: "campus"}
			l.Reserve(limit.Deliver, s, one)
			b.ReportAllocs()
			for b.Loop() {
				t, d := l.Reserve(limit.Deliver, s, one)
				if d != nil {
					b.Fatal(d)
				}
				if t.Use() > 0 {
					b.Fatal("it has to wait")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/3, "ns/limit")
		})
	}
}

func BenchmarkReserveParallel(b *testing.B) {
	l := benchLimiter(b, 0)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		s := &limit.Subject{Site: fmt.Sprint("site-", n.Add(1)), Sender: "a@example.org"}
		for pb.Next() {
			t, d := l.Reserve(limit.Deliver, s, one)
			if d != nil || t.Use() > 0 {
				b.Error("denied")
				return
			}
		}
	})
}

func BenchmarkOverride(b *testing.B) {
	l := benchLimiter(b, 10_000)
	defs := l.overrides
	for i := range b.N {
		defs[i%len(defs)].Connections = i%7 + 1
		if err := l.Override(defs); err != nil {
			b.Fatal(err)
		}
	}
}

// A hundred thousand keys fit in 50 MB.
func TestMemoryOfKeys(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "senders", Per: []limit.Field{limit.Sender}, Rate: rate(1, time.Hour), Burst: 5, Connections: 2})
	l.Apply(alone())
	c.now = 10 * time.Hour
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 100_000 {
		if n, d := send(l, &limit.Subject{Sender: fmt.Sprintf("somebody.%d@example.org", i)}, 1); n != 1 {
			t.Fatalf("sender %d: %+v", i, d)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	mb := float64(after.HeapAlloc-before.HeapAlloc) / 1e6
	t.Logf("100000 keys take %.1f MB", mb)
	if mb > 50 {
		t.Errorf("100000 keys take %.1f MB, more than 50", mb)
	}
	runtime.KeepAlive(l)
}
