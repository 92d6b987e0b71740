package warmup_test

import (
	"slices"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/limit"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	got, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDays: the limit of a day holds from midnight to midnight UTC, wherever
// the machine is.
func TestDays(t *testing.T) {
	r := warmup.Ramp{Source: "out1", Since: at(t, "2026-11-01T00:00:00Z"), Days: []int64{50, 100, 200}, PerSite: true}
	for _, c := range []struct {
		now  string
		want int64 // 0: none; -1: suspended
	}{
		{"2025-01-01T00:00:00Z", -1},
		{"2026-10-31T23:59:59.999999999Z", -1},
		{"2026-11-01T00:00:00Z", 50},
		{"2026-11-01T00:30:00+02:00", -1}, // it is still October in UTC
		{"2026-10-31T20:00:00-05:00", 50}, // and here no more
		{"2026-11-01T23:59:59.999999999Z", 50},
		{"2026-11-02T00:00:00Z", 100},
		{"2026-11-03T12:00:00Z", 200},
		{"2026-11-03T23:59:59.999999999Z", 200},
		{"2026-11-04T00:00:00Z", 0},
		{"2036-11-04T00:00:00Z", 0},
	} {
		now := at(t, c.now)
		d, ok := r.Definition(now)
		got := d.Budget.N
		if d.Suspended {
			got = -1
		}
		if ok != (c.want != 0) || got != c.want {
			t.Errorf("%s: %d (%t), want %d: %s", c.now, got, ok, c.want, d.Reason)
		}
		if !ok {
			continue
		}
		if d.Until.Sub(now) <= 0 || got > 0 && d.Until.Sub(now) > 24*time.Hour {
			t.Errorf("%s: it ends at %v", c.now, d.Until)
		}
		if d.Name != "warm-up:out1" || d.Author != warmup.Author || d.Reason == "" || !slices.Equal(d.Match[limit.Source], []string{"out1"}) {
			t.Errorf("%s: %+v", c.now, d)
		}
		if got > 0 && (d.Budget.Per != 24*time.Hour || !slices.Equal(d.Per, []limit.Field{limit.Source, limit.Site})) {
			t.Errorf("%s: %+v", c.now, d)
		}
	}
}

// TestNext: from one making to the next the definitions do not change.
func TestNext(t *testing.T) {
	ramps := []warmup.Ramp{
		{Source: "a", Since: at(t, "2026-11-01T00:00:00Z"), Days: warmup.Normal()},
		{Source: "b", Since: at(t, "2026-11-05T00:00:00Z"), Days: warmup.Gentle(), PerSite: true},
	}
	shape := func(now time.Time) (out []int64) {
		for _, d := range warmup.Definitions(ramps, now) {
			out = append(out, d.Budget.N)
		}
		return out
	}
	changes := 0
	for now := at(t, "2026-10-30T03:04:05Z"); now.Before(at(t, "2026-12-20T00:00:00Z")); {
		next := warmup.Next(now)
		if !slices.Equal(shape(now), shape(next.Add(-1))) {
			t.Fatalf("%v: %v becomes %v before %v", now, shape(now), shape(next.Add(-1)), next)
		}
		if !slices.Equal(shape(now), shape(next)) {
			changes++
		}
		now = next
	}
	if changes != 33 { // each midnight from November 1 to December 3
		t.Errorf("%d changes", changes)
	}
	if len(shape(at(t, "2026-12-20T00:00:00Z"))) != 0 {
		t.Error("limits are left when all ramps have ended")
	}
}

func TestPresetsRise(t *testing.T) {
	for name, p := range map[string][]int64{"gentle": warmup.Gentle(), "normal": warmup.Normal()} {
		for i := range p[1:] {
			if p[i+1] <= p[i] || p[i+1] > 2*p[i] {
				t.Errorf("%s: day %d has %d after %d", name, i+2, p[i+1], p[i])
			}
		}
	}
	if len(warmup.Gentle()) != 28 || len(warmup.Normal()) != 14 {
		t.Error("the documentation says 28 and 14 days")
	}
}

func TestOneMessage(t *testing.T) {
	r := warmup.Ramp{Source: "new1", Since: at(t, "2026-11-01T00:00:00Z"), Days: []int64{1}, PerSite: true}
	if d, ok := r.Definition(r.Since); !ok || d.Reason != "day 1 of 1 of the warm-up of new1: 1 message for each site" {
		t.Errorf("%q", d.Reason)
	}
}
