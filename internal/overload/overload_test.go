package overload

import (
	"testing"
	"time"
)

// play steps a core once a second with the signals and gives the levels.
func play(c *Core, from, seconds int, s Signals) []int {
	var out []int
	for i := range seconds {
		out = append(out, c.Step(time.Duration(from+i)*time.Second, s))
	}
	return out
}

func last(l []int) int { return l[len(l)-1] }

func TestSlowStore(t *testing.T) {
	c := &Core{Target: time.Second}
	if got := last(play(c, 0, 60, Signals{Accept: 900 * time.Millisecond})); got != 0 {
		t.Fatalf("just below the target: level %d", got)
	}
	got := play(c, 60, 12, Signals{Accept: 3 * time.Second})
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] || got[i] > got[i-1]+1 {
			t.Fatalf("the level goes %v: want one class after the other", got)
		}
	}
	if got[0] != 0 || last(got) != 3 {
		t.Fatalf("the level goes %v: want to 3, and not by one slow second", got)
	}
	// Between the marks nothing moves: no swinging.
	if got := play(c, 72, 60, Signals{Accept: 850 * time.Millisecond}); last(got) != 3 {
		t.Fatalf("near the target the level goes %v, want it to stay", got)
	}
	got = play(c, 132, 30, Signals{Accept: 100 * time.Millisecond})
	if got[2] != 3 || last(got) != 0 {
		t.Fatalf("when it is fast again the level goes %v, want slowly to 0", got)
	}
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1]-1 {
			t.Fatalf("the level goes %v: want one class after the other", got)
		}
	}
}

func TestNothingWhenIdle(t *testing.T) {
	c := &Core{Target: time.Second}
	if got := last(play(c, 0, 20, Signals{Accept: time.Minute})); got != 3 {
		t.Fatalf("level %d, want 3", got)
	}
	if got := c.Step(time.Hour, Signals{}); got != 0 {
		t.Fatalf("after an hour without anything: level %d", got)
	}
	if got := last(play(c, 3700, 100, Signals{Max: 5000})); got != 0 {
		t.Fatalf("idle: level %d", got)
	}
}

func TestOffSendsNothingAway(t *testing.T) {
	if got := last(play(&Core{}, 0, 20, Signals{Accept: time.Hour, Sessions: 10, Max: 10, Free: 1, Reserve: 10})); got != 0 {
		t.Fatalf("switched off: level %d", got)
	}
}

func TestSessionsAndDisk(t *testing.T) {
	for _, tt := range []struct {
		s    Signals
		want int
	}{
		{Signals{Sessions: 89, Max: 100}, 0},
		{Signals{Sessions: 90, Max: 100}, 1},
		{Signals{Sessions: 96, Max: 100}, 2},
		{Signals{Sessions: 99, Max: 100}, 3},
		{Signals{Free: 21, Reserve: 10}, 0},
		{Signals{Free: 19, Reserve: 10}, 1},
		{Signals{Free: 14, Reserve: 10}, 2},
		{Signals{Free: 10, Reserve: 10}, 3},
	} {
		if got := (&Core{Target: time.Second}).Step(0, tt.s); got != tt.want {
			t.Errorf("%+v: level %d, want %d", tt.s, got, tt.want)
		}
	}
	c := &Core{Target: time.Second}
	for i, tt := range []struct{ sessions, want int }{{91, 1}, {87, 1}, {84, 0}, {87, 0}, {99, 3}, {94, 3}, {92, 2}} {
		if got := c.Step(time.Duration(i)*time.Second, Signals{Sessions: tt.sessions, Max: 100}); got != tt.want {
			t.Errorf("step %d, %d sessions: level %d, want %d", i, tt.sessions, got, tt.want)
		}
	}
}

func TestGate(t *testing.T) {
	now := time.Duration(0)
	g := NewGate(func() time.Duration { return now }, func(s *Signals) { s.Max = 100 })
	g.Configure(time.Second)
	for range 5 {
		now += time.Second
		g.Stored(5 * time.Second)
		g.Sheds(Bulk)
	}
	if !g.Sheds(Bulk) || g.Sheds(Transactional) {
		t.Errorf("level %d after five slow seconds: want bulk mail sent away and transactional not", g.Level())
	}
	now += time.Minute
	if g.Sheds(Bulk) {
		t.Error("bulk mail is sent away from an idle relay")
	}
	for _, c := range []Class{Bulk, Normal, Transactional} {
		if ParseClass(c.String()) != c {
			t.Errorf("%v is read as %v", c, ParseClass(c.String()))
		}
	}
}
