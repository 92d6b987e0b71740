// Package clock tells the queue the time: the wall clock's, and one that goes on
// evenly.
package clock

import "time"

// Clock keeps the scheduler's time apart from the wall clock's, which may be
// set: a jump of years must not expire all that is queued. The scheduler's
// time starts as the wall clock's and goes on by the monotonic clock; times
// that are stored or shown are the wall clock's.
type Clock struct {
	Wall  func() time.Time     // the time to store and show
	since func() time.Duration // since base, monotonic
	base  time.Time
}

// New makes one that starts now.
func New() Clock {
	base := time.Now()
	return Clock{Wall: time.Now, since: func() time.Duration { return time.Since(base) }, base: base.Round(0)}
}

// Sched is the scheduler's time.
func (c *Clock) Sched() time.Time { return c.base.Add(c.since()) }

// skew is how far the wall clock was set since the start.
func (c *Clock) skew() time.Duration { return c.Wall().Round(0).Sub(c.Sched()) }

// ToSched turns a time of the wall clock into one of the scheduler's.
func (c *Clock) ToSched(wall time.Time) time.Time { return wall.Round(0).Add(-c.skew()) }

// ToWall turns it back.
func (c *Clock) ToWall(sched time.Time) time.Time { return sched.Add(c.skew()) }

// waitTries is how many tries come when the next hop asked for them, also where
// the schedule's would be later: one that goes on asking is tried by both.
const waitTries = 3

// Pause is how long until the next try after so many before this one: the
// schedule's delay, or what the next hop asked for, where that is not 0.
func Pause(delay, asked time.Duration, attempts uint32) time.Duration {
	if asked > delay || asked > 0 && attempts < waitTries {
		return asked
	}
	return delay
}
