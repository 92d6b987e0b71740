package delivery_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// pieces is content that its reader hands out in pieces of these sizes, by
// turns; none: without WriterTo.
type pieces struct {
	data  []byte
	sizes []int
}

func (p *pieces) Size() int64 { return int64(len(p.data)) }
func (p *pieces) Open() (io.ReadCloser, error) {
	r := io.NopCloser(struct{ io.Reader }{bytes.NewReader(p.data)})
	if len(p.sizes) == 0 {
		return r, nil
	}
	return &pieceReader{ReadCloser: r, p: p}, nil
}

type pieceReader struct {
	io.ReadCloser
	p *pieces
}

func (r *pieceReader) WriteTo(w io.Writer) (n int64, err error) {
	scratch := make([]byte, 1<<20)
	for i, rest := 0, r.p.data; len(rest) > 0; i++ {
		k := min(max(r.p.sizes[i%len(r.p.sizes)], 1), len(rest))
		copy(scratch, rest[:k]) // what was handed out before is overwritten
		m, err := w.Write(scratch[:k])
		n += int64(m)
		if err != nil {
			return n, err
		}
		rest = rest[k:]
	}
	return n, nil
}

// text draws a message of whole lines, rich in dots.
func text(t *rapid.T) []byte {
	line := rapid.OneOf(
		rapid.SampledFrom([]string{"", ".", "..", "...", ".x", "x.", "\x80\xff", " .", "x"}),
		rapid.StringOfN(rapid.RuneFrom([]rune(".abc\x00\t ä")), 0, 200, -1),
		rapid.Map(rapid.IntRange(1, 70000), func(n int) string { return strings.Repeat(".", n) }),
		rapid.Map(rapid.IntRange(1, 70000), func(n int) string { return strings.Repeat("y", n) }),
	)
	lines := rapid.SliceOfN(line, 0, 40).Draw(t, "lines")
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l + "\r\n")
	}
	if rapid.Bool().Draw(t, "cut") {
		b.WriteString(rapid.SampledFrom([]string{".", "x", "..", "end."}).Draw(t, "tail"))
	}
	return b.Bytes()
}

// TestContentIsExact: what arrives is what was sent, octet by octet, by every
// way to send it. DATA alone adds the line end that it cannot do without.
func TestContentIsExact(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	type way struct {
		s   *smtpctest.Server
		hop mail.NextHop
		a   *delivery.Agent
	}
	var ways []*way
	for _, ehlo := range [][]string{{}, {"PIPELINING"}, {"CHUNKING", "BINARYMIME"}, {"PIPELINING", "CHUNKING", "BINARYMIME"}} {
		for _, c := range []*tls.Config{nil, conf} {
			s := &smtpctest.Server{Ehlo: ehlo, TLS: c}
			ways = append(ways, &way{s: s, hop: smarthost(listen(t, s)), a: agent(t, delivery.Options{RootCAs: roots})})
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		data := text(t)
		binary := rapid.Bool().Draw(t, "binary")
		if binary {
			data = append(data, rapid.SliceOf(rapid.SampledFrom([]byte("\r\n.\x00x"))).Draw(t, "octets")...)
		}
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 10), rapid.IntRange(1, 1<<20), rapid.SampledFrom([]int{4096, 16384, 65520, 65536})), 0, 4).Draw(t, "sizes")
		at := message("", "a")
		at.Content = &pieces{data, sizes}
		ws := ways
		if binary {
			at.Envelope.Body, ws = mail.BodyBinaryMIME, ways[4:]
		}
		for i, w := range ws {
			if got := codes(w.a.Deliver(t.Context(), w.hop, at)); got != "250" {
				t.Fatalf("way %d: outcome %s", i, got)
			}
			m := w.s.Messages()
			got, want := m[len(m)-1], data
			if !got.BDAT && len(want) > 0 && !bytes.HasSuffix(want, []byte("\n")) {
				want = append(bytes.Clone(want), "\r\n"...)
			}
			if !bytes.Equal(got.Data, want) {
				t.Fatalf("way %d: %d octets came, %d were sent\n%.200q\n%.200q", i, len(got.Data), len(want), got.Data, want)
			}
			if f := w.s.Faults(); len(f) > 0 {
				t.Fatalf("way %d: %v", i, f)
			}
		}
	})
}

// TestNoBareLineEndGetsOut: content that other hosts may read in another way
// than we do is not sent to its end, however it is cut into slices.
func TestNoBareLineEndGetsOut(t *testing.T) {
	for _, ehlo := range [][]string{{}, {"PIPELINING", "CHUNKING"}} {
		s := &smtpctest.Server{Ehlo: ehlo}
		addr := listen(t, s)
		a := agent(t, delivery.Options{})
		for _, end := range []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n\r\n", "\r\r\n", "\n", "\r", "\r\n.\r\r\n", "\n\n.\r\r"} {
			for _, tail := range []string{"", "MAIL FROM:<x@example.org>\r\nRCPT TO:<b@example.net>\r\n"} {
				for size := range 8 {
					at := message("", "a")
					body := "A: b\r\n\r\nx" + end + tail
					if strings.HasSuffix(body, "\r\n.\r\n") {
						continue
					}
					at.Content = &pieces{[]byte(body), []int{size}[:min(size, 1)]}
					o := a.Deliver(t.Context(), smarthost(addr), at)[0]
					if o.Reply.Enhanced.String() != "5.6.0" {
						t.Errorf("%q by %d: outcome %s", body, size, o.Reply.Error())
					}
				}
			}
		}
		if len(s.Messages()) > 0 {
			t.Errorf("%q got out", s.Messages()[0].Data)
		}
	}
}

// TestSmugglingStaysContent: whatever dots and commands stand in whole lines,
// one message arrives.
func TestSmugglingStaysContent(t *testing.T) {
	s := &smtpctest.Server{}
	hop := smarthost(listen(t, s))
	body := "A: b\r\n\r\n.\r\nMAIL FROM:<x@example.org>\r\n..\r\n.\r\n\r\n.\r\n"
	if got := codes(agent(t, delivery.Options{}).Deliver(t.Context(), hop, message(body, "a"))); got != "250" {
		t.Errorf("outcome %s", got)
	}
	if m := s.Messages(); len(m) != 1 || string(m[0].Data) != body {
		t.Errorf("%d messages", len(m))
	}
}

// faulty is content that something is wrong with.
type faulty struct {
	size        int64
	open        error
	read, close error
}

func (f *faulty) Size() int64                  { return f.size }
func (f *faulty) Open() (io.ReadCloser, error) { return f, f.open }
func (f *faulty) Close() error                 { return f.close }
func (f *faulty) Read(p []byte) (int, error) {
	if f.read == nil {
		f.read = io.EOF
		return copy(p, "x\r\n"), nil
	}
	return 0, f.read
}

var errDamaged = errors.New("damaged at offset 42")

func TestContentThatFails(t *testing.T) {
	for _, ehlo := range [][]string{{}, {"PIPELINING", "CHUNKING"}} {
		s := &smtpctest.Server{Ehlo: ehlo}
		hop := smarthost(listen(t, s))
		a := agent(t, delivery.Options{})
		for i, c := range []*faulty{
			{open: errDamaged}, {size: 3, read: errDamaged}, {size: 3, close: errDamaged}, {size: 2}, {size: 4},
		} {
			at := message("", "a", "b")
			at.Content = c
			o := a.Deliver(t.Context(), hop, at)
			if codes(o) != "451 451" || o[0].Reply.Enhanced.String() != "4.3.0" || o[0].Unsure {
				t.Errorf("case %d: %s", i, o[0].Reply.Error())
			}
			if strings.Contains(o[0].Reply.Text, "offset") || i < 3 && !errors.Is(&o[0].Reply, errDamaged) {
				t.Errorf("case %d: text %q, cause %v", i, o[0].Reply.Text, o[0].Reply.Cause)
			}
		}
		if len(s.Messages()) > 0 {
			t.Error("a message arrived")
		}
	}
}

func TestEmptyContent(t *testing.T) {
	for _, ehlo := range [][]string{{}, {"CHUNKING"}} {
		s := &smtpctest.Server{Ehlo: ehlo}
		if got := codes(agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), message("", "a"))); got != "250" {
			t.Errorf("outcome %s", got)
		}
		if m := s.Messages(); len(m) != 1 || len(m[0].Data) != 0 {
			t.Errorf("messages %v", m)
		}
	}
}

// TestForeignTexts: what a host says is fit for a log line and a report.
func TestForeignTexts(t *testing.T) {
	for say, want := range map[string]string{
		"550 5.1.1 plain":                          "550 5.1.1 plain",
		"550-5.1.1 one\r\n550 5.1.1 two":           "550 5.1.1 one two",
		"550-5.1.1 one\r\n550-two\r\n550 5.1.1":    "550 5.1.1 one two ",
		"550 4.1.1 other class":                    "550 4.1.1 other class",
		"550 5.1.1":                                "550 5.1.1",
		"550":                                      "550",
		"550 5.1.1000 long":                        "550 5.1.1000 long",
		"550 \x1b[31mred\x00\x07":                  "550 ?[31mred??",
		"550 \xff\xfe":                             "550 ??",
		"550 grüß\u200bgott":                       "550 grüß?gott",
		"550 " + strings.Repeat("x", 3000):         "550 " + strings.Repeat("x", 1024) + "...",
		"550 " + strings.Repeat("x", 1023) + "äää": "550 " + strings.Repeat("x", 1023) + "...",
	} {
		s := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
			if verb == "RCPT" {
				return say
			}
			return ""
		}}
		o := agent(t, delivery.Options{}).Deliver(t.Context(), smarthost(listen(t, s)), message(hello, "a"))[0]
		if got := o.Reply.Line(); got != want {
			t.Errorf("%.40q: got %.60q, want %.60q", say, got, want)
		}
	}
}
