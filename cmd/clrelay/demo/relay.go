package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// relay is the relay under show: a child process with a folder of its own.
type relay struct {
	binary, dir string
	smtp, http  string
	exited      chan struct{}
	err         error
	cmd         *exec.Cmd
	conn        *grpc.ClientConn
	queue       adminv1.QueueServiceClient
	events      *tail
}

const nodeYAML = `node: demo
hostname: relay.demo.test
data_dir: %s
smtp:
  - {listen: %q, mode: relay}
http: %q
cluster_config: cluster.yaml
`

const clusterYAML = `senders:
  - {name: office, networks: [127.0.0.0/8]}
domains:
  - {name: ` + homeDomain + `}
postmaster: postmaster@` + homeDomain + `
routes:
  - {match: {}, action: {mx: true}}
deliver: {mx_port: %s}
queue: {retry: [3s, 5s, 10s, 20s], expire: 1h}
dns: {servers: [%q]}
`

func newRelay(binary, dir, mxPort, dns string) (*relay, error) {
	r := &relay{binary: binary, dir: dir, exited: make(chan struct{}), events: &tail{}}
	var err error
	if r.smtp, err = freeAddr("127.0.0.1:2525"); err != nil {
		return nil, err
	}
	if r.http, err = freeAddr("127.0.0.1:7580"); err != nil {
		return nil, err
	}
	files := map[string]string{
		"node.yaml":    fmt.Sprintf(nodeYAML, filepath.Join(dir, "data"), r.smtp, r.http),
		"cluster.yaml": fmt.Sprintf(clusterYAML, mxPort, dns),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	return r, nil
}

// freeAddr gives wish if its port is free, else one that is.
func freeAddr(wish string) (string, error) {
	for _, addr := range []string{wish, "127.0.0.1:0"} {
		if ln, err := net.Listen("tcp", addr); err == nil {
			defer ln.Close()
			return ln.Addr().String(), nil
		}
	}
	return "", errors.New("demo: no free port on 127.0.0.1")
}

func (r *relay) socket() string { return filepath.Join(r.dir, "data", "admin.sock") }

// start runs the relay and waits until it is ready to take mail.
func (r *relay) start(ctx context.Context) error {
	r.cmd = exec.Command(r.binary, "serve", "--config", filepath.Join(r.dir, "node.yaml"))
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	errors, err := os.Create(filepath.Join(r.dir, "relay.log"))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer errors.Close()
	r.cmd.Stderr = errors
	// A group of its own: Ctrl-C in the terminal is for the demo, which ends
	// the relay in its own time.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("demo: starting the relay: %w", err)
	}
	go func() {
		r.events.read(out)
		r.err = r.cmd.Wait()
		close(r.exited)
	}()
	if r.conn, err = grpc.NewClient("unix:"+r.socket(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	r.queue = adminv1.NewQueueServiceClient(r.conn)
	return r.awaitReady(ctx)
}

func (r *relay) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for {
		if res, err := http.Get("http://" + r.http + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.exited:
			return fmt.Errorf("demo: the relay ended at once (%w), see %s", r.err, filepath.Join(r.dir, "relay.log"))
		case <-limit:
			return fmt.Errorf("demo: the relay is not ready after 20 s, see %s", filepath.Join(r.dir, "relay.log"))
		case <-tick.C:
		}
	}
}

// queued lists the queue as a set of "ID recipient".
func (r *relay) queued(ctx context.Context) (map[string]bool, error) {
	stream, err := r.queue.List(ctx, &adminv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range part.GetEntries() {
			out[e.GetId()+" "+e.GetRcpt()] = true
		}
	}
}

// stop ends the relay as systemd would and waits.
func (r *relay) stop() error {
	if r.cmd == nil || r.cmd.Process == nil {
		return nil
	}
	if r.conn != nil {
		r.conn.Close()
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-r.exited:
	case <-time.After(30 * time.Second):
		_ = r.cmd.Process.Kill() // as above
		<-r.exited
	}
	return r.err
}

// tail keeps the last lines of the relay's log of message events.
type tail struct {
	mu    sync.Mutex
	lines []string
}

const tailLines = 8

func (t *tail) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 1<<20)
	for sc.Scan() {
		t.mu.Lock()
		t.lines = append(t.lines, sc.Text())
		if len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
		t.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // a line beyond the scanner's bounds must not block the relay
}

func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
