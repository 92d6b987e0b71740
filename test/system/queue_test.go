package system

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// queueRow is a row of `clrelay queue list -o json`, with exactly the keys that
// the contract names.
type queueRow struct {
	ID          string     `json:"id"`
	Node        string     `json:"node"`
	From        string     `json:"from"`
	Rcpt        string     `json:"rcpt"`
	Domain      string     `json:"domain"`
	State       string     `json:"state"`
	Size        int64      `json:"size"`
	Arrived     time.Time  `json:"arrived"`
	Attempts    int        `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	LastReply   string     `json:"last_reply"`
}

type queueSummary struct {
	Messages   int     `json:"messages"`
	Recipients int     `json:"recipients"`
	Active     int     `json:"active"`
	Deferred   int     `json:"deferred"`
	Held       int     `json:"held"`
	Oldest     float64 `json:"oldest_seconds"`
}

// cli runs an admin command that has to end with the code and gives its
// output.
func cli(t testing.TB, r *relayproc.Relay, code int, args ...string) string {
	t.Helper()
	stdout, stderr, got := r.CLI(args...)
	if got != code {
		t.Fatalf("clrelay %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout
}

func queueRows(t testing.TB, r *relayproc.Relay, args ...string) []queueRow {
	t.Helper()
	var rows []queueRow
	text := cli(t, r, 0, append([]string{"queue", "list", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &rows); err != nil || rows == nil {
		t.Fatalf("queue list: %v: %s", err, text)
	}
	return rows
}

func summary(t testing.TB, r *relayproc.Relay) queueSummary {
	t.Helper()
	var s queueSummary
	text := cli(t, r, 0, "queue", "summary", "-o", "json")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatalf("queue summary: %v: %s", err, text)
	}
	return s
}

func waitRows(t testing.TB, r *relayproc.Relay, what string, fact func([]queueRow) bool) []queueRow {
	t.Helper()
	var rows []queueRow
	eventually(t, 30*time.Second, what, func() bool {
		rows = queueRows(t, r)
		return fact(rows)
	})
	return rows
}

// emptyQueue waits until nothing is queued.
func emptyQueue(t testing.TB, r *relayproc.Relay, within time.Duration) {
	t.Helper()
	eventually(t, within, "the queue is empty", func() bool {
		for _, state := range []string{"active", "deferred", "held"} {
			if n, err := r.Metric(fmt.Sprintf("clrelay_queue_recipients{state=%q}", state)); err != nil || n != 0 {
				return false
			}
		}
		return true
	})
}

// TestIsolation: mail for a dead and for a slow destination, and plenty from
// one sender, does not hold up mail for a good one.
func TestIsolation(t *testing.T) {
	t.Parallel()
	binary(t)
	dead := relayproc.FreeAddr() // nobody listens
	gate := make(chan struct{})
	slow := startHop(t, &peers.Hop{Answer: func(line string) string {
		if line == "." {
			<-gate
		}
		return ""
	}})
	sink := startSink(t, &peers.Sink{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(hopsYAML,
		route("dead.test", smarthost(dead, ""))+route("slow.test", smarthost(slow.Addr(), ""))+route("good.test", smarthost(sink.Addr(), "")), identity(t, "x").Cert)})
	t.Cleanup(func() { close(gate) }) // before the relay is asked to end
	const each = 2000
	for i, domain := range []string{"dead.test", "slow.test"} {
		bulk := &peers.Source{Addr: r.SMTP, Sessions: 10, Reuse: true, From: "bulk@client.test", Rcpt: func(seq int64) string { return fmt.Sprintf("u%d@%s", seq, domain) }}
		if sent := bulk.Run(t.Context(), int64(i)*each, each); sent.Errors != 0 {
			t.Fatal(sent.LastErr)
		}
	}
	good := &peers.Source{Addr: r.SMTP, Sessions: 1, Reuse: true, From: "single@client.test", Rcpt: func(int64) string { return "u@good.test" }}
	for seq := int64(10_000); seq < 10_020; seq++ {
		start := time.Now()
		if sent := good.Run(t.Context(), seq, 1); sent.Errors != 0 {
			t.Fatal(sent.LastErr)
		}
		eventually(t, 10*time.Second, "the good mail is there", func() bool { return len(sink.Times(seq)) == 1 })
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("good mail took %v", took)
		}
	}
	if s := summary(t, r); s.Recipients != 2*each {
		t.Errorf("%d recipients are queued, want all %d of the bad destinations", s.Recipients, 2*each)
	}
}

// TestRetry: what failed comes when the destination is back, by itself and on
// demand, and every verb does what it says.
func TestRetry(t *testing.T) {
	t.Parallel()
	binary(t)
	var down atomic.Bool
	down.Store(true)
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if down.Load() && strings.HasPrefix(line, "RCPT TO:<") && !strings.Contains(line, "@client.test") {
			return "451 4.2.0 Come back later"
		}
		return ""
	}})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "[1s, 2s, 5s]", "[1h]", 1), hop.Addr())})
	if text := strings.TrimSpace(cli(t, r, 0, "queue", "list", "-o", "json")); text != "[]" {
		t.Errorf("an empty list is %q", text)
	}
	c := greeted(t, r.SMTP)
	ids := map[string]string{}
	for _, who := range []string{"retry", "hold", "drop", "bounce", "stay"} {
		c.envelope("<a@client.test>", "<"+who+"@x.test>", "<second@"+who+".test>")
		ids[who] = c.data(note(who))
	}
	rows := waitRows(t, r, "all are deferred", func(rows []queueRow) bool {
		return len(rows) == 10 && !slices.ContainsFunc(rows, func(q queueRow) bool { return q.State != "deferred" })
	})
	first := rows[0]
	if first.ID != ids["retry"] || first.Rcpt != "retry@x.test" || first.Domain != "x.test" || first.From != "a@client.test" || first.Node != "test" ||
		first.Attempts != 1 || !strings.Contains(first.LastReply, "451 4.2.0 Come back later") || first.NextAttempt == nil || first.Size == 0 {
		t.Errorf("first row: %+v", first)
	}
	if wait := time.Until(*first.NextAttempt); wait < 59*time.Minute || wait > 66*time.Minute {
		t.Errorf("the next attempt is in %v", wait)
	}
	if s := summary(t, r); s.Messages != 5 || s.Recipients != 10 || s.Deferred != 10 || s.Active != 0 || s.Held != 0 {
		t.Errorf("summary: %+v", s)
	}

	// Verbs want a selector, a known ID and, when there is no way back, a yes.
	cli(t, r, 2, "queue", "retry")
	cli(t, r, 2, "queue", "drop", "--rcpt", "drop@*")
	cli(t, r, 3, "message", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
	cli(t, r, 3, "message", "show", "nonsense")
	cli(t, r, 6, "queue", "drop", "--rcpt", "drop@*", "--yes", "--expect", "7")

	cli(t, r, 0, "queue", "hold", "--id", ids["hold"], "--reason", "a look at it")
	cli(t, r, 0, "queue", "drop", "--id", ids["drop"], "--yes", "--expect", "2")
	cli(t, r, 0, "queue", "bounce", "--id", ids["bounce"], "--yes", "--reason", "not wanted")
	down.Store(false)
	cli(t, r, 0, "queue", "retry", "--domain", "x.test")
	eventually(t, 20*time.Second, "what was retried is there", func() bool {
		got := rcptsAt(hop)
		return slices.Contains(got, "retry@x.test") && slices.Contains(got, "stay@x.test")
	})
	report := mailsFrom(t, hop, "", 1)[0]
	if !strings.Contains(string(report.Data), "bounce@x.test") || !strings.Contains(string(report.Data), "second@bounce.test") {
		t.Errorf("report: %s", report.Data)
	}
	waitRows(t, r, "held and untouched ones are left", func(rows []queueRow) bool {
		var left []string
		for _, q := range rows {
			left = append(left, q.Rcpt+" "+q.State)
		}
		slices.Sort(left)
		return slices.Equal(left, []string{"hold@x.test held", "second@hold.test held", "second@retry.test deferred", "second@stay.test deferred"})
	})
	if s := summary(t, r); s.Held != 2 || s.Deferred != 2 || s.Messages != 3 {
		t.Errorf("summary: %+v", s)
	}
	cli(t, r, 0, "queue", "release", "--id", ids["hold"])
	cli(t, r, 0, "queue", "retry", "--everything")
	emptyQueue(t, r, 20*time.Second)
	got := rcptsAt(hop)
	for _, rcpt := range got {
		if strings.Contains(rcpt, "drop") || strings.Contains(rcpt, "bounce") {
			t.Errorf("%s was delivered", rcpt)
		}
	}
	if len(got) != 7 {
		t.Errorf("the hop has %q", got)
	}
	balanced(t, r)
}

func rcptsAt(h *peers.Hop) []string {
	var out []string
	for _, m := range h.Mails() {
		out = append(out, m.Rcpts()...)
	}
	return out
}

// TestHeldAndDroppedSurvive: what an operator did is on the disk when the
// command returns.
func TestHeldAndDroppedSurvive(t *testing.T) {
	t.Parallel()
	binary(t)
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if strings.HasPrefix(line, "RCPT") {
			return "450 4.2.0 Later"
		}
		return ""
	}})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	held := submit(t, r.SMTP, "a@client.test", "held@x.test", note("held"))
	dropped := submit(t, r.SMTP, "a@client.test", "dropped@x.test", note("dropped"))
	waitRows(t, r, "both were tried", func(rows []queueRow) bool {
		return len(rows) == 2 && rows[0].Attempts > 0 && rows[1].Attempts > 0
	})
	// A verb leaves out a recipient that is just being tried, and says so.
	eventually(t, 20*time.Second, "both verbs worked", func() bool {
		_, _, code1 := r.CLI("queue", "hold", held)
		_, _, code2 := r.CLI("queue", "drop", dropped, "--yes")
		return code1 == 0 && code2 == 0
	})
	r.Kill()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := queueRows(t, r)
	if len(rows) != 1 || rows[0].ID != held || rows[0].State != "held" {
		t.Errorf("after kill -9: %+v", rows)
	}
}

// TestMessageShow: what is known of a message, with the keys that scripts use.
func TestMessageShow(t *testing.T) {
	t.Parallel()
	binary(t)
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, relayproc.FreeAddr())})
	c := greeted(t, r.SMTP)
	c.envelope("<a@client.test> RET=HDRS ENVID=e1 BODY=8BITMIME", "<u@x.test> NOTIFY=NEVER ORCPT=rfc822;o@y.test", "<v@x.test>")
	id := c.data(note("shown"))
	var m struct {
		ID, Node, From, Body, Ret string
		Size                      int64
		EnvID                     string `json:"env_id"`
		Client                    struct{ Addr, Helo, Protocol, Sender string }
		Recipients                []struct {
			Rcpt, Domain, State, Notify, ORcpt string
			Attempts                           int
			LastReply                          string `json:"last_reply"`
		}
	}
	eventually(t, 20*time.Second, "both recipients were tried", func() bool {
		if err := json.Unmarshal([]byte(cli(t, r, 0, "message", "show", id, "-o", "json")), &m); err != nil {
			t.Fatal(err)
		}
		return len(m.Recipients) == 2 && m.Recipients[0].Attempts > 0 && m.Recipients[1].Attempts > 0
	})
	if m.ID != id || m.Node != "test" || m.From != "a@client.test" || m.Body != "8BITMIME" || m.Ret != "HDRS" || m.EnvID != "e1" || m.Size == 0 {
		t.Errorf("message: %+v", m)
	}
	if m.Client.Addr != "127.0.0.1" || m.Client.Helo != "client.test" || m.Client.Protocol != "ESMTP" || m.Client.Sender != "local" {
		t.Errorf("client: %+v", m.Client)
	}
	if u := m.Recipients[0]; u.Rcpt != "u@x.test" || u.Domain != "x.test" || u.Notify != "NEVER" || !strings.Contains(u.ORcpt, "o@y.test") || u.LastReply == "" {
		t.Errorf("recipient: %+v", u)
	}
	if text := cli(t, r, 0, "message", "show", id); !strings.Contains(text, "v@x.test") {
		t.Errorf("as a table: %s", text)
	}
}

// TestUnreachable: commands say so when there is no relay.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	r, err := relayproc.New(relayproc.Options{Binary: binary(t), Dir: workDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	cli(t, r, 4, "queue", "summary")
	cli(t, r, 2, "queue", "sumary")
	cli(t, r, 2, "queue", "list", "--nonsense")
}
