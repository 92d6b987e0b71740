package system

import (
	"fmt"
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

// launch makes a relay that is not expected to come up.
func launch(t *testing.T, o relayproc.Options) *relayproc.Relay {
	t.Helper()
	o.Binary = binary(t)
	if o.Dir == "" {
		o.Dir = workDir(t)
	}
	r, err := relayproc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fails starts the relay and wants it to end with the code.
func fails(t *testing.T, r *relayproc.Relay, code int) string {
	t.Helper()
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.Exited():
	case <-time.After(20 * time.Second):
		r.Kill()
		t.Fatalf("the relay started\n%s", r.Tail())
	}
	if got := r.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d\n%s", got, code, r.Tail())
	}
	return r.Log()
}

// TestWrongConfig: a wrong file never starts, and the message says where and
// what, all errors at once.
func TestWrongConfig(t *testing.T) {
	t.Parallel()
	r := launch(t, relayproc.Options{Cluster: "senders:\n  - {name: a, networks: [10.0.0.0/33]}\nqueu: {}\nreceive: {max_size: lots}\n"})
	log := fails(t, r, 78)
	cluster := regexp.QuoteMeta(filepath.Join(r.Dir, "cluster.yaml"))
	for _, want := range []string{
		cluster + `:2:\d+: `, cluster + `:3:1: `, cluster + `:4:\d+: `, // every error, in its place
		`queue`,                   // the guess
		`(?m)^\s*(\d+ \| )?\s*\^`, // a caret
	} {
		if !regexp.MustCompile(want).MatchString(log) {
			t.Errorf("the message lacks %s:\n%s", want, log)
		}
	}
	_, stderr, code := r.CLI("config", "validate", filepath.Join(r.Dir, "cluster.yaml"))
	if code != 78 || !strings.Contains(stderr, "cluster.yaml:3:1:") {
		t.Errorf("config validate: exit code %d\n%s", code, stderr)
	}
	if err := r.SetCluster("domains: [{name: example.edu}]\n"); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := r.CLI("config", "validate", r.Config()); code != 0 {
		t.Errorf("config validate of good files: exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestRefusedConfig: what this version cannot keep is an error, not a surprise.
func TestRefusedConfig(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]relayproc.Options{
		"submission without AUTH": {Node: "smtp: [{listen: \"127.0.0.1:0\", mode: submission}]\n"},
		"a cluster":               {Node: "cluster: {listen: \"127.0.0.1:0\"}\n"},
		"two copies":              {Cluster: "spool: {copies: 2}\n"},
		"a limit":                 {Cluster: "limits: [{name: x, match: {domains: [example.org]}}]\n"},
		"AUTH in the clear":       {Cluster: "routes: [{match: {}, action: {smarthost: [\"x.test:25\"], tls: opportunistic, auth: {user: u, password_file: p}}}]\n"},
		"a hop that is not there": {Cluster: "routes: [{match: {}, action: {smarthost: []}}]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := launch(t, o)
			if strings.HasPrefix(o.Node, "smtp:") { // in place of the listener that is there
				text, err := os.ReadFile(r.Config())
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(string(text), "\n")
				text = []byte(strings.Join(append(lines[:3:3], lines[5:]...), "\n"))
				if err := os.WriteFile(r.Config(), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			log := fails(t, r, 78)
			if !regexp.MustCompile(`\.yaml:\d+:\d+: `).MatchString(log) {
				t.Errorf("no place is named:\n%s", log)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		r := launch(t, relayproc.Options{})
		if err := os.Remove(filepath.Join(r.Dir, "cluster.yaml")); err != nil {
			t.Fatal(err)
		}
		fails(t, r, 78)
	})
}

// TestEmptyConfigIsNoOpenRelay: nobody may relay, and the refusal says which
// setting changes that. The postmaster is taken.
func TestEmptyConfigIsNoOpenRelay(t *testing.T) {
	t.Parallel()
	r := startRelay(t, relayproc.Options{})
	c := greeted(t, r.SMTP)
	c.do("MAIL FROM:<a@client.test>", "250 ")
	for _, to := range []string{"u@x.test", "u@relay.test", "u%x.test@relay.test", "@relay.test:u@x.test", "u@[127.0.0.1]", `"u@x.test"@relay.test`, "x.test!u@relay.test"} {
		if text := c.do("RCPT TO:<"+to+">", "550 5.7.1 "); !strings.Contains(text, "senders") {
			t.Errorf("%s: the refusal does not name the setting: %q", to, text)
		}
	}
	c.do("DATA", "5")
	c.do("RCPT TO:<Postmaster>", "250 ")
	c.do("QUIT", "221 ") // TestWhoMayRelay sends it mail: here it would be looked for in the DNS
}

// TestWhoMayRelay: domains are for everybody, everything is for senders alone,
// and a reload changes both for the next transaction.
func TestWhoMayRelay(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	routes := fmt.Sprintf("routes: [{match: {}, action: {smarthost: [%q]}}]\n", hop.Addr())
	r := startRelay(t, relayproc.Options{Cluster: "domains: [{name: example.edu}, {name: second.example}]\npostmaster: root@example.edu\n" + routes})
	c := greeted(t, r.SMTP)
	c.do("MAIL FROM:<a@client.test>", "250 ")
	for to, want := range map[string]string{
		"u@example.edu": "250 ", "u@EXAMPLE.edu": "250 ", "u@second.example": "250 ", "postmaster": "250 ",
		"u@sub.example.edu": "550 5.7.1 ", "u@xexample.edu": "550 5.7.1 ", "u@example.edu.test": "550 5.7.1 ", "u@x.test": "550 5.7.1 ",
	} {
		c.do("RCPT TO:<"+to+">", want)
	}
	c.data(note("for our domains"))
	got := mailsFrom(t, hop, "a@client.test", 1)[0]
	if len(got.To) != 4 || !strings.Contains(strings.Join(got.Rcpts(), " "), "root@example.edu") {
		t.Errorf("delivered to %q", got.Rcpts())
	}

	reload := func(cluster, log string) {
		t.Helper()
		if err := r.SetCluster(cluster); err != nil {
			t.Fatal(err)
		}
		if err := r.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the log says "+log, func() bool { return strings.Contains(r.Log(), log) })
	}
	reload("senders: [{name: me, networks: [127.0.0.0/8]}]\nsender: 1\n"+routes, "cluster.yaml:2:1")
	c.do("MAIL FROM:<a@client.test>", "250 ")
	c.do("RCPT TO:<u@x.test>", "550 5.7.1 ")
	c.do("RCPT TO:<u@example.edu>", "250 ")
	c.do("RSET", "250 ")
	reload("senders: [{name: me, networks: [127.0.0.0/8]}]\n"+routes, "reload: done")
	submit(t, r.SMTP, "b@client.test", "u@x.test", note("for others"))
	mailsFrom(t, hop, "b@client.test", 1)
}

// TestOneProcessPerFolder: a second relay on the same data_dir ends at once and
// does the first no harm.
func TestOneProcessPerFolder(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	second := launch(t, relayproc.Options{Data: r.Data, Cluster: fmt.Sprintf(toSink, hop.Addr())})
	if log := fails(t, second, 1); !strings.Contains(log, r.Data) {
		t.Errorf("the message does not name the folder:\n%s", log)
	}
	submit(t, r.SMTP, "a@client.test", "u@x.test", note("still there"))
	mailsFrom(t, hop, "a@client.test", 1)
	if code, _ := r.Get("/readyz"); code != 200 {
		t.Errorf("/readyz %d", code)
	}
	cli(t, r, 0, "queue", "summary")
}

// TestPortTaken: a port that is taken is a clear error.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := launch(t, relayproc.Options{})
	text, err := os.ReadFile(r.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Config(), []byte(strings.Replace(string(text), r.SMTP, hop.Addr(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if log := fails(t, r, 1); !strings.Contains(log, hop.Addr()) || !strings.Contains(log, "address already in use") {
		t.Errorf("the message:\n%s", log)
	}
}

// TestWithoutRoot: the relay needs no privileges, and keeps its folder from
// others.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	bin := binary(t)
	need(t, "setpriv")
	dir := publicDir(t)
	own := filepath.Join(dir, "clrelay")
	if out, err := exec.Command("cp", bin, own).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const nobody = 65534
	data := filepath.Join(dir, "state", "data")
	for _, p := range []string{dir, filepath.Dir(data)} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hop := startHop(t, &peers.Hop{})
	r, err := relayproc.New(relayproc.Options{
		Binary: own, Dir: filepath.Join(dir, "relay"), Data: data, Cluster: fmt.Sprintf(toSink, hop.Addr()),
		Wrap: []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	submit(t, r.SMTP, "a@client.test", "u@x.test", note("from nobody"))
	mailsFrom(t, hop, "a@client.test", 1)
	st, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o700 || st.Sys().(*syscall.Stat_t).Uid != nobody {
		t.Errorf("data_dir: %v, owner %d", st.Mode(), st.Sys().(*syscall.Stat_t).Uid)
	}
	files, err := filepath.Glob(filepath.Join(data, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm()&0o077 != 0 && st.Mode()&os.ModeSocket == 0 {
			t.Errorf("%s: %v (%v)", f, st.Mode(), err)
		}
	}
}
