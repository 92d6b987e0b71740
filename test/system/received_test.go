package system

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// proxied connects by way of a proxy, which says who it is.
func proxied(t *testing.T, r *relayproc.Relay, client string) *client {
	t.Helper()
	c := dial(t, r.SMTP)
	c.send("PROXY TCP4 " + client + " 192.0.2.1 1234 25\r\n")
	return c
}

func welcome(t *testing.T, r *relayproc.Relay, client string) *client {
	t.Helper()
	c := proxied(t, r, client)
	c.expect("220 ")
	c.do("EHLO client.test", "250 ")
	return c
}

// guarded is a relay that mail waits in.
func guarded(t *testing.T, settings string) *relayproc.Relay {
	return startRelay(t, relayproc.Options{
		Listener: "proxy_from: [127.0.0.1]",
		Cluster: fmt.Sprintf(`senders: [{name: campus, networks: [10.0.0.0/8]}]
domains: [{name: here.test}]
routes: [{match: {}, action: {smarthost: [%q]}}]
queue: {retry: [1h]}
%s`, relayproc.FreeAddr(), settings),
	})
}

// TestReceivedLimits: what is received is held to limits, replies say which and
// for how long, what was refused does not count, and a reload changes them.
func TestReceivedLimits(t *testing.T) {
	t.Parallel()
	limits := `limits:
  - {name: senders, on: receiving, per: [sender], rate: 3600/h, burst: 3}
  - {name: conns, on: receiving, per: [client], connections: 2}
  - {name: daily, on: receiving, match: {groups: [campus]}, budget: 3/d}
`
	r := guarded(t, limits)
	a := welcome(t, r, "192.0.2.7")
	eventually(t, 20*time.Second, "a burst of tokens after the start", func() bool {
		a.send("MAIL FROM:<a@x.test>\r\n")
		line, err := a.reply()
		a.do("RSET", "250 ")
		return err == nil && strings.HasPrefix(line, "250 ")
	})
	// A client that goes away in the middle, and recipients that are refused, cost nothing.
	for range 5 {
		a.do("MAIL FROM:<a@x.test>", "250 ")
		a.do("RCPT TO:<b@elsewhere.test>", "550 5.7.1 ")
		a.do("RSET", "250 ")
	}
	sent := 0
	for ; sent < 10; sent++ {
		a.send("MAIL FROM:<a@x.test>\r\n")
		line, err := a.reply()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "450 ") {
			if want := "450 4.7.1 limit senders of sender=a@x.test: 3600 messages an hour; try again in 1 s"; strings.TrimSpace(line) != want {
				t.Errorf("got %q, want %q", line, want)
			}
			break
		}
		a.do("RCPT TO:<u@here.test>", "250 ")
		a.data(note("x"))
	}
	if sent < 1 || sent > 4 {
		t.Errorf("%d messages went at once, want the burst of 3", sent)
	}
	b := welcome(t, r, "192.0.2.7")
	c := proxied(t, r, "192.0.2.7")
	c.expect("421 4.7.0 limit conns of client=192.0.2.7: 2 connections at a time; try again in 1 s")
	c.closed()
	b.do("QUIT", "221 ")
	a.do("QUIT", "221 ")

	if denied, err := r.Metric(`clrelay_limit_denied_total{kind="rate",side="receiving"}`); err != nil || denied < 1 {
		t.Errorf("%v were counted as denied, %v", denied, err)
	}
	if log := r.Log(); !strings.Contains(log, "limit senders of sender=a@x.test") {
		t.Error("the log does not name the limit and whom it counts")
	}

	// A budget is kept over a restart.
	campus := func(want int) {
		t.Helper()
		c := welcome(t, r, "10.0.0.1")
		got := 0
		eventually(t, 20*time.Second, "the budget to be used up", func() bool {
			for {
				c.send(fmt.Sprintf("MAIL FROM:<s%d@x.test>\r\n", time.Now().UnixNano()))
				line, err := c.reply()
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(line, "450 4.7.1 limit senders of ") { // no token yet, right after a start
					return false
				}
				if strings.HasPrefix(line, "450 4.7.1 limit daily: 3 messages a day; try again in ") {
					left := strings.TrimSpace(line) // in the last two hours of the day in minutes
					return got >= want && (strings.HasSuffix(left, " h") || strings.HasSuffix(left, " min"))
				}
				c.do("RCPT TO:<u@elsewhere.test>", "250 ")
				c.data(note("x"))
				got++
			}
		})
		if got != want {
			t.Errorf("%d messages of a budget went, want %d", got, want)
		}
		c.do("QUIT", "221 ")
	}
	campus(3)
	r.Kill()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	campus(0)

	if err := r.SetCluster("domains: [{name: here.test}]\n"); err != nil {
		t.Fatal(err)
	}
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d := welcome(t, r, "192.0.2.7")
	eventually(t, 10*time.Second, "the limits to be gone", func() bool {
		for range 20 {
			d.send("MAIL FROM:<a@x.test>\r\n")
			if line, err := d.reply(); err != nil || !strings.HasPrefix(line, "250 ") {
				return false
			}
			d.do("RCPT TO:<u@here.test>", "250 ")
			d.data(note("x"))
		}
		return true
	})
}

// TestAbuse: a client that tries recipients is kept waiting, then locked out, and
// let in again; its neighbours and those who may relay notice nothing.
func TestAbuse(t *testing.T) {
	t.Parallel()
	r := guarded(t, "receive: {abuse: {refused_commands: 5, tarpit: 1s, lockout: 5s}}\n")
	bad := welcome(t, r, "192.0.2.7")
	bad.do("MAIL FROM:<a@x.test>", "250 ")
	try := func() time.Duration {
		begin := time.Now()
		bad.do("RCPT TO:<b@elsewhere.test>", "550 5.7.1 ")
		return time.Since(begin)
	}
	for range 4 {
		if took := try(); took > 900*time.Millisecond {
			t.Errorf("one of the first replies took %v", took)
		}
	}
	if took := try(); took < time.Second {
		t.Errorf("the reply at the threshold took %v, want a second", took)
	}
	good := welcome(t, r, "192.0.2.8")
	good.envelope("<a@x.test>", "<u@here.test>")
	good.data(note("x"))
	for range 10 {
		try()
	}
	c := proxied(t, r, "192.0.2.7")
	c.expect("421 4.7.0 too many refused commands from 192.0.2.7; try again in ")
	c.closed()
	good.envelope("<a@x.test>", "<u@here.test>")
	good.data(note("x"))
	ours := welcome(t, r, "10.0.0.1")
	for range 50 {
		ours.do("NONSENSE", "500 ")
		ours.do("MAIL FROM:<a@x.test>", "250 ")
		ours.do("RCPT TO:<u@here.test>", "250 ")
		ours.data(note("x")) // the count of mistakes of the session begins anew
	}
	eventually(t, 20*time.Second, "the client to be let in again", func() bool {
		c := proxied(t, r, "192.0.2.7")
		line, err := c.reply()
		return err == nil && strings.HasPrefix(line, "220 ")
	})
	if log := r.Log(); !strings.Contains(log, "a client is locked out") || !strings.Contains(log, "clrelay limit lockout lift 192.0.2.7 --reason TEXT") {
		t.Error("the log does not say that a client was locked out, and how it is let in again")
	}
	if n, err := r.Metric("clrelay_client_lockouts_total"); err != nil || n != 1 {
		t.Errorf("%v lockouts are counted, %v", n, err)
	}
}

// TestAbuseOfACluster: a client that tries recipients at one node is locked out
// at the others as well; who came beside it is not. What it did at several nodes
// counts together.
func TestAbuseOfACluster(t *testing.T) {
	t.Parallel()
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{
		Binary: binary(t), Dir: workDir(t), Nodes: 3, Listener: "proxy_from: [127.0.0.1]",
		Cluster: fmt.Sprintf(`domains: [{name: here.test}]
routes: [{match: {}, action: {smarthost: [%q]}}]
receive: {abuse: {refused_commands: 3, tarpit: off, lockout: 5m}}
`, relayproc.FreeAddr()),
	})
	if err != nil {
		t.Fatal(err)
	}
	(&fleet{Cluster: c}).stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	try := func(r *relayproc.Relay, client string, n int) {
		bad := welcome(t, r, client)
		defer bad.conn.Close()
		bad.do("MAIL FROM:<a@x.test>", "250 ")
		for range n {
			bad.do("RCPT TO:<b@elsewhere.test>", "550 5.7.1 ")
		}
	}
	out := func(r *relayproc.Relay, client string) bool {
		c := proxied(t, r, client)
		defer c.conn.Close()
		line, err := c.reply()
		return err == nil && strings.HasPrefix(line, "421 4.7.0 too many refused commands from "+client+"; try again in ")
	}
	try(c.Nodes[0], "192.0.2.7", 10)
	from := time.Now()
	for i, r := range c.Nodes {
		eventually(t, 10*time.Second, fmt.Sprint("the client is locked out at node ", i), func() bool { return out(r, "192.0.2.7") })
	}
	t.Logf("locked out at all nodes after %v", time.Since(from).Round(time.Millisecond))
	for i, n := range []int{4, 4, 2} { // it takes three times the threshold
		try(c.Nodes[i], "192.0.2.9", n)
	}
	eventually(t, 10*time.Second, "what was done at three nodes counts together", func() bool { return out(c.Nodes[1], "192.0.2.9") })
	for _, r := range c.Nodes {
		if out(r, "192.0.2.8") {
			t.Error("a neighbour is locked out")
		}
	}
	// It is lifted through another node, and stays so when all gossip has come.
	list := func(r *relayproc.Relay) string {
		text, stderr, code := r.CLI("limit", "lockout", "list")
		if code != 0 {
			t.Fatal(code, stderr)
		}
		return text
	}
	if text := list(c.Nodes[2]); !regexp.MustCompile(`(?m)^192\.0\.2\.7 +locked out +refused commands +4m\d+s +mx1,mx2,mx3 `).MatchString(text) {
		t.Errorf("the list of those who are locked out:\n%s", text)
	}
	text, stderr, code := c.Nodes[1].CLI("limit", "lockout", "lift", "192.0.2.7", "--reason", "INC-1")
	if code != 0 || !strings.HasPrefix(text, "192.0.2.7 is let in again at mx1, mx2, mx3: it was locked out for another 4m") {
		t.Errorf("lift: %d, %s%s", code, text, stderr)
	}
	try(c.Nodes[0], "192.0.2.10", 10) // told after all that was told of the other
	for i, r := range c.Nodes {
		eventually(t, 10*time.Second, fmt.Sprint("another client is locked out at node ", i), func() bool { return out(r, "192.0.2.10") })
		good := welcome(t, r, "192.0.2.7")
		good.do("MAIL FROM:<a@x.test>", "250 ")
		good.do("RCPT TO:<u@here.test>", "250 ")
	}
	if text := list(c.Nodes[0]); strings.Contains(text, "192.0.2.7 ") || !strings.Contains(text, "192.0.2.9 ") {
		t.Errorf("afterwards:\n%s", text)
	}
}
