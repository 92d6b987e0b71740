package queue

import "time"

// clock keeps the scheduler's time apart from the wall clock's, which may be
// set: a jump of years must not expire all that is queued. The scheduler's
// time starts as the wall clock's and goes on by the monotonic clock; times
// that are stored or shown are the wall clock's.
type clock struct {
	wall  func() time.Time     // the time to store and show
	since func() time.Duration // since base, monotonic
	base  time.Time
}

func newClock() clock {
	base := time.Now()
	return clock{wall: time.Now, since: func() time.Duration { return time.Since(base) }, base: base.Round(0)}
}

// sched is the scheduler's time.
func (c *clock) sched() time.Time { return c.base.Add(c.since()) }

// skew is how far the wall clock was set since the start.
func (c *clock) skew() time.Duration { return c.wall().Round(0).Sub(c.sched()) }

func (c *clock) toSched(wall time.Time) time.Time { return wall.Round(0).Add(-c.skew()) }

func (c *clock) toWall(sched time.Time) time.Time { return sched.Add(c.skew()) }
