package ages

import (
	"testing"
	"time"
)

func TestAges(t *testing.T) {
	var a Ages
	if got := a.Above(0, time.Hour); got != 0 {
		t.Errorf("nothing waits, and that for %v", got)
	}
	for n := uint64(1); n <= 10; n++ {
		a.Note(n, time.Duration(n)*time.Second)
	}
	for _, c := range []struct {
		n    uint64
		want time.Duration
	}{{0, 10 * time.Second}, {4, 6 * time.Second}, {9, time.Second}} {
		if got := a.Above(c.n, 11*time.Second); got != c.want {
			t.Errorf("above %d: %v, want %v", c.n, got, c.want)
		}
	}
	a.Done(4, 10)
	if got := a.Above(4, 11*time.Second); got != 6*time.Second {
		t.Errorf("after Done: %v", got)
	}
	a.Done(10, 10)
	if len(a.marks) != 0 {
		t.Errorf("nothing waits, and %d marks are kept", len(a.marks))
	}
}

// However many numbers there are, ages come out too high, never too low.
func TestAgesOfMany(t *testing.T) {
	var a Ages
	for n := uint64(1); n <= 10_000; n++ {
		a.Note(n, time.Duration(n)*10*time.Millisecond)
	}
	if len(a.marks) > maxMarks {
		t.Errorf("%d marks", len(a.marks))
	}
	now := 200 * time.Second
	for n := uint64(0); n < 10_000; n += 7 {
		if got := a.Above(n, now); got < now-time.Duration(n+1)*10*time.Millisecond {
			t.Errorf("above %d: %v", n, got)
		}
	}
}
