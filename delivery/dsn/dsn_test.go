package dsn_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/internal/mail"
)

var update = flag.Bool("update", false, "write the golden files anew")

func at(hour, minute int) time.Time {
	return time.Date(2026, 11, 23, hour, minute, 0, 0, time.UTC)
}

func addr(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseMailbox(s, true)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const plainMail = "Received: from c.example.edu by mx1.example.edu; Mon, 23 Nov 2026 09:00:00 +0000\r\n" +
	"From: Ann <ann@example.edu>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n from here\r\nMessage-ID: <1@example.edu>\r\n\r\nHello Bob,\r\n.\r\n--\r\nAnn\r\n"

// basic is a failed report about one recipient, to be varied.
func basic(t testing.TB) dsn.Report {
	return dsn.Report{
		Kind: dsn.Failed,
		ID:   mail.ID{0x01, 0x93, 0x50, 15: 1},
		Envelope: &mail.Envelope{
			ID:         mail.ID{0x01, 0x93, 0x40, 15: 2},
			From:       addr(t, "ann@example.edu"),
			Recipients: []mail.Recipient{{Addr: addr(t, "bob@example.org")}, {Addr: addr(t, `"carl c"@example.net`)}, {Addr: addr(t, "dora@example.com")}},
			Arrived:    at(9, 0),
		},
		Recipients: []dsn.Recipient{{Outcome: mail.Outcome{
			Reply: *mail.NewReply(550, "5.1.1", "<bob@example.org>: Recipient address rejected:\nUser unknown"), Remote: "mx.example.org[192.0.2.1]:25", At: at(9, 1),
		}}},
		ReportingMTA: "mx1.example.edu",
		Original:     strings.NewReader(plainMail), Size: int64(len(plainMail)), MaxFull: 1 << 20,
		Now: at(9, 2),
	}
}

func build(t testing.TB, r dsn.Report) (*mail.Envelope, string) {
	t.Helper()
	env, content, err := dsn.Build(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	return env, string(b)
}

// bodyPart is one part of a report as a reader of mail sees it.
type bodyPart struct {
	mediaType, encoding string
	content             string // decoded, but for base64
}

// check holds what every report promises, whatever it was made from, and
// gives its parts.
func check(t testing.TB, r dsn.Report, env *mail.Envelope, content string) []bodyPart {
	t.Helper()
	if !env.From.IsNull() || len(env.Recipients) != 1 || env.Recipients[0].Notify != mail.NotifyNever || env.ID.IsZero() {
		t.Errorf("envelope %+v", env)
	}
	if env.SMTPUTF8 != env.Recipients[0].Addr.NeedsUTF8() {
		t.Errorf("SMTPUTF8 %t to %s", env.SMTPUTF8, env.Recipients[0].Addr)
	}
	if i := strings.IndexByte(strings.ReplaceAll(content, "\r\n", ""), '\n'); i >= 0 || strings.Contains(strings.ReplaceAll(content, "\r\n", ""), "\r") {
		t.Errorf("a bare CR or LF in %q", content)
	}
	for line := range strings.SplitSeq(content, "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d octets: %.80q", len(line), line)
		}
	}
	if strings.Contains(content, "\x00") {
		t.Error("NUL in the report")
	}
	if env.Body == mail.Body7Bit && strings.ContainsFunc(content, func(r rune) bool { return r >= utf8.RuneSelf }) {
		t.Errorf("8-bit octets in a 7-bit report: %q", content)
	}
	msg, err := netmail.ReadMessage(strings.NewReader(content))
	if err != nil {
		t.Fatalf("%v in %q", err, content)
	}
	for _, k := range []string{"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding"} {
		if len(msg.Header[textproto.CanonicalMIMEHeaderKey(k)]) != 1 {
			t.Errorf("%d fields %s", len(msg.Header[textproto.CanonicalMIMEHeaderKey(k)]), k)
		}
	}
	if len(msg.Header) != 9 {
		t.Errorf("header %v", msg.Header)
	}
	if _, err := msg.Header.Date(); err != nil {
		t.Errorf("Date: %v", err)
	}
	typ, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("Content-Type %q: %v", msg.Header.Get("Content-Type"), err)
	}
	parts := readParts(t, msg.Body, params["boundary"])
	want := 3
	if r.Original == nil {
		want = 2
	}
	if len(parts) != want {
		t.Fatalf("%d parts in %q", len(parts), content)
	}
	return parts
}

func readParts(t testing.TB, body io.Reader, boundary string) []bodyPart {
	t.Helper()
	var parts []bodyPart
	mr := multipart.NewReader(body, boundary)
	for {
		p, err := mr.NextRawPart()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		in := io.Reader(p)
		enc := p.Header.Get("Content-Transfer-Encoding")
		if enc == "quoted-printable" {
			in = quotedprintable.NewReader(p)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		typ, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil || len(p.Header) > 2 {
			t.Errorf("part header %v: %v", p.Header, err)
		}
		parts = append(parts, bodyPart{typ, enc, string(b)})
	}
}

func TestGolden(t *testing.T) {
	jorg := addr(t, "jörg@bücher.example")
	for name, vary := range map[string]func(r *dsn.Report){
		"failed": func(*dsn.Report) {},
		"failed-full": func(r *dsn.Report) {
			r.Envelope.Ret = mail.ReturnFull
			r.Envelope.EnvID = "QQ 314+159"
			r.Envelope.Recipients[0].ORcptType, r.Envelope.Recipients[0].ORcpt = "rfc822", "bob+list@example.edu"
		},
		"failed-many": func(r *dsn.Report) {
			r.Recipients = append(r.Recipients,
				dsn.Recipient{Expired: true, Outcome: mail.Outcome{Recipient: 1, Reply: *mail.NewReply(421, "4.3.2", "shutting down"), Remote: "[2001:db8::1]:25", At: at(8, 0), Unsure: true}},
				dsn.Recipient{Outcome: mail.Outcome{Recipient: 2, Reply: *mail.NewReply(556, "5.1.10", "the domain takes no mail"), At: at(9, 1)}})
		},
		"failed-international": func(r *dsn.Report) {
			r.Envelope.SMTPUTF8, r.Envelope.From, r.Envelope.Ret = true, jorg, mail.ReturnFull
			r.Envelope.Recipients[0] = mail.Recipient{Addr: addr(t, "用户@例子.广告"), ORcptType: "utf-8", ORcpt: "用户@例子.广告"}
			r.Recipients[0].Outcome.Reply = *mail.NewReply(550, "5.6.7", "keine Umlaute für diesen Empfänger")
			r.Original = strings.NewReader("From: jörg@bücher.example\r\nSubject: Grüße\r\n\r\nschöne Grüße\r\n")
		},
		"failed-to-ascii-sender": func(r *dsn.Report) { // the way back may lack SMTPUTF8
			r.Envelope.SMTPUTF8 = true
			r.Envelope.Recipients[0] = mail.Recipient{Addr: jorg, ORcptType: "utf-8", ORcpt: "jörg@bücher.example"}
			r.Recipients[0].Outcome = mail.Outcome{Reply: *mail.NewReply(550, "5.6.7", "no SMTPUTF8 here"), At: at(9, 1)}
			r.Original = strings.NewReader("From: ann@example.edu\r\nTo: jörg@bücher.example\r\nSubject: Grüße\r\n\r\nschöne Grüße\r\n")
		},
		"delayed": func(r *dsn.Report) {
			r.Kind = dsn.Delayed
			r.Recipients[0] = dsn.Recipient{WillRetryUntil: at(9, 0).AddDate(0, 0, 5), Outcome: mail.Outcome{Reply: *mail.NewReply(450, "4.7.1", "greylisted"), Remote: "mx.example.org[192.0.2.1]:25", At: at(13, 0)}}
		},
		"delivered": func(r *dsn.Report) {
			r.Kind = dsn.Delivered
			r.Recipients[0].Outcome.Reply, r.Recipients[0].Outcome.Remote = *mail.NewReply(250, "2.1.5", "delivered to INBOX"), "lmtp.example.org[192.0.2.9]:24"
		},
		"relayed": func(r *dsn.Report) {
			r.Kind = dsn.Relayed
			r.Recipients[0].Outcome.Reply = *mail.NewReply(250, "", "ok queued as 4711")
		},
		"double-bounce": func(r *dsn.Report) {
			r.Envelope.From = mail.Address{}
			r.To = addr(t, "postmaster@example.edu")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := basic(t)
			vary(&r)
			env, content := build(t, r)
			parts := check(t, r, env, content)
			s, err := dsn.Parse(strings.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Recipients) != len(r.Recipients) || s.Recipients[0].Action != r.Kind.String() {
				t.Errorf("read back as %+v", s)
			}
			if !strings.Contains(parts[0].content, "mx1.example.edu") {
				t.Errorf("text %q", parts[0].content)
			}
			// The boundary is random.
			_, b, _ := strings.Cut(content, `boundary="`)
			b, _, _ = strings.Cut(b, `"`)
			golden(t, name+".eml", strings.ReplaceAll(content, b, "BOUNDARY"))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got)) {
		t.Errorf("%s differs; run with -update and look at the change. Got:\n%s", name, got)
	}
}

func TestWanted(t *testing.T) {
	kinds := []dsn.Kind{dsn.None, dsn.Failed, dsn.Delayed, dsn.Delivered, dsn.Relayed}
	for _, c := range []struct {
		notify mail.Notify
		want   string // failed, delayed, delivered, relayed
	}{
		{0, "FD--"},
		{mail.NotifyNever, "----"},
		{mail.NotifyFailure, "F---"},
		{mail.NotifyDelay, "-D--"},
		{mail.NotifySuccess, "--DR"},
		{mail.NotifySuccess | mail.NotifyFailure, "F-DR"},
	} {
		env := &mail.Envelope{From: mail.Address{Local: "a", Domain: "b"}, Recipients: []mail.Recipient{{}, {Notify: c.notify}}}
		null := &mail.Envelope{Recipients: env.Recipients}
		for i, k := range kinds {
			want := i > 0 && c.want[i-1] != '-'
			if got := dsn.Wanted(env, 1, k); got != want {
				t.Errorf("NOTIFY=%s, %s: %t", c.notify, k, got)
			}
			if dsn.Wanted(null, 1, k) {
				t.Errorf("NOTIFY=%s, %s: a report about a report", c.notify, k)
			}
		}
	}
}

func TestForOutcome(t *testing.T) {
	for _, c := range []struct {
		code   int
		passed bool
		hop    mail.HopKind
		want   dsn.Kind
	}{
		{250, false, mail.HopMX, dsn.Relayed}, {250, true, mail.HopMX, dsn.None}, {250, false, mail.HopLMTP, dsn.Delivered}, {250, true, mail.HopLMTP, dsn.None},
		{450, false, mail.HopMX, dsn.None}, {550, false, mail.HopMX, dsn.Failed}, {550, true, mail.HopSmarthost, dsn.Failed}, {0, false, mail.HopMX, dsn.None},
	} {
		if got := dsn.ForOutcome(mail.Outcome{Reply: mail.Reply{Code: c.code}, DSNPassed: c.passed}, c.hop); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestWhatGoesBack(t *testing.T) {
	headerOnly, _, _ := strings.Cut(plainMail, "\r\n\r\n")
	headerOnly += "\r\n"
	for name, c := range map[string]struct {
		vary func(r *dsn.Report)
		full bool
	}{
		"nothing asked":       {func(r *dsn.Report) { r.Envelope.Ret = mail.ReturnUnset }, false},
		"header asked":        {func(r *dsn.Report) { r.Envelope.Ret = mail.ReturnHeaders }, false},
		"all asked":           {func(*dsn.Report) {}, true},
		"all asked, too big":  {func(r *dsn.Report) { r.MaxFull = r.Size - 1 }, false},
		"all asked, just fit": {func(r *dsn.Report) { r.MaxFull = r.Size }, true},
		"all asked, no fail":  {func(r *dsn.Report) { r.Kind = dsn.Relayed }, false},
		"all asked, delayed":  {func(r *dsn.Report) { r.Kind = dsn.Delayed }, false},
		"binary":              {func(r *dsn.Report) { r.Envelope.Body = mail.BodyBinaryMIME }, false},
		"REQUIRETLS":          {func(r *dsn.Report) { r.Envelope.RequireTLS = true }, false},
	} {
		r := basic(t)
		r.Envelope.Ret = mail.ReturnFull
		c.vary(&r)
		env, content := build(t, r)
		third := check(t, r, env, content)[2]
		want := bodyPart{"text/rfc822-headers", "", headerOnly}
		body := mail.Body7Bit
		if c.full {
			want, body = bodyPart{"message/rfc822", "8bit", plainMail}, mail.Body8BitMIME
		}
		if third != want || env.Body != body || env.RequireTLS != r.Envelope.RequireTLS {
			t.Errorf("%s: %+v, BODY=%s", name, third, env.Body)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	broken := errors.New("disk gone")
	for name, vary := range map[string]func(r *dsn.Report){
		"no kind":        func(r *dsn.Report) { r.Kind = dsn.None },
		"unknown kind":   func(r *dsn.Report) { r.Kind = 9 },
		"nobody":         func(r *dsn.Report) { r.Recipients = nil },
		"bad recipient":  func(r *dsn.Report) { r.Recipients[0].Outcome.Recipient = 3 },
		"bad recipient2": func(r *dsn.Report) { r.Recipients[0].Outcome.Recipient = -1 },
		"null sender":    func(r *dsn.Report) { r.Envelope.From = mail.Address{} },
		"long sender":    func(r *dsn.Report) { r.Envelope.From.Local = strings.Repeat("a", 300) },
		"no envelope":    func(r *dsn.Report) { r.Envelope = nil },
	} {
		r := basic(t)
		vary(&r)
		if _, _, err := dsn.Build(r); !errors.Is(err, dsn.ErrReport) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := basic(t)
	r.Original = io.MultiReader(strings.NewReader("Subject: x\r\n"), failingReader{broken})
	if _, _, err := dsn.Build(r); !errors.Is(err, broken) {
		t.Errorf("a broken header: %v", err)
	}
	r = basic(t)
	r.Envelope.Ret = mail.ReturnFull
	r.Original = io.MultiReader(strings.NewReader(plainMail), failingReader{broken})
	_, content, err := dsn.Build(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(content); !errors.Is(err, broken) {
		t.Errorf("a broken body: %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestIDIsMade(t *testing.T) {
	r := basic(t)
	r.ID = mail.ID{}
	env, content := build(t, r)
	if !env.ID.Time().Equal(r.Now) || !strings.Contains(content, "\r\nMessage-ID: <"+env.ID.String()+"@mx1.example.edu>\r\n") {
		t.Errorf("ID %s", env.ID)
	}
}

// TestDeliverBy: what was to be given up by now says so, and what was to leave a
// trace is reported as relayed to whoever did not forbid it.
func TestDeliverBy(t *testing.T) {
	for _, c := range []struct {
		by   mail.By
		want string
	}{
		{mail.By{}, "4.4.7"},
		{mail.By{At: at(9, 2), Return: true}, "5.4.7"},
		{mail.By{At: at(9, 3), Return: true}, "4.4.7"}, // it was ended before
		{mail.By{At: at(9, 1)}, "4.4.7"},
	} {
		r := basic(t)
		r.Envelope.By = c.by
		r.Recipients[0].Expired = true
		r.Recipients[0].Outcome.Reply = *mail.NewReply(450, "4.2.0", "greylisted")
		_, body, err := dsn.Build(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte("\r\nStatus: "+c.want+"\r\n")) || bytes.Contains(text, []byte("Deliver-By-Date: ")) != !c.by.At.IsZero() {
			t.Errorf("%+v: want %s:\n%s", c.by, c.want, text)
		}
	}
	env := basic(t).Envelope
	env.By = mail.By{At: at(10, 0), Trace: true}
	env.Recipients[1].Notify, env.Recipients[2].Notify = mail.NotifyNever, mail.NotifyFailure
	for i, want := range []bool{true, false, true} {
		if got := dsn.Wanted(env, i, dsn.Relayed); got != want {
			t.Errorf("relayed for %d: %v", i, got)
		}
		if dsn.Wanted(env, i, dsn.Delivered) {
			t.Errorf("delivered for %d", i)
		}
	}
}
