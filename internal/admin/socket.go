package admin

import (
	"context"
	"net"

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
