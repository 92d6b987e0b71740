package world

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Node is a relay under show: a child process with a folder of its own, which
// can be killed and started again.
type Node struct {
	Name string
	SMTP string // host:port, the same over restarts
	HTTP string

	binary, dir string
	conn        *grpc.ClientConn
	events      tail
	ended       func(*Node, error) // told when the process ends by itself

	mu        sync.Mutex
	proc      *process
	wanted    bool // it is meant to run
	paused    bool
	cut       bool
	look      Look
	uncounted float64 // possible duplicates counted by earlier processes
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// Look is what a node shows from outside.
type Look struct {
	At         time.Time
	Running    bool // there is a process
	Paused     bool
	Cut        bool
	Ready      bool   // it would take mail
	Why        string // it would not
	Balanced   bool   // /lb is 200
	Queued     int
	Open       int // segments that it owns and appends to
	Sealed     int // others that it owns
	Recovering int // that it is taking over
	Member     int // that it keeps a copy of for another node
	Takeovers  int
	Accepted   int
	Duplicates float64 // possible ones, over all its processes
}

// Owned counts the segments that a node owns.
func (l Look) Owned() int { return l.Open + l.Sealed + l.Recovering }

// Look gives what was seen last.
func (n *Node) Look() Look {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.look
}

// Log gives the last lines of the node's log of message events.
func (n *Node) Log() []string { return n.events.last() }

// Socket is the path of the node's admin socket.
func (n *Node) Socket() string { return filepath.Join(n.data(), "admin.sock") }

func (n *Node) data() string { return filepath.Join(n.dir, "data") }

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

// connect prepares the way to the admin socket; it is dialled when it is used.
func (n *Node) connect() (err error) {
	n.conn, err = grpc.NewClient("unix:"+n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func (n *Node) logPath() string { return filepath.Join(n.dir, "relay.log") }

// start runs the node and does not wait for it.
func (n *Node) start() error {
	cmd := exec.Command(n.binary, "serve", "--config", filepath.Join(n.dir, "node.yaml"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	errors, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer errors.Close()
	cmd.Stderr = errors
	// A group of its own: Ctrl-C in the terminal is for the demo, which ends
	// the relay in its own time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("demo: starting %s: %w", n.Name, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	n.mu.Lock()
	n.proc, n.wanted, n.paused = p, true, false
	n.mu.Unlock()
	go func() {
		n.events.read(out)
		p.err = cmd.Wait()
		n.mu.Lock()
		early := n.wanted && n.proc == p
		n.mu.Unlock()
		close(p.exited)
		if early {
			n.ended(n, p.err)
		}
	}()
	return nil
}

// end makes the process end by a signal and waits for it.
func (n *Node) end(sig syscall.Signal) error {
	n.mu.Lock()
	p := n.proc
	n.wanted = false
	paused := n.paused
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // an error means that it has ended
	if paused {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // as above
	}
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill() // as above
		<-p.exited
		return fmt.Errorf("demo: %s did not end within 30 s", n.Name)
	}
	n.mu.Lock()
	n.paused = false
	n.uncounted = n.look.Duplicates
	n.mu.Unlock()
	if sig == syscall.SIGTERM && p.err != nil {
		return fmt.Errorf("demo: %s: %w, see %s", n.Name, p.err, n.logPath())
	}
	return nil
}

func (n *Node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return 0
	}
	return n.proc.cmd.Process.Pid
}

// running tells whether there is a process.
func (n *Node) running() bool {
	n.mu.Lock()
	p := n.proc
	n.mu.Unlock()
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// pause stops the process where it stands, or lets it go on.
func (n *Node) pause(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil || n.paused == on {
		return
	}
	n.paused = on
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	_ = n.proc.cmd.Process.Signal(sig) // an error means that it has ended
}

// see looks at the node's health and figures.
func (n *Node) see(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	l := Look{At: time.Now(), Running: n.running()}
	n.mu.Lock()
	l.Paused, l.Cut, l.Duplicates = n.paused, n.cut, n.look.Duplicates
	l.Takeovers, l.Accepted = n.look.Takeovers, n.look.Accepted
	p := n.proc
	n.mu.Unlock()
	if l.Running && !l.Paused {
		code, _ := n.get(ctx, "/lb")
		l.Balanced = code == http.StatusOK
		code, why := n.get(ctx, "/readyz")
		l.Ready = code == http.StatusOK
		if !l.Ready {
			l.Why = reason(why)
		}
		if _, text := n.get(ctx, "/metrics"); text != "" {
			n.figures(&l, text)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == p {
		n.look = l
	}
}

// reason finds in the answer of /readyz why a node is not ready.
func reason(answer string) string {
	var a struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil {
		return ""
	}
	return a.Reason
}

// figures reads what /metrics says.
func (n *Node) figures(l *Look, text string) {
	f := map[string]float64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "clrelay_") {
			f[name], _ = strconv.ParseFloat(value, 64) // 0 for what is no number
		}
	}
	segments := func(role, state string) int {
		return int(f[fmt.Sprintf("clrelay_segments{role=%q,state=%q}", role, state)])
	}
	l.Queued = int(f["clrelay_queue_messages"])
	l.Open, l.Sealed, l.Recovering = segments("owner", "open"), segments("owner", "sealed"), segments("owner", "recovering")
	l.Member = segments("member", "any")
	l.Takeovers, l.Accepted = int(f["clrelay_takeovers_total"]), int(f["clrelay_messages_accepted_total"])
	n.mu.Lock()
	l.Duplicates = n.uncounted + f["clrelay_possible_duplicates_total"]
	n.mu.Unlock()
}

func (n *Node) get(ctx context.Context, path string) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return 0, ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(text)
}

// queued lists the node's own queue as a set of "ID recipient".
func (n *Node) queued(ctx context.Context, out map[string]bool) error {
	stream, err := adminv1.NewQueueServiceClient(n.conn).List(ctx, &adminv1.ListRequest{Local: true})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range part.GetEntries() {
			out[e.GetId()+" "+e.GetRcpt()] = true
		}
	}
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
