package system

import (
	"encoding/json"
	"fmt"
	"net/smtp"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

const laterYAML = `senders:
  - {name: local, networks: [127.0.0.0/8]}
receive: {future_release: 1h}
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
queue: {retry: [1s], expire: 1h}
`

// TestHoldFor: what is to be held for some seconds is not tried before they are
// over, whatever becomes of the process, and then at once. Operators see it and
// can let it go.
func TestHoldFor(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(laterYAML, hop.Addr())})
	c := greeted(t, r.SMTP)
	if said := c.do("EHLO client.test", "250"); !strings.Contains(said, "FUTURERELEASE 3600 2") || !strings.Contains(said, "DELIVERBY") {
		t.Fatalf("EHLO: %s", said)
	}
	c.do("MAIL FROM:<a@client.test> HOLDFOR=3601", "501 5.5.4")
	const hold = 6 * time.Second
	from := time.Now()
	c.envelope(fmt.Sprintf("<a@client.test> HOLDFOR=%d", hold/time.Second), "<soon@x.test>")
	id := c.data(note("soon"))
	c.envelope("<a@client.test> HOLDUNTIL="+from.Add(30*time.Minute).UTC().Format(time.RFC3339), "<far@x.test>")
	far := c.data(note("far"))
	rows := queueRows(t, r)
	if len(rows) != 2 || rows[0].State != "held" || rows[0].NextAttempt == nil || rows[0].NextAttempt.Before(from.Add(hold-time.Second)) || rows[0].NextAttempt.After(from.Add(hold+2*time.Second)) {
		t.Errorf("listed: %+v", rows)
	}
	if s := summary(t, r); s.Held != 2 || s.Oldest != 0 {
		t.Errorf("counted: %+v", s)
	}
	if shown := cli(t, r, 0, "message", "show", id); !strings.Contains(shown, "hold until") {
		t.Errorf("shown:\n%s", shown)
	}
	r.Kill()
	<-r.Exited()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if time.Since(from) < hold && len(hop.Mails()) > 0 {
		t.Fatal("a start let it go")
	}
	eventually(t, 20*time.Second, "it is delivered", func() bool { return len(hop.Mails()) == 1 })
	if took := time.Since(from); took < hold || hop.Mails()[0].To[0] != "<soon@x.test>" {
		t.Errorf("%v after %v", hop.Mails()[0].To, took)
	}
	if n, err := r.Metric("clrelay_possible_duplicates_total"); err != nil || n != 0 {
		t.Errorf("%v possible duplicates, %v", n, err)
	}
	// That it was held may be among the events of the last moment, which a kill
	// takes along.
	eventually(t, 20*time.Second, "its story is known", func() bool {
		out := traceOf(t, r, 0, id)
		return len(out) == 1 && out[0].Outcome == "delivered"
	})
	cli(t, r, 0, "queue", "release", far, "--yes")
	eventually(t, 10*time.Second, "it is let go", func() bool { return len(hop.Mails()) == 2 })
	balanced(t, r)
}

// TestDeliverBy: what is of no use later goes back at its time, and the next hop
// is told how much of that is left.
func TestDeliverBy(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Offer: []string{"PIPELINING", "DELIVERBY 2"}, Answer: fussy})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(laterYAML, hop.Addr())})
	c := greeted(t, r.SMTP)
	from := time.Now()
	c.envelope("<back@client.test> BY=5;R", "<later@x.test>")
	c.data(note("code 123456"))
	c.envelope("<late@client.test> BY=3;N", "<later2@x.test>")
	c.data(note("soon, please"))
	c.envelope("<ok@client.test> BY=600;RT", "<ok@x.test>")
	c.data(note("in time"))
	st := reportAt(t, hop, "late@client.test")
	if len(st.Recipients) != 1 || st.Recipients[0].Action != "delayed" {
		t.Errorf("report: %+v", st.Recipients)
	}
	st = reportAt(t, hop, "back@client.test")
	if took := time.Since(from); took < 5*time.Second || len(st.Recipients) != 1 || st.Recipients[0].Action != "failed" || st.Recipients[0].Status != "5.4.7" {
		t.Errorf("report after %v: %+v", took, st.Recipients)
	}
	if rows := queueRows(t, r); len(rows) != 1 || rows[0].Rcpt != "later2@x.test" {
		t.Errorf("queued: %+v", rows)
	}
	found := false
	for _, m := range hop.Mails() {
		found = found || strings.HasPrefix(m.From, "<ok@client.test>") && (strings.Contains(m.From, " BY=600;RT") || strings.Contains(m.From, " BY=59"))
	}
	if !found {
		t.Errorf("nothing was passed on with its BY: %+v", hop.Lines())
	}
}

// queueRowsOf is queueRows of a node that may not be able to tell.
func queueRowsOf(r *relayproc.Relay) (rows []queueRow) {
	out, _, _ := r.CLI("queue", "list", "-o", "json")
	_ = json.Unmarshal([]byte(out), &rows)
	return rows
}

// TestHoldOverATakeover: who takes the mail of a lost node over holds it as well.
func TestHoldOverATakeover(t *testing.T) {
	t.Parallel()
	f := openFleetWith(t, 3, laterYAML)
	var st struct {
		Level uint32 `json:"feature_level"`
	}
	eventually(t, 30*time.Second, "the feature level", func() bool {
		told(t, &st, f.Nodes[0], "cluster", "status", "-o", "json")
		return st.Level >= fsm.LimitLevel
	})
	dead := f.Nodes[0]
	eventually(t, 10*time.Second, "it is offered", func() bool {
		c, err := smtp.Dial(dead.SMTP)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		ok, _ := c.Extension("FUTURERELEASE")
		return ok
	})
	const hold = 15 * time.Second
	before := f.sink.Messages()
	c := greeted(t, dead.SMTP)
	from := time.Now()
	c.envelope(fmt.Sprintf("<a@client.test> HOLDFOR=%d", hold/time.Second), "<soon@x.test>")
	c.data(note("soon"))
	dead.Kill()
	if err := os.RemoveAll(dead.Data); err != nil {
		t.Fatal(err)
	}
	eventually(t, 12*time.Second, "another node has it", func() bool {
		rows := append(queueRowsOf(f.Nodes[1]), queueRowsOf(f.Nodes[2])...)
		return len(rows) > 0 && rows[0].State == "held" && rows[0].NextAttempt != nil
	})
	if n := f.sink.Messages(); time.Since(from) < hold && n != before {
		t.Error("the takeover let it go")
	}
	eventually(t, 30*time.Second, "it is delivered", func() bool { return f.sink.Messages() > before })
	if took := time.Since(from); took < hold {
		t.Errorf("delivered after %v", took)
	}
	if err := dead.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
