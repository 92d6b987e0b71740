package system

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestHealth: what load balancers and systemd ask, ready and while draining.
func TestHealth(t *testing.T) {
	t.Parallel()
	agent := relayproc.FreeAddr()
	r := startRelay(t, relayproc.Options{Node: "lb_agent: " + agent + "\n"})
	pages := func(livez, readyz, lb int) {
		t.Helper()
		for page, want := range map[string]int{"/livez": livez, "/readyz": readyz, "/lb": lb, "/metrics": 200} {
			if code, body := r.Get(page); code != want {
				t.Errorf("%s: %d, want %d: %s", page, code, want, body)
			}
		}
	}
	pages(200, 200, 200)
	if text := askAgent(t, agent); !strings.Contains(text, "up") || !strings.Contains(text, "ready") {
		t.Errorf("the agent says %q", text)
	}
	// A transaction that is not finished keeps the relay draining.
	c := greeted(t, r.SMTP)
	c.envelope("<a@client.test>", "<postmaster>")
	c.do("DATA", "354 ")
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it drains", func() bool { code, _ := r.Get("/readyz"); return code == http.StatusServiceUnavailable })
	pages(200, 503, 404)
	if text := askAgent(t, agent); !strings.Contains(text, "drain") {
		t.Errorf("the agent says %q", text)
	}
	c.send(string(peers.Stuff([]byte(note("the last one")))))
	c.accepted()
	if code := r.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestTimerSlack: the process that serves is the one that was started, and
// lets the kernel wake it late.
func TestTimerSlack(t *testing.T) {
	t.Parallel()
	r := startRelay(t, relayproc.Options{})
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", r.PID()))
	if err != nil {
		t.Skip("the kernel does not tell:", err)
	}
	if got := strings.TrimSpace(string(text)); got != "1000000" {
		t.Errorf("the timer slack is %s ns", got)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.PID())); err != nil || strings.TrimSpace(string(comm)) != "clrelay" {
		t.Errorf("the process is called %q: %v", comm, err)
	}
}

func askAgent(t *testing.T, addr string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDrain: SIGTERM says 421 to idle sessions and newcomers, lets the running
// transaction finish, and what was taken is delivered after the next start.
func TestDrain(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	fresh, idle, busy := dial(t, r.SMTP), greeted(t, r.SMTP), greeted(t, r.SMTP)
	fresh.expect("220 ")
	submit(t, r.SMTP, "z@client.test", "u@x.test", note("before"))
	mailsFrom(t, hop, "z@client.test", 1)
	busy.envelope("<a@client.test>", "<u@x.test>")
	busy.do("DATA", "354 ")
	busy.send("Subject: half\r\n\r\n")
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{idle, fresh} {
		c.expect("421 4.3.2 ")
		c.closed()
	}
	late, err := net.Dial("tcp", r.SMTP)
	if err != nil {
		t.Fatalf("the port is closed while a transaction runs: %v", err)
	}
	c := newClient(t, late)
	c.expect("421 ")
	c.closed()
	busy.send("the other half\r\n.\r\n")
	busy.accepted()
	busy.expect("421 4.3.2 ")
	busy.closed()
	if code := r.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.Tail())
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := mailsFrom(t, hop, "a@client.test", 1)[0]
	if !strings.HasSuffix(string(got.Data), "Subject: half\r\n\r\nthe other half\r\n") {
		t.Errorf("delivered: %q", got.Data)
	}
	if n, err := r.Metric("clrelay_possible_duplicates_total"); err != nil || n != 0 {
		t.Errorf("after a clean end %v possible duplicates were counted (%v)", n, err)
	}
	emptyQueue(t, r, 10*time.Second)
	if n := len(hop.Mails()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

// TestStuckNextHop: a next hop that answers no more does not keep the relay
// from ending. What it may have got is delivered again after the next start,
// and counted.
func TestStuckNextHop(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if line == "." {
			<-gate
		}
		return ""
	}})
	free := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(free)
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	submit(t, r.SMTP, "a@client.test", "u@x.test", note("stuck"))
	eventually(t, 10*time.Second, "the hop has the content", func() bool { return strings.Contains(strings.Join(hop.Lines(), " "), "DATA") })
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.Exited():
	case <-time.After(45 * time.Second):
		t.Fatalf("it does not end\n%s", r.Tail())
	}
	if code := r.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.Tail())
	}
	free()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	emptyQueue(t, r, 20*time.Second)
	n, err := r.Metric("clrelay_possible_duplicates_total")
	if dup := len(hop.Mails()) - 1; err != nil || float64(dup) > n {
		t.Errorf("%d duplicates, %v were counted as possible (%v)", dup, n, err)
	}
	balanced(t, r)
}

// TestRestartKeepsTheQueue: deferred mail is back after a restart with its
// attempts and its time.
func TestRestartKeepsTheQueue(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if strings.HasPrefix(line, "RCPT") {
			return "450 4.2.1 Later"
		}
		return ""
	}})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "[1s, 2s, 5s]", "[1h]", 1), hop.Addr())})
	src := &peers.Source{Addr: r.SMTP, Sessions: 5, Reuse: true}
	const n = 500
	if sent := src.Run(t.Context(), 0, n); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	}
	waiting := func() map[string]queueRow {
		t.Helper()
		out := map[string]queueRow{}
		eventually(t, 20*time.Second, "all wait", func() bool { return summary(t, r).Deferred == n })
		for _, row := range queueRows(t, r) {
			out[row.ID] = row
		}
		return out
	}
	before := waiting()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, row := range waiting() {
		was := before[id]
		if row.Attempts != was.Attempts || !row.Arrived.Equal(was.Arrived) || row.LastReply != was.LastReply || row.NextAttempt == nil || was.NextAttempt == nil {
			t.Fatalf("before %+v, after %+v", was, row)
		}
		if d := row.NextAttempt.Sub(*was.NextAttempt).Abs(); d > time.Second {
			t.Fatalf("the next attempt moved by %v", d)
		}
	}
	balanced(t, r)
}

// TestCertificateReload: a renewed certificate is shown after SIGHUP, and a
// broken one changes nothing.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := t.TempDir()
	id, err := peers.NewIdentity(dir, "relay.test")
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, relayproc.Options{Listener: fmt.Sprintf("tls: {cert: %s, key: %s, implicit: true}", id.Cert, id.Key)})
	serial := func(trust *tls.Config) string {
		t.Helper()
		conn, err := tls.Dial("tcp", r.SMTP, trust)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, conn)
		c.expect("220 ")
		if text := c.do("EHLO client.test", "250 "); strings.Contains(text, "STARTTLS") {
			t.Errorf("STARTTLS is offered under TLS: %q", text)
		}
		c.do("QUIT", "221 ")
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	if got := serial(id.Client); got != id.Serial.String() {
		t.Errorf("serial %s, want %s", got, id.Serial)
	}
	if cfg := id.Client.Clone(); true {
		cfg.MaxVersion = tls.VersionTLS11
		if conn, err := tls.Dial("tcp", r.SMTP, cfg); err == nil {
			conn.Close()
			t.Error("TLS 1.1 is spoken")
		}
	}
	renewed, err := peers.NewIdentity(dir, "relay.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the reload is done", func() bool { return strings.Contains(r.Log(), "reload: done") })
	if got := serial(renewed.Client); got != renewed.Serial.String() {
		t.Errorf("after the reload serial %s, want %s", got, renewed.Serial)
	}
	writeFile(t, renewed.Cert, "no certificate")
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the bad one is reported", func() bool { return strings.Contains(r.Log(), "nothing was changed") })
	if got := serial(renewed.Client); got != renewed.Serial.String() {
		t.Errorf("after the bad reload serial %s, want %s", got, renewed.Serial)
	}
}
