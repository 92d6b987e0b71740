package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// Where a relay is looked for that nobody named.
const (
	DefaultConfig  = "/etc/clrelay/node.yaml"
	defaultDataDir = "/var/lib/clrelay"
	defaultPort    = "7525" // of nodes, between themselves and for operators
)

const (
	// askTimeout bounds a call that only looks at something small.
	askTimeout = 30 * time.Second
	// dialTimeout bounds the try of one address.
	dialTimeout = 3 * time.Second
)

// where holds the flags that say where the relay is.
type where struct{ socket, config, addr, tlsDir string }

// flags adds the flags that every command takes, wherever they stand.
func (a *App) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&a.cmdline.Format, "output", "o", cmdline.FormatTable, "print as this `format`: table, json, jsonl or yaml")
	f.StringVar(&a.where.socket, "socket", "", "`path` of the relay's admin socket (CLRELAY_SOCKET; default: admin.sock in its data_dir)")
	f.StringVar(&a.where.config, "config", "", "`path` of the node.yaml that names the data_dir (default "+DefaultConfig+")")
	f.StringVar(&a.where.addr, "addr", "", "cluster ports of nodes, `host:port[,host:port...]`: the first that can be reached is asked (CLRELAY_ADDR)")
	f.StringVar(&a.where.tlsDir, "tls-dir", "", "`folder` of ca.crt, admin.crt and admin.key, for --addr (CLRELAY_TLS_DIR)")
}

// connect makes a connection; it is opened by the first call.
func (a *App) connect() (*link, error) {
	addr := a.where.addr
	switch {
	case addr != "" && (a.where.socket != "" || a.where.config != ""):
		return nil, cmdline.Usagef("clrelay", "--addr goes neither with --socket nor with --config")
	case addr == "" && a.where.socket == "" && a.where.config == "":
		addr = a.Getenv("CLRELAY_ADDR")
	}
	if addr != "" {
		return a.remote(addr)
	}
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	return newLink(&link{name: path, hint: "Is it running? Another one is named with --socket, --config or --addr.", open: func(ctx context.Context) (net.Conn, error) {
		return admin.Dial(ctx, path) // the kernel vouches for both ends
	}})
}

// remote connects to the first of some nodes that can be reached.
func (a *App) remote(list string) (*link, error) {
	var addrs []string
	for addr := range strings.SplitSeq(list, ",") {
		addr = strings.TrimSpace(addr)
		if !strings.Contains(addr, ":") && addr != "" {
			addr += ":" + defaultPort
		}
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, cmdline.Usagef("clrelay", "--addr: %q is not host:port, such as 10.0.0.1:%s", addr, defaultPort)
		}
		addrs = append(addrs, addr)
	}
	dir := a.where.tlsDir
	if dir == "" {
		dir = a.Getenv("CLRELAY_TLS_DIR")
	}
	if dir == "" {
		return nil, cmdline.Usagef("clrelay", "--addr needs --tls-dir, the folder of ca.crt, admin.crt and admin.key")
	}
	id, err := pki.LoadAdmin(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case err != nil:
		return nil, &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	}
	return newLink(&link{name: strings.Join(addrs, ", "), hint: "Are the nodes running, and are these their cluster ports?", open: func(ctx context.Context) (net.Conn, error) {
		return dialAny(ctx, id, addrs)
	}})
}

// socketPath finds the socket of the relay that is meant.
func (a *App) socketPath() (string, error) {
	if a.where.socket != "" {
		return a.where.socket, nil
	}
	if s := a.Getenv("CLRELAY_SOCKET"); s != "" && a.where.config == "" {
		return s, nil
	}
	path := a.where.config
	if path == "" {
		if _, err := os.Stat(DefaultConfig); errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(defaultDataDir, admin.SocketName), nil
		}
		path = DefaultConfig
	}
	node, err := config.LoadNode(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case err != nil:
		return "", &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	}
	return filepath.Join(string(node.DataDir), admin.SocketName), nil
}

// link is a connection to a relay.
type link struct {
	*grpc.ClientConn
	name string // for errors
	hint string
	open func(ctx context.Context) (net.Conn, error)

	mu   sync.Mutex
	dial error // of the last try
}

func newLink(l *link) (*link, error) {
	var err error
	l.ClientConn, err = grpc.NewClient("passthrough:///relay",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // open sees to who is at the other end
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := l.open(ctx)
			l.failed(err)
			if err != nil {
				return nil, err
			}
			return &overheard{conn, l}, nil
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", l.name, err)
	}
	return l, nil
}

func (l *link) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dial = err
}

// overheard is a connection whose end by the other side's refusal is kept: with
// TLS 1.3 a server says that it does not like the certificate only after the
// handshake.
type overheard struct {
	net.Conn
	link *link
}

// Read reads from the connection.
func (o *overheard) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if refusedTLS(err) {
		o.link.failed(err)
	}
	return n, err
}

// refusedTLS tells an alert of the other end.
func refusedTLS(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// dialAny connects to the first node that can be reached. It must show the
// certificate of a node of this cluster.
func dialAny(ctx context.Context, id *pki.Identity, addrs []string) (net.Conn, error) {
	var errs []error
	for _, addr := range addrs {
		conn, err := dialOne(ctx, id, addr)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}

func dialOne(ctx context.Context, id *pki.Identity, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, rootCause(err)
	}
	conn := tls.Client(raw, id.Client("", "h2"))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is told
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return conn, nil
}

// explain makes the error of a call one of ours.
func (l *link) explain(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return err
	}
	l.mu.Lock()
	dial := l.dial
	l.mu.Unlock()
	switch {
	case dial == nil || s.Code() != codes.Unavailable:
		return fromCall(err)
	case errors.Is(dial, fs.ErrPermission):
		return cmdline.Exitf(cmdline.ExitDenied, "%s: permission denied; be root or the user that the relay runs as", l.name)
	case refusedTLS(dial):
		return cmdline.Exitf(cmdline.ExitDenied, "%s: the node does not take this certificate: %w", l.name, dial)
	case isJoined(dial):
		return cmdline.Exitf(cmdline.ExitUnreachable, "no node can be reached:\n%w\n%s", dial, l.hint)
	}
	return cmdline.Exitf(cmdline.ExitUnreachable, "cannot reach the relay at %s: %w\n%s", l.name, rootCause(dial), l.hint)
}

func isJoined(err error) bool {
	_, ok := err.(interface{ Unwrap() []error })
	return ok
}

// rootCause leaves out what net says around an error.
func rootCause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// With connects to the relay, calls f and explains its error.
func (a *App) With(f func(conn grpc.ClientConnInterface) error) error { return a.with(f) }

// with connects, calls f, explains its error and closes the connection.
func (a *App) with(f func(conn grpc.ClientConnInterface) error) error {
	l, err := a.connect()
	if err != nil {
		return err
	}
	err = l.explain(f(l))
	if closed := l.Close(); err == nil {
		err = closed
	}
	return err
}
