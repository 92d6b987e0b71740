package cluster

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is CLOCK_BOOTTIME: it goes on while the machine is suspended, which
// leases have to notice.
func bootTime() time.Duration { return clockOf(unix.CLOCK_BOOTTIME) }

func clockOf(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err) // Linux has both clocks since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// jump is by how much two clocks may go apart between two looks.
const jump = 100 * time.Millisecond

// drift compares CLOCK_BOOTTIME with CLOCK_MONOTONIC, which stops in suspend.
type drift struct {
	boot func() time.Duration
	diff time.Duration
}

func newDrift(boot func() time.Duration) *drift {
	d := &drift{boot: boot}
	d.diff = d.look()
	return d
}

func (d *drift) look() time.Duration { return d.boot() - clockOf(unix.CLOCK_MONOTONIC) }

// jumped tells whether the clocks went apart since the last call.
func (d *drift) jumped() bool {
	was := d.diff
	d.diff = d.look()
	return d.diff-was > jump || was-d.diff > jump
}
