package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// SocketName is the name of the socket in data_dir.
const SocketName = "admin.sock"

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
		return nil, fmt.Errorf("admin: listen: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("admin: listen: %s is in the way: it is no socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin: listen: %w", err)
		}
	}
	var l *net.UnixListener
	err = withShortName(path, func(name string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("admin: listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would use the short name
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("admin: listen: %w", err), l.Close())
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

// PeerInfo is what the kernel says of the process at the other end.
type PeerInfo struct {
	credentials.CommonAuthInfo
	UID, PID int64
}

// AuthType names the way the peer was identified.
func (PeerInfo) AuthType() string { return "unix" }

// String is for the log.
func (p PeerInfo) String() string { return fmt.Sprintf("uid=%d pid=%d", p.UID, p.PID) }

// ErrPeer is the end of a connection whose peer may not use the socket.
var ErrPeer = errors.New("admin: the peer is neither root nor the user of the relay")

// socketCredentials take connections of the unix socket and turn away the
// processes of other users.
type socketCredentials struct{}

// ClientHandshake is never called: these are a server's credentials.
func (socketCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("admin: not a client's credentials")
}

// ServerHandshake asks the kernel who is at the other end.
func (socketCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	if !mayUse(info.UID, int64(os.Geteuid())) {
		return nil, nil, fmt.Errorf("%w: %v", ErrPeer, info)
	}
	return conn, info, nil
}

func mayUse(uid, own int64) bool { return uid == 0 || uid == own }

func peerOf(conn net.Conn) (PeerInfo, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return PeerInfo{}, fmt.Errorf("admin: a connection of type %T has no user", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return PeerInfo{}, fmt.Errorf("admin: peer credentials: %w", err)
	}
	var (
		cred *syscall.Ucred
		got  error
	)
	if err := raw.Control(func(fd uintptr) {
		cred, got = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return PeerInfo{}, fmt.Errorf("admin: peer credentials: %w", err)
	}
	if got != nil {
		return PeerInfo{}, fmt.Errorf("admin: peer credentials: %w", got)
	}
	return PeerInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		UID:            int64(cred.Uid), PID: int64(cred.Pid),
	}, nil
}

// Info names the protocol.
func (socketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone returns the same, for it has no state.
func (c socketCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is for clients.
func (socketCredentials) OverrideServerName(string) error { return nil }
