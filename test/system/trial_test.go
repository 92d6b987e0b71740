package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// operate runs a command of the built binary against a relay.
func operate(t testing.TB, r *relayproc.Relay, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"))
	text, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Logf("clrelay %v: %s", args, exit.Stderr)
	case err != nil:
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// What test address says comes about: test send goes the way that it named.
func TestTrials(t *testing.T) {
	inbox := startInbox(t, &peers.Inbox{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`domains:
  - {name: a.test}
senders:
  - {name: local, networks: [127.0.0.0/8]}
routes:
  - {match: {domains: [a.test]}, action: {smarthost: [%q]}}
  - {match: {}, action: {smarthost: ["127.0.0.1:1"]}}
`, inbox.Addr())})
	var a struct {
		Allowed     bool   `json:"allowed"`
		AllowedBy   string `json:"allowed_by"`
		AllowedLine int    `json:"allowed_line"`
		Route       string `json:"route"`
		RouteLine   int    `json:"route_line"`
		Hosts       []struct {
			Address string `json:"address"`
		} `json:"hosts"`
		Probe struct {
			Rcpt  string `json:"rcpt"`
			Error string `json:"error"`
		} `json:"probe"`
	}
	ask := func(want int, args ...string) {
		t.Helper()
		out, code := operate(t, r, append([]string{"test", "address", "-o", "json", "--probe"}, args...)...)
		if code != want {
			t.Errorf("%v: exit code %d, want %d", args, code, want)
		}
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ask(0, "x@A.test")
	if a.AllowedBy != "domains[0]" || a.AllowedLine != 2 || a.Route != "routes[0]" || a.RouteLine != 6 || len(a.Hosts) != 1 || a.Hosts[0].Address != inbox.Addr() || a.Probe.Rcpt != "accepted" {
		t.Errorf("%+v", a)
	}
	if ask(0, "x@a.test", "--client", "127.0.0.1"); a.AllowedBy != "domains[0]" {
		t.Errorf("what needs no entry of senders is allowed by %s", a.AllowedBy)
	}
	if n := len(inbox.Letters()); n != 0 {
		t.Errorf("the probe sent %d messages", n)
	}
	ask(8, "x@b.test", "--client", "127.0.0.1")
	if a.AllowedBy != "senders[0]" || a.AllowedLine != 4 || a.Route != "routes[1]" || a.RouteLine != 7 || a.Probe.Error == "" {
		t.Errorf("%+v", a)
	}
	ask(8, "x@b.test", "--client", "10.0.0.1")
	if a.Allowed {
		t.Errorf("%+v", a)
	}
	out, code := operate(t, r, "test", "send", "--from", "me@a.test", "--to", "x@a.test", "--wait", "-o", "json")
	var sent struct {
		ID         string `json:"id"`
		Recipients []struct {
			Event  string `json:"event"`
			Remote string `json:"remote"`
		} `json:"recipients"`
	}
	if err := json.Unmarshal([]byte(out), &sent); err != nil || code != 0 || len(sent.ID) != 26 || sent.Recipients[0].Event != "delivered" || len(inbox.Letters()) != 1 {
		t.Errorf("%v, code %d: %s", err, code, out)
	}
	out, code = operate(t, r, "test", "send", "--from", "me@a.test", "--to", "x@b.test", "--to", "x@a.test", "--wait", "-o", "json")
	if err := json.Unmarshal([]byte(out), &sent); err != nil || code != 8 || sent.Recipients[0].Event != "deferred" || sent.Recipients[1].Event != "delivered" {
		t.Errorf("%v, code %d: %s", err, code, out)
	}
}
