package system

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

const returnsYAML = `domains: [{name: x.test}]
postmaster: postmaster@client.test
routes:
  - {match: {}, action: {smarthost: ["%s"]}}
returns: {domain: bounces.test, key_file: %s}
`

const lateBounce = "From: MAILER-DAEMON@x.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.x.test\r\n\r\n" +
	"Final-Recipient: rfc822; someone@else.test\r\nAction: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 No such user\r\n--b--\r\n"

const spamComplaint = "From: feedback@x.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\n--b--\r\n"

// openReturns starts three nodes that give mail return paths.
func openReturns(t *testing.T, more string) (*peers.Hop, *relayproc.Cluster) {
	t.Helper()
	hop := startHop(t, &peers.Hop{})
	key := filepath.Join(t.TempDir(), "returns.key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{Binary: binary(t), Dir: workDir(t), Nodes: 3, Cluster: fmt.Sprintf(returnsYAML, hop.Addr(), key) + more})
	if err != nil {
		t.Fatal(err)
	}
	(&fleet{Cluster: c}).stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return hop, c
}

// TestReturns: mail leaves with return paths, and what comes back to them, at
// whichever node, is known to be about the recipient that they stand for and
// goes on to the sender. Nobody here may relay: return paths need no senders.
func TestReturns(t *testing.T) {
	t.Parallel()
	hop, c := openReturns(t, "")
	cl := greeted(t, c.Nodes[0].SMTP)
	cl.envelope("<jane@client.test>", "<a@x.test>", "<b@x.test>")
	id := cl.data(note("hello"))
	paths := returnPaths(t, hop, id)

	forged := strings.Replace(paths["b@x.test"], ".1.", ".0.", 1)
	if out, errs, code := c.Nodes[1].CLI("test", "address", paths["b@x.test"]); code != 0 || !regexp.MustCompile(`route +returns `).MatchString(out) {
		t.Errorf("test address of a return path: %d\n%s%s", code, out, errs)
	}
	if out, _, code := c.Nodes[1].CLI("test", "address", forged); code != 8 || !strings.Contains(out, "This return path was not made here") {
		t.Errorf("test address of a forged one: %d\n%s", code, out)
	}
	cl = greeted(t, c.Nodes[1].SMTP)
	cl.do("MAIL FROM:<>", "250 ")
	cl.do("RCPT TO:<"+forged+">", "550 5.7.1 This return path was not made here")
	cl.do("RCPT TO:<jane@bounces.test>", "550 5.7.1 ")
	cl.do("RCPT TO:<"+strings.ToUpper(paths["b@x.test"])+">", "250 ")
	cl.data(lateBounce)
	cl = greeted(t, c.Nodes[2].SMTP)
	cl.envelope("<feedback@x.test>", "<"+paths["a@x.test"]+">")
	cl.data(spamComplaint)

	for _, want := range []string{"Diagnostic-Code: smtp; 550 5.1.1 No such user", "Feedback-Type: abuse"} {
		eventually(t, 30*time.Second, "the sender gets "+want, func() bool {
			return slices.ContainsFunc(hop.Mails(), func(m peers.Mail) bool {
				return strings.HasPrefix(m.From, "<>") && slices.Equal(m.Rcpts(), []string{"jane@client.test"}) && strings.Contains(string(m.Data), want)
			})
		})
	}
	last := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(last)
		}
	})
	for _, want := range []string{"bounce b@x.test no-mailbox 550 5.1.1 No such user", "complaint a@x.test "} {
		eventually(t, 30*time.Second, "the trace tells of it: "+want, func() bool {
			out, _, _ := c.Nodes[0].CLI("trace", id, "-o", "jsonl")
			last = out
			return returned(out, want)
		})
	}
	out, _, _ := c.Nodes[2].CLI("trace", id)
	for _, want := range []string{`returned +b@x\.test +bounce [0-9A-Z]{26} came back; no-mailbox; 550 5\.1\.1 No such user`, `returned +a@x\.test +complaint [0-9A-Z]{26} came back; abuse`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("the story lacks %q:\n%s", want, out)
		}
	}
	emptyQueue(t, c.Nodes[0], 20*time.Second)
	counted := 0.0
	for _, r := range c.Nodes {
		for _, kind := range []string{"bounce", "complaint"} {
			n, err := r.Metric(`clrelay_returns_total{kind="` + kind + `"}`)
			if err != nil {
				t.Fatal(err)
			}
			counted += n
		}
	}
	if counted != 2 {
		t.Errorf("%v returns were counted", counted)
	}
}

// TestReturnsSuppress: what comes back to one node puts the recipient on the
// list of all, as a bounce and as a complaint, for the sender of the original.
// senders is there for those who are refused: mail for our own domains is not.
func TestReturnsSuppress(t *testing.T) {
	t.Parallel()
	hop, c := openReturns(t, "senders: [{name: local, networks: [127.0.0.0/8]}]\nsuppression: {automatic: per_sender, complaints: 365d}\n")
	var st struct {
		Level uint32 `json:"feature_level"`
	}
	eventually(t, 30*time.Second, "the feature level", func() bool {
		told(t, &st, c.Nodes[0], "cluster", "status", "-o", "json")
		return st.Level >= fsm.LimitLevel
	})
	cl := greeted(t, c.Nodes[0].SMTP)
	cl.envelope("<jane@client.test>", "<gone@far.test>", "<cross@far.test>")
	paths := returnPaths(t, hop, cl.data(note("hello")))
	for to, back := range map[string]string{"gone@far.test": lateBounce, "cross@far.test": spamComplaint} {
		cl = greeted(t, c.Nodes[1].SMTP)
		cl.envelope("<>", "<"+paths[to]+">")
		cl.data(back)
	}
	for to, want := range map[string]string{
		"gone@far.test":  `hard bounce on [-0-9]{10} \("550 5\.1\.1 No such user"\)`,
		"cross@far.test": `complaint on [-0-9]{10} \("abuse"\)`,
	} {
		form := regexp.MustCompile(`^550 5\.1\.1 <` + to + `> is on the suppression list: ` + want)
		got := ""
		eventually(t, 20*time.Second, to+" is refused at another node", func() bool {
			cl := greeted(t, c.Nodes[2].SMTP)
			cl.do("MAIL FROM:<jane@client.test>", "250 ")
			got = cl.do("RCPT TO:<"+to+">", "")
			return strings.HasPrefix(got, "550 ")
		})
		if !form.MatchString(got) {
			t.Errorf("%s hears %q", to, got)
		}
		cl := greeted(t, c.Nodes[2].SMTP)
		cl.do("MAIL FROM:<joe@client.test>", "250 ")
		cl.do("RCPT TO:<"+to+">", "250 ")
	}
}

// returnPaths gives the sender of each copy of a message.
func returnPaths(t *testing.T, hop *peers.Hop, id string) map[string]string {
	t.Helper()
	paths := map[string]string{}
	form := regexp.MustCompile(`^<(b\+` + strings.ToLower(id) + `\.[01]\.[a-z2-7]{20}@bounces\.test)>`)
	eventually(t, 20*time.Second, "both recipients have their copy", func() bool {
		for _, m := range hop.Mails() {
			if from := form.FindStringSubmatch(m.From); from != nil && len(m.Rcpts()) == 1 {
				paths[m.Rcpts()[0]] = from[1]
			}
		}
		return len(paths) == 2
	})
	return paths
}

// returned tells whether a story has something that came back: "KIND RCPT
// CLASS REPLY".
func returned(story, want string) bool {
	for event := range strings.SplitSeq(story, `{"time":`) {
		field := func(name string) string {
			m := regexp.MustCompile(`"` + name + `":\[?"([^"]*)"`).FindStringSubmatch(event)
			if m == nil {
				return ""
			}
			return m[1]
		}
		got := field("kind") + " " + field("rcpts") + " " + field("class") + " " + field("reply")
		if field("event") == "returned" && strings.HasPrefix(strings.TrimSpace(got), strings.TrimSpace(want)) {
			return true
		}
	}
	return false
}
