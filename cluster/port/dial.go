package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

const keepAlive = 5 * time.Second

// Dialer connects to other nodes' ports.
type Dialer struct {
	// TLS returns the configuration for a connection to a node that negotiates
	// protocol, and that fails when another node answers.
	TLS func(node, protocol string) *tls.Config
}

// Dial connects to a node and returns once the handshake is done and the
// protocol agreed.
func (d Dialer) Dial(ctx context.Context, node, address, protocol string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	raw, err := (&net.Dialer{KeepAlive: keepAlive}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("port: %w", err)
	}
	conn := tls.Client(raw, d.TLS(node, protocol))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is told
		return nil, fmt.Errorf("port: handshake with %s at %s: %w", node, address, err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
		_ = conn.Close() // nothing was said on it
		return nil, fmt.Errorf("port: %s at %s speaks %q, not %q", node, address, got, protocol)
	}
	return conn, nil
}

// State returns the TLS state of a connection that a Port's listener accepted.
func State(c net.Conn) (tls.ConnectionState, bool) {
	conn, ok := c.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return conn.ConnectionState(), true
}

// Credentials makes a gRPC server take connections whose handshake the port
// has done, and see their certificates. They are of no use to a client.
func Credentials() credentials.TransportCredentials { return finished{} }

type finished struct{}

var errServerOnly = errors.New("port: these credentials are for servers")

// ClientHandshake always fails.
func (finished) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errServerOnly
}

// ServerHandshake only looks at the handshake that was done.
func (finished) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	state, ok := State(c)
	if !ok || !state.HandshakeComplete {
		return nil, nil, errors.New("port: not a connection from the cluster port")
	}
	info := credentials.TLSInfo{State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	return c, info, nil
}

// Info says that this is TLS.
func (finished) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns the same, having no state.
func (finished) Clone() credentials.TransportCredentials { return finished{} }

// OverrideServerName does nothing on a server.
func (finished) OverrideServerName(string) error { return nil }
