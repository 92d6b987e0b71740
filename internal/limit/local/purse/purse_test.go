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
	p.Within(100)
	p.Grant(7, noon.Add(time.Hour), 10, 10)
	p.Spend(4)
	p.Grant(7, noon.Add(time.Hour), 10, 10) // told again
	p.Grant(6, noon, 100, 100)              // late
	if got := p.Left(noon); got != 6 {
		t.Fatalf("%d are left, want 6", got)
	}
	p.Grant(7, noon.Add(time.Hour), 15, 15)
	if got := p.Left(noon); got != 11 {
		t.Fatalf("%d are left after more was granted, want 11", got)
	}
	if got := p.Left(noon.Add(time.Hour)); got != 0 {
		t.Fatalf("%d are left after the window", got)
	}
	p.Grant(8, noon.Add(2*time.Hour), 3, 3)
	if got := p.Left(noon.Add(time.Hour)); got != 3 {
		t.Fatalf("%d are left in the next window, want 3", got)
	}
}

// Of a budget of which more was given away than it is now nothing is spent, and all
// that was given once it is large enough again.
func TestWithin(t *testing.T) {
	var p Purse
	left := func(want int64, when string) {
		t.Helper()
		if got := p.Left(noon); got != want {
			t.Errorf("%s: %d are left, want %d", when, got, want)
		}
	}
	ends := noon.Add(time.Hour)
	p.Within(100)
	p.Grant(7, ends, 10, 60)
	p.Spend(3)
	p.Within(60)
	left(7, "as much as was given to all")
	p.Within(59)
	left(0, "less")
	p.Grant(7, ends, 10, 55) // late
	left(0, "told again")
	p.Within(80)
	left(7, "larger again")
	p.Grant(7, ends, 10, 81) // was under way
	left(0, "given too much to another node")
	p.Within(2)
	left(-1, "smaller than what is spent")
	p.Spend(-2) // given back
	left(0, "given back")
	p.Within(100)
	left(9, "and large enough for all")
	p.Grant(8, ends.Add(time.Hour), 1, 1)
	left(1, "the next window")
}

// What may be had is told before it is asked for.
func TestGets(t *testing.T) {
	var p Purse
	p.Within(10)
	if !p.Gets(noon) || p.Out(noon) {
		t.Error("nobody has asked yet")
	}
	p.Grant(7, noon.Add(time.Hour), 2, 9)
	if !p.Gets(noon) || p.Out(noon) {
		t.Error("one is left")
	}
	p.Grant(7, noon.Add(time.Hour), 2, 10)
	if p.Gets(noon) || !p.Out(noon) {
		t.Error("all was given")
	}
	if late := noon.Add(time.Hour); !p.Gets(late) || p.Out(late) {
		t.Error("another hour")
	}
	p.Within(11)
	p.Short(time.Hour, time.Second, noon)
	if p.Gets(noon) {
		t.Error("somebody waits")
	}
}

func TestPurses(t *testing.T) {
	var ps Purses
	p := Purse{}
	p.Within(100)
	p.Grant(7, noon.Add(time.Hour), 10, 10)
	p.Spend(3)
	ps.Put("a", time.Hour, &p, noon, 1)
	ps.Put("b", time.Hour, &p, noon, 1) // no room
	for key, want := range map[string]int64{"a": 7, "b": 0, "c": 0} {
		if got := ps.Get(key, time.Hour).Left(noon); got != want {
			t.Errorf("%s: %d are left, want %d", key, got, want)
		}
	}
	if got := ps.Get("a", 24*time.Hour).Left(noon); got != 0 {
		t.Errorf("a day's has %d left", got)
	}
	late := noon.Add(time.Hour)
	ps.Put("c", time.Hour, &p, late, 1) // over
	p.Grant(8, late.Add(time.Hour), 5, 5)
	ps.Put("b", time.Hour, &p, late, 1) // in the place of one that is over
	if got := ps.Get("b", time.Hour).Left(late); got != 5 {
		t.Errorf("in the next hour %d are left, want 5", got)
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
	p.Within(20) // another budget is not known to be used up
	if again, _ := p.Short(time.Hour, 7*time.Second, noon); again != 200*time.Millisecond {
		t.Errorf("of another budget: ask again in %v", again)
	}
	p.Short(time.Hour, time.Minute, noon)
	p.Grant(7, noon.Add(time.Hour), 10, 10)
	if again, _ := p.Short(time.Hour, time.Minute, noon); again != 200*time.Millisecond {
		t.Errorf("right after a grant: ask again in %v", again)
	}
}
