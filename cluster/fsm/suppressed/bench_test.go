package suppressed

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

// million makes a list of a million entries of common length.
func million(b *testing.B) *Table {
	t := New()
	for i := 0; i < control.MaxSuppressed; i += control.MaxOps {
		c := control.SuppressOps{AtMS: 1}
		for j := range control.MaxOps {
			n := uint32(i+j) * 2654435761
			c.Add = append(c.Add, control.Suppression{
				SuppressKey: control.SuppressKey{Address: fmt.Sprintf("user%08x@example%d.org", n, n%997)}, Reason: control.SuppressHardBounce,
				Text: "550 5.1.1 no such user here", Source: "0123456789abcdef", CreatedMS: 1, ExpiresMS: 1 << 41,
			})
		}
		t.Do(&c)
	}
	if t.Len() != control.MaxSuppressed {
		b.Fatal(t.Len())
	}
	return t
}

// cpu reports the processor time of an operation too, which other load on the
// machine does not change as it does the clock's.
func cpu(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	from := used()
	return func() { b.ReportMetric(float64(used()-from)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkMillion(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	t := million(b)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Run("memory", func(b *testing.B) {
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/control.MaxSuppressed, "B/entry")
	})
	b.Run("find", func(b *testing.B) {
		var to [1024]mail.Address
		for i := range to {
			n := uint32(i*977) * 2654435761
			to[i] = mail.Address{Local: fmt.Sprintf("User%08x", n), Domain: fmt.Sprintf("example%d.org", n%997)}
		}
		q := Query{From: mail.Address{Local: "jane", Domain: "example.edu"}, Group: "campus"}
		b.ReportAllocs()
		defer cpu(b)()
		for i := range b.N {
			q.To = to[i%len(to)]
			if _, ok := t.Find(&q); !ok {
				b.Fatal(q.To)
			}
		}
	})
	b.Run("miss", func(b *testing.B) {
		q := Query{To: mail.Address{Local: "nobody", Domain: "example.edu"}, Group: "campus"}
		b.ReportAllocs()
		defer cpu(b)()
		for range b.N {
			t.Find(&q)
		}
	})
	b.Run("capture", func(b *testing.B) {
		defer cpu(b)()
		for range b.N {
			t.Capture()
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		n := 0
		defer cpu(b)()
		for range b.N {
			n = 0
			for _, p := range t.Pages() {
				n += len(p)
			}
		}
		b.ReportMetric(float64(n)/control.MaxSuppressed, "B/entry")
	})
	b.Run("restore", func(b *testing.B) {
		pages := t.Pages()
		b.ResetTimer()
		defer cpu(b)()
		for range b.N {
			if _, ok := FromPages(pages); !ok {
				b.Fatal("no table")
			}
		}
	})
	b.Run("replace", func(b *testing.B) { // 1,000 a command, as an import
		var page []control.Suppression
		page = t.Page(page, control.SuppressKey{Address: "user8"}, 1000)
		defer cpu(b)()
		for i := range b.N {
			for j := range page {
				page[j].ExpiresMS = 1<<41 + int64(i+1)
			}
			t.Do(&control.SuppressOps{AtMS: 1, Add: page})
		}
	})
	runtime.KeepAlive(t)
}

func BenchmarkEmpty(b *testing.B) {
	t, q := New(), Query{To: mail.Address{Local: "nobody", Domain: "example.edu"}, Group: "campus"}
	for range b.N {
		t.Find(&q)
	}
}
