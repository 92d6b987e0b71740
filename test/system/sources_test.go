package system

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// sourcesNode has two addresses of the loopback interface to send from, and one
// that the machine does not have.
const sourcesNode = `sources:
  - {name: out1, address: 127.0.0.2, hostname: out1.relay.test}
  - {name: out2, address: 127.0.0.3}
  - {name: gone, address: 192.0.2.77}
`

// submitFrom is submit from an address of the loopback interface.
func submitFrom(t testing.TB, client, addr, from, to string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	defer conn.Close()
	c.expect("220 ")
	c.do("EHLO client.test", "250 ")
	c.envelope("<"+from+">", "<"+to+">")
	c.data(note("from " + from))
}

// TestSources: mail leaves from the address of its route's pool, else of its
// sender's, under the right name; kept connections are never shared; and what
// is lost of a pool is stepped over.
func TestSources(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Node: sourcesNode, Cluster: fmt.Sprintf(`senders:
  - {name: lists, networks: [127.0.0.9], pool: lists}
  - {name: local, networks: [127.0.0.0/8]}
pools:
  - {name: lists, sources: [{name: out1}]}
  - {name: billing, sources: [{name: gone, weight: 1000}, {name: out2}], spread: message}
  - {name: elsewhere, sources: [{name: out9}], on_missing: wait}
routes:
  - {match: {domains: [billing.test]}, action: {smarthost: [%[1]q], pool: billing}}
  - {match: {domains: [elsewhere.test]}, action: {smarthost: [%[1]q], pool: elsewhere}}
  - {match: {}, action: {smarthost: [%[1]q]}}
queue: {retry: [1s, 1s, 5s], expire: 1h}
`, hop.Addr())})
	waits := submit(t, r.SMTP, "waits@client.test", "u@elsewhere.test", note("waits"))
	on := map[string]int{} // connection -> address
	for i := range 4 {
		for _, c := range []struct{ client, rcpt, from, hello string }{
			{"127.0.0.9", "u@x.test", "127.0.0.2", "out1.relay.test"},
			{"127.0.0.9", "u@billing.test", "127.0.0.3", "relay.test"},
			{"127.0.0.1", "u@billing.test", "127.0.0.3", "relay.test"},
			{"127.0.0.1", "u@x.test", "127.0.0.1", "relay.test"},
		} {
			sender := fmt.Sprintf("s%d-%s@%s.test", i, strings.TrimSuffix(c.rcpt[2:], ".test"), strings.ReplaceAll(c.client, ".", "-"))
			submitFrom(t, c.client, r.SMTP, sender, c.rcpt)
			m := mailsFrom(t, hop, sender, 1)[0]
			if m.Client != c.from || m.Hello != c.hello {
				t.Errorf("%s to %s came from %s as %s, want %s as %s", c.client, c.rcpt, m.Client, m.Hello, c.from, c.hello)
			}
			key := fmt.Sprint(m.Conn, " ", m.Client)
			on[key]++
		}
	}
	if len(on) != 3 {
		t.Errorf("connections and what they carried: %v, want one for each address", on)
	}
	for _, want := range []string{"source=out1", "source=out2", "a source is left out until this machine has its address"} {
		if !strings.Contains(r.Log(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if out, _, _ := r.CLI("message", "show", waits); !strings.Contains(out, "no source of the pool elsewhere") {
		t.Errorf("what waits shows no reason: %s", out)
	}
	explained(t, r)

	// A pool that the node gets is used at once, and at the next attempt.
	text, err := os.ReadFile(r.Config())
	if err == nil {
		err = os.WriteFile(r.Config(), []byte(strings.Replace(string(text), "name: out2", "name: out9", 1)), 0o644)
	}
	if err == nil {
		err = r.Signal(syscall.SIGHUP)
	}
	if err != nil {
		t.Fatal(err)
	}
	if m := mailsFrom(t, hop, "waits@client.test", 1)[0]; m.Client != "127.0.0.3" {
		t.Errorf("what waited came from %s", m.Client)
	}
}

// explained: test address says the same.
func explained(t *testing.T, r *relayproc.Relay) {
	t.Helper()
	for _, c := range []struct{ client, rcpt, pool, setting, source string }{
		{"127.0.0.9", "u@x.test", "lists", "senders[0].pool", "out1"},
		{"127.0.0.1", "u@billing.test", "billing", "routes[0].action.pool", "out2"},
		{"127.0.0.1", "u@x.test", "", "", ""},
	} {
		stdout, stderr, _ := r.CLI("test", "address", c.rcpt, "--client", c.client, "-o", "json")
		var got struct {
			Pool *struct {
				Name, Setting string
				Sources       []struct{ Name, Trouble string }
			}
			Hosts []struct{ Source string }
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%v: %s %s", err, stdout, stderr)
		}
		if len(got.Hosts) != 1 || got.Hosts[0].Source != c.source {
			t.Errorf("%s to %s: hosts %v, want %s", c.client, c.rcpt, got.Hosts, c.source)
		}
		switch {
		case (got.Pool != nil) != (c.pool != ""):
			t.Errorf("%s to %s: pool %v", c.client, c.rcpt, got.Pool)
		case got.Pool != nil && (got.Pool.Name != c.pool || got.Pool.Setting != c.setting):
			t.Errorf("%s to %s: pool %v", c.client, c.rcpt, got.Pool)
		case c.pool == "billing" && !strings.Contains(got.Pool.Sources[0].Trouble, "no address of this machine"):
			t.Errorf("nothing is wrong with the address that is gone: %v", got.Pool)
		}
	}
}

// TestWarmUp: of a new address three messages go today, and the fourth from the
// other source of the pool.
func TestWarmUp(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	today := time.Now().UTC()
	if next := today.Truncate(24 * time.Hour).Add(24 * time.Hour); next.Sub(today) < time.Minute {
		t.Skip("the day ends while this runs")
	}
	r := startRelay(t, relayproc.Options{Node: sourcesNode, Cluster: fmt.Sprintf(`senders:
  - {name: local, networks: [127.0.0.0/8], pool: bulk}
pools:
  - name: bulk
    sources:
      - {name: out1, weight: 1000, warm_up: {since: %s, ramp: [3/d, 6/d], per: all}}
      - {name: out2}
routes:
  - {match: {}, action: {smarthost: [%q]}}
queue: {retry: [1s, 1s, 5s], expire: 1h}
`, today.Format(time.DateOnly), hop.Addr())})
	from := map[string]int{}
	send := func() {
		sender := fmt.Sprintf("s%d@client.test", len(hop.Mails()))
		submit(t, r.SMTP, sender, "u@x.test", note(sender))
		from[mailsFrom(t, hop, sender, 1)[0].Client]++
	}
	eventually(t, 20*time.Second, "the day's budget is given", func() bool {
		send() // asks for it; until it is there the other source stands in
		return from["127.0.0.2"] == 1
	})
	before := from["127.0.0.3"]
	for range 11 {
		send()
	}
	if from["127.0.0.2"] != 3 || from["127.0.0.3"] != before+9 {
		t.Errorf("messages by address: %v, want 3 and %d", from, before+9)
	}
}
