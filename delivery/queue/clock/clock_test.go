package clock

import (
	"testing"
	"time"
)

// The scheduler's time goes on when the wall clock is set, and what is stored
// and shown follows the wall clock.
func TestClockIsSet(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	wall, mono := start, time.Duration(0)
	c := Clock{Wall: func() time.Time { return wall }, since: func() time.Duration { return mono }, base: start}
	pass := func(d time.Duration) { wall, mono = wall.Add(d), mono+d }

	pass(time.Minute)
	next := c.Sched().Add(time.Hour)
	if got := c.ToWall(next); !got.Equal(wall.Add(time.Hour)) {
		t.Errorf("before: shown %s", got)
	}
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, time.Second} {
		wall = wall.Add(jump)
		pass(time.Minute)
		left := next.Sub(c.Sched())
		if got := c.ToWall(next); !got.Equal(wall.Add(left)) {
			t.Errorf("jump %s: shown %s, %s from now", jump, got, got.Sub(wall))
		}
		if got := c.ToSched(wall); !got.Equal(c.Sched()) {
			t.Errorf("jump %s: a message that arrives now arrives at %s, now is %s", jump, got, c.Sched())
		}
	}
	if got := c.Sched().Sub(start); got != 4*time.Minute {
		t.Errorf("the scheduler's time passed by %s", got)
	}
}
