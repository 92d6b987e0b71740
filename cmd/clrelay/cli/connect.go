package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/config"
)

// Where a relay is looked for that nobody named.
const (
	defaultConfig  = "/etc/clrelay/node.yaml"
	defaultDataDir = "/var/lib/clrelay"
)

// askTimeout bounds a call that only looks at something small.
const askTimeout = 30 * time.Second

// flags adds the flags that every command takes, wherever they stand.
func (a *App) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&a.format, "output", "o", formatTable, "print as this `format`: table, json, jsonl or yaml")
	f.StringVar(&a.socket, "socket", "", "`path` of the relay's admin socket (CLRELAY_SOCKET; default: admin.sock in its data_dir)")
	f.StringVar(&a.config, "config", "", "`path` of the node.yaml that names the data_dir (default "+defaultConfig+")")
}

// socketPath finds the socket of the relay that is meant.
func (a *App) socketPath() (string, error) {
	if a.socket != "" {
		return a.socket, nil
	}
	if s := a.Getenv("CLRELAY_SOCKET"); s != "" && a.config == "" {
		return s, nil
	}
	path := a.config
	if path == "" {
		if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(defaultDataDir, admin.SocketName), nil
		}
		path = defaultConfig
	}
	node, err := config.LoadNode(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", &ExitError{ExitDenied, err}
	case err != nil:
		return "", &ExitError{ExitConfig, err}
	}
	return filepath.Join(string(node.DataDir), admin.SocketName), nil
}

// link is a connection to a relay.
type link struct {
	*grpc.ClientConn
	path string

	mu   sync.Mutex
	dial error // of the last try
}

// connect makes a connection; it is opened by the first call.
func (a *App) connect() (*link, error) {
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	l := &link{path: path}
	l.ClientConn, err = grpc.NewClient("passthrough:///relay",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket: the kernel vouches for both ends
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := admin.Dial(ctx, path)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.dial = err
			return conn, err
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return l, nil
}

// fail explains why a call did not work.
func (l *link) fail(err error) error {
	l.mu.Lock()
	dial := l.dial
	l.mu.Unlock()
	if dial == nil || status.Code(err) != codes.Unavailable {
		return fromCall(err)
	}
	if errors.Is(dial, fs.ErrPermission) {
		return exitf(ExitDenied, "%s: permission denied; be root or the user that the relay runs as", l.path)
	}
	return exitf(ExitUnreachable, "cannot reach the relay at %s: %w\nIs it running? Another one is named with --socket or --config.", l.path, rootCause(dial))
}

// rootCause leaves out what net says around an error.
func rootCause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// with connects, calls f and closes the connection.
func (a *App) with(f func(l *link) error) error {
	l, err := a.connect()
	if err != nil {
		return err
	}
	err = f(l)
	if closed := l.Close(); err == nil {
		err = closed
	}
	return err
}
