package smtpd_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
)

type eodCase struct {
	ID    string `json:"id"`
	Hex   string `json:"bytes_hex"`
	octet string
	legal bool
}

func smugglingCases(t *testing.T) []eodCase {
	t.Helper()
	suites := os.Getenv("CLRELAY_SUITES")
	if suites == "" {
		t.Skip("CLRELAY_SUITES is not set")
	}
	text, err := os.ReadFile(filepath.Join(suites, "smtp-smuggling", "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		EndOfData []eodCase `json:"end_of_data"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.EndOfData) != 14 {
		t.Fatalf("%d cases, the test was written for 14", len(file.EndOfData))
	}
	for i := range file.EndOfData {
		c := &file.EndOfData[i]
		b, err := hex.DecodeString(c.Hex)
		if err != nil {
			t.Fatal(err)
		}
		c.octet, c.legal = string(b), strings.HasSuffix(c.ID, "control")
	}
	return file.EndOfData
}

// second is what a smuggler wants to be taken for commands.
const second = "MAIL FROM:<smuggled@x.test>\r\nRCPT TO:<b@" + localDomain + ">\r\nDATA\r\nSubject: smuggled\r\n\r\nhidden\r\n"

// placements are what stands before the disputed octets.
func placements() map[string]string {
	head := "Subject: a\r\nFrom: b@c.de\r\n"
	return map[string]string{
		"in the body":       head + "\r\nA",
		"end of headers":    head,
		"inside headers":    "Subject: a\r\nFrom: b",
		"first body octets": head + "\r\n",
		"first octets":      "",
	}
}

// attack plays a whole conversation and checks its outcome.
type attack struct {
	w      *world
	c      eodCase
	prefix string
	open   func() *peer               // a peer behind EHLO
	write  func(p *peer, data string) // how the content is written
	refuse string                     // the reply that a legal end gets, "" for 250
}

func (a attack) run(t *testing.T) {
	t.Helper()
	before := len(a.w.inbox.messages())
	p := a.open()
	p.t = t
	p.envelope()
	p.do("DATA", "354 ")
	// The reader runs at once: the server may answer and close early.
	type result struct {
		replies []string
		err     error
	}
	got := make(chan result, 1)
	go func() {
		var r result
		for {
			lines, err := p.reply()
			if err != nil {
				r.err = err
				break
			}
			r.replies = append(r.replies, lines[len(lines)-1])
			if strings.HasPrefix(lines[0], "221 ") {
				break
			}
		}
		got <- r
	}()
	a.write(p, a.prefix+a.c.octet+second+".\r\nQUIT\r\n")
	r := <-got
	p.conn.Close()
	var ne net.Error
	if errors.As(r.err, &ne) && ne.Timeout() {
		t.Fatalf("the session stands still after %q", r.replies)
	}
	a.judge(t, r.replies, a.w.inbox.messages()[before:])
}

func (a attack) judge(t *testing.T, replies []string, got []message) {
	t.Helper()
	if !a.c.legal {
		if len(got) != 0 {
			t.Errorf("%d messages were accepted: %q", len(got), got[0].data)
		}
		if len(replies) != 1 || !strings.HasPrefix(replies[0], "550 5.5.2 ") {
			t.Errorf("replies %q, want one 550 5.5.2", replies)
		}
		return
	}
	// The legal end: what follows are commands, in the open.
	first := "250 2.0.0 Ok: queued"
	want := 2
	if a.refuse != "" {
		first, want = a.refuse, 1
	}
	if len(replies) != 6 || !strings.HasPrefix(replies[0], first) || !strings.HasPrefix(replies[4], "250 2.0.0 Ok: queued") && a.refuse == "" {
		t.Errorf("replies %q", replies)
	}
	if a.refuse == "" && len(got) != want {
		t.Errorf("%d messages, want %d", len(got), want)
	}
}

func atOnce(p *peer, data string) { _, _ = io.WriteString(p.conn, data) }

func byteByByte(p *peer, data string) {
	for i := range len(data) {
		if _, err := io.WriteString(p.conn, data[i:i+1]); err != nil {
			return // refused and closed before the end
		}
	}
}

func TestSmugglingDATA(t *testing.T) {
	cases := smugglingCases(t)
	plain := start(t, setup{})
	id := newIdentity(t)
	secure := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	for _, c := range cases {
		for where, prefix := range placements() {
			for how, write := range map[string]func(*peer, string){"one segment": atOnce, "one byte per write": byteByByte} {
				t.Run(c.ID+"/"+where+"/"+how, func(t *testing.T) {
					attack{w: plain, c: c, prefix: prefix, open: plain.greeted, write: write}.run(t)
				})
			}
			t.Run(c.ID+"/"+where+"/under STARTTLS", func(t *testing.T) {
				open := func() *peer {
					p := secure.greeted().startTLS(id)
					p.do("EHLO client.test", "250 ")
					return p
				}
				attack{w: secure, c: c, prefix: prefix, open: open, write: atOnce}.run(t)
				attack{w: secure, c: c, prefix: prefix, open: open, write: byteByByte}.run(t)
			})
		}
	}
}

// TestSmugglingEdges puts the disputed octets across every edge that a read
// can have: the sizes of our buffers and of common ones, and every way to cut
// the octets in two.
func TestSmugglingEdges(t *testing.T) {
	cases := smugglingCases(t)
	l := newPipes()
	w := start(t, setup{on: l, limits: smtpd.Limits{Discard: 5 * time.Millisecond}}) // a pipe does not show its end earlier
	open := func() *peer {
		conn := l.dial(t)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		p := newPeer(t, conn)
		p.expect("220 ")
		p.do("EHLO client.test", "250 ")
		return p
	}
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			for _, edge := range []int{1 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10, 80 << 10} {
				for shift := -len(c.octet) - 1; shift <= 1; shift++ {
					prefix := "Subject: a\r\n\r\n"
					prefix += strings.Repeat("b", edge+shift-len(prefix))
					attack{w: w, c: c, prefix: prefix, open: open, write: atOnce}.run(t)
				}
			}
			prefix := "Subject: a\r\n\r\nA"
			for cut := len(prefix) - 1; cut <= len(prefix)+len(c.octet)+1; cut++ {
				attack{w: w, c: c, prefix: prefix, open: open, write: func(p *peer, data string) {
					atOnce(p, data[:cut])
					atOnce(p, data[cut:])
				}}.run(t)
			}
		})
	}
}

func TestSmugglingAfterRefusal(t *testing.T) {
	cases := smugglingCases(t)
	small := start(t, setup{limits: smtpd.Limits{Size: 2000}})
	busy := start(t, setup{fail: func(env *mail.Envelope, body io.Reader) error {
		return mail.NewReply(452, "4.3.1", "No space")
	}})
	late := start(t, setup{fail: func(env *mail.Envelope, body io.Reader) error {
		if _, err := io.ReadFull(body, make([]byte, 160)); err != nil {
			return err
		}
		return mail.NewReply(554, "5.6.0", "Bad header")
	}})
	for _, c := range cases {
		for how, write := range map[string]func(*peer, string){"one segment": atOnce, "one byte per write": byteByByte} {
			t.Run(c.ID+"/after the size limit/"+how, func(t *testing.T) {
				prefix := "Subject: a\r\n\r\n" + strings.Repeat("long line\r\n", 200) + "A"
				attack{w: small, c: c, prefix: prefix, open: small.greeted, write: write, refuse: "552 5.3.4 "}.run(t)
			})
			t.Run(c.ID+"/after 452/"+how, func(t *testing.T) {
				attack{w: busy, c: c, prefix: "Subject: a\r\n\r\nA", open: busy.greeted, write: write, refuse: "452 4.3.1 "}.run(t)
			})
			t.Run(c.ID+"/after 554 to the header/"+how, func(t *testing.T) {
				attack{w: late, c: c, prefix: "Subject: a\r\nX: y\r\n\r\nA", open: late.greeted, write: write, refuse: "554 5.6.0 "}.run(t)
			})
		}
	}
}

func TestSmugglingBDAT(t *testing.T) {
	cases := smugglingCases(t)
	plain := start(t, setup{})
	binary := start(t, setup{listener: smtpd.Listener{Binary: true}})
	for _, c := range cases {
		for where, prefix := range placements() {
			for _, parts := range []int{1, 2, 7} {
				t.Run(fmt.Sprintf("%s/%s/%d chunks", c.ID, where, parts), func(t *testing.T) {
					content := prefix + c.octet + second + ".\r\n"
					bdatAttack(t, plain, "", content, parts, c.legal)
					bdatAttack(t, binary, " BODY=BINARYMIME", content, parts, true)
				})
			}
		}
	}
}

func bdatAttack(t *testing.T, w *world, param, content string, parts int, ok bool) {
	t.Helper()
	before := len(w.inbox.messages())
	p := w.greeted()
	p.t = t
	p.do("MAIL FROM:<a@client.test>"+param, "250 ")
	p.do("RCPT TO:<b@"+localDomain+">", "250 ")
	var stream strings.Builder
	for i := range parts {
		from, to := i*len(content)/parts, (i+1)*len(content)/parts
		last := ""
		if i == parts-1 {
			last = " LAST"
		}
		fmt.Fprintf(&stream, "BDAT %d%s\r\n%s", to-from, last, content[from:to])
	}
	p.send(stream.String())
	var replies []string
	for range parts {
		lines, err := p.reply()
		if err != nil {
			break
		}
		replies = append(replies, lines[0])
	}
	got := w.inbox.messages()[before:]
	final := replies[len(replies)-1]
	if !ok {
		if len(got) != 0 || !strings.HasPrefix(final, "550 5.5.2 ") {
			t.Errorf("%d messages, replies %q", len(got), replies)
		}
		p.closed()
		return
	}
	if len(got) != 1 || !bytes.Equal(got[0].content(), []byte(content)) || !strings.HasPrefix(final, "250 2.0.0 Ok: queued") {
		t.Errorf("%d messages, replies %q", len(got), replies)
	}
	p.do("QUIT", "221 ")
}
