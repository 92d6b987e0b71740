package system

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

func suites(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CLRELAY_SUITES")
	if dir == "" {
		t.Skip("CLRELAY_SUITES is not set")
	}
	return dir
}

// TestMIMESuites: foreign messages, also malformed ones, come out octet by
// octet as they went in. Those with octets that no line may hold are refused.
func TestMIMESuites(t *testing.T) {
	t.Parallel()
	dir := suites(t)
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "receive: {", "receive: {max_headers: 10000, ", 1), hop.Addr())})
	want := map[string]string{} // by sender
	refused, n := 0, 0
	c := greeted(t, r.SMTP)
	for _, set := range []string{"mime-stalwart", "mime-enmime"} {
		err := filepath.WalkDir(filepath.Join(dir, set), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".eml" && filepath.Ext(path) != ".raw" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content := crlf(string(text))
			sender := fmt.Sprintf("m%d@client.test", n)
			n++
			c.envelope("<"+sender+"> BODY=8BITMIME", "<u@x.test>")
			if strings.Contains(content, "\x00") || strings.Contains(strings.ReplaceAll(content, "\r\n", ""), "\r") {
				c.do("DATA", "354 ")
				c.send(string(peers.Stuff([]byte(content))))
				c.expect("550 5.5.2 ")
				c = greeted(t, r.SMTP)
				refused++
				return nil
			}
			c.data(content)
			want[sender] = content
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(want) < 150 {
		t.Fatalf("only %d messages", len(want))
	}
	eventually(t, 30*time.Second, "all are there", func() bool { return len(hop.Mails()) >= len(want) })
	for _, m := range hop.Mails() {
		if !bytes.HasSuffix(m.Data, []byte(want[m.Sender()])) || strings.Count(trace(m.Data, want[m.Sender()]), "\r\nReceived:") > 0 {
			t.Errorf("%s came out different", m.Sender())
		}
	}
	t.Logf("%d messages unchanged, %d refused", len(want), refused)
}

// trace gives what the relay put in front.
func trace(got []byte, content string) string { return strings.TrimSuffix(string(got), content) }

// crlf gives a text with CRLF where it had LF, and with one at its end.
func crlf(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	if !strings.HasSuffix(text, "\r\n") {
		text += "\r\n"
	}
	return text
}

// TestSmuggling plays each end-of-data form of the suite through the whole
// relay, by DATA and by BDAT: what goes out holds nothing that any next hop
// could take for the end of a message or for a command.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(suites(t), "smtp-smuggling", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		EndOfData []struct {
			ID  string `json:"id"`
			Hex string `json:"bytes_hex"`
		} `json:"end_of_data"`
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.EndOfData) == 0 {
		t.Fatalf("%d cases (%v)", len(file.EndOfData), err)
	}
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, hop.Addr())})
	const second = "MAIL FROM:<smuggled@client.test>\r\nRCPT TO:<admin@x.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhidden\r\n.\r\n"
	accepted := 0
	for _, c := range file.EndOfData {
		octets, err := hex.DecodeString(c.Hex)
		if err != nil {
			t.Fatal(err)
		}
		for name, head := range map[string]string{"body": "Subject: a\r\n\r\nA", "header": "Subject: a", "first": ""} {
			content := head + string(octets) + second
			s := greeted(t, r.SMTP)
			s.envelope("<first@client.test>", "<u@x.test>")
			if strings.HasSuffix(c.ID, "control") {
				// Content with a lone dot, sent as RFC 5321 4.5.2 says.
				s.data(content)
				accepted++
			} else {
				s.do("DATA", "354 ")
				s.send(content)
				s.expect("550 5.5.2 ")
			}
			// By BDAT there is no end to be found: the octets are content.
			s = greeted(t, r.SMTP)
			s.envelope("<first@client.test>", "<u@x.test>")
			s.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(content), content))
			switch reply, err := s.reply(); {
			case err != nil:
				t.Errorf("%s, %s: BDAT: %v", c.ID, name, err)
			case strings.HasPrefix(reply, "250 "):
				accepted++
			case !strings.HasPrefix(reply, "550 5.5.2 "):
				t.Errorf("%s, %s: BDAT: %q", c.ID, name, reply)
			}
		}
	}
	eventually(t, 20*time.Second, "what was accepted is there", func() bool { return len(hop.Mails()) >= accepted })
	emptyQueue(t, r, 10*time.Second)
	for _, m := range hop.Mails() {
		checkWire(t, &m)
	}
	if n := len(hop.Mails()); n != accepted || accepted == 0 {
		t.Errorf("%d messages came out, %d were accepted", n, accepted)
	}
	if log := strings.Join(hop.Lines(), "\n"); strings.Contains(log, "smuggled") {
		t.Errorf("a smuggled command was sent:\n%s", log)
	}
}

// ending finds what some server somewhere takes for the end of a message.
var ending = regexp.MustCompile(`[\r\n]\x00?\.\x00?[\r\n]`)

// checkWire looks at the octets between 354 and 250.
func checkWire(t *testing.T, m *peers.Mail) {
	t.Helper()
	if m.Sender() != "first@client.test" {
		t.Errorf("a message of %q", m.Sender())
	}
	lines := bytes.ReplaceAll(m.Wire, []byte("\r\n"), nil)
	if bytes.ContainsAny(lines, "\r\n\x00") {
		t.Errorf("a bare CR, LF or NUL went out: %q", m.Wire)
	}
	if n := len(ending.FindAll(m.Wire, -1)); n != 1 || !bytes.HasSuffix(m.Wire, []byte("\r\n.\r\n")) {
		t.Errorf("%d ends went out: %q", n, m.Wire)
	}
}
