// Package sdnotify tells systemd how the process does, as sd_notify(3)
// describes: datagrams to the socket that NOTIFY_SOCKET names.
//
// Without that variable there is nobody to tell, and every method does
// nothing. A Notifier may be used from any goroutine, and starts none. Only
// cmd uses it. A datagram that cannot be sent is an error that the caller may
// log; nothing else depends on it.
package sdnotify

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Notifier speaks to systemd. The zero value speaks to nobody.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// New reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID by getenv, and
// compares the latter with pid.
func New(getenv func(string) string, pid int) Notifier {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return n
	}
	if p := getenv("WATCHDOG_PID"); p == "" || p == strconv.Itoa(pid) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

// WatchdogEvery is how often Watchdog is to be called: half of what systemd
// waits; 0 is never.
func (n Notifier) WatchdogEvery() time.Duration { return n.watchdog / 2 }

// Ready tells that the start, or a reload, is done.
func (n Notifier) Ready(status string) error {
	return n.send("READY=1", "STATUS="+oneLine(status))
}

// Reloading tells that a reload begins. Ready ends it.
func (n Notifier) Reloading() error {
	return n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// Stopping tells that the process is about to end.
func (n Notifier) Stopping(status string) error {
	return n.send("STOPPING=1", "STATUS="+oneLine(status))
}

// Status tells what systemctl status shows.
func (n Notifier) Status(status string) error { return n.send("STATUS=" + oneLine(status)) }

// Watchdog tells that the process is alive.
func (n Notifier) Watchdog() error { return n.send("WATCHDOG=1") }

// ExtendTimeout asks for so much more time, from now on, for the start or the
// stop that is under way.
func (n Notifier) ExtendTimeout(d time.Duration) error {
	return n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

func (n Notifier) send(lines ...string) error {
	if n.socket == "" {
		return nil
	}
	// A name that begins with @ is abstract; net knows that as well.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	return nil
}

// oneLine keeps a status from becoming another assignment.
func oneLine(s string) string { return strings.Map(noBreaks, s) }

func noBreaks(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// monotonic is the kernel's CLOCK_MONOTONIC, against which systemd holds the
// time of a reload.
func monotonic() time.Duration {
	const clockMonotonic = 1
	var ts syscall.Timespec
	// The kernel fills ts in before the call returns.
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return 0
	}
	return time.Duration(ts.Nano())
}
