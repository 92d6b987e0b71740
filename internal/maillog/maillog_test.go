package maillog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/maillog"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testID  = mail.ID{0x01, 0x93, 0x5a, 0x1b, 0x2c, 0x3d, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	dsnID   = mail.ID{0x01, 0x93, 0x5a, 0x1b, 0x2c, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11}
	testNow = time.Date(2026, 11, 23, 9, 12, 1, 402_900_000, time.FixedZone("", 3600))
	from    = mail.Address{Local: "payroll", Domain: "example.edu"}
	to      = mail.Address{Local: "a.ng", Domain: "partner.example"}
)

// everyEvent writes each event once, with and without what may be missing.
func everyEvent(l *maillog.Log) {
	client := mail.Client{Addr: netip.MustParseAddr("::ffff:10.3.1.8"), Helo: "app.example.edu", Protocol: "ESMTPS",
		TLS: "TLSv1.3 TLS_AES_128_GCM_SHA256", Sender: "campus"}
	env := &mail.Envelope{ID: testID, From: from, Recipients: []mail.Recipient{{Addr: to}}, Client: client}
	l.Connected(client)
	l.Accepted(env, 49356, 21*time.Millisecond)
	env.Recipients = append(env.Recipients, mail.Recipient{Addr: mail.Address{Local: "two words", Domain: "b.example"}})
	env.From, env.Client = mail.Address{}, mail.Client{Protocol: "LOCAL"}
	l.Accepted(env, 0, 0)
	l.Rejected(client, "x@y.example", "evil\r\n250 id=1@z.example",
		mail.NewReply(550, "5.7.1", "relaying denied: see senders").WithCause(errors.New("no entry matches")))
	l.Rejected(mail.Client{Addr: netip.MustParseAddr("fe80::1%eth0")}, "", "", mail.NewReply(521, "", "no"))
	d := maillog.Delivery{ID: testID, From: from, To: to, Attempt: 1, Delay: 312 * time.Millisecond, Outcome: mail.Outcome{
		Reply:  *mail.NewReply(250, "2.0.0", "Ok: queued as 4Xy7"),
		Remote: "mx.partner.example[203.0.113.9]:25", TLS: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"}}
	l.Delivered(d)
	d.Outcome.Source = "out1"
	d.Outcome.Reply = *mail.NewReply(451, "4.7.1", "Greylisting in action\nplease come back \"later\"\x00\x1b[31m")
	d.Next = testNow.Add(time.Minute)
	l.Deferred(d)
	d.Outcome = mail.Outcome{Reply: *mail.NewReply(451, "4.4.1", "no answer").WithCause(errors.New("dial tcp: i/o timeout"))}
	d.Next = time.Time{}
	l.Expired(d)
	d.From = mail.Address{}
	d.To = mail.Address{Local: "jörg=x", Domain: "münchen.example"}
	d.Outcome.Reply = *mail.NewReply(550, "5.1.1", "caf\xe9 \u202egnp\u2028 \U000e0041 nobody")
	d.Class = "no-mailbox"
	l.Bounced(d)
	l.DoubleBounce(d)
	l.Returned(maillog.Back{Of: d.ID, ID: d.ID, From: mail.Address{Local: "payroll", Domain: "example.edu"}, To: d.To, Kind: "bounce", Class: "no-mailbox", Reply: *mail.NewReply(550, "5.1.1", "no such user")})
	l.Returned(maillog.Back{Of: d.ID, ID: d.ID, Kind: "complaint", Reply: mail.Reply{Text: "abuse"}})
	l.DSN(dsnID, testID, "failure")
	l.Held(testID, from, to, "INC-4411 compromised")
	l.Released(testID, from, to, "ok")
	l.Dropped(testID, from, to, "")
	l.Shaped("google.com", "connections", "connections 20 -> 10: 421 4.7.28 \"slow down\" (rule google-rate)")
	l.Disconnected(client, "quit", 1500*time.Millisecond)
}

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name string
		opts maillog.Options
	}{
		{"text.golden", maillog.Options{Node: "mx1", Debug: true}},
		{"json.golden", maillog.Options{Node: "mx1", Debug: true, JSON: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			c.opts.Now = func() time.Time { return testNow }
			l := maillog.New(&out, c.opts)
			everyEvent(l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			file := "testdata/" + c.name
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("the log is\n%s\nwant\n%s", out.Bytes(), want)
			}
		})
	}
}

func TestDebugEventsNeedDebug(t *testing.T) {
	var out bytes.Buffer
	l := maillog.New(&out, maillog.Options{})
	l.Connected(mail.Client{})
	l.Disconnected(mail.Client{}, "quit", 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if out.Len() != 0 {
		t.Errorf("the log is %q, want nothing", &out)
	}
}

func TestNilLogTakesEverything(t *testing.T) {
	var l *maillog.Log
	everyEvent(l)
	if err := l.Close(); err != nil || l.Lost() != 0 {
		t.Errorf("Close gives %v, Lost %d", err, l.Lost())
	}
}

func FuzzForeignText(f *testing.F) {
	f.Add("a\nb", "c\x00\xff\u2028")
	f.Add(strings.Repeat("é", 600), `"\`)
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, asJSON := range []bool{false, true} {
			var out bytes.Buffer
			l := maillog.New(&out, maillog.Options{JSON: asJSON})
			l.Rejected(mail.Client{Helo: a}, b, a, &mail.Reply{Code: 550, Text: b, Cause: errors.New(a)})
			l.Bounced(maillog.Delivery{From: mail.Address{Local: a, Domain: b}, To: mail.Address{Local: b, Domain: a},
				Outcome: mail.Outcome{Remote: a, TLS: b, Reply: mail.Reply{Text: a}}})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			checkLines(t, out.Bytes(), asJSON)
		}
	})
}

func checkLines(t *testing.T, out []byte, asJSON bool) {
	t.Helper()
	if n := bytes.Count(out, []byte("\n")); n != 2 {
		t.Fatalf("two events gave %d lines: %q", n, out)
	}
	for i, c := range out {
		if (c < ' ' && c != '\n') || c == 0x7f {
			t.Fatalf("control octet %#x at %d of %q", c, i, out)
		}
	}
	for line := range bytes.Lines(out) {
		if !asJSON {
			checkLogfmt(t, string(line))
			continue
		}
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

// checkLogfmt takes a line apart the way readers do: a key is a known word,
// so no foreign text can pass for one.
func checkLogfmt(t *testing.T, s string) {
	t.Helper()
	for s = strings.TrimSuffix(s, "\n"); s != ""; {
		key, rest, ok := strings.Cut(s, "=")
		if !ok || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Fatalf("no key at the start of %q", s)
		}
		if !strings.HasPrefix(rest, `"`) {
			_, s, _ = strings.Cut(rest, " ")
			continue
		}
		value, err := strconv.QuotedPrefix(rest)
		if err != nil {
			t.Fatalf("%s: bad quoting in %q", key, rest)
		}
		s = strings.TrimPrefix(rest[len(value):], " ")
	}
}

// lockedBuffer may be read while the log writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestLinesComeSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		l := maillog.New(&out, maillog.Options{})
		for round := range 3 {
			l.Dropped(testID, from, to, "first")
			l.Dropped(testID, from, to, "second")
			time.Sleep(maillog.FlushEvery + time.Millisecond)
			synctest.Wait()
			if got, want := strings.Count(out.String(), "\n"), 2*(round+1); got != want {
				t.Errorf("%d lines after the flush interval, want %d", got, want)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	release chan struct{}
	out     lockedBuffer
}

func (s *stuckWriter) Write(p []byte) (int, error) {
	<-s.release
	return s.out.Write(p)
}

func TestStuckReaderBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{release: make(chan struct{})}
		l := maillog.New(w, maillog.Options{Now: func() time.Time { return testNow }})
		for l.Lost() == 0 { // each turn returns although nothing is read
			l.Dropped(testID, from, to, strings.Repeat("x", 900))
		}
		if err := l.Close(); !errors.Is(err, maillog.ErrStuck) {
			t.Errorf("Close with a stuck reader gives %v", err)
		}
		lost, start := l.Lost(), time.Now()
		for range 1000 {
			l.Dropped(testID, from, to, "lost at once")
		}
		if waited := time.Since(start); waited > 0 {
			t.Errorf("with a reader known to be stuck, events waited %v", waited)
		}
		close(w.release)
		synctest.Wait()
		if got := strings.Count(w.out.String(), "event=dropped"); got < 4000 {
			t.Errorf("only %d lines were kept beside %d lost ones", got, lost)
		}
	})
}

func TestLossIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{release: make(chan struct{})}
		l := maillog.New(w, maillog.Options{Now: func() time.Time { return testNow }})
		for l.Lost() < 3 {
			l.Dropped(testID, from, to, strings.Repeat("x", 900))
		}
		close(w.release)
		time.Sleep(2 * maillog.FlushEvery)
		l.Dropped(testID, from, to, "after")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		want := "event=lost lost=3\ntime=2026-11-23T08:12:01.402Z event=dropped id=0" // the count comes before what follows
		if got := w.out.String(); !strings.Contains(got, want) {
			t.Errorf("the log ends in %q, want %q in it", got[max(0, len(got)-400):], want)
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrorIsCountedAndReturned(t *testing.T) {
	l := maillog.New(failingWriter{}, maillog.Options{})
	l.Dropped(testID, from, to, "")
	l.Dropped(testID, from, to, "")
	if err := l.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close gives %v, want the writer's error", err)
	}
	if l.Lost() != 2 {
		t.Errorf("%d lines lost, want 2", l.Lost())
	}
}

func BenchmarkDelivered(b *testing.B) {
	for _, c := range []struct {
		name string
		json bool
	}{{"text", false}, {"json", true}} {
		b.Run(c.name, func(b *testing.B) {
			l := maillog.New(io.Discard, maillog.Options{Node: "mx1", JSON: c.json})
			d := maillog.Delivery{ID: testID, From: from, To: to, Attempt: 1, Delay: 312 * time.Millisecond, Outcome: mail.Outcome{
				Reply:  *mail.NewReply(250, "2.0.0", "Ok: queued as 4Xy7"),
				Remote: "mx.partner.example[203.0.113.9]:25", TLS: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"}}
			b.ReportAllocs()
			for b.Loop() {
				l.Delivered(d)
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			if l.Lost() > 0 {
				b.Errorf("%d of %d lines lost", l.Lost(), b.N)
			}
		})
	}
}
