package system

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// toInbox starts a relay with TLS and BINARYMIME in front of an inbox that
// takes everything.
func toInbox(t *testing.T) (*relayproc.Relay, *peers.Inbox, *peers.Identity) {
	t.Helper()
	binary(t)
	in := startInbox(t, &peers.Inbox{})
	id := identity(t, "relay.test")
	r := startRelay(t, relayproc.Options{
		Cluster:  fmt.Sprintf(toSink, in.Addr()),
		Listener: fmt.Sprintf("tls: {cert: %s, key: %s}, binarymime: true", id.Cert, id.Key),
	})
	return r, in, id
}

// from waits for n letters of a sender and gives them.
func from(t testing.TB, in *peers.Inbox, sender string, n int) []peers.Letter {
	t.Helper()
	var got []peers.Letter
	eventually(t, 30*time.Second, fmt.Sprintf("%d letters of %s", n, sender), func() bool {
		got = got[:0]
		for _, l := range in.Letters() {
			if l.From == sender {
				got = append(got, l)
			}
		}
		return len(got) >= n
	})
	if len(got) != n {
		t.Errorf("%d letters of %s, want %d", len(got), sender, n)
	}
	return got
}

func sameContent(t testing.TB, got []byte, want string) {
	t.Helper()
	if text := peers.StripTrace(got); string(text) != want {
		t.Errorf("the content came out different:\n%.400q\nwant\n%.400q", text, want)
	}
}

func need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// hard is a content with everything that a relay could stumble over, but valid.
func hard() string {
	return "From: <a@client.test>\r\nSubject: hard\r\n\r\n.\x20dot\r\n..two\r\n.\r\n" + strings.Repeat("long ", 5000) + "\r\n8-bit \xe4\xf6\xfc \xff\x80\r\n\t\r\n.\r\n.. end\r\n"
}

// TestPostfixSource: Postfix's generator in its several manners.
func TestPostfixSource(t *testing.T) {
	t.Parallel()
	need(t, "smtp-source")
	r, in, _ := toInbox(t)
	for i, c := range []struct {
		args     []string
		messages int
		rcpts    int
	}{
		{[]string{"-s", "20", "-m", "400", "-l", "2000"}, 400, 1},
		{[]string{"-s", "100", "-m", "1000", "-l", "10240", "-d"}, 1000, 1},
		{[]string{"-s", "4", "-m", "40", "-r", "7", "-l", "100000"}, 40, 7},
	} {
		sender := fmt.Sprintf("source%d@client.test", i)
		args := append(c.args, "-f", sender, "-t", "u@sink.test", r.SMTP)
		if out, err := exec.Command("smtp-source", args...).CombinedOutput(); err != nil {
			t.Fatalf("smtp-source %v: %v: %s", args, err, out)
		}
		ids := map[string]bool{}
		for _, l := range from(t, in, sender, c.messages) {
			if len(l.To) != c.rcpts {
				t.Errorf("%v: %d recipients, want %d", c.args, len(l.To), c.rcpts)
			}
			ids[regexp.MustCompile(`(?im)^message-id: (.*)$`).FindString(string(l.Data))] = true
		}
		if len(ids) != c.messages {
			t.Errorf("%v: %d different messages, want %d", c.args, len(ids), c.messages)
		}
	}
	balanced(t, r)
}

// TestSwaks: the tester's Swiss army knife, in the clear and over TLS.
func TestSwaks(t *testing.T) {
	t.Parallel()
	need(t, "swaks")
	r, in, _ := toInbox(t)
	file := filepath.Join(r.Dir, "message")
	text := strings.ReplaceAll(hard(), "\r\n", "\n")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"plain":    nil,
		"helo":     {"--protocol", "SMTP"},
		"pipeline": {"--pipeline"},
		"tls":      {"--tls"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "tls" && exec.Command("perl", "-MNet::SSLeay", "-e", "1").Run() != nil {
				t.Skip("swaks has no TLS without Perl's Net::SSLeay")
			}
			sender := name + "@swaks.test"
			args := append(args, "--server", r.SMTP, "--from", sender, "--to", "u@sink.test,v@sink.test", "--data", "@"+file, "--suppress-data")
			out, err := exec.Command("swaks", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("swaks: %v\n%s", err, out)
			}
			l := from(t, in, sender, 1)[0]
			sameContent(t, l.Data, hard()+"\r\n") // swaks ends with an empty line
			if trace := string(l.Data[:bytes.Index(l.Data, []byte("From:"))]); strings.Contains(trace, "ESMTPS") != (name == "tls") {
				t.Errorf("Received line: %q", trace)
			}
		})
	}
}

// TestSmtplib: Python's client, with DATA, 8BITMIME, SMTPUTF8 and STARTTLS, and
// a script that writes everything at once.
func TestSmtplib(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	r, in, id := toInbox(t)
	file := filepath.Join(r.Dir, "message")
	if err := os.WriteFile(file, []byte(hard()), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(r.SMTP, ":")
	for _, c := range []struct {
		how    string
		letter func(t *testing.T, l peers.Letter)
	}{
		{"data", func(t *testing.T, l peers.Letter) {}},
		{"8bitmime", func(t *testing.T, l peers.Letter) {
			if l.Mail.Body != smtp.Body8BitMIME {
				t.Errorf("BODY=%s", l.Mail.Body)
			}
		}},
		{"smtputf8", func(t *testing.T, l peers.Letter) {
			if !l.Mail.UTF8 || l.To[0] != "jörg@sink.test" {
				t.Errorf("SMTPUTF8 %v, to %q", l.Mail.UTF8, l.To)
			}
		}},
		{"starttls", func(t *testing.T, l peers.Letter) {
			if !bytes.Contains(l.Data, []byte("ESMTPS")) {
				t.Errorf("no TLS in %.300q", l.Data)
			}
		}},
		{"pipelined", func(t *testing.T, l peers.Letter) {}},
	} {
		t.Run(c.how, func(t *testing.T) {
			sender := c.how + "@python.test"
			out, err := exec.Command("python3", "testdata/client.py", c.how, port, sender, file, id.Cert).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			l := from(t, in, sender, 1)[0]
			sameContent(t, l.Data, hard())
			c.letter(t, l)
		})
	}
}

// TestGoSMTPClient: go-smtp's client with the parameters of DSN.
func TestGoSMTPClient(t *testing.T) {
	t.Parallel()
	r, in, id := toInbox(t)
	c, err := smtp.DialStartTLS(r.SMTP, id.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const sender = "go@client.test"
	if err := c.Mail(sender, &smtp.MailOptions{Body: smtp.Body8BitMIME, Return: smtp.DSNReturnHeaders, EnvelopeID: "id+=1"}); err != nil {
		t.Fatal(err)
	}
	opts := &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "first+one@sink.test"}
	if err := c.Rcpt("u@sink.test", opts); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(hard())); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l := from(t, in, sender, 1)[0]
	sameContent(t, l.Data, hard())
	if l.Mail.Return != smtp.DSNReturnHeaders || l.Mail.EnvelopeID != "id+=1" || l.Mail.Body != smtp.Body8BitMIME {
		t.Errorf("MAIL parameters: %+v", l.Mail)
	}
	if o := l.Rcpt[0]; o.OriginalRecipient != "first+one@sink.test" || len(o.Notify) != 2 {
		t.Errorf("RCPT parameters: %+v", o)
	}
}

// TestBDAT: chunks by hand, also with octets that only BINARYMIME allows.
func TestBDAT(t *testing.T) {
	t.Parallel()
	r, in, _ := toInbox(t)
	binaryText := "From: <a@b>\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\x01\n.\n\r\r\n.\r\nno end"
	for _, c := range []struct {
		name, param, content string
		chunk                int
		want                 smtp.BodyType
	}{
		{"one", "", hard(), 1 << 20, ""},
		{"many", " BODY=8BITMIME", hard(), 700, smtp.Body8BitMIME},
		{"octets", "", note("one octet at a time"), 1, ""},
		{"binary", " BODY=BINARYMIME", binaryText, 11, smtp.BodyBinaryMIME},
		{"big", " BODY=BINARYMIME", strings.Repeat(binaryText, 60_000), 1<<20 + 1, smtp.BodyBinaryMIME},
	} {
		t.Run(c.name, func(t *testing.T) {
			sender := c.name + "@bdat.test"
			s := greeted(t, r.SMTP)
			s.envelope("<"+sender+">"+c.param, "<u@sink.test>")
			s.bdat(c.content, c.chunk)
			l := from(t, in, sender, 1)[0]
			sameContent(t, l.Data, c.content)
			if l.Mail.Body != c.want {
				t.Errorf("BODY=%s, want %s", l.Mail.Body, c.want)
			}
		})
	}
}
