package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// bare looks for line ends the obvious way.
func bare(s string) bool {
	s = strings.ReplaceAll(s, "\r\n", "")
	return strings.ContainsAny(s, "\r\n")
}

// TestCheckLines compares with the obvious way, for content in any pieces.
func TestCheckLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOfN(rapid.SampledFrom([]rune("\r\n.x")), 0, 30, -1).Draw(t, "content")
		if rapid.Bool().Draw(t, "sane") {
			s = strings.NewReplacer("\r", "", "\n", "\r\n").Replace(s)
		}
		var err error
		dots, last := false, byte('\n')
		for rest := s; rest != "" && err == nil; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			p := rest[:n]
			var d bool
			d, err = wire.CheckLines([]byte(p), last)
			if want := strings.Contains(p, "\n."); err == nil && d != want {
				t.Fatalf("%q: dots %v, want %v", p, d, want)
			}
			if i := wire.NextDot([]byte(p)); (i >= 0) != strings.Contains(p, "\n.") || i >= 0 && i != strings.Index(p, "\n.")+1 {
				t.Fatalf("%q: next dot at %d", p, i)
			}
			dots = dots || d || last == '\n' && p[0] == '.'
			last = p[n-1]
			rest = rest[n:]
		}
		bad := err != nil || last == '\r' && s != ""
		if bad != bare(s) {
			t.Fatalf("%q: error %v", s, err)
		}
		if err == nil && dots != (strings.HasPrefix(s, ".") || strings.Contains(s, "\n.")) {
			t.Fatalf("%q: dots %v", s, dots)
		}
	})
}

func TestParseExtensions(t *testing.T) {
	e := wire.ParseExtensions([]byte("mail.example PIPELINING\npipelining\n8bitmime\nSize 100\nAUTH plain LOGIN\nAUTH=cram-md5 X\nlimits RCPTMAX=5 MAILMAX=x rcptdomainmax=1\n\n \nXYZZY a b\nSTARTTLSX"))
	if !e.Pipelining || !e.EightBitMIME || e.MaxSize != 100 || e.MaxRcpt != 5 || e.MaxMails != 0 || e.StartTLS || e.DSN ||
		!slices.Equal(e.Auth, []string{"PLAIN", "LOGIN", "CRAM-MD5", "X"}) {
		t.Errorf("%+v", e)
	}
	if e := wire.ParseExtensions([]byte("PIPELINING")); e.Pipelining {
		t.Error("the greeting was taken for an extension")
	}
	for _, bad := range []string{"SIZE -1", "SIZE x", "SIZE 99999999999999999999", "SIZE 0"} {
		if e := wire.ParseExtensions([]byte("x\n" + bad)); !e.Size || e.MaxSize != 0 {
			t.Errorf("%s: %+v", bad, e)
		}
	}
}

func TestTakesBy(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	in := func(s int, giveUp bool) mail.By {
		return mail.By{At: now.Add(time.Duration(s) * time.Second), Return: giveUp}
	}
	for _, c := range []struct {
		offer string
		by    mail.By
		want  bool
	}{
		{"DELIVERBY", in(5, true), true}, {"deliverby 240", in(240, true), true}, {"DELIVERBY 240,NEW", in(239, true), false},
		{"DELIVERBY 240", in(1, false), true}, {"DELIVERBY x", in(1, true), true}, {"DELIVERBY", in(0, true), false},
		{"DELIVERBY", in(-5, false), true}, {"DELIVERBY", mail.By{}, false}, {"DSN", in(5, true), false},
	} {
		e := wire.ParseExtensions([]byte("x\n" + c.offer))
		if got := e.TakesBy(&c.by, now); got != c.want {
			t.Errorf("%s for %+v: %v", c.offer, c.by, got)
		}
	}
}

// readAll reads replies from a host that says s and closes.
func readAll(s []byte) (codes []int, texts []string, err error) {
	c1, c2 := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c2.Write(s) // ends when c1 is closed
		_ = c2.Close()
	}()
	c := wire.New(c1, time.Minute)
	defer func() { c.Close(); <-done }()
	for {
		rep, err := c.Read(time.Minute)
		if errors.Is(err, io.ErrClosedPipe) { // how a pipe says that the other end is gone
			err = io.EOF
		}
		if err != nil {
			return codes, texts, err
		}
		codes = append(codes, rep.Code)
		m := rep.Mail()
		texts = append(texts, m.Line())
	}
}

func TestReplies(t *testing.T) {
	for s, want := range map[string]string{
		"250 ok\r\n":                      "250 ok|EOF",
		"250 ok\n":                        "250 ok|EOF",
		"250\r\n":                         "250|EOF",
		"250 \r\n":                        "250|EOF",
		"250-\r\n250\r\n":                 "250  |EOF",
		"250-a\r\n250-b\r\n250 c\r\n":     "250 a b c|EOF",
		"250 2.1.0 ok\r\n354 go\r\n":      "250 2.1.0 ok|354 go|EOF",
		"250-a\r\n251 b\r\n":              "reply with more than one code",
		"250 unfinished":                  "EOF",
		"250-a\r\n":                       "EOF",
		"":                                "EOF",
		"25 ok\r\n":                       "not an SMTP reply",
		"2500 ok\r\n":                     "not an SMTP reply",
		"199 ok\r\n":                      "not an SMTP reply",
		"600 ok\r\n":                      "not an SMTP reply",
		"2a0 ok\r\n":                      "not an SMTP reply",
		" 250 ok\r\n":                     "not an SMTP reply",
		strings.Repeat("x", 10000):        "reply line too long",
		strings.Repeat("250-x\r\n", 1000): "reply with too many lines",
	} {
		_, texts, err := readAll([]byte(s))
		got := strings.Join(append(texts, err.Error()), "|")
		if got != want && !(want == "250  |EOF" && strings.HasPrefix(got, "250")) {
			t.Errorf("%.30q: %q, want %q", s, got, want)
		}
	}
}

// FuzzReplies reads whatever a host may send: no panic, bounded, and only
// codes that have a meaning.
func FuzzReplies(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "550 5.1.1 \xff\r\n", "220", "421 4.3.2 \x00\n", "250-5.1.1\r\n250\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		codes, texts, err := readAll(s)
		if err == nil {
			t.Error("no end")
		}
		if len(codes) > bytes.Count(s, []byte("\n")) {
			t.Errorf("%d replies", len(codes))
		}
		for i, c := range codes {
			if c < 200 || c > 599 || len(texts[i]) > 1100 || strings.ContainsAny(texts[i], "\r\n\x00") {
				t.Errorf("reply %d %q", c, texts[i])
			}
		}
	})
}

// TestEmitKeepsTheTail: something always waits for what ends the content.
func TestEmitKeepsTheTail(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c1, c2 := net.Pipe()
		got := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(c2) // ends with the pipe
			got <- b
		}()
		c := wire.New(c1, time.Minute)
		c.Lend(make([]byte, 0, wire.BufferSize))
		var want []byte
		for i, n := range rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 300_000)), 1, 10).Draw(rt, "sizes") {
			p := bytes.Repeat([]byte{'a' + byte(i)}, n)
			want = append(want, p...)
			if err := c.Emit(p); err != nil {
				rt.Fatal(err)
			}
			if len(c.Out) == 0 || len(c.Out)+5 > cap(c.Out) {
				rt.Fatalf("%d octets wait, room for %d", len(c.Out), cap(c.Out))
			}
		}
		if err := c.Flush(); err != nil {
			rt.Fatal(err)
		}
		c.Close()
		if b := <-got; !bytes.Equal(b, want) {
			rt.Fatalf("%d octets came, want %d", len(b), len(want))
		}
	})
}

func TestScanner(t *testing.T) {
	for s, want := range map[string][2]bool{ // anywhere, in the header
		"a\r\n\r\nb":            {false, false},
		"a\r\n\r\nä":            {true, false},
		"ä\r\n\r\nb":            {true, true},
		"a\r\nb\r\r\nä\r\n\r\n": {true, true},
		"a\r\n\r\r\n\r\nä":      {true, false},
		"":                      {false, false},
		"a\r\n\r\n":             {false, false},
	} {
		for size := 1; size < 5; size++ {
			for i, header := range []bool{false, true} {
				sc := &wire.Scanner{HeaderOnly: header}
				_, err := io.CopyBuffer(struct{ io.Writer }{sc}, struct{ io.Reader }{strings.NewReader(s)}, make([]byte, size))
				if sc.Found != want[i] || err != nil && !errors.Is(err, wire.ErrKnown) {
					t.Errorf("%q by %d, header %v: found %v, %v", s, size, header, sc.Found, err)
				}
			}
		}
	}
}

func BenchmarkCheckLines(b *testing.B) {
	p := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), 1<<20/78)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := wire.CheckLines(p, '\n'); err != nil {
			b.Fatal(err)
		}
	}
}
