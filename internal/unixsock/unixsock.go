// Package unixsock listens on and dials unix sockets whatever the length of
// their names, and asks the kernel who is at the other end.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is what the kernel takes as the name of a socket (sun_path,
// with its final zero).
const maxSocketPath = 107

// Listen makes the socket at path, for its owner alone. A socket that a
// killed process left there is replaced: the caller holds the lock on
// data_dir, so nobody listens on it.
func Listen(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("unixsock: listen: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("unixsock: listen: %s is in the way: it is no socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("unixsock: listen: %w", err)
		}
	}
	var l *net.UnixListener
	err = withShortName(path, func(name string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unixsock: listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would use the short name
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("unixsock: listen: %w", err), l.Close())
	}
	return &socket{l, path}, nil
}

// socket removes its file when it is closed.
type socket struct {
	net.Listener
	path string
}

// Close ends the listener and removes the socket's file.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if rm := os.Remove(s.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	err := withShortName(path, func(name string) (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", name)
		return err
	})
	return conn, err
}

// withShortName calls f with a name of the socket that the kernel takes: path
// itself, or where that is too long, one by way of its opened folder.
func withShortName(path string, f func(name string) error) error {
	if len(path) <= maxSocketPath {
		return f(path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// PeerOf tells the user and process at the other end of a connection.
func PeerOf(conn net.Conn) (uid, pid int64, err error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, 0, fmt.Errorf("unixsock: a connection of type %T has no user", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("unixsock: peer credentials: %w", err)
	}
	var (
		cred *syscall.Ucred
		got  error
	)
	if err := raw.Control(func(fd uintptr) {
		cred, got = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, 0, fmt.Errorf("unixsock: peer credentials: %w", err)
	}
	if got != nil {
		return 0, 0, fmt.Errorf("unixsock: peer credentials: %w", got)
	}
	return int64(cred.Uid), int64(cred.Pid), nil
}
