package who

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"

	"github.com/clrelay/clrelay/internal/unixsock"
)

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
var ErrPeer = errors.New("who: the peer is neither root nor the user of the relay")

// SocketCredentials take connections of the unix socket and turn away the
// processes of other users.
type SocketCredentials struct{}

// ClientHandshake is never called: these are a server's credentials.
func (SocketCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("who: not a client's credentials")
}

// ServerHandshake asks the kernel who is at the other end.
func (SocketCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
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
		return PeerInfo{}, fmt.Errorf("who: %w", err)
	}
	return PeerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, UID: uid, PID: pid}, nil
}

// Info names the protocol.
func (SocketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone returns the same, for it has no state.
func (c SocketCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is for clients.
func (SocketCredentials) OverrideServerName(string) error { return nil }
