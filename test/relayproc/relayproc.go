// Package relayproc runs the clrelay binary as a process of its own, for
// system tests and benchmarks: configuration in a folder, free ports on
// loopback, start, kill, restart, and a look at its metrics.
package relayproc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say how a relay is set up.
type Options struct {
	Binary string
	// Dir gets node.yaml, cluster.yaml and the log; it is made when missing
	// and otherwise left as it is.
	Dir string
	// Data is the data_dir; empty: Dir/data.
	Data string
	// Hostname is what the relay calls itself; empty: relay.test.
	Hostname string
	// Cluster is the text of cluster.yaml.
	Cluster string
	// Node is put behind the generated part of node.yaml.
	Node string
	// Listener is put into the listener's flow mapping, such as
	// "tls: {cert: a, key: b}".
	Listener string
	// Wrap is a command that the relay is started under, such as strace.
	Wrap []string
	// Args are added to "clrelay serve".
	Args []string
	// Env is added to the environment.
	Env []string
	// Name is the node's; empty: test.
	Name string
	// Host is the address that it listens on; empty: free ports of loopback.
	// Another one is the relay's alone, as in a network namespace.
	Host string
}

// Relay is a relay's process, or the place where one was.
type Relay struct {
	SMTP string // "127.0.0.1:PORT", the same over restarts
	HTTP string
	Dir  string
	Data string

	o      Options
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// New writes the configuration and picks the ports; nothing runs yet.
func New(o Options) (*Relay, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r := &Relay{SMTP: addrOn(o.Host, smtpPort), HTTP: addrOn(o.Host, httpPort), Dir: dir, Data: o.Data, o: o}
	if r.Data == "" {
		r.Data = filepath.Join(dir, "data")
	}
	listener := ""
	if o.Listener != "" {
		listener = ", " + o.Listener
	}
	name := o.Name
	if name == "" {
		name = "test"
	}
	hostname := o.Hostname
	if hostname == "" {
		hostname = "relay.test"
	}
	node := fmt.Sprintf("node: %s\nhostname: %s\ndata_dir: %s\nsmtp:\n  - {listen: %q, mode: relay%s}\nhttp: %s\ncluster_config: cluster.yaml\n%s",
		name, hostname, r.Data, r.SMTP, listener, r.HTTP, o.Node)
	if err := os.WriteFile(r.Config(), []byte(node), 0o644); err != nil {
		return nil, err
	}
	return r, r.SetCluster(o.Cluster)
}

// The ports of a relay that has an address of its own.
const (
	smtpPort   = 2525
	httpPort   = 8080
	nodePort   = 7000
	gossipPort = 7001
)

// addrOn is an address to listen on.
func addrOn(host string, port int) string {
	if host == "" {
		return FreeAddr()
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// Config is the path of node.yaml.
func (r *Relay) Config() string { return filepath.Join(r.Dir, "node.yaml") }

// SetCluster writes cluster.yaml anew.
func (r *Relay) SetCluster(text string) error {
	return os.WriteFile(filepath.Join(r.Dir, "cluster.yaml"), []byte(text), 0o644)
}

// Wrap starts the relay under another command from the next start on, such as
// strace; without arguments it starts by itself.
func (r *Relay) Wrap(command ...string) { r.o.Wrap = command }

// Use starts another binary from the next start on.
func (r *Relay) Use(binary string) { r.o.Binary = binary }

// Start runs the relay and waits until /readyz says 200.
func (r *Relay) Start(ctx context.Context) error {
	if err := r.Launch(); err != nil {
		return err
	}
	return r.AwaitReady(ctx)
}

// Launch runs the relay and does not wait.
func (r *Relay) Launch() error {
	log, err := os.OpenFile(r.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append(append([]string(nil), r.o.Wrap...), r.o.Binary, "serve", "--config", r.Config())
	args = append(args, r.o.Args...)
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.Env = append(os.Environ(), r.o.Env...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	r.exited = exited
	go func() { r.err = r.cmd.Wait(); close(exited) }()
	return nil
}

// AwaitReady waits up to 30 s for /readyz to say 200, and no longer than the
// process lives.
func (r *Relay) AwaitReady(ctx context.Context) error {
	return r.await(ctx, func(code int, _ string) bool { return code == http.StatusOK })
}

// AwaitUp waits like AwaitReady until the relay has started, whether it takes
// mail or not.
func (r *Relay) AwaitUp(ctx context.Context) error {
	return r.await(ctx, func(code int, body string) bool { return code != 0 && !strings.Contains(body, "starting") })
}

// await waits for an answer of /readyz.
func (r *Relay) await(ctx context.Context, fact func(code int, body string) bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for {
		if fact(r.Get("/readyz")) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.exited:
			return fmt.Errorf("the relay ended: %v\n%s", r.err, r.Tail())
		case <-limit:
			return fmt.Errorf("the relay is not ready after 30 s\n%s", r.Tail())
		case <-tick.C:
		}
	}
}

// Get fetches a page of the relay's HTTP listener; code 0 means no answer.
func (r *Relay) Get(path string) (code int, body string) {
	res, err := http.Get("http://" + r.HTTP + path)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(text)
}

// Metric reads one sample by its name with labels, as /metrics prints it.
func (r *Relay) Metric(name string) (float64, error) {
	code, body := r.Get("/metrics")
	if code != http.StatusOK {
		return 0, fmt.Errorf("/metrics answers %d", code)
	}
	sc := bufio.NewScanner(strings.NewReader(body))
	for sc.Scan() {
		if rest, ok := strings.CutPrefix(sc.Text(), name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// PID is the process that was started last: the relay, or what wraps it.
func (r *Relay) PID() int { return r.cmd.Process.Pid }

// Kill ends the relay and what wraps it at once, without a word.
func (r *Relay) Kill() {
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // an error means that it has ended
	<-r.exited
}

// Signal sends a signal to the relay.
func (r *Relay) Signal(sig os.Signal) error { return r.cmd.Process.Signal(sig) }

// Exited is closed once the process has ended.
func (r *Relay) Exited() <-chan struct{} { return r.exited }

// ExitCode is the process's exit code once it has ended.
func (r *Relay) ExitCode() int {
	<-r.exited
	return r.cmd.ProcessState.ExitCode()
}

// Stop asks the relay to end and waits; it is killed after a minute.
func (r *Relay) Stop() error {
	if r.cmd == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return r.err
	}
	select {
	case <-r.exited:
		return r.err
	case <-time.After(time.Minute):
		r.Kill()
		return fmt.Errorf("the relay did not end within a minute of SIGTERM\n%s", r.Tail())
	}
}

// LogPath is where the relay's output goes, over all its starts.
func (r *Relay) LogPath() string { return filepath.Join(r.Dir, "log") }

// Log gives all of the output.
func (r *Relay) Log() string {
	text, err := os.ReadFile(r.LogPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail gives the last 8 KB of it, to be shown.
func (r *Relay) Tail() string {
	text := r.Log()
	return text[max(0, len(text)-8<<10):]
}

// CLI runs an admin command against the relay's socket and gives its output
// and exit code.
func (r *Relay) CLI(args ...string) (stdout, stderr string, code int) {
	cmd := exec.Command(r.o.Binary, args...)
	cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ports are those that FreeAddr gave.
var ports sync.Map

// FreeAddr finds a port on loopback that is free now. It is below the range
// that the kernel takes the near ends of connections from, so that nothing
// takes it while the relay is down between two starts. None is given twice.
func FreeAddr() string {
	for {
		port := 10_000 + rand.IntN(20_000)
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			panic(err) // no loopback: nothing here can work
		}
		defer l.Close()
		return l.Addr().String()
	}
}
