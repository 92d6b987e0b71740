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

// Of a budget that is made smaller nothing is spent that was granted before, and
// never more than it is.
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
	p.Grant(7, ends, 10)
	p.Spend(3)
	p.Within(50)
	left(0, "made smaller")
	p.Grant(7, ends, 10)
	left(0, "told again")
	p.Grant(7, ends, 12)
	left(2, "granted of the smaller one")
	p.Within(50)
	left(2, "the same")
	p.Spend(2)
	p.Spend(-2) // given back
	left(2, "given back")
	p.Within(100)
	left(2, "larger again")
	p.Within(4)
	p.Grant(7, ends, 40) // was under way
	left(1, "granted too much")
	p.Within(1)
	left(-2, "smaller than what is spent")
	p.Grant(8, ends, 1)
	left(1, "the next window")
}

func TestPurses(t *testing.T) {
	var ps Purses
	p := Purse{}
	p.Within(100)
	p.Grant(7, noon.Add(time.Hour), 10)
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
	p.Grant(8, late.Add(time.Hour), 5)
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
	p.Grant(7, noon.Add(time.Hour), 10)
	if again, _ := p.Short(time.Hour, time.Minute, noon); again != 200*time.Millisecond {
		t.Errorf("right after a grant: ask again in %v", again)
	}
}
