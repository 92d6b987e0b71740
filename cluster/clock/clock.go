// Package clock is the clock that leases are counted by, and a look at whether it
// jumped.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Boot is CLOCK_BOOTTIME: it goes on while the machine is suspended, which
// leases have to notice.
func Boot() time.Duration { return clockOf(unix.CLOCK_BOOTTIME) }

func clockOf(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err) // Linux has both clocks since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// jump is by how much two clocks may go apart between two looks.
const jump = 100 * time.Millisecond

// Drift compares CLOCK_BOOTTIME with CLOCK_MONOTONIC, which stops in suspend.
type Drift struct {
	boot func() time.Duration
	diff time.Duration
}

// NewDrift looks for the first time.
func NewDrift(boot func() time.Duration) *Drift {
	d := &Drift{boot: boot}
	d.diff = d.look()
	return d
}

func (d *Drift) look() time.Duration { return d.boot() - clockOf(unix.CLOCK_MONOTONIC) }

// Jumped tells whether the clocks went apart since the last call.
func (d *Drift) Jumped() bool {
	was := d.diff
	d.diff = d.look()
	return d.diff-was > jump || was-d.diff > jump
}
