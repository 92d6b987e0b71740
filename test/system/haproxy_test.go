package system

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

const balancerConfig = "../../deploy/haproxy/haproxy.cfg"

func haproxyPath(t testing.TB) string {
	t.Helper()
	for _, p := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Skip("haproxy is not installed: sh test/deps.sh")
	return ""
}

// TestBalancerConfig: HAProxy takes the file as it is shipped, without a
// warning.
func TestBalancerConfig(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(haproxyPath(t), "-c", "-f", balancerConfig).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("[WARNING]")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// farm are relays behind HAProxy, which runs with the file that is shipped:
// only the addresses are others.
type farm struct {
	t      *testing.T
	addr   string // HAProxy's
	stats  string // its socket
	relays []*relayproc.Relay
	hop    *peers.Hop
	log    string
}

func startFarm(t *testing.T, n int, receive string) *farm {
	t.Helper()
	path := haproxyPath(t)
	binary(t)
	f := &farm{t: t, addr: relayproc.FreeAddr(), hop: startHop(t, &peers.Hop{})}
	dir, err := os.MkdirTemp("/var/tmp", "clrelay-ha-") // short: the path of a socket has 107 octets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cluster := fmt.Sprintf(toSink, f.hop.Addr()) + "domains: [{name: home.test}]\n"
	cluster = strings.Replace(cluster, "receive: {", "receive: {"+receive, 1)
	agents := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("mx%d", i+1)
		agents[name] = relayproc.FreeAddr()
		f.relays = append(f.relays, startRelay(t, relayproc.Options{
			Hostname: name + ".test", Cluster: cluster,
			Listener: "proxy_from: [127.0.0.1]", Node: "lb_agent: " + agents[name] + "\n",
		}))
	}
	f.stats, f.log = filepath.Join(dir, "admin.sock"), filepath.Join(dir, "log")
	config := filepath.Join(dir, "haproxy.cfg")
	writeFile(t, config, f.config(agents))
	log, err := os.Create(f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, "-db", "-f", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it has ended
		_ = cmd.Wait()         // killed, as it was told
		if text, err := os.ReadFile(f.log); t.Failed() && err == nil {
			t.Logf("HAProxy's log:\n%s", text)
		}
	})
	f.await("UP", f.names()...)
	return f
}

// config is the shipped file with the addresses of this test.
func (f *farm) config(agents map[string]string) string {
	f.t.Helper()
	text, err := os.ReadFile(balancerConfig)
	if err != nil {
		f.t.Fatal(err)
	}
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	var out strings.Builder
	server := regexp.MustCompile(`^  server (mx(\d))(-anyway)? \S+(.*)`)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		switch m := server.FindStringSubmatch(line); {
		case m != nil && int(m[2][0]-'0') > len(f.relays):
			continue
		case m != nil:
			r := f.relays[m[2][0]-'1']
			line = fmt.Sprintf("  server %s%s %s%s", m[1], m[3], r.SMTP, m[4])
			if m[3] == "" {
				line += " port " + port(r.HTTP) + " agent-port " + port(agents[m[1]])
			}
		case strings.HasPrefix(line, "  bind "):
			line = "  bind " + f.addr
		case strings.HasPrefix(line, "  stats socket "):
			line = "  stats socket " + f.stats + " mode 600 level admin"
		case strings.HasPrefix(line, "  maxconn "):
			line = "  maxconn 1000" // whatever the limit of open files is here
		case regexp.MustCompile(`^  (user|group|chroot) `).MatchString(line):
			continue // the tests need not run as root
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

func (f *farm) names() (out []string) {
	for i := range f.relays {
		out = append(out, fmt.Sprintf("mx%d", i+1))
	}
	return out
}

// status is what HAProxy thinks of a server.
func (f *farm) status(name string) string {
	conn, err := net.Dial("unix", f.stats)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	for _, line := range strings.Split(string(text), "\n") {
		if col := strings.Split(line, ","); len(col) > 17 && col[0] == "relays" && col[1] == name {
			return col[17]
		}
	}
	return "?"
}

// What HAProxy calls a server that gets no new sessions and keeps its others:
// the agent's word, or that of /lb.
var resting = regexp.MustCompile("^(DRAIN|NOLB)")

// await waits until HAProxy thinks so of the servers.
func (f *farm) await(status string, names ...string) {
	f.t.Helper()
	for _, name := range names {
		last := ""
		eventually(f.t, 20*time.Second, name+" is "+status, func() bool {
			if now := f.status(name); now != last {
				f.t.Logf("%s: %s", name, now)
				last = now
			}
			return strings.HasPrefix(last, status) || status == "resting" && resting.MatchString(last)
		})
	}
}

// connect opens a session and gives the number of the relay that has it, from
// 0, or -1 when the banner is a 421.
func (f *farm) connect() (*client, int) {
	f.t.Helper()
	c := dial(f.t, f.addr)
	banner, err := c.reply()
	if err != nil {
		f.t.Fatalf("no banner: %v (have %q)", err, banner)
	}
	if strings.HasPrefix(banner, "421 ") {
		return c, -1
	}
	var n int
	if _, err := fmt.Sscanf(banner, "220 mx%d.test ", &n); err != nil {
		f.t.Fatalf("banner %q", banner)
	}
	c.do("EHLO client.test", "250 ")
	return c, n - 1
}

// probe is connect for a client that goes away at once.
func (f *farm) probe() int {
	f.t.Helper()
	c, n := f.connect()
	if err := c.conn.Close(); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// each opens sessions until each of the relays has one, and gives those.
func (f *farm) each() []*client {
	f.t.Helper()
	out := make([]*client, len(f.relays))
	for range 10 * len(out) {
		c, n := f.connect()
		if n < 0 {
			f.t.Fatal("421 though nothing drains")
		}
		if out[n] != nil {
			out[n].conn.Close()
		}
		out[n] = c
	}
	for n, c := range out {
		if c == nil {
			f.t.Fatalf("mx%d got no session", n+1)
		}
	}
	return out
}

// halfway brings a session into the middle of a content.
func halfway(c *client, from string) {
	c.t.Helper()
	c.envelope("<"+from+">", "<u@x.test>")
	c.do("DATA", "354 ")
	c.send("Subject: half\r\n\r\n")
}

// finish ends what halfway began.
func (c *client) finish() {
	c.t.Helper()
	c.send("the rest\r\n.\r\n")
	c.accepted()
}

// TestBalancer: what a client behind HAProxy sees when relays drain and die.
func TestBalancer(t *testing.T) {
	t.Parallel()
	f := startFarm(t, 3, "")
	f.clientAddress()
	f.drain()
	f.kill()
	f.allDrain()
}

// clientAddress: the relay knows who the client is, and not HAProxy alone.
func (f *farm) clientAddress() {
	t := f.t
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := d.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	c.expect("220 ")
	c.do("EHLO client.test", "250 ")
	c.envelope("<nine@client.test>", "<u@x.test>")
	c.data(note("from nine"))
	got := mailsFrom(t, f.hop, "nine@client.test", 1)[0]
	if head, _, _ := strings.Cut(string(got.Data), "\r\nFrom:"); !strings.Contains(head, "[127.0.0.9]") {
		t.Errorf("the Received line does not name the client: %q", head)
	}
}

// drain: new sessions go elsewhere, the transaction that runs is finished, and
// the relay that comes back gets sessions again.
func (f *farm) drain() {
	t, on := f.t, f.each()
	halfway(on[0], "drain@client.test")
	if err := f.relays[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.await("resting", "mx1")
	for range 20 {
		if n := f.probe(); n <= 0 {
			t.Fatalf("a new session went to relay %d", n+1)
		}
	}
	halfway(on[1], "other@client.test")
	on[1].finish()
	on[0].finish()
	on[0].expect("421 4.3.2 ")
	on[0].closed()
	if code := f.relays[0].ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	mailsFrom(t, f.hop, "drain@client.test", 1)
	if err := f.relays[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.await("UP", "mx1")
	f.each()
}

// kill: what the relay was in is cut off, everything else goes on, and no new
// client notices.
func (f *farm) kill() {
	t, on := f.t, f.each()
	halfway(on[1], "dead@client.test")
	halfway(on[2], "alive@client.test")
	f.relays[1].Kill()
	for range 20 { // before the checks have seen it and after
		if n := f.probe(); n == 1 || n < 0 {
			t.Fatalf("a new session went to relay %d", n+1)
		}
	}
	on[1].closed()
	on[2].finish()
	mailsFrom(t, f.hop, "alive@client.test", 1)
	halfway(on[0], "idle@client.test")
	on[0].finish()
	f.await("DOWN", "mx2")
	if err := f.relays[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.await("UP", "mx2")
	f.each()
}

// allDrain: clients hear 421 until the last relay has ended, and not nothing.
func (f *farm) allDrain() {
	t, on := f.t, f.each()
	for i, r := range f.relays {
		halfway(on[i], fmt.Sprintf("last%d@client.test", i))
		if err := r.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "it drains", func() bool { code, _ := r.Get("/lb"); return code == http.StatusNotFound })
	}
	gone := func() {
		t.Helper()
		if n := f.probe(); n >= 0 {
			t.Fatal("a draining relay took a session")
		}
	}
	eventually(t, 20*time.Second, "HAProxy has noticed", func() bool {
		gone() // with a banner, whatever HAProxy has noticed so far
		for _, name := range f.names() {
			if !resting.MatchString(f.status(name)) {
				return false
			}
		}
		return true
	})
	for range 10 {
		gone()
	}
	for i, c := range on { // one relay after the other ends; the rest go on answering
		gone()
		c.finish()
		mailsFrom(t, f.hop, fmt.Sprintf("last%d@client.test", i), 1)
		if code := f.relays[i].ExitCode(); code != 0 {
			t.Errorf("mx%d: exit code %d", i+1, code)
		}
	}
}

// TestBalancerMoves: clients that keep their connections come to all relays
// over time, and lose nothing.
func TestBalancerMoves(t *testing.T) {
	t.Parallel()
	f := startFarm(t, 2, "max_messages_per_connection: 5, ")
	src := &peers.Source{Addr: f.addr, Sessions: 1, Reuse: true, From: "keeper@client.test"}
	const n = 60
	if sent := src.Run(t.Context(), 0, n); sent.Errors != 0 || len(sent.Accepted) != n {
		t.Fatalf("%d accepted, %d errors: %v", len(sent.Accepted), sent.Errors, sent.LastErr)
	}
	mailsFrom(t, f.hop, "keeper@client.test", n)
	for i, r := range f.relays {
		if got, err := r.Metric("clrelay_messages_accepted_total"); err != nil || got < 10 {
			t.Errorf("mx%d took %v messages (%v)", i+1, got, err)
		}
	}
}
