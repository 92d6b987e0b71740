package dsn_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/internal/mail"
)

// Whatever the other side, the sender and the original say, nothing of it
// becomes a header field, a body part or a field of the status.
func TestHostileText(t *testing.T) {
	evil := "550 x\r\nBcc: victim@example.com\r\n\r\n--=_0123\r\nContent-Type: text/html\r\n\r\n<script>\r\n.\r\nAction: delivered\n\rFinal-Recipient: rfc822; x\x00\u2028Action: relayed\u202Eevil\x85\xff"
	r := basic(t)
	r.Envelope.From = addr(t, `"a\" <x>, Bcc: v@e.example"@example.edu`)
	r.Envelope.EnvID = evil
	r.Envelope.Recipients[0] = mail.Recipient{Addr: mail.Address{Local: evil, Domain: evil}, ORcptType: "rfc822", ORcpt: evil}
	r.Recipients[0].Outcome.Reply = mail.Reply{Code: 550, Text: evil}
	r.Recipients[0].Outcome.Remote = evil
	r.ReportingMTA = evil
	r.Original = strings.NewReader("Subject: =?utf-8?q?x=0D=0ABcc:_v=E2=80=AE?=\r\n\r\n")
	for _, kind := range []dsn.Kind{dsn.Failed, dsn.Delayed, dsn.Delivered, dsn.Relayed} {
		r.Kind = kind
		r.Original = strings.NewReader("Subject: =?utf-8?q?x=0D=0ABcc:_v=E2=80=AE?=\r\n\r\n")
		env, content := build(t, r)
		parts := check(t, r, env, content)
		for line := range strings.SplitSeq(parts[0].content+"\r\n"+parts[1].content, "\r\n") {
			for _, begin := range []string{"Bcc:", "--", "Content-Type:", "."} {
				if strings.HasPrefix(line, begin) {
					t.Errorf("%s: line %q", kind, line)
				}
			}
		}
		if strings.ContainsAny(parts[0].content, "\u2028\u202E\u0085\x00") {
			t.Errorf("%s: text %q", kind, parts[0].content)
		}
		s, err := dsn.Parse(strings.NewReader(content))
		if err != nil || len(s.Recipients) != 1 || s.Recipients[0].Action != kind.String() {
			t.Errorf("%s: %+v, %v", kind, s, err)
		}
		if !strings.Contains(content, "\r\nTo: <\"a\\\" <x>, Bcc: v@e.example\"@example.edu>\r\n") {
			t.Errorf("%s: To is not quoted: %.300q", kind, content)
		}
	}
}

func TestOriginals(t *testing.T) {
	long := strings.Repeat("x", 998)
	for name, c := range map[string]struct {
		original string
		full     bool
		utf8     bool
		want     bodyPart
	}{
		"empty":                  {"", false, false, bodyPart{"text/rfc822-headers", "", ""}},
		"empty, all asked":       {"", true, false, bodyPart{"message/rfc822", "8bit", ""}},
		"no header":              {"\r\nbody\r\n", false, false, bodyPart{"text/rfc822-headers", "", ""}},
		"no header, all asked":   {"\r\nbody\r\n", true, false, bodyPart{"message/rfc822", "8bit", "\r\nbody\r\n"}},
		"no separator":           {"Subject: x\r\nno field\r\nTo: y\r\n", false, false, bodyPart{"text/rfc822-headers", "", "Subject: x\r\n"}},
		"no header at all":       {"Hello Bob\r\nsecret: yes\r\n", false, false, bodyPart{"text/rfc822-headers", "", ""}},
		"header alone":           {"Subject: x\r\n", false, false, bodyPart{"text/rfc822-headers", "", "Subject: x\r\n"}},
		"header without end":     {"Subject: x", false, false, bodyPart{"text/rfc822-headers", "", "Subject: x\r\n"}},
		"all, without end":       {"Subject: x", true, false, bodyPart{"message/rfc822", "8bit", "Subject: x"}},
		"continuation first":     {" x\r\nSubject: x\r\n\r\n", false, false, bodyPart{"text/rfc822-headers", "", ""}},
		"folded":                 {"A: b\r\n\tc\r\n d\r\nE : f\r\n\r\n", false, false, bodyPart{"text/rfc822-headers", "", "A: b\r\n\tc\r\n d\r\nE : f\r\n"}},
		"bare line ends":         {"A: b\nC: d\rE\x00\r\n\r\nx", false, false, bodyPart{"text/rfc822-headers", "", "A: b\r\nC: d?E?\r\n"}},
		"all, bare line ends":    {"A: b\r\n\r\nx\ny\rz\x00\r", true, false, bodyPart{"message/rfc822", "8bit", "A: b\r\n\r\nx\r\ny\r\nz?\r\n"}},
		"all, CR CR LF":          {"A: b\r\n\r\nx\r\r\ny", true, false, bodyPart{"message/rfc822", "8bit", "A: b\r\n\r\nx\r\n\r\ny"}},
		"8-bit header":           {"A: \xe4\r\n\r\nx", true, false, bodyPart{"text/rfc822-headers", "quoted-printable", "A: \xe4\r\n"}},
		"UTF-8 header":           {"A: ä\r\n\r\nx", true, false, bodyPart{"text/rfc822-headers", "quoted-printable", "A: ä\r\n"}},
		"SMTPUTF8 header":        {"A: ä\r\n\r\nx", false, true, bodyPart{"message/global-headers", "quoted-printable", "A: ä\r\n"}},
		"SMTPUTF8 in vain":       {"A: a\r\n\r\nä", true, true, bodyPart{"message/rfc822", "8bit", "A: a\r\n\r\nä"}},
		"all, SMTPUTF8 header":   {"A: ä\r\n\r\nx", true, true, bodyPart{"message/global", "base64", base64.StdEncoding.EncodeToString([]byte("A: ä\r\n\r\nx")) + "\r\n"}},
		"long field":             {"A: " + long + "\r\n\r\n", false, false, bodyPart{"text/rfc822-headers", "quoted-printable", "A: " + long + "\r\n"}},
		"all, longest line":      {"A: b\r\n\r\n" + long + "\r\n", true, false, bodyPart{"message/rfc822", "8bit", "A: b\r\n\r\n" + long + "\r\n"}},
		"all, too long line":     {"A: b\r\n\r\n" + long + "yz\r\n", true, false, bodyPart{"message/rfc822", "8bit", "A: b\r\n\r\n" + long + "\r\nyz\r\n"}},
		"looks like a part":      {"A: b\r\n\r\n--=_\r\n--BOUNDARY--\r\n", true, false, bodyPart{"message/rfc822", "8bit", "A: b\r\n\r\n--=_\r\n--BOUNDARY--\r\n"}},
		"header of 8-bit spaces": {"A:\u00a0b\r\n\u00a0\r\n\r\n", false, false, bodyPart{"text/rfc822-headers", "quoted-printable", "A:\u00a0b\r\n"}},
	} {
		r := basic(t)
		r.Original, r.Size = iotest{strings.NewReader(c.original)}, int64(len(c.original))
		r.Envelope.SMTPUTF8 = c.utf8
		if c.full {
			r.Envelope.Ret = mail.ReturnFull
		}
		env, content := build(t, r)
		if got := check(t, r, env, content)[2]; got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// iotest hands out one octet at a time.
type iotest struct{ r io.Reader }

func (o iotest) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

func TestGiantHeader(t *testing.T) {
	field := "X-Pad: " + strings.Repeat("y", 500) + "\r\n"
	giant := strings.Repeat(field, 10000) + "\r\nbody\r\n" // 5 MB
	for _, ret := range []mail.Return{mail.ReturnHeaders, mail.ReturnFull} {
		r := basic(t)
		r.Envelope.Ret = ret
		src := &counter{r: strings.NewReader(giant)}
		r.Original, r.MaxFull = src, 1<<40
		env, content := build(t, r)
		third := check(t, r, env, content)[2]
		if third.mediaType != "text/rfc822-headers" || len(third.content) < 100<<10 || strings.ReplaceAll(third.content, field, "") != "" {
			t.Errorf("RET=%s: %s of %d octets", ret, third.mediaType, len(third.content))
		}
		if src.n > 512<<10 {
			t.Errorf("RET=%s: %d octets of the original were read", ret, src.n)
		}
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// The body of the original streams: it is read no faster than the report.
func TestBodyStreams(t *testing.T) {
	const size = 2 << 20
	line := []byte(strings.Repeat("z", 78) + "\r\n")
	body := io.LimitReader(&endless{line: line}, size)
	for _, utf8 := range []bool{false, true} {
		r := basic(t)
		r.Envelope.Ret, r.Envelope.SMTPUTF8 = mail.ReturnFull, utf8
		head := "Subject: x\r\n\r\n"
		if utf8 {
			head = "Subject: ä\r\n\r\n"
		}
		src := &counter{r: io.MultiReader(strings.NewReader(head), body)}
		r.Original, r.Size, r.MaxFull = src, size, size
		_, content, err := dsn.Build(r)
		if err != nil {
			t.Fatal(err)
		}
		buf, got := make([]byte, 1000), int64(0)
		for got < 1<<20 {
			n, err := content.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if got += int64(n); src.n > got+64<<10 {
				t.Fatalf("%d octets were read for %d", src.n, got)
			}
		}
	}
}

type endless struct {
	line []byte
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], e.line[e.at:])
		n += c
		e.at = (e.at + c) % len(e.line)
	}
	return n, nil
}

func TestManyRecipients(t *testing.T) {
	r := basic(t)
	r.Envelope.Recipients, r.Recipients = nil, nil
	for i := range 1000 {
		r.Envelope.Recipients = append(r.Envelope.Recipients, mail.Recipient{Addr: mail.Address{Local: strings.Repeat("u", 1+i%60), Domain: "example.org"}})
		r.Recipients = append(r.Recipients, dsn.Recipient{Outcome: mail.Outcome{Recipient: i, Remote: "mx", Reply: mail.Reply{Code: 550, Text: strings.Repeat("long ", 1000)}}})
	}
	env, content := build(t, r)
	check(t, r, env, content)
	if s, err := dsn.Parse(strings.NewReader(content)); err != nil || len(s.Recipients) != 1000 {
		t.Fatalf("%v", err)
	}
	if len(content) > 4<<20 {
		t.Errorf("a report of %d octets", len(content))
	}
}

// A spaced-out address and ID come back as they were given.
func TestSpacesAreKept(t *testing.T) {
	r := basic(t)
	r.Envelope.EnvID = "a  b"
	r.Envelope.Recipients[0] = mail.Recipient{Addr: addr(t, `"a  b  "@example.org`), ORcptType: "x-local", ORcpt: "c  d"}
	_, content := build(t, r)
	s, err := dsn.Parse(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	rc := s.Recipients[0]
	if s.EnvelopeID != "a  b" || rc.Final != (dsn.Typed{Type: "rfc822", Value: `"a  b  "@example.org`}) || rc.Original != (dsn.Typed{Type: "x-local", Value: "c  d"}) {
		t.Errorf("%+v", s)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add([]byte(plainMail), "550 no\r\nBcc: x", "mx[1.2.3.4]:25", "ann", "a+b", uint16(0))
	f.Add([]byte("A: ä\r\n\r\n\xff\x00"), "ä\x85", "[::1]:25", "jörg", `\x{`, uint16(0xffff))
	f.Add([]byte("\n\n\r\r\n."), strings.Repeat("a", 3000), "", `a" b`, "", uint16(0x15))
	f.Fuzz(func(t *testing.T, original []byte, reply, remote, local, foreign string, flags uint16) {
		r := basic(t)
		bit := func(i int) bool { return flags>>i&1 != 0 }
		r.Kind = dsn.Failed + dsn.Kind(flags&3)
		r.Envelope.SMTPUTF8 = bit(2)
		if bit(3) {
			r.Envelope.Ret = mail.ReturnFull
		}
		if bit(4) {
			r.Envelope.Recipients[0].ORcptType = "utf-8"
		} else if bit(5) {
			r.Envelope.Recipients[0].ORcptType = "rfc822"
		}
		if bit(6) {
			r.ReportingMTA = foreign
		}
		r.Recipients[0].Expired = bit(7)
		r.Envelope.Recipients[0].ORcpt, r.Envelope.EnvID = foreign, foreign
		r.Envelope.From.Local = local
		r.Envelope.Recipients[0].Addr = mail.Address{Local: local, Domain: foreign}
		r.Recipients[0].Outcome.Reply.Text, r.Recipients[0].Outcome.Remote = reply, remote
		r.Original, r.Size = bytes.NewReader(original), int64(len(original))
		if len(r.Envelope.From.String()) > mail.MaxPath {
			t.Skip("no parser gives such an address")
		}
		env, content := build(t, r)
		parts := check(t, r, env, content)
		s, err := dsn.Parse(strings.NewReader(content))
		if err != nil || len(s.Recipients) != 1 || s.Recipients[0].Action != r.Kind.String() || s.Recipients[0].Status == "" || s.Global != env.SMTPUTF8 {
			t.Errorf("%+v, %v in %q", s, err, content)
		}
		clean := strings.Count(string(original), "\r\n") == bytes.Count(original, []byte("\n")) && bytes.Count(original, []byte("\n")) == bytes.Count(original, []byte("\r")) && bytes.IndexByte(original, 0) < 0 && len(original) < 990
		if third := parts[2]; clean && third.mediaType == "message/rfc822" && third.content != string(original) {
			t.Errorf("the original %q came back as %q", original, third.content)
		}
	})
}
