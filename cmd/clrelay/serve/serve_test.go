package serve

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

// output is what a relay wrote.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// take gives what was written since the last call.
func (o *output) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.buf.Reset()
	return o.buf.String()
}

// fixture is a relay within the test's process.
type fixture struct {
	*relay
	t                     *testing.T
	node, cluster         string // paths
	stdout, stderr        output
	exited                chan int
	nodeText, clusterText string
}

// newFixture writes the configuration and makes the relay, which start starts.
func newFixture(t *testing.T, cluster string) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, node: filepath.Join(dir, "node.yaml"), cluster: filepath.Join(dir, "cluster.yaml"), exited: make(chan int, 1),
		nodeText:    "node: n\nhostname: relay.test\ndata_dir: data\nsmtp: [{listen: \"127.0.0.1:0\"}]\nhttp: none\n",
		clusterText: "senders: [{name: lo, networks: [127.0.0.0/8]}]\n" + cluster}
	f.write(f.node, f.nodeText)
	f.write(f.cluster, f.clusterText)
	o := Options{Config: f.node, Version: "test", Stdout: &f.stdout, Stderr: &f.stderr,
		Getenv: func(string) string { return "" }, Exit: func(code int) { f.exited <- code }}
	s, err := load(o.Config)
	if err != nil {
		t.Fatal(err)
	}
	f.relay = newRelay(o, s)
	t.Cleanup(func() { _ = f.maillog.Close() })
	return f
}

func (f *fixture) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) serve() {
	f.t.Helper()
	if err := f.start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if f.state.Load() != draining {
			f.ends()
		}
	})
}

// ends takes the relay down, which has to succeed.
func (f *fixture) ends() {
	f.t.Helper()
	if err := f.stop(); err != nil {
		f.t.Errorf("the end: %v\n%s", err, f.stderr.take())
	}
}

// eventually waits for a fact.
func (f *fixture) eventually(what string, fact func() bool) {
	f.t.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-limit:
			f.t.Fatalf("never: %s\n%s\n%s", what, f.stdout.take(), f.stderr.take())
		case <-tick.C:
		}
	}
}

// figures is what /metrics shows.
func (f *fixture) figures() string {
	rec := httptest.NewRecorder()
	f.metrics.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

func (f *fixture) shows(line string) bool { return strings.Contains(f.figures(), "\n"+line+"\n") }

// dialogue is a client's session.
type dialogue struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (f *fixture) dial() *dialogue {
	f.t.Helper()
	c, err := net.Dial("tcp", f.parts.addresses()[0])
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	d := &dialogue{f.t, c, bufio.NewReader(c)}
	d.expect("220")
	return d
}

// say sends lines; each is answered with the code behind it.
func (d *dialogue) say(lines ...string) {
	d.t.Helper()
	for i := 0; i < len(lines); i += 2 {
		if _, err := d.Write([]byte(lines[i] + "\r\n")); err != nil {
			d.t.Fatal(err)
		}
		d.expect(lines[i+1])
	}
}

func (d *dialogue) expect(code string) {
	d.t.Helper()
	for {
		line, err := d.in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, code) {
			d.t.Fatalf("%q, %v; want %s", line, err, code)
		}
		if len(line) > 3 && line[3] != '-' {
			return
		}
	}
}

// send submits a message.
func (f *fixture) send() {
	f.t.Helper()
	f.dial().say("HELO c.test", "250", "MAIL FROM:<a@c.test>", "250", "RCPT TO:<u@x.test>", "250",
		"DATA", "354", "Subject: t\r\n\r\nhello\r\n.", "250", "QUIT", "221")
}

// hop is a next hop that takes a content and then does as it was told.
func hop(t *testing.T, atDot func(net.Conn)) (route string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				_, _ = c.Write([]byte("220 hop\r\n"))
				for content := false; ; {
					line, err := in.ReadString('\n')
					switch {
					case err != nil:
						return
					case line == ".\r\n":
						atDot(c)
						return
					case content:
					case strings.HasPrefix(line, "DATA"):
						content = true
						_, _ = c.Write([]byte("354 go on\r\n"))
					default:
						_, _ = c.Write([]byte("250 ok\r\n"))
					}
				}
			}()
		}
	}()
	return fmt.Sprintf("routes: [{match: {}, action: {smarthost: [%q]}}]\n", l.Addr())
}

// TestFigures: what sessions and look-ups bring is counted under the names
// that docs/metrics.md has.
func TestFigures(t *testing.T) {
	f := newFixture(t, "")
	f.serve()
	if !f.shows("clrelay_smtp_sessions 0") {
		t.Error("no session is open, and the figure says otherwise")
	}
	d := f.dial()
	d.say("EHLO c.test", "250", "NONSENSE", "500")
	f.eventually("the session is open", func() bool { return f.shows("clrelay_smtp_sessions 1") })
	d.say("QUIT", "221")
	f.eventually("three commands, one of them wrong", func() bool {
		return f.shows("clrelay_smtp_commands_total 3") && f.shows("clrelay_smtp_command_errors_total 1") && f.shows("clrelay_smtp_sessions 0")
	})
	for _, result := range []string{"found", "nodata", "nxdomain", "temporary", "canceled", "badname"} {
		f.observeLookup(dnsx.Lookup{Type: dnsx.TypeMX, Result: result})
		if !f.shows(fmt.Sprintf(`clrelay_dns_lookups_total{result=%q,type="MX"} 1`, result)) {
			t.Errorf("a look-up that ended in %s is not counted as such", result)
		}
	}
}

// TestStuckHop: a next hop that gives no answer keeps nobody from ending, and
// the end is a clean one.
func TestStuckHop(t *testing.T) {
	got, free := make(chan struct{}), make(chan struct{})
	defer close(free)
	f := newFixture(t, hop(t, func(net.Conn) { close(got); <-free }))
	f.wait.deliveries = 10 * time.Millisecond
	f.wait.sessions = 10 * time.Millisecond
	f.serve()
	f.send()
	<-got
	f.dial().say("HELO c.test", "250", "MAIL FROM:<a@c.test>", "250") // in a transaction
	f.ends()
	log := f.stderr.take()
	for _, want := range []string{"deliveries were cut off", "sessions were cut off"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say that %s:\n%s", want, log)
		}
	}
}

// TestUnsure: a connection that is lost behind the final dot means that a
// message may arrive twice, and is counted.
func TestUnsure(t *testing.T) {
	f := newFixture(t, hop(t, func(net.Conn) {}))
	f.serve()
	f.send()
	f.eventually("a possible duplicate is counted", func() bool { return f.shows("clrelay_possible_duplicates_total 1") })
}

// TestReload: what takes a restart is named as long as file and process
// differ, and does not come into force by halves.
func TestReload(t *testing.T) {
	f := newFixture(t, "")
	f.serve()
	f.write(f.node, strings.Replace(f.nodeText, "relay.test", "other.test", 1))
	f.write(f.cluster, f.clusterText+"dns: {servers: [127.0.0.2]}\n")
	for range 2 {
		f.stderr.take()
		f.reload()
		if log := f.stderr.take(); !strings.Contains(log, "setting=hostname") || !strings.Contains(log, "setting=dns.servers") {
			t.Errorf("a setting that takes a restart is not named:\n%s", log)
		}
	}
	d := f.dial()
	d.say("HELO c.test", "250 relay.test", "MAIL FROM:<a@c.test>", "250", "RCPT TO:<postmaster@relay.test>", "250")
	if h := f.conf().policy().Hostname; h != "relay.test" {
		t.Errorf("the policy's host name is %s, the greeting's relay.test", h)
	}
	f.write(f.node, f.nodeText)
	f.write(f.cluster, f.clusterText)
	f.reload()
	if log := f.stderr.take(); strings.Contains(log, "restart") {
		t.Errorf("the files are as at the start, and yet:\n%s", log)
	}
	f.write(f.cluster, "nonsense: 1\n")
	f.reload()
	if log := f.stderr.take(); !strings.Contains(log, "nothing was changed") {
		t.Errorf("a wrong file:\n%s", log)
	}
	d.say("RSET", "250", "MAIL FROM:<a@c.test>", "250", "RCPT TO:<u@x.test>", "250")
}

// TestNoCluster: a relay without the other file has a bad configuration, as
// "config validate" says, and no other trouble.
func TestNoCluster(t *testing.T) {
	f := newFixture(t, "")
	if err := os.Remove(f.cluster); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), f.o)
	var errs config.Errors
	if !errors.As(err, &errs) || !strings.Contains(err.Error(), "there is no file") {
		t.Errorf("%v", err)
	}
}

// TestEndWhileStarting: SIGTERM is heard during a long recovery, and goes its
// usual way after it.
func TestEndWhileStarting(t *testing.T) {
	f := newFixture(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	f.endWhileStarting(ctx)
	cancel()
	if code := <-f.exited; code != 0 {
		t.Errorf("exit code %d", code)
	}
	f = newFixture(t, "")
	ctx, cancel = context.WithCancel(t.Context())
	started := f.endWhileStarting(ctx)
	f.serve()
	if !started() {
		t.Error("the relay has started, and would still end at once")
	}
	cancel()
	f.ends()
	if len(f.exited) > 0 {
		t.Error("a started relay ended without its usual way")
	}
}

// TestFatal: when the spool fails the process ends, and what the log held is
// written first.
func TestFatal(t *testing.T) {
	f := newFixture(t, "")
	f.maillog.Held(mail.NewID(time.Now()), mail.Address{}, mail.Address{Local: "u", Domain: "x.test"}, "the last event")
	f.fatal(errors.New("fdatasync: input/output error"))
	if code := <-f.exited; code != 1 {
		t.Errorf("exit code %d", code)
	}
	if out := f.stdout.take(); !strings.Contains(out, "the last event") {
		t.Errorf("the mail log: %q", out)
	}
	if h := f.health(); h.Broken == "" || h.NotReady == "" {
		t.Errorf("health: %+v", h)
	}
}

// TestWarnOfFiles: more connections than files may be open.
func TestWarnOfFiles(t *testing.T) {
	f := newFixture(t, "")
	c := &config.Cluster{}
	f.warnOfFiles(c)
	if log := f.stderr.take(); log != "" {
		t.Errorf("without connections: %s", log)
	}
	c.Receive.MaxConnections = math.MaxInt
	c.Deliver.MaxConnections = -ownFiles
	f.warnOfFiles(c)
	if log := f.stderr.take(); !strings.Contains(log, "limit of open files") {
		t.Errorf("with too many: %q", log)
	}
}

// TestServerEndsByItself: the relay ends in order then, and says why: an exit
// code of 0 would keep systemd from starting it again.
func TestServerEndsByItself(t *testing.T) {
	f := newFixture(t, "")
	f.serve()
	_ = f.parts.ports[0].Close() // as if the kernel had taken it
	if err := f.run(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("run: %v", err)
	}
	f.ends()
}
