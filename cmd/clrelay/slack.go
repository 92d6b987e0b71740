package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how late the kernel may wake a thread of the relay for a
// timer. Nothing of the relay's is timed to less than some milliseconds, but a
// thread of Go's runtime sleeps for 20 us at a time while anything runs or
// waits for a disk, and with the kernel's default of 50 us that alone was half
// of all context switches and up to a third of the CPU time a message
// (docs/performance.md).
const timerSlack = time.Millisecond

// lenient sees to it that this process has timerSlack, which is a property of
// each thread that new ones inherit: so it sets its own and executes the
// program anew, in the same process. Where the kernel does not let it, or
// somebody (TimerSlackNSec in systemd) has set as much before, it does
// nothing. It must be called before anything is opened or started.
func lenient() error {
	runtime.LockOSThread() // the one that executes: its slack is the new program's
	defer runtime.UnlockOSThread()
	before, err := slack()
	if err != nil || before >= timerSlack {
		return nil
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return nil
	}
	if now, err := slack(); err != nil || now < timerSlack {
		return nil // and would not be after another try either
	}
	path, err := os.Executable()
	if err == nil {
		err = syscall.Exec(path, os.Args, os.Environ())
	}
	return fmt.Errorf("executing this program again, for a timer slack of %v: %w", timerSlack, err)
}

// slack is that of the calling thread.
func slack() (time.Duration, error) {
	n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	return time.Duration(n), err
}
