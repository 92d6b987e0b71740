package system

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// answers is a Hop's word on recipients by their local parts.
func answers(by map[string]string) func(line string) string {
	return func(line string) string {
		for local, reply := range by {
			if strings.HasPrefix(strings.ToUpper(line), "RCPT TO:<"+strings.ToUpper(local)+"@") {
				return reply
			}
		}
		return ""
	}
}

// asked counts how often a hop was asked for a recipient.
func asked(h *peers.Hop, local string) (n int) {
	for _, line := range h.Lines() {
		if strings.HasPrefix(line, "RCPT TO:<"+local+"@") {
			n++
		}
	}
	return n
}

// TestSuppression: an address that bounced is refused, what is queued for one
// that is put on the list fails without a connection, and all of it outlives the
// process.
func TestSuppression(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: answers(map[string]string{"gone": "550 5.1.1 no such user", "busy": "451 4.3.2 later"})})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr()) + "suppression: {automatic: per_sender, expire: 30d}\n"})
	refused := func(from, to, want string) {
		t.Helper()
		c := greeted(t, r.SMTP)
		c.do("MAIL FROM:<"+from+">", "250 ")
		c.do("RCPT TO:<"+to+">", want)
	}
	cli := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := r.CLI(append([]string{"suppress"}, args...)...)
		if code != want {
			t.Fatalf("suppress %s: %d: %s%s", strings.Join(args, " "), code, out, errs)
		}
		return out
	}
	const entry = "550 5.1.1 <gone@x.test> is on the suppression list: hard bounce on "
	submit(t, r.SMTP, "jane@y.test", "gone@x.test", note("to nobody"))
	eventually(t, 20*time.Second, "it is on the list", func() bool {
		_, _, code := r.CLI("suppress", "show", "gone@x.test")
		return code == 0
	})
	refused("jane@y.test", "Gone@X.test", strings.Replace(entry, "gone@x.test", "Gone@X.test", 1))
	refused("joe@y.test", "gone@x.test", "250 ")
	if n := asked(hop, "gone"); n != 1 {
		t.Errorf("the hop was asked %d times", n)
	}

	// Queued before: it fails with the same words, and no connection is made.
	submit(t, r.SMTP, "jane@y.test", "busy@x.test", note("later"))
	eventually(t, 20*time.Second, "it was tried", func() bool { return asked(hop, "busy") > 0 })
	cli(0, "add", "busy@x.test", "--reason", "T-1")
	eventually(t, 30*time.Second, "it failed", func() bool {
		return strings.Contains(r.Log(), `is on the suppression list: put there by the operator`)
	})
	n := asked(hop, "busy")
	if got, err := r.Metric(`clrelay_suppressed_total{stage="delivery"}`); err != nil || got != 1 {
		t.Errorf("%v at delivery: %v", got, err)
	}
	if got, err := r.Metric(`clrelay_suppressed_total{stage="rcpt"}`); err != nil || got != 1 {
		t.Errorf("%v at RCPT: %v", got, err)
	}

	// After a kill and a start it is all there.
	r.Kill()
	<-r.Exited()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("jane@y.test", "gone@x.test", entry)
	refused("x@y.test", "busy@x.test", "550 5.1.1 ")
	if got, err := r.Metric("clrelay_suppressed_recipients"); err != nil || got != 2 {
		t.Errorf("%v entries: %v", got, err)
	}
	if out := cli(0, "export", "-o", "csv"); strings.Count(out, "\n") != 3 {
		t.Errorf("exported:\n%s", out)
	}
	if n != asked(hop, "busy") {
		t.Error("the hop was asked for one who is on the list")
	}
	cli(0, "remove", "gone@x.test", "busy@x.test")
	refused("jane@y.test", "gone@x.test", "250 ")
	balanced(t, r)
}

// TestSuppressionOfACluster: what one node is told the others act by within a
// second, also when the leader is lost and when all are started anew.
func TestSuppressionOfACluster(t *testing.T) {
	t.Parallel()
	f := openFleet(t, 3)
	f.settle(t, time.Minute)
	var st struct {
		Level  uint32 `json:"feature_level"`
		Leader string `json:"leader"`
	}
	eventually(t, 30*time.Second, "the feature level", func() bool {
		told(t, &st, f.Nodes[0], "cluster", "status", "-o", "json")
		return st.Level >= fsm.LimitLevel && st.Leader != ""
	})
	add := func(r *relayproc.Relay, to string) {
		t.Helper()
		if out, errs, code := r.CLI("suppress", "add", to, "--reason", "T-1"); code != 0 {
			t.Fatalf("add %s: %d: %s%s", to, code, out, errs)
		}
	}
	refuses := func(r *relayproc.Relay, to string) bool {
		c := greeted(t, r.SMTP)
		c.do("MAIL FROM:<a@y.test>", "250 ")
		return strings.HasPrefix(c.do("RCPT TO:<"+to+">", ""), "550 5.1.1 ")
	}
	add(f.Nodes[0], "one@x.test")
	from := time.Now()
	for i, r := range f.Nodes {
		eventually(t, 5*time.Second, fmt.Sprint("node ", i, " refuses"), func() bool { return refuses(r, "one@x.test") })
	}
	t.Logf("all nodes refuse it after %v", time.Since(from).Round(time.Millisecond))
	var leader *relayproc.Relay
	others := f.Nodes
	for i := range f.Nodes {
		if st.Leader == fmt.Sprint("mx", i+1) {
			leader = f.Nodes[i]
			others = append(append([]*relayproc.Relay{}, f.Nodes[:i]...), f.Nodes[i+1:]...)
		}
	}
	leader.Kill()
	<-leader.Exited()
	add(others[0], "two@x.test") // waits for the election
	eventually(t, 5*time.Second, "the other refuses", func() bool { return refuses(others[1], "two@x.test") && refuses(others[1], "one@x.test") })
	for _, r := range others {
		r.Kill()
		<-r.Exited()
	}
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, r := range f.Nodes {
		eventually(t, 20*time.Second, fmt.Sprint("node ", i, " refuses after its start"), func() bool { return refuses(r, "one@x.test") && refuses(r, "two@x.test") })
	}
}

// TestUnknownRecipients: a list in a file and the word of the next hop, while the
// relay runs.
func TestUnknownRecipients(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: answers(map[string]string{"nobody": "550 5.1.1 no such user"})})
	dir := workDir(t)
	list := filepath.Join(dir, "users.txt")
	r := startRelay(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Cluster: fmt.Sprintf(`domains:
  - {name: list.test, recipients: list, list: %s, subaddress: "+"}
  - {name: ask.test, recipients: verify}
routes: [{match: {}, action: {smarthost: [%q]}}]
`, list, hop.Addr())})
	rcpt := func(to, want string) {
		t.Helper()
		c := greeted(t, r.SMTP)
		c.do("MAIL FROM:<a@client.test>", "250 ")
		c.do("RCPT TO:<"+to+">", want)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := r.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	rcpt("jane@list.test", "451 4.3.0 ")
	rcpt("postmaster@list.test", "250 ")
	if out, _, code := r.CLI("doctor"); code != 8 || !strings.Contains(out, "users.txt") {
		t.Errorf("doctor: %d:\n%s", code, out)
	}
	write("jane\n")
	eventually(t, 10*time.Second, "the list is read", func() bool { return strings.Contains(r.Log(), "a list of recipients was read") })
	rcpt("jane@list.test", "250 ")
	rcpt("jane+x@list.test", "250 ")
	rcpt("john@list.test", "550 5.1.1 <john@list.test>: no such user here")
	write("jane\n\x00\n")
	eventually(t, 10*time.Second, "the damage is told", func() bool { return strings.Contains(r.Log(), "stays in force") })
	rcpt("jane@list.test", "250 ")
	rcpt("john@list.test", "550 5.1.1 ")

	rcpt("jane@ask.test", "250 ")
	rcpt("nobody@ask.test", "550 5.1.1 ")
	rcpt("nobody@ask.test", "550 5.1.1 ")
	if n := asked(hop, "nobody"); n != 1 {
		t.Errorf("the hop was asked %d times", n)
	}
	if got, err := r.Metric("clrelay_unknown_recipients_total"); err != nil || got != 4 {
		t.Errorf("%v unknown: %v", got, err)
	}
	out, _, _ := r.CLI("test", "address", "nobody@ask.test")
	if !strings.Contains(out, "no such user here") {
		t.Errorf("test address:\n%s", out)
	}
}

// TestVerifyAtPostfix: a real server is asked.
func TestVerifyAtPostfix(t *testing.T) {
	binary(t)
	sink := startSink(t, &peers.Sink{})
	p, err := peers.StartPostfix(filepath.Join(publicDir(t), "postfix"), sink.Addr())
	if errors.Is(err, peers.ErrNoPostfix) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	main := filepath.Join(p.Dir, "etc", "main.cf")
	text, err := os.ReadFile(main)
	if err == nil {
		text = append(text, "smtpd_recipient_restrictions = check_recipient_access inline:{ {nobody@ask.test=550 5.1.1 User unknown}, {full@ask.test=552 5.2.2 Mailbox full} }\n"...)
		err = os.WriteFile(main, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("postfix", "-c", filepath.Join(p.Dir, "etc"), "reload").CombinedOutput(); err != nil {
		t.Fatalf("postfix reload: %v %s", err, out)
	}
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`domains: [{name: ask.test, recipients: verify, verify: {on_error: defer, unknown: 10s}}]
routes: [{match: {}, action: {smarthost: [%q]}}]
`, p.Addr)})
	at := func(addr, to string) string {
		c := greeted(t, addr)
		defer c.conn.Close()
		c.do("MAIL FROM:<a@client.test>", "250 ")
		return c.do("RCPT TO:<"+to+">", "")
	}
	rcpt := func(to string) string { return at(r.SMTP, to) }
	eventually(t, 30*time.Second, "Postfix knows its new configuration", func() bool { return strings.HasPrefix(at(p.Addr, "nobody@ask.test"), "550 5.1.1 ") })
	if got := rcpt("nobody@ask.test"); !strings.HasPrefix(got, "550 5.1.1 ") {
		t.Errorf("one who is not there: %s", got)
	}
	if got := rcpt("jane@ask.test"); !strings.HasPrefix(got, "250 ") {
		t.Errorf("one who is there: %s", got)
	}
	if got := rcpt("full@ask.test"); !strings.HasPrefix(got, "450 4.2.0 ") {
		t.Errorf("a full mailbox: %s", got)
	}
	submit(t, r.SMTP, "a@client.test", "jane@ask.test", note("to one who is there"))
	eventually(t, 30*time.Second, "it is delivered", func() bool { return sink.Messages() == 1 })
}
