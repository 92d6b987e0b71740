package system

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

type diagnosis struct {
	Findings []struct {
		Level string `json:"level"`
		Node  string `json:"node"`
		Check string `json:"check"`
		Text  string `json:"text"`
		Fix   string `json:"fix"`
	} `json:"findings"`
	MissingNodes []string `json:"missing_nodes"`
}

// of gives the texts of one check at one level.
func (d *diagnosis) of(level, node, check string) (out []string) {
	for _, f := range d.Findings {
		if f.Level == level && f.Node == node && f.Check == check {
			out = append(out, f.Text)
		}
	}
	return out
}

// The doctor finds a next hop that is down and nothing wrong with the others.
func TestDoctor(t *testing.T) {
	sink := startSink(t, &peers.Sink{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := l.Addr().String()
	l.Close()
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`routes:
  - {match: {domains: [a.test]}, action: {smarthost: [%q]}}
  - {match: {}, action: {smarthost: [%q]}}
`, sink.Addr(), down)})
	out, code := operate(t, r, "doctor", "-o", "json")
	var d diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 8 {
		t.Fatalf("%v, code %d: %s", err, code, out)
	}
	if got := d.of("fail", "test", "smarthosts"); len(got) != 1 || !strings.HasPrefix(got[0], down) {
		t.Errorf("next hops that are down: %q", got)
	}
	for _, check := range []string{"service", "fsync", "files", "listener", "smarthosts"} {
		if len(d.of("ok", "test", check)) != 1 {
			t.Errorf("%s is not as it should be:\n%s", check, out)
		}
	}
}

// Any node answers for all, and says which do not answer.
func TestDoctorOfACluster(t *testing.T) {
	f := openFleet(t, 3)
	var d diagnosis
	examine := func(want int) {
		t.Helper()
		out, talk, code := f.Admin("doctor", "-o", "json")
		d = diagnosis{}
		if err := json.Unmarshal([]byte(out), &d); err != nil || code != want {
			t.Fatalf("%v, code %d, want %d: %s%s", err, code, want, out, talk)
		}
	}
	out, _, _ := f.Admin("doctor", "-o", "json")
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, check := range []string{"quorum", "members", "versions", "clock"} {
		if len(d.of("ok", "", check)) != 1 {
			t.Errorf("%s is not as it should be:\n%s", check, out)
		}
	}
	for _, r := range f.Nodes {
		if got := d.of("ok", nameOf(r), "peers"); len(got) != 2 {
			t.Errorf("%s reaches %q", nameOf(r), got)
		}
		if got := d.of("ok", nameOf(r), "certificate"); len(got) != 2 {
			t.Errorf("certificates of %s: %q", nameOf(r), got)
		}
	}
	lost := f.Nodes[2]
	lost.Kill()
	eventually(t, 20*time.Second, "the node is missed", func() bool {
		out, _, _ := f.Admin("doctor", "-o", "json")
		return strings.Contains(out, nameOf(lost)+" is silent")
	})
	examine(7)
	if len(d.MissingNodes) != 1 || d.MissingNodes[0] != nameOf(lost) || len(d.of("warn", "", "quorum")) != 1 {
		t.Errorf("%+v", d)
	}
	if err := lost.Start(t.Context()); err != nil { // so that it ends as the others do
		t.Error(err)
	}
}
