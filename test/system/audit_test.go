package system

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/test/relayproc"
)

// auditOf is what audit verify says of a node.
type auditOf struct {
	Node          string
	Entries, Last uint64
	Findings      []struct {
		File string
		Line int
		Text string
	}
}

// audits runs audit verify.
func audits(t testing.TB, r *relayproc.Relay) (list []auditOf, errs string, code int) {
	t.Helper()
	out, errs, code := r.CLI("audit", "verify", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("audit verify: %d: %s%s", code, out, errs)
	}
	return list, errs, code
}

// as runs a command over the network with a certificate.
func (f *fleet) as(t testing.TB, dir string, args ...string) (text string, code int) {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Env = append(os.Environ(), "CLRELAY_ADDR="+f.Addr(f.Nodes[1]), "CLRELAY_TLS_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestAuditAndRoles: what operators do stands in the log of every node, over
// kills and restarts, and cannot be changed unseen; without a quorum nothing is
// done. A certificate says what its holder may do until the cluster says
// otherwise.
func TestAuditAndRoles(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.settle(t, time.Minute)
	eventually(t, 30*time.Second, "the feature level", func() bool {
		var st struct {
			Level uint32 `json:"feature_level"`
		}
		told(t, &st, f.Nodes[0], "cluster", "status", "-o", "json")
		return st.Level >= fsm.OperatorLevel
	})
	hold := func(i, want int, reason string) string {
		t.Helper()
		out, errs, code := f.Nodes[i].CLI("queue", "hold", "--domain", "nowhere.example", "--yes", "--reason", reason)
		if code != want {
			t.Errorf("hold for %s at %d: %d: %s%s", reason, i, code, out, errs)
		}
		return errs
	}
	hold(0, 0, "INC-1")
	f.Nodes[2].Kill()
	hold(1, 0, "INC-2") // waits until the mail of the third, if it has any, is taken over
	if err := f.Nodes[2].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	hold(2, 0, "INC-3")
	list, errs, code := audits(t, f.Nodes[0])
	if code != 0 || len(list) != 3 {
		t.Fatalf("audit verify: %d: %+v %s", code, list, errs)
	}
	for _, n := range list {
		if n.Entries != 6 || n.Last != 6 {
			t.Errorf("%s has %d entries up to %d, not 6", n.Node, n.Entries, n.Last)
		}
	}
	out, _, _ := f.Nodes[2].CLI("audit", "list", "-o", "jsonl")
	for _, part := range []string{`"reason":"INC-1"`, `"reason":"INC-2"`, `"reason":"INC-3"`, `"action":"queue hold"`, `"code":"OK"`, `"text":"no answer from mx3"`} {
		if !strings.Contains(out, part) {
			t.Errorf("the log lacks %s:\n%s", part, out)
		}
	}
	f.checkRoles(t)

	// A line of one node is changed, and all say where.
	file := filepath.Join(f.Nodes[1].Data, "audit", "audit-000001.jsonl")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "INC-2", "INC-9", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	list, errs, code = audits(t, f.Nodes[0])
	if code != 8 || len(list) != 3 || len(list[1].Findings) != 1 || list[1].Findings[0].File != file || list[1].Findings[0].Line != 3 {
		t.Errorf("a changed line: %d: %+v %s", code, list, errs)
	}

	// Without a quorum nothing is done that cannot be written down.
	f.Nodes[1].Kill()
	f.Nodes[2].Kill()
	if errs := hold(0, 4, "INC-4"); !strings.Contains(errs, "the audit log cannot be written, and nothing was done") {
		t.Errorf("without a quorum: %s", errs)
	}
	for _, i := range []int{1, 2} {
		if err := f.Nodes[i].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// checkRoles makes an operator who may only look, and locks him out.
func (f *fleet) checkRoles(t *testing.T) {
	t.Helper()
	jane := filepath.Join(f.TLS, "jane")
	if out, err := exec.Command(binary(t), "cert", "create-admin", "--ca-dir", f.TLS, "--dir", jane, "--name", "jane", "--role", "viewer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, code := f.as(t, jane, "access", "whoami"); code != 0 || !strings.Contains(out, "viewer (from: certificate)") {
		t.Errorf("jane is %d %s", code, out)
	}
	if out, code := f.as(t, jane, "cluster", "status"); code != 0 {
		t.Errorf("jane looks: %d %s", code, out)
	}
	if out, code := f.as(t, jane, "queue", "hold", "--domain", "nowhere.example", "--yes"); code != 5 {
		t.Errorf("jane holds: %d %s", code, out)
	}
	conf, errs, code := f.Nodes[0].CLI("config", "export")
	if code != 0 {
		t.Fatal(errs)
	}
	next := filepath.Join(f.TLS, "next.yaml")
	if err := os.WriteFile(next, []byte(conf+"\naccess: [{name: jane, role: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := f.Nodes[0].CLI("config", "apply", "-f", next, "--wait", "20s"); code != 0 {
		t.Fatalf("config apply: %d: %s%s", code, out, errs)
	}
	if out, code := f.as(t, jane, "cluster", "status"); code != 5 || !strings.Contains(out, "locked out") {
		t.Errorf("jane is locked out, and looks: %d %s", code, out)
	}
}
