package tally

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Against a count of everything: no true value is outside of what a row says,
// and whoever has more than a 512th of all is there.
func TestBounds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tally, truth, total := New(), map[string]int64{}, int64(0)
	zipf := rand.NewZipf(rnd, 1.1, 1, 20000)
	for i := range 200_000 {
		name := fmt.Sprint(zipf.Uint64())
		n := 1 + rnd.Int64N(3)
		truth[name] += n
		total += n
		tally.Add(start.Add(time.Duration(i)*10*time.Millisecond), name, n)
	}
	now := start.Add(2000 * time.Second)
	rows := tally.Top(now, time.Hour, names)
	seen := map[string]bool{}
	for _, r := range rows {
		seen[r.Name] = true
		if got := truth[r.Name]; got > r.Count || got < r.Count-r.Error {
			t.Errorf("%s has %d, the row says %d less at most %d", r.Name, got, r.Count, r.Error)
		}
	}
	for name, n := range truth {
		if n > total/names*4 && !seen[name] { // four sketches hold the 2,000 s
			t.Errorf("%s with %d of %d is missing", name, n, total)
		}
	}
	if rows[0].Name != "0" || rows[0].Error > rows[0].Count/20 {
		t.Errorf("first: %+v", rows[0])
	}
}

func TestWindows(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tally := New()
	tally.Add(start, "old", 5)
	tally.Add(start.Add(50*time.Minute), "new", 2)
	tally.Add(start.Add(30*time.Minute), "set back", 1) // counts as now
	for _, c := range []struct {
		after, span time.Duration
		want        string
	}{
		{55 * time.Minute, time.Hour, "[{old 5 0} {new 2 0} {set back 1 0}]"},
		{61 * time.Minute, time.Hour, "[{new 2 0} {set back 1 0}]"},
		{61 * time.Minute, 24 * time.Hour, "[{old 5 0} {new 2 0} {set back 1 0}]"},
		{30 * time.Hour, time.Hour, "[]"},
		{30 * time.Hour, 24 * time.Hour, "[]"},
	} {
		if got := fmt.Sprint(tally.Top(start.Add(c.after), c.span, 10)); got != c.want {
			t.Errorf("after %v: %s, want %s", c.after, got, c.want)
		}
	}
}

// A list that is full says what a name that it does not have may have had.
func TestMergeOfFullLists(t *testing.T) {
	got := Merge(10, []Row{{"a", 10, 2}, {"b", 7, 0}, {"", 7, 0}}, []Row{{"a", 4, 0}, {"c", 3, 0}})
	want := "[{a 14 2} {c 10 7} {b 7 0}]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func BenchmarkAdd(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var name [4096]string
	for i := range name {
		name[i] = fmt.Sprintf("user%d@example.org", rnd.IntN(100_000))
	}
	tally, now := New(), time.Now()
	for i := 0; b.Loop(); i++ {
		tally.Add(now, name[i%len(name)], 1)
	}
}
