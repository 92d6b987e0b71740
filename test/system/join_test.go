package system

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// certsSaid is what clrelay cert status says.
type certsSaid struct {
	Nodes []struct {
		Node, Issuer string
		Trusts       []string
		Signs        []string
	}
	Step    string
	Waiting []string
	New     string `json:"new_authority"`
}

// certs asks how the certificates stand.
func certs(t testing.TB, r *relayproc.Relay) (out certsSaid, code int) {
	t.Helper()
	text, _, code := r.CLI("cert", "status", "-o", "json")
	if code == 0 {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out, code
}

// allSaid waits until so many nodes have said how their certificates stand, and
// none is waited for.
func allSaid(t testing.TB, r *relayproc.Relay, nodes int) (out certsSaid) {
	t.Helper()
	eventually(t, 30*time.Second, "every node has done its part", func() bool {
		code := 0
		out, code = certs(t, r)
		return code == 0 && len(out.Nodes) == nodes && len(out.Waiting) == 0
	})
	return out
}

func must(t testing.TB, r *relayproc.Relay, args ...string) string {
	t.Helper()
	out, errs, code := r.CLI(args...)
	if code != 0 {
		t.Fatalf("clrelay %s: %d, %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// newcomers makes a cluster of mx1, which holds ca.key, and mx2, and a file for
// the token of a third.
func newcomers(t *testing.T) (f *fleet, joinFile string) {
	f = &fleet{counted: map[*relayproc.Relay]float64{}, sink: startSink(t, &peers.Sink{Hash: true})}
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{Binary: binary(t), Dir: workDir(t), Nodes: 1, Cluster: fmt.Sprintf(toSink, f.sink.Addr())})
	if err == nil {
		_, err = c.Add("")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Cluster = c
	key, err := os.ReadFile(filepath.Join(c.TLS, "ca.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Nodes[0].Dir, "tls", "ca.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	allSaid(t, c.Nodes[0], 2)
	return f, filepath.Join(c.Nodes[0].Dir, "token")
}

// TestJoinByToken: a machine with neither certificates nor addresses becomes a
// node by a token alone; certificates are renewed and the authority is replaced
// while mail comes in, and no node is restarted for it.
func TestJoinByToken(t *testing.T) {
	t.Parallel()
	f, joinFile := newcomers(t)
	mx1, mx2 := f.Nodes[0], f.Nodes[1]
	var made struct {
		Text      string
		Addresses []string
		Token     struct{ ID string }
	}
	if err := json.Unmarshal([]byte(must(t, mx2, "cluster", "join-token", "create", "--node", "mx3", "-o", "json")), &made); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(made.Addresses, []string{f.Addr(mx1)}) {
		t.Errorf("who can sign: %v, want mx1's address", made.Addresses)
	}
	if list := must(t, mx1, "cluster", "join-token", "list", "-o", "json"); strings.Contains(list, strings.Split(made.Text, ".")[3]) {
		t.Error("the list shows the secret")
	}

	// A node that cannot sign names the one that can, and no use is spent.
	write := func(addr string) {
		t.Helper()
		if err := os.WriteFile(joinFile, []byte(made.Text+"@"+addr+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(f.Addr(mx2))
	mx3, err := f.AddByToken("mx3", joinFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := mx3.Launch(); err != nil {
		t.Fatal(err)
	}
	<-mx3.Exited()
	if log := mx3.Log(); mx3.ExitCode() != 6 || !strings.Contains(log, "ask mx1") {
		t.Fatalf("at a node without ca.key: %d, %s", mx3.ExitCode(), log)
	}
	write(f.Addr(mx1))
	if err := mx3.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Nodes {
		f.takes(t, r, 40)
	}
	allSaid(t, mx1, 3)
	if info, err := os.Stat(filepath.Join(mx3.Dir, "tls", "node.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}

	// The token is used up, and its use is in the audit log.
	stranger, err := f.AddByToken("mx4", joinFile)
	if err != nil {
		t.Fatal(err)
	}
	f.Nodes = f.Nodes[:3]
	if err := stranger.Launch(); err != nil {
		t.Fatal(err)
	}
	<-stranger.Exited()
	if log := stranger.Log(); stranger.ExitCode() != 5 || !strings.Contains(log, "it is for the node mx3") {
		t.Errorf("a second machine: %d, %s", stranger.ExitCode(), log)
	}
	if list := must(t, mx2, "cluster", "join-token", "list", "-o", "jsonl"); !strings.Contains(list, `"state":"used up"`) || !strings.Contains(list, `"node":"mx3"`) {
		t.Errorf("the list: %s", list)
	}
	if log := must(t, mx2, "audit", "list", "-o", "jsonl"); !strings.Contains(log, "join token create") || !strings.Contains(log, "join token use") || strings.Contains(log, made.Text) {
		t.Errorf("the audit log: %s", log)
	}

	// It comes back by itself.
	if err := mx3.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := mx3.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(mx3.Log(), "the join token is not looked at") {
		t.Error("the second start says nothing of the token")
	}
	f.rotates(t)
	f.settle(t, time.Minute)
}

// rotates renews the certificate of mx3, and replaces the authority.
func (f *fleet) rotates(t *testing.T) {
	mx1, mx2, mx3 := f.Nodes[0], f.Nodes[1], f.Nodes[2]
	crt := filepath.Join(mx3.Dir, "tls", "node.crt")
	was := readFile(t, crt)
	if ends, err := mx3.Metric(`clrelay_certificate_end_timestamp_seconds{of="node"}`); err != nil || time.Until(time.Unix(int64(ends), 0)) < 700*24*time.Hour {
		t.Errorf("the metric: %v, %v", ends, err)
	}
	must(t, mx3, "cert", "renew")
	if readFile(t, crt) == was {
		t.Error("renew left the certificate as it was")
	}
	f.takes(t, mx3, 40)

	if _, errs, code := mx2.CLI("cert", "rotate-ca", "trust"); code != 6 || !strings.Contains(errs, "ask mx1") {
		t.Errorf("trust on a node without ca.key: %d, %s", code, errs)
	}
	if _, errs, code := mx2.CLI("cert", "rotate-ca", "issue"); code != 6 {
		t.Errorf("issue before trust: %d, %s", code, errs)
	}
	for _, step := range []string{"trust", "issue", "drop"} {
		must(t, mx1, "cert", "rotate-ca", step)
		st := allSaid(t, mx2, 3)
		if st.Step != step {
			t.Errorf("after %s: %+v", step, st)
		}
		for _, r := range f.Nodes {
			f.takes(t, r, 40)
		}
	}
	for _, n := range allSaid(t, mx3, 3).Nodes {
		if len(n.Trusts) != 1 || n.Issuer != n.Trusts[0] {
			t.Errorf("after all: %+v", n)
		}
	}
	// New connections are made with what there is now.
	for _, r := range []*relayproc.Relay{mx2, mx3, mx1} {
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.takes(t, r, 40)
	}
	// The operator's certificate is of the old authority.
	if _, errs, code := f.Admin("cluster", "status"); code == 0 {
		t.Errorf("a certificate of the authority that was dropped is taken: %s", errs)
	}
	dir := filepath.Join(f.Nodes[0].Dir, "ops")
	if out, errs, code := mx1.CLI("cert", "create-admin", "--ca-dir", filepath.Join(mx1.Dir, "tls"), "--dir", dir); code != 0 {
		t.Fatalf("%d, %s %s", code, out, errs)
	}
	if _, errs, code := mx1.CLI("--addr", f.Addr(mx3), "--tls-dir", dir, "cluster", "status"); code != 0 {
		t.Errorf("with a new certificate: %d, %s", code, errs)
	}
}
