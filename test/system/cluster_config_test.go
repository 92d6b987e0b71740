package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// applied is what config apply and config rollback say.
type applied struct {
	Version uint64 `json:"version"`
	Changed bool   `json:"changed"`
	Nodes   []struct {
		Name    string  `json:"name"`
		Version *uint64 `json:"version"`
	} `json:"nodes"`
	Missing []string `json:"missing_nodes"`
}

// configure runs a verb of config that changes something.
func configure(t *testing.T, r *relayproc.Relay, want int, args ...string) (out applied, errs string) {
	t.Helper()
	text, errs, code := r.CLI(slices.Concat([]string{"config"}, args, []string{"-o", "json"})...)
	if code != want {
		t.Fatalf("config %v: exit code %d, want %d\n%s%s", args, code, want, text, errs)
	}
	if text == "" {
		return out, errs
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("config %v: %v\n%s", args, err, text)
	}
	return out, errs
}

// recipients tells whether a node says by EHLO how many recipients it takes.
func recipients(t *testing.T, r *relayproc.Relay, limit string) bool {
	t.Helper()
	c := dial(t, r.SMTP)
	defer c.conn.Close()
	c.expect("220 ")
	return strings.Contains(c.do("EHLO client.test", "250"), "RCPTMAX="+limit)
}

// TestClusterConfig: the configuration is changed and taken back at any node.
// Who is late hears of it, the command returns when all nodes do as it says, and
// it names the one that is dead.
func TestClusterConfig(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	dir := t.TempDir()
	save := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var birth string
	eventually(t, 20*time.Second, "there is a first version", func() (ok bool) {
		text, _, code := f.Nodes[0].CLI("config", "export")
		birth = text
		return code == 0
	})
	if got, _ := configure(t, f.Nodes[1], 0, "apply", "-f", save("same.yaml", birth)); got.Changed || got.Version != 1 {
		t.Errorf("export and apply: %+v", got)
	}
	next := save("next.yaml", strings.Replace(birth, "receive: {", "receive: {max_recipients: 123, ", 1))
	got, errs := configure(t, f.Nodes[2], 0, "apply", "-f", next, "--if-version", "1", "--reason", "INC-1")
	if got.Version != 2 || len(got.Nodes) != 3 || len(got.Missing) != 0 || !strings.Contains(errs, "+ receive.max_recipients: 123") {
		t.Errorf("%+v\n%s", got, errs)
	}
	for _, r := range f.Nodes {
		if !recipients(t, r, "123") {
			t.Errorf("%s does not say what was applied", nameOf(r))
		}
	}
	if _, errs := configure(t, f.Nodes[0], 6, "apply", "-f", next, "--if-version", "1"); !strings.Contains(errs, "meanwhile came 2 by ") || !strings.Contains(errs, "(INC-1)") {
		t.Errorf("who came first is not said: %s", errs)
	}
	if got, _ := configure(t, f.Nodes[0], 0, "rollback", "--yes"); got.Version != 3 || len(got.Nodes) != 3 {
		t.Errorf("%+v", got)
	}
	for _, r := range f.Nodes {
		if recipients(t, r, "123") {
			t.Errorf("%s does not say what it was taken back to", nameOf(r))
		}
	}
	var history []struct {
		Version uint64 `json:"version"`
		Reason  string `json:"reason"`
	}
	text, errs, _ := f.Nodes[1].CLI("config", "history", "-o", "json")
	if err := json.Unmarshal([]byte(text), &history); err != nil || len(history) != 3 || history[0].Reason != "rollback to 1" || history[1].Reason != "INC-1" {
		t.Errorf("%v: %s%s", err, text, errs)
	}
	if text, errs, code := f.Nodes[1].CLI("config", "diff", "--from", "1", "--exit-code"); code != 0 {
		t.Errorf("diff: %d\n%s%s", code, text, errs)
	}
	f.confirmWithout(t, f.Nodes[2], next)
}

// confirmWithout applies a file while a node is dead, and sees that it takes it
// over when it is back.
func (f *fleet) confirmWithout(t *testing.T, dead *relayproc.Relay, file string) {
	t.Helper()
	dead.Kill()
	name := nameOf(dead)
	got, errs := configure(t, f.Nodes[0], 7, "apply", "-f", file, "--wait", "20s")
	if got.Version != 4 || !slices.Equal(got.Missing, []string{name}) || !strings.Contains(errs, name) {
		t.Errorf("%+v\n%s", got, errs)
	}
	if err := dead.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it does as the others when it is back", func() bool { return recipients(t, dead, "123") })
}
