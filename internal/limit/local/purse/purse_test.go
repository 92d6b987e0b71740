package purse

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func TestPurse(t *testing.T) {
	var p Purse
	if p.Left(noon) != 0 {
		t.Fatal("an empty purse holds something")
	}
	p.Grant(7, noon.Add(time.Hour), 10)
	p.Spend(4)
	p.Grant(7, noon.Add(time.Hour), 10) // told again
	p.Grant(6, noon, 100)               // late
	if got := p.Left(noon); got != 6 {
		t.Fatalf("%d are left, want 6", got)
	}
	p.Grant(7, noon.Add(time.Hour), 15)
	if got := p.Left(noon); got != 11 {
		t.Fatalf("%d are left after more was granted, want 11", got)
	}
	if got := p.Left(noon.Add(time.Hour)); got != 0 {
		t.Fatalf("%d are left after the window", got)
	}
	p.Grant(8, noon.Add(2*time.Hour), 3)
	if got := p.Left(noon.Add(time.Hour)); got != 3 {
		t.Fatalf("%d are left in the next window, want 3", got)
	}
}

func TestShort(t *testing.T) {
	var p Purse
	for _, tt := range []struct {
		now  time.Duration
		want time.Duration
	}{{time.Second, 200 * time.Millisecond}, {5 * time.Second, 200 * time.Millisecond}, {6 * time.Second, time.Hour - 6*time.Second}} {
		if again, _ := p.Short(time.Hour, tt.now, noon.Add(tt.now)); again != tt.want {
			t.Errorf("after %v: ask again in %v, want %v", tt.now, again, tt.want)
		}
	}
	p.Grant(7, noon.Add(time.Hour), 10)
	if again, _ := p.Short(time.Hour, time.Minute, noon); again != 200*time.Millisecond {
		t.Errorf("right after a grant: ask again in %v", again)
	}
}
