package sdnotify_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/sdnotify"
)

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// listen plays systemd.
func listen(t *testing.T, name string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestMessages(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@clrelay-test-" + strconv.Itoa(os.Getpid())} {
		heard := listen(t, name)
		n := sdnotify.New(env(map[string]string{"NOTIFY_SOCKET": name}), 1)
		for _, c := range []struct {
			send func() error
			want string
		}{
			{func() error { return n.Ready("taking mail\nMAINPID=1") }, "READY=1\nSTATUS=taking mail MAINPID=1"},
			{func() error { return n.Stopping("draining") }, "STOPPING=1\nSTATUS=draining"},
			{func() error { return n.Status("12 queued") }, "STATUS=12 queued"},
			{n.Watchdog, "WATCHDOG=1"},
			{func() error { return n.ExtendTimeout(1500 * time.Millisecond) }, "EXTEND_TIMEOUT_USEC=1500000"},
		} {
			if err := c.send(); err != nil {
				t.Fatal(err)
			}
			if got := heard(); got != c.want {
				t.Errorf("systemd hears %q, want %q", got, c.want)
			}
		}
	}
}

// The time of a reload is CLOCK_MONOTONIC, which on Linux began at boot.
func TestReloading(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	heard := listen(t, name)
	n := sdnotify.New(env(map[string]string{"NOTIFY_SOCKET": name}), 1)
	var last int64
	for range 2 {
		if err := n.Reloading(); err != nil {
			t.Fatal(err)
		}
		usec, ok := strings.CutPrefix(heard(), "RELOADING=1\nMONOTONIC_USEC=")
		if !ok {
			t.Fatal("no RELOADING with a time")
		}
		now, err := strconv.ParseInt(usec, 10, 64)
		if err != nil || now <= last {
			t.Errorf("the time is %q after %d (%v)", usec, last, err)
		}
		last = now
	}
}

func TestNobodyToTell(t *testing.T) {
	n := sdnotify.New(env(nil), 1)
	if err := n.Ready("x"); err != nil || n.WatchdogEvery() != 0 {
		t.Errorf("without systemd: %v, watchdog every %v", err, n.WatchdogEvery())
	}
	n = sdnotify.New(env(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "gone")}), 1)
	if err := n.Ready("x"); err == nil {
		t.Error("a socket that is not there gives no error")
	}
}

func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{{"30000000", "", 15 * time.Second}, {"30000000", "42", 15 * time.Second}, {"30000000", "43", 0}, {"-1", "", 0}, {"x", "42", 0}} {
		n := sdnotify.New(env(map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}), 42)
		if got := n.WatchdogEvery(); got != c.want {
			t.Errorf("USEC=%s PID=%s: every %v, want %v", c.usec, c.pid, got, c.want)
		}
	}
}
