package admin_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/metrics"
)

// connectAs connects with the user ID of somebody else. It changes the ID of
// one thread alone, which ends with its goroutine.
func connectAs(uid uintptr, path string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			done <- result{nil, errno}
			return
		}
		conn, err := net.Dial("unix", path)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// Whatever the permissions of files allow, another user is turned away.
func TestOtherUsersAreTurnedAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	dir, err := os.MkdirTemp("", "clrelay-peer")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, admin.SocketName)
	l, err := admin.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	q := &fakeQueue{}
	srv := admin.New(admin.Options{Queue: q, Messages: q, Node: q, Metrics: metrics.New().Node, Log: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Shutdown(t.Context())
		if err := errors.Join(<-served, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		uid    uintptr
		served bool
	}{{65534, false}, {0, true}} {
		conn, err := connectAs(c.uid, path)
		if err != nil {
			t.Fatalf("uid %d cannot connect: %v", c.uid, err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// A client speaks first, and a server that takes it answers with its settings.
		_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // fails when turned away already
		n, err := conn.Read(make([]byte, 9))
		if (n > 0) != c.served {
			t.Errorf("uid %d reads %d octets (%v), want it served: %v", c.uid, n, err, c.served)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
