package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

type traceEvent struct {
	Time      time.Time `json:"time"`
	Node      string    `json:"node"`
	Event     string    `json:"event"`
	ID        string    `json:"id"`
	Rcpts     []string  `json:"rcpts"`
	MessageID string    `json:"message_id"`
	Copies    []string  `json:"copies"`
	Reply     string    `json:"reply"`
	Relay     string    `json:"relay"`
	Client    *struct {
		Addr   string `json:"addr"`
		Helo   string `json:"helo"`
		Sender string `json:"sender"`
	} `json:"client"`
	NextAttempt *time.Time `json:"next_attempt"`
}

type traced struct {
	ID      string       `json:"id"`
	Outcome string       `json:"outcome"`
	Events  []traceEvent `json:"events"`
	Queued  *struct {
		Node string `json:"node"`
	} `json:"queued"`
}

// traceOf asks a node for a trace, which ends with that code.
func traceOf(t testing.TB, r *relayproc.Relay, code int, args ...string) (out []traced) {
	t.Helper()
	text := cli(t, r, code, append([]string{"trace", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("trace %v: %v: %s", args, err, text)
	}
	return out
}

// happened lists what a story tells, "node event".
func (m *traced) happened() (out []string) {
	for _, e := range m.Events {
		out = append(out, e.Node+" "+e.Event)
	}
	return out
}

// following is a command that goes on.
type following struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	text strings.Builder
	done chan struct{}
}

// followed starts a command and waits until it listens. It ends with the test
// at the latest.
func followed(t testing.TB, r *relayproc.Relay, args ...string) *following {
	t.Helper()
	f := &following{cmd: exec.Command(binary(t), args...), done: make(chan struct{})}
	f.cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"))
	pipe, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := f.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.done)
		s := bufio.NewScanner(pipe)
		for s.Scan() {
			f.mu.Lock()
			f.text.WriteString(s.Text() + "\n")
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() { f.end() })
	s := bufio.NewScanner(errs)
	for s.Scan() && s.Text() != "listening" {
	}
	if s.Text() != "listening" {
		t.Fatalf("clrelay %s does not listen: %s", strings.Join(args, " "), s.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, errs) }()
	return f
}

func (f *following) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

func (f *following) end() {
	_ = f.cmd.Process.Signal(syscall.SIGINT)
	<-f.done
	_ = f.cmd.Wait()
}

// TestTraceOverATakeover: a message is deferred, its node dies with its disk,
// another node takes it over and delivers it. Any node tells the whole story
// that is left, by ID, Message-ID, recipient and the next hop's ID, while it
// is queued and when it is gone; what the dead node knew is named as missing.
func TestTraceOverATakeover(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	away.Store(true)
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		switch {
		case line == "." && away.Load():
			return "451 4.7.1 Greylisted, come back later"
		case line == ".":
			return "250 2.0.0 Ok: queued as 4Xy7TRACE"
		}
		return ""
	}})
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{Binary: binary(t), Dir: workDir(t), Nodes: 3, Cluster: fmt.Sprintf(toSink, hop.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{Cluster: c}
	t.Cleanup(func() {
		for _, r := range f.Nodes[1:] { // the first one is killed
			if err := r.Stop(); err != nil && !t.Failed() {
				t.Error(err)
			}
		}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	dead, third := f.Nodes[0], f.Nodes[2]
	tail := followed(t, third, "events", "tail", "-o", "jsonl", "--rcpt", "*@traced.test", "--type", "accepted,deferred,taken_over,delivered")
	said := followed(t, third, "trace", "smtp", "--client", "127.0.0.0/8", "-o", "jsonl", "--only-one")
	out := followed(t, third, "trace", "smtp", "--dest", "traced.test")

	const secret = "AGFuZHkAc2VjcmV0d29yZA=="
	content := "Message-ID: <20261123.77@payroll.test>\r\n" + note("the secret subject") + strings.Repeat("0123456789abcdef\r\n", 20_000)
	cl := greeted(t, dead.SMTP)
	cl.do("AUTH PLAIN "+secret, "500 ")
	cl.do(secret, "500 ")
	cl.envelope("<payroll@client.test>", "<a.ng@traced.test>")
	id := cl.data(content)
	cl.do("MAIL FROM:<payroll@client.test>", "250 ")
	cl.do("RCPT TO:<no body@traced.test>", "501 ")
	cl.do("QUIT", "221 ")

	var m traced
	eventually(t, 30*time.Second, "another node knows that it is deferred", func() bool {
		found := traceOf(t, third, 0, id)
		m = found[0]
		return slices.Contains(m.happened(), nameOf(dead)+" deferred")
	})
	if e := m.Events[0]; e.Event != "accepted" || e.MessageID != "20261123.77@payroll.test" || len(e.Copies) != 2 || e.Client.Addr != "127.0.0.1" || e.Client.Helo != "client.test" || e.Client.Sender != "local" {
		t.Errorf("the story begins with %+v", e)
	}
	if m.Queued == nil || m.Queued.Node != nameOf(dead) || !slices.ContainsFunc(m.Events, func(e traceEvent) bool {
		return e.Reply == "451 4.7.1 Greylisted, come back later" && e.NextAttempt != nil
	}) {
		t.Errorf("the story of a deferred message is %+v", m)
	}
	t.Logf("deferred:\n%s", cli(t, third, 0, "trace", id))

	contentOf(t, f, id, content)

	dead.Kill()
	if err := os.RemoveAll(dead.Data); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "another node takes it over", func() bool {
		text, _, _ := third.CLI("trace", id)
		return strings.Contains(text, "taken_over")
	})
	away.Store(false)
	eventually(t, 30*time.Second, "it is delivered", func() bool { return len(hop.Mails()) > 0 })

	for _, term := range []string{id, "<20261123.77@payroll.test>", "A.Ng@Traced.test", "4Xy7TRACE"} {
		var found []traced
		eventually(t, 20*time.Second, "its end is known", func() bool {
			text, _, code := third.CLI("trace", "-o", "json", term)
			found = nil
			return (code == 7 || code == 0) && json.Unmarshal([]byte(text), &found) == nil && len(found) > 0 && slices.ContainsFunc(found, func(m traced) bool { return m.ID == id && m.Outcome == "delivered" })
		})
		m = found[slices.IndexFunc(found, func(m traced) bool { return m.ID == id })]
		h := m.happened()
		owner := strings.Fields(h[slices.IndexFunc(h, func(s string) bool { return strings.HasSuffix(s, " taken_over") })])[0]
		if owner == nameOf(dead) || h[len(h)-1] != owner+" delivered" || m.Queued != nil {
			t.Errorf("found by %s, the story is %v", term, h)
		}
	}
	text, errs, code := third.CLI("trace", id)
	if code != 7 || !strings.Contains(errs, nameOf(dead)) {
		t.Errorf("with a node missing: exit code %d, %s", code, errs)
	}
	t.Logf("at the end:\n%s%s", text, errs)
	if text, errs, code = f.Nodes[1].CLI("trace", "nobody@nowhere.test"); code != 7 || text != "" {
		t.Errorf("nothing to be found, with a node missing: exit code %d, %s%s", code, text, errs)
	}
	refused := 0
	for _, m := range traceOf(t, third, 7, "payroll@client.test") {
		if m.ID == "" && strings.HasPrefix(m.Outcome, "refused: 501 ") {
			refused++
		}
	}
	if refused != 0 { // it was the dead node that refused
		t.Errorf("%d refusals are known without their node", refused)
	}

	eventually(t, 10*time.Second, "the tail has all of it", func() bool {
		text := tail.said()
		return strings.Contains(text, `"event":"accepted"`) && strings.Contains(text, `"event":"deferred"`) && strings.Contains(text, `"event":"taken_over"`) && strings.Contains(text, `"event":"delivered"`)
	})
	for line := range strings.Lines(tail.said()) {
		var e traceEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != id {
			t.Errorf("the tail has %s: %v", line, err)
		}
	}
	checkDialogues(t, said, out, secret)
}

// contentOf reads header and content of a queued message from every node.
func contentOf(t *testing.T, f *fleet, id, content string) {
	t.Helper()
	header, _, _ := strings.Cut(content, "\r\n\r\n")
	for i, r := range f.Nodes {
		got := cli(t, r, 0, "message", "headers", id, "--reason", "INC-4411 test")
		if !strings.HasSuffix(got, "\r\n"+header+"\r\n\r\n") || !strings.HasPrefix(got, "Received: ") || strings.Count(got, "\r\n\r\n") != 1 {
			t.Errorf("%s gives the header %q", nameOf(r), got)
		}
		file := filepath.Join(f.Nodes[0].Dir, fmt.Sprintf("body%d", i))
		cli(t, r, 0, "message", "body", id, "--reason", "INC-4411 test", "--out", file)
		text, err := os.ReadFile(file)
		if err != nil || string(text) != got+content[len(header)+4:] {
			t.Errorf("%s gives another content of %d octets: %v", nameOf(r), len(text), err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the file is %v, %v", st.Mode(), err)
		}
		cli(t, r, 6, "message", "body", id, "--reason", "INC-4411 test", "--out", file)
		if raw := cli(t, r, 0, "message", "body", id, "--reason", "INC-4411 test", "-o", "raw"); raw != string(text) {
			t.Errorf("-o raw gives %d octets, want %d", len(raw), len(text))
		}
	}
	cli(t, f.Nodes[1], 2, "message", "body", id, "-o", "raw")
	if log := fullLog(t, f.Nodes[2]); !strings.Contains(log, "INC-4411 test") || !strings.Contains(log, id) {
		t.Error("the log does not say who read it and why")
	}
	if text := cli(t, f.Nodes[1], 0, "audit", "list", "-o", "jsonl"); !strings.Contains(text, "ContentService/Body") || !strings.Contains(text, "INC-4411 test") {
		t.Errorf("the audit log does not say who read it and why: %s", text)
	}
}

// checkDialogues looks at what was heard: said by a client, out to the next
// hop.
func checkDialogues(t *testing.T, said, out *following, secret string) {
	t.Helper()
	eventually(t, 10*time.Second, "the client's session is heard to its end", func() bool { return strings.Contains(said.said(), `"end":true`) })
	<-said.done // --only-one: it ends by itself
	var words []string
	for line := range strings.Lines(said.said()) {
		var l struct {
			Who  string `json:"who"`
			Text string `json:"text"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		words = append(words, l.Who+" "+l.Text)
	}
	all := strings.Join(words, "\n")
	if strings.Contains(all, secret) || strings.Contains(all, "secret subject") {
		t.Errorf("the dialogue has the secret:\n%s", all)
	}
	for _, want := range []string{"client EHLO client.test", "client AUTH PLAIN [24 octets]", "client [24 octets]", "client MAIL FROM:<payroll@client.test>",
		"client RCPT TO:<a.ng@traced.test>", "client DATA", "server 354 ", "client [content of ", "server 250 2.0.0 Ok: queued as ", "client QUIT", "server 221 "} {
		if !strings.Contains(all, want) {
			t.Errorf("the dialogue lacks %q:\n%s", want, all)
		}
	}
	heard := func(want string) bool { return strings.Contains(out.said(), want) }
	eventually(t, 10*time.Second, "the next hop's session is heard", func() bool {
		return heard("C: MAIL FROM:<payroll@client.test>") && heard("C: RCPT TO:<a.ng@traced.test>") && heard("S: 451 4.7.1 Greylisted") && heard("[content of ") && heard("S: 250 2.0.0 Ok: queued as 4Xy7TRACE")
	})
	if heard("secret subject") {
		t.Errorf("the dialogue has content:\n%s", out.said())
	}
}

// TestTraceAlone: a relay that is alone tells what was refused, what came after
// a restart, and since when it remembers.
func TestTraceAlone(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	cl := greeted(t, r.SMTP)
	cl.do("MAIL FROM:<a@client.test>", "250 ")
	cl.do("RCPT TO:<no body@traced.test>", "501 ")
	cl.do("RCPT TO:<b@traced.test>", "250 ")
	id := cl.data(note("one"))
	eventually(t, 20*time.Second, "it is delivered", func() bool { return len(hop.Mails()) == 1 })
	eventually(t, 20*time.Second, "its end is known", func() bool { return traceOf(t, r, 0, id)[0].Outcome == "delivered" })
	found := traceOf(t, r, 0, "a@client.test")
	if len(found) != 2 || found[0].ID+found[1].ID != id || !strings.Contains(found[0].Outcome+found[1].Outcome, "refused: 501 ") {
		t.Errorf("by the sender are found %+v", found)
	}
	r.Kill()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := traceOf(t, r, 0, id); len(got) != 1 || got[0].Outcome != "delivered" || len(got[0].Events) != 2 {
		t.Errorf("after SIGKILL the trace is %+v", got)
	}
	_, errs, code := r.CLI("trace", "nobody@nowhere.test")
	if code != 3 || !strings.Contains(errs, "remember what happened since 20") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	if text := cli(t, r, 3, "message", "headers", id, "--reason", "INC-4411 test"); text != "" {
		t.Errorf("the header of a message that is gone: %q", text)
	}
	var all bytes.Buffer
	names, err := filepath.Glob(filepath.Join(r.Data, "trace", "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no traces on the disk: %v", err)
	}
	for _, n := range names {
		st, err := os.Stat(n)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", n, st.Mode(), err)
		}
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	if bytes.Contains(all.Bytes(), []byte("Subject")) || bytes.Contains(all.Bytes(), []byte("A line.")) {
		t.Error("the traces have content")
	}
}
