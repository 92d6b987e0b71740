package alike

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// door is a relay's SMTP side, written with another library than the client.
type door struct {
	mu   sync.Mutex
	got  []taken
	rcpt func(to string) error
}

type taken struct {
	from string
	opts smtp.MailOptions
	to   []string
	how  []smtp.RcptOptions
	text string
}

func (d *door) NewSession(*smtp.Conn) (smtp.Session, error) { return &visit{d: d}, nil }

type visit struct {
	d *door
	t taken
}

func (v *visit) Mail(from string, o *smtp.MailOptions) error {
	v.t = taken{from: from, opts: *o}
	return nil
}

func (v *visit) Rcpt(to string, o *smtp.RcptOptions) error {
	if v.d.rcpt != nil {
		if err := v.d.rcpt(to); err != nil {
			return err
		}
	}
	v.t.to, v.t.how = append(v.t.to, to), append(v.t.how, *o)
	return nil
}

func (v *visit) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	v.t.text = string(b)
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	v.d.got = append(v.d.got, v.t)
	return nil
}

func (v *visit) Reset()        { v.t = taken{} }
func (v *visit) Logout() error { return nil }

func (d *door) open(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := smtp.NewServer(d)
	srv.Domain, srv.EnableSMTPUTF8, srv.EnableDSN, srv.MaxRecipients = "door.test", true, true, 3
	go func() { _ = srv.Serve(l) }() // ends when it is closed
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// run runs a command against the relay at addr, and returns its exit code and
// what it said.
func run(t *testing.T, addr, stdin string, command ...string) (code int, out, talk string) {
	t.Helper()
	return runWith(t, &Process{Getenv: func(k string) string { return map[string]string{"CLRELAY_SMTP": addr}[k] }}, stdin, command...)
}

func runWith(t *testing.T, p *Process, stdin string, command ...string) (code int, out, talk string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p.Stdin, p.Stdout, p.Stderr = strings.NewReader(stdin), &stdout, &stderr
	p.Now = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
	if p.Config == "" {
		p.Config = filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(p.Config, []byte("node: mx1\nhostname: host.test\nsmtp: [{listen: \"127.0.0.1:9\"}]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.User = func() (string, string) { return "jo", "Jo (the) User" }
	code = Run(t.Context(), p, "/usr/sbin/"+command[0], command[1:])
	return code, stdout.String(), stderr.String()
}

func TestSendmailFromTheHeader(t *testing.T) {
	d := &door{}
	code, _, talk := run(t, d.open(t), "To: A <a@x.test>, b@x.test\nCc: Friends: c@x.test (see), \"d e\"@x.test;\nBcc: a@x.test,\n root\nSubject: s\n\n.dot\n.\nlast\r\n",
		"sendmail", "-t", "-oi", "-f", "me@x.test", "-R", "hdrs", "-V", "e1", "-N", "failure,delay")
	if code != 0 || talk != "" {
		t.Fatalf("code %d: %s", code, talk)
	}
	if len(d.got) != 2 { // of three recipients at most
		t.Fatalf("%d messages", len(d.got))
	}
	var to []string
	for _, m := range d.got {
		to = append(to, m.to...)
		if m.from != "me@x.test" || m.opts.Return != smtp.DSNReturnHeaders || m.opts.EnvelopeID != "e1" || len(m.how[0].Notify) != 2 || m.opts.UTF8 || m.opts.Body != "" {
			t.Errorf("envelope %+v", m)
		}
	}
	if want := []string{"a@x.test", "b@x.test", "c@x.test", "d e@x.test", "root@host.test"}; !reflect.DeepEqual(to, want) {
		t.Errorf("recipients %q", to)
	}
	head, body, _ := strings.Cut(d.got[0].text, "\r\n\r\n")
	if body != ".dot\r\n.\r\nlast\r\n" {
		t.Errorf("body %q", body)
	}
	for _, want := range []string{"From: \"Jo (the) User\" <me@x.test>\r\n", "Date: Mon, 23 Nov 2026 12:00:00 +0000\r\n", "Message-ID: <", "@host.test>\r\n", "To: A <a@x.test>, b@x.test\r\n"} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
	if strings.Contains(strings.ToLower(head), "bcc") {
		t.Errorf("blind copies are named:\n%s", head)
	}
}

// What a program wrote itself stays as it is.
func TestSendmailLeavesFieldsAlone(t *testing.T) {
	d := &door{}
	text := "From: x@y.test\nDate: Thu, 1 Jan 1970 00:00:00 +0000\nMessage-Id: <1@y.test>\nX-Folded: a\n\tb\n\nbody\n"
	if code, _, talk := run(t, d.open(t), text, "sendmail", "-i", "--", "a@x.test"); code != 0 {
		t.Fatalf("code %d: %s", code, talk)
	}
	if want := strings.ReplaceAll(text, "\n", "\r\n"); d.got[0].text != want || d.got[0].from != "jo@host.test" {
		t.Errorf("from %s: %q", d.got[0].from, d.got[0].text)
	}
}

func TestSendmailContent(t *testing.T) {
	for _, c := range []struct {
		name, in string
		args     []string
		body     string // what follows the empty line
		eight    bool
		utf8     bool
	}{
		{name: "a dot ends it", in: "S: 1\n\na\n.\nb\n", body: "a\r\n"},
		{name: "not with -i", in: "S: 1\n\na\n.\nb\n", args: []string{"-i"}, body: "a\r\n.\r\nb\r\n"},
		{name: "nor with -O", in: "S: 1\n\n.\nb", args: []string{"-O", "IgnoreDots=true"}, body: ".\r\nb\r\n"},
		{name: "no header", in: "hello\nworld\n", body: "hello\r\nworld\r\n"},
		{name: "a mailbox file", in: "From jo Mon Nov 23\nS: 1\n\nx\n", body: "x\r\n"},
		{name: "line ends", in: "S: 1\r\n\r\na\r\nb\rc\nd", body: "a\r\nb c\r\nd\r\n"},
		{name: "8 bit", in: "S: 1\n\nJ\xc3\xb6rg\n", body: "J\xc3\xb6rg\r\n", eight: true},
		{name: "a header of UTF-8", in: "S: J\xc3\xb6rg\n\n", body: "", eight: true, utf8: true},
		{name: "nothing", in: "", body: ""},
		{name: "larger than memory", in: "S: 1\n\n" + strings.Repeat(strings.Repeat("x", 79)+"\n", 30000), body: strings.Repeat(strings.Repeat("x", 79)+"\r\n", 30000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &door{}
			if code, _, talk := run(t, d.open(t), c.in, append(append([]string{"sendmail"}, c.args...), "a@x.test")...); code != 0 {
				t.Fatalf("code %d: %s", code, talk)
			}
			m := d.got[0]
			if _, body, _ := strings.Cut(m.text, "\r\n\r\n"); body != c.body {
				t.Errorf("body %.60q", body)
			}
			if (m.opts.Body == smtp.Body8BitMIME) != c.eight || m.opts.UTF8 != c.utf8 {
				t.Errorf("body type %q, UTF8 %v", m.opts.Body, m.opts.UTF8)
			}
		})
	}
}

func TestSendmailFailures(t *testing.T) {
	d := &door{rcpt: func(to string) error {
		switch {
		case strings.HasPrefix(to, "nobody"):
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		case strings.HasPrefix(to, "closed"):
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "relaying denied"}
		case strings.HasPrefix(to, "later"):
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "not now"}
		}
		return nil
	}}
	addr := d.open(t)
	for _, c := range []struct {
		args []string
		code int
		talk string
	}{
		{[]string{"-t"}, exUsage, "no recipient is named"},
		{nil, exUsage, "recipients are missing"},
		{[]string{"-Y"}, exUsage, "unknown option -Y"},
		{[]string{"-f"}, exUsage, "-f needs a value"},
		{[]string{"-bd"}, exUsage, "clrelay serve"},
		{[]string{"-q30m"}, exUsage, "by itself"},
		{[]string{"-N", "often", "a@x.test"}, exUsage, "never"},
		{[]string{"a@@x"}, exDataErr, "nothing was queued"},
		{[]string{"-f", "a@@x", "a@x.test"}, exDataErr, "sender"},
		{[]string{"a@x.test", "nobody@x.test"}, exNoUser, "<nobody@x.test>: 550 5.1.1 no such user; nothing was queued"},
		{[]string{"closed@x.test"}, exNoPerm, "5.7.1"},
		{[]string{"later@x.test", "a@x.test"}, exTempFail, "nothing was queued"},
	} {
		code, _, talk := run(t, addr, "S: x\n\nx\n", append([]string{"sendmail"}, c.args...)...)
		if code != c.code || !strings.Contains(talk, c.talk) {
			t.Errorf("%q: code %d, %s", c.args, code, talk)
		}
	}
	if len(d.got) != 0 {
		t.Errorf("%d messages were taken", len(d.got))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if code, _, talk := run(t, l.Addr().String(), "S: x\n\n", "sendmail", "a@x.test"); code != exTempFail || !strings.Contains(talk, "nothing was queued") {
		t.Errorf("without a relay: code %d, %s", code, talk)
	}
}

// The input of a program that was killed must not be sent as if it were whole.
func TestSendmailOfHalfAMessage(t *testing.T) {
	d := &door{}
	p := &Process{Getenv: func(string) string { return "" }, Stderr: io.Discard, Now: time.Now, User: func() (string, string) { return "jo", "" }}
	c := &call{Process: p, name: "sendmail"}
	p.Getenv = func(string) string { return d.open(t) }
	p.Stdin = io.MultiReader(strings.NewReader("S: x\n\nhalf"), broken{})
	if err := c.sendmail(t.Context(), []string{"a@x.test"}); code(err) != exIOErr || len(d.got) != 0 {
		t.Errorf("%v; %d messages", err, len(d.got))
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the pipe broke") }

func TestSendmailSpeaksSMTP(t *testing.T) {
	d := &door{}
	code, out, _ := run(t, d.open(t), "EHLO x.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nS: 1\r\n\r\nx\r\n.\r\nQUIT\r\n", "sendmail", "-bs")
	if code != 0 || len(d.got) != 1 || !strings.HasPrefix(out, "220 door.test") || !strings.Contains(out, "\r\n221 ") {
		t.Errorf("code %d, %d messages:\n%s", code, len(d.got), out)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string][]string{
		"":                              nil,
		"a@x":                           {"a@x"},
		" a @ x , b@y ":                 {"a@x", "b@y"},
		`"Last, First" <a@x>, b@y`:      {"a@x", "b@y"},
		`A (c, (d) \) ) <a@x>`:          {"a@x"},
		`"a, b"@x`:                      {`"a, b"@x`},
		`"a\"b"@x, c`:                   {`"a\"b"@x`, "c"},
		"list: a@x, B <b@y>;, c@z":      {"a@x", "b@y", "c@z"},
		"undisclosed-recipients:;":      nil,
		"<@r.example,@s.example:a@x>":   {"a@x"},
		"a@[IPv6:2001:db8::1]":          {"a@[IPv6:2001:db8::1]"},
		"Jörg <jörg@münchen.example>":   {"jörg@münchen.example"},
		"root, postmaster":              {"root", "postmaster"},
		"a@x,\r\n\tb@y":                 {"a@x", "b@y"},
		"A <a@x> trailing, B <b@y> (c)": {"a@x", "b@y"},
	} {
		if got := addresses(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzAddresses: no list makes it fail, or gives an address with a line end.
func FuzzAddresses(f *testing.F) {
	f.Add(`"a\"b"@x, (c) <d@e>, list: f@g;`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, a := range addresses(s) {
			if a == "" || a != strings.TrimSpace(a) {
				t.Errorf("%q gives %q", s, a)
			}
		}
	})
}

// queue is the admin API's.
type queue struct {
	adminv1.UnimplementedQueueServiceServer
	entries []*adminv1.QueueEntry
	missing []string
	retried []*adminv1.Selector
}

func (q *queue) List(_ *adminv1.ListRequest, s adminv1.QueueService_ListServer) error {
	for i := 0; i < len(q.entries); i += 2 { // messages reach over batches
		if err := s.Send(&adminv1.ListResponse{Entries: q.entries[i:min(i+2, len(q.entries))]}); err != nil {
			return err
		}
	}
	return s.Send(&adminv1.ListResponse{MissingNodes: q.missing})
}

func (q *queue) Retry(_ context.Context, req *adminv1.RetryRequest) (*adminv1.RetryResponse, error) {
	q.retried = append(q.retried, req.GetChange().GetSelector())
	if ids := req.GetChange().GetSelector().GetIds(); len(ids) > 0 && ids[0] != "I1" {
		return nil, status.Error(codes.NotFound, "no such message")
	}
	return &adminv1.RetryResponse{Result: &adminv1.ChangeResult{MissingNodes: q.missing}}, nil
}

func (q *queue) process(t *testing.T) *Process {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	adminv1.RegisterQueueServiceServer(srv, q)
	go func() { _ = srv.Serve(l) }() // until Stop
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &Process{Getenv: func(string) string { return "" }, With: func(f func(grpc.ClientConnInterface) error) error {
		err := f(conn)
		if status.Code(err) == codes.NotFound {
			return cmdline.Exitf(cmdline.ExitNotFound, "no such message")
		}
		return err
	}}
}

func entry(id, from, rcpt, why string, state adminv1.RecipientState) *adminv1.QueueEntry {
	at := time.Date(2026, 11, 3, 9, 5, 7, 0, time.Local)
	return &adminv1.QueueEntry{Id: id, From: from, Rcpt: rcpt, LastReply: why, State: state, Size: 1500, Arrived: timestamppb.New(at)}
}

const (
	active   = adminv1.RecipientState_RECIPIENT_STATE_ACTIVE
	deferred = adminv1.RecipientState_RECIPIENT_STATE_DEFERRED
	held     = adminv1.RecipientState_RECIPIENT_STATE_HELD
)

func someMail() []*adminv1.QueueEntry {
	return []*adminv1.QueueEntry{
		entry("01AAAAAAAAAAAAAAAAAAAAAAAA", "a@x.test", "1@y.test", "451 4.3.0 later", deferred),
		entry("01AAAAAAAAAAAAAAAAAAAAAAAA", "a@x.test", "2@y.test", "451 4.3.0 later", held),
		entry("01AAAAAAAAAAAAAAAAAAAAAAAA", "a@x.test", "3@y.test", "", deferred),
		entry("01BBBBBBBBBBBBBBBBBBBBBBBB", "", "4@y.test", "", active),
		entry("01CCCCCCCCCCCCCCCCCCCCCCCC", "a@x.test", "5@y.test", strings.Repeat("long ", 30), held),
	}
}

func TestMailq(t *testing.T) {
	q := &queue{entries: someMail()}
	for _, command := range [][]string{{"mailq"}, {"sendmail", "-bp"}, {"postqueue", "-p"}, {"mailq", "-v"}} {
		code, out, talk := runWith(t, q.process(t), "", command...)
		want := `----Queue ID-----           --Size-- ---Arrival Time---- --Sender/Recipient------
01AAAAAAAAAAAAAAAAAAAAAAAA      1500 Tue Nov  3 09:05:07 a@x.test
                                                                     (451 4.3.0 later)
                                                         1@y.test
                                                         2@y.test
                                                                  (reason unavailable)
                                                         3@y.test

01BBBBBBBBBBBBBBBBBBBBBBBB*     1500 Tue Nov  3 09:05:07 MAILER-DAEMON
                                                         4@y.test

01CCCCCCCCCCCCCCCCCCCCCCCC!     1500 Tue Nov  3 09:05:07 a@x.test
(` + strings.Repeat("long ", 30) + `)
                                                         5@y.test

-- 4 Kbytes in 3 Requests.
`
		if code != 0 || out != want || talk != "" {
			t.Errorf("%q: code %d %s\n%s\nwant\n%s", command, code, talk, out, want)
		}
	}
	if code, out, _ := runWith(t, (&queue{}).process(t), "", "mailq"); code != 0 || out != "Mail queue is empty\n" {
		t.Errorf("empty: code %d %q", code, out)
	}
	q.missing = []string{"mx2"}
	if code, out, talk := runWith(t, q.process(t), "", "mailq"); code != exUnavailable || !strings.Contains(out, "Requests") || !strings.Contains(talk, "mx2") {
		t.Errorf("a missing node: code %d %s", code, talk)
	}
}

func TestPostqueueJSON(t *testing.T) {
	q := &queue{entries: someMail()[2:4]}
	at := q.entries[0].GetArrived().GetSeconds()
	code, out, _ := runWith(t, q.process(t), "", "postqueue", "-j")
	want := fmt.Sprintf(`{"queue_name":"deferred","queue_id":"01AAAAAAAAAAAAAAAAAAAAAAAA","arrival_time":%[1]d,"message_size":1500,"forced_expire":false,"sender":"a@x.test","recipients":[{"address":"3@y.test"}]}
{"queue_name":"active","queue_id":"01BBBBBBBBBBBBBBBBBBBBBBBB","arrival_time":%[1]d,"message_size":1500,"forced_expire":false,"sender":"MAILER-DAEMON","recipients":[{"address":"4@y.test"}]}
`, at)
	if code != 0 || out != want {
		t.Errorf("code %d\n%s\nwant\n%s", code, out, want)
	}
}

func TestFlush(t *testing.T) {
	for _, c := range []struct {
		args []string
		want *adminv1.Selector
	}{
		{[]string{"postqueue", "-f"}, &adminv1.Selector{Everything: true}},
		{[]string{"sendmail", "-q"}, &adminv1.Selector{Everything: true}},
		{[]string{"sendmail", "-qRx.test"}, &adminv1.Selector{Domains: []string{"x.test"}}},
		{[]string{"postqueue", "-s", "[mail.x.test]"}, &adminv1.Selector{Domains: []string{"mail.x.test"}}},
		{[]string{"postqueue", "-s[10.0.0.1]"}, &adminv1.Selector{Domains: []string{"[10.0.0.1]"}}},
		{[]string{"postqueue", "-i", "I1"}, &adminv1.Selector{Ids: []string{"I1"}}},
		{[]string{"sendmail", "-qII1"}, &adminv1.Selector{Ids: []string{"I1"}}},
	} {
		q := &queue{}
		code, out, talk := runWith(t, q.process(t), "", c.args...)
		if code != 0 || out+talk != "" || len(q.retried) != 1 || q.retried[0].String() != c.want.String() {
			t.Errorf("%q: code %d %s%s, %v", c.args, code, out, talk, q.retried)
		}
	}
	if code, _, talk := runWith(t, (&queue{}).process(t), "", "postqueue", "-i", "I2"); code != exDataErr || !strings.Contains(talk, "no such message") {
		t.Errorf("an unknown ID: code %d %s", code, talk)
	}
	for _, args := range [][]string{{"postqueue"}, {"postqueue", "-p", "-f"}, {"postqueue", "-p", "x"}, {"postqueue", "-z"}} {
		if code, _, _ := runWith(t, (&queue{}).process(t), "", args...); code != exUsage {
			t.Errorf("%q: code %d", args, code)
		}
	}
}
