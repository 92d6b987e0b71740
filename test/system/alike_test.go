package system

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// links makes the folder that the package clrelay-sendmail stands for.
func links(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sendmail", "mailq", "postqueue"} {
		if err := os.Symlink(binary(t), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// script is how a program in Python mails: the standard library's message, and
// sendmail for the rest.
const script = `
import subprocess, sys, email.message, email.policy
m = email.message.EmailMessage()
m["To"] = "Ä Recipient <one@b.test>, two@b.test"
m["Bcc"] = "three@b.test"
m["Subject"] = "Grüße"
m.set_content("ein Gruß\n.\nund noch eine Zeile\n")
p = subprocess.run([sys.argv[1], "-t", "-i", "-f", "cron@b.test"], input=m.as_bytes(policy=email.policy.default.clone(cte_type="8bit")))
sys.exit(p.returncode)
`

// A local program's mail arrives, and mailq and postqueue show what waits.
func TestLooksLikePostfix(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	inbox := startInbox(t, &peers.Inbox{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`senders:
  - {name: local, networks: [127.0.0.0/8]}
routes:
  - {match: {domains: [b.test]}, action: {smarthost: [%q]}}
  - {match: {}, action: {smarthost: ["127.0.0.1:1"]}}
queue: {retry: [1h], expire: 5d}
`, inbox.Addr())})
	dir := links(t)
	run := func(stdin, name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "CLRELAY_SMTP="+r.SMTP, "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"), "TZ=UTC")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("", python, "-c", script, filepath.Join(dir, "sendmail")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, 10*time.Second, "three recipients have it", func() bool {
		n := 0
		for _, l := range inbox.Letters() {
			n += len(l.To)
		}
		return n == 3
	})
	m := inbox.Letters()[0].Data
	for _, want := range []string{"\r\nFrom: ", "\r\nDate: ", "\r\nMessage-ID: <", "\r\n.\r\nund noch"} {
		if !bytes.Contains(m, []byte(want)) {
			t.Errorf("no %q in\n%s", want, m)
		}
	}
	if bytes.Contains(bytes.ToLower(m), []byte("three@b.test")) {
		t.Errorf("the blind copy is named:\n%s", m)
	}

	if out, err := run("Subject: x\n\nwaits\n", filepath.Join(dir, "sendmail"), "-f", "a@b.test", "x@down.test", "y@down.test"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var text string
	eventually(t, 10*time.Second, "both are deferred", func() bool {
		text, err = run("", filepath.Join(dir, "mailq"))
		return err == nil && strings.Count(text, "@down.test") == 2 && strings.Contains(text, "(4")
	})
	// What scripts that read Postfix's mailq look for.
	row := regexp.MustCompile(`(?m)^([0-9A-Z]+)[*!]? +(\d+) +((?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) +(\S+)\n +\((.+)\)\n +x@down\.test\n +y@down\.test\n`)
	if !row.MatchString(text) || !regexp.MustCompile(`(?m)^-- \d+ Kbytes in 1 Request\.\n\z`).MatchString(text) {
		t.Errorf("mailq:\n%s", text)
	}
	text, err = run("", filepath.Join(dir, "postqueue"), "-j")
	var msg struct {
		QueueName  string `json:"queue_name"`
		QueueID    string `json:"queue_id"`
		Sender     string `json:"sender"`
		Recipients []struct {
			Address     string `json:"address"`
			DelayReason string `json:"delay_reason"`
		} `json:"recipients"`
	}
	if err != nil || json.Unmarshal([]byte(text), &msg) != nil || msg.QueueName != "deferred" || msg.Sender != "a@b.test" || len(msg.Recipients) != 2 || msg.Recipients[0].DelayReason == "" {
		t.Errorf("postqueue -j: %v\n%s", err, text)
	}
	before, err := run("", os.Getenv("CLRELAY_BIN"), "queue", "list", "-o", "jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("", filepath.Join(dir, "postqueue"), "-i", msg.QueueID); err != nil || out != "" {
		t.Errorf("postqueue -i: %v %s", err, out)
	}
	eventually(t, 10*time.Second, "it was tried again", func() bool {
		after, err := run("", os.Getenv("CLRELAY_BIN"), "queue", "list", "-o", "jsonl")
		return err == nil && strings.Contains(before, `"attempts":1`) && strings.Count(after, `"attempts":2`) == 2
	})
}
