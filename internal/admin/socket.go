package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/clrelay/clrelay/internal/unixsock"
)

// SocketName is the name of the socket in data_dir.
const SocketName = "admin.sock"

// Listen makes the socket at path, for its owner alone. A socket that a
// killed process left there is replaced: the caller holds the lock on
// data_dir, so nobody listens on it.
func Listen(path string) (net.Listener, error) { return unixsock.Listen(path) }

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) { return unixsock.Dial(ctx, path) }

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
	uid, pid, err := unixsock.PeerOf(conn)
	if err != nil {
		return PeerInfo{}, fmt.Errorf("admin: %w", err)
	}
	return PeerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, UID: uid, PID: pid}, nil
}

// Info names the protocol.
func (socketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone returns the same, for it has no state.
func (c socketCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is for clients.
func (socketCredentials) OverrideServerName(string) error { return nil }
