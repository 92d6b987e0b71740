// Package settings holds what a scheduler is told: limits and delays.
package settings

import "time"

// Config holds the scheduler's limits. The zero value of a field means its
// default.
type Config struct {
	Running   int             // transactions at once, all destinations together; 1000
	LaneStart int             // of them to a destination nothing is known of; 4
	LaneMax   int             // of them to one destination; 100
	Batch     int             // recipients a transaction; 100
	Chores    int             // jobs that need no connection at once: bulk deferrals, expiries, warnings; 8
	ChoreSize int             // recipients a bulk deferral; 256
	Retry     []time.Duration // delays between tries, the last one repeats; 1m 5m 15m 30m 1h 2h 4h
	Expire    time.Duration   // age at which a recipient is given up; 5 days
	Warn      time.Duration   // age from which a failed try leads to a warning, once a message; 0: never
	ProbeMin  time.Duration   // from a failed connection to the next probe of a lane that is down; doubled up to ProbeMax; 5s
	ProbeMax  time.Duration   // 1m. Both are at most the first delay of Retry
	LaneIdle  time.Duration   // how long an empty lane is remembered; 15m
	LanesIdle int             // how many of them; 10,000
}

// defaultRetry gives the delays of Config.Retry's default.
func defaultRetry() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}
}

// WithDefaults gives the limits that hold.
func (c Config) WithDefaults() Config {
	or := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	or(&c.Running, 1000)
	or(&c.LaneStart, 4)
	or(&c.LaneMax, 100)
	or(&c.Batch, 100)
	or(&c.Chores, 8)
	or(&c.ChoreSize, 256)
	or(&c.LanesIdle, 10_000)
	orTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	if len(c.Retry) == 0 {
		c.Retry = defaultRetry()
	}
	orTime(&c.Expire, 5*24*time.Hour)
	orTime(&c.ProbeMin, 5*time.Second)
	orTime(&c.ProbeMax, time.Minute)
	orTime(&c.LaneIdle, 15*time.Minute)
	c.LaneStart = min(c.LaneStart, c.LaneMax)
	c.ProbeMax = min(c.ProbeMax, c.Retry[0])
	c.ProbeMin = min(c.ProbeMin, c.ProbeMax)
	return c
}

// jitterPart is the largest part of a delay that is added to it at random.
const jitterPart = 10

// Delay is how long to wait after a try that had others before it; jitter is
// from 0 to 1.
func (c *Config) Delay(before int, jitter float64) time.Duration {
	d := c.Retry[min(before, len(c.Retry)-1)]
	return d + time.Duration(jitter*float64(d/jitterPart))
}

// ProbeGap is how long to wait after so many failures in a row.
func (c *Config) ProbeGap(fails uint32) time.Duration {
	gap := c.ProbeMin << min(fails-1, 16)
	if gap <= 0 || gap > c.ProbeMax {
		gap = c.ProbeMax
	}
	return gap
}
