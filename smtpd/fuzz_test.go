package smtpd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/policy"
)

// fuzzInbox is an Acceptor whose answers depend on the content.
type fuzzInbox struct {
	mu    sync.Mutex
	taken int
}

func (in *fuzzInbox) Accept(_ context.Context, env *mail.Envelope, body io.Reader) error {
	head := make([]byte, 256)
	n, err := io.ReadFull(body, head)
	switch {
	case bytes.Contains(head[:n], []byte("refuse early")):
		return mail.NewReply(452, "4.3.1", "No space")
	case bytes.Contains(head[:n], []byte("fail early")):
		return errors.New("broken")
	}
	if err == nil {
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.taken++
	return nil
}

// FuzzConversation plays what a client sends, cut in two at any place, and
// checks what must hold for any input: nothing panics or hangs, replies are
// replies, as many messages are taken as are answered by "queued as", and the
// session ends.
func FuzzConversation(f *testing.F) {
	for _, s := range []string{
		"EHLO a\r\nMAIL FROM:<a@b.cd>\r\nRCPT TO:<b@example.edu>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n..\r\n.\r\nQUIT\r\n",
		"EHLO a\r\nMAIL FROM:<> SIZE=10 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<ü@example.edu> NOTIFY=NEVER\r\nBDAT 4\r\nx\r\nyBDAT 1 LAST\r\n\nQUIT\r\n",
		"HELO a\r\nMAIL FROM:<a@b.cd>\r\nRCPT TO:<postmaster>\r\nDATA\r\nx\n.\r\nMAIL FROM:<x@y.zz>\r\n.\r\n",
		"EHLO a\r\nMAIL FROM:<a@b.cd> RET=FULL ENVID=x\r\nRCPT TO:<b@example.edu> ORCPT=rfc822;a@b\r\nBDAT 20 LAST\r\n12345678901234567890RSET\r\nVRFY x\r\nEXPN y\r\nHELP\r\n",
		"EHLO a\r\nMAIL FROM:<a@b.cd> BODY=BINARYMIME\r\nRCPT TO:<b@example.edu>\r\nBDAT 5\r\n\x00\n\r\rxRSET\r\nQUIT\r\n",
		"EHLO a\r\nMAIL FROM:<a@b.cd>\r\nRCPT TO:<b@example.edu>\r\nDATA\r\nrefuse early\r\n.\r\nBDAT 3 LAST\r\nabcBDAT -1\r\n",
		"EHLO a\r\nMAIL FROM:<a@b.cd>\r\nRCPT TO:<b@example.edu>\r\nDATA\r\n" + strings.Repeat("Received: x\r\n", 10) + "\r\n.\r\nNOOP\r\nSTARTTLS\r\n",
		"GET / HTTP/1.1\r\n", "NOOP\rNOOP\r\n", "NOOP\nNOOP\n", "\x00", "EHLO " + strings.Repeat("x", 3000),
		"EHLO a\r\nMAIL FROM:<a@b.cd>\r\nRCPT TO:<b@example.edu>\r\nBDAT 3\r\nabcDATA\r\nBDAT 2000 LAST\r\nQUIT\r\n",
	} {
		f.Add([]byte(s), uint16(len(s)/2))
	}
	chain, err := policy.New(policy.Options{Hostname: "mx.test", Domains: []string{localDomain}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		inbox := &fuzzInbox{}
		srv, err := smtpd.New(smtpd.Options{
			Hostname: "mx.test", Acceptor: inbox, Policy: chain,
			Limits: smtpd.Limits{Size: 1000, Recipients: 3, Hops: 5, HeaderFields: 20, HeaderSize: 500, Discard: time.Microsecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		l := newPipes()
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l, smtpd.Listener{Binary: true}) }()
		client, server := net.Pipe()
		l.conns <- server
		_ = client.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			// A pipe cannot be half closed: an end that is no command's end
			// tells the server that nothing more comes.
			k := min(int(cut), len(in))
			_, _ = client.Write(in[:k])
			_, _ = client.Write(in[k:])
			_, _ = client.Write([]byte("\r\n.\r\n\x00"))
			_, _ = client.Write(make([]byte, 4000))
		}()
		queued := readReplies(t, client, in)
		client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Fatalf("the session does not end: %v", err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if queued != inbox.taken {
			t.Fatalf("%d messages were taken, %d were answered with 250", inbox.taken, queued)
		}
	})
}

// readReplies checks the form of all replies to the end of the connection and
// counts the accepted messages.
func readReplies(t *testing.T, conn net.Conn, in []byte) (queued int) {
	r := bufio.NewReader(conn)
	code := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Fatalf("the session hangs after %q", in)
			}
			if line != "" {
				t.Fatalf("half a reply: %q", line)
			}
			return queued
		}
		bad := len(line) > 512 || len(line) < 6 || !strings.HasSuffix(line, "\r\n") || line[0] < '2' || line[0] > '5' ||
			line[3] != ' ' && line[3] != '-' || strings.ContainsAny(line[:len(line)-2], "\r\x00")
		if bad || code != "" && line[:3] != code {
			t.Fatalf("reply line %q to %q", line, in)
		}
		code = ""
		if line[3] == '-' {
			code = line[:3]
		}
		if strings.HasPrefix(line, "250 2.0.0 Ok: queued as ") {
			queued++
		}
	}
}
