package mail_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
)

// pathEnd finds the ">" that a reader of a path takes for its end: the first
// one outside quotes. It knows nothing of the parser under test.
func pathEnd(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && (s[i] == '>' || s[i] == ' '):
			return i
		}
	}
	return len(s)
}

// checkHarmless fails when the address, put between "<" and ">", could be
// read as anything but one path.
func checkHarmless(t *testing.T, a mail.Address) {
	t.Helper()
	s := a.String()
	if strings.ContainsAny(s, "\r\n\x00") || !utf8.ValidString(s) {
		t.Errorf("%#v: written as %q", a, s)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			t.Errorf("%#v: control character in %q", a, s)
		}
	}
	if end := pathEnd(s); end != len(s) {
		t.Errorf("%#v: %q ends at %d", a, s, end)
	}
	if path := "<" + s + "> X"; pathEnd(path) != len(path)-3 {
		t.Errorf("%#v: the path %q ends at %d", a, path, pathEnd(path))
	}
	if got := string(a.Append([]byte("<"))); got != "<"+s {
		t.Errorf("%#v: Append gives %q, String %q", a, got, s)
	}
}

func FuzzParseMailbox(f *testing.F) {
	for _, s := range []string{
		"a@b", `"a b"@c`, `"\"\\"@[1.2.3.4]`, "ä@bücher.example", "a@[IPv6:::1]", "a@[x:y]", "a_b@c_d", `""@a`, `"x> NOTIFY=NEVER"@d`, "a@xn--bcher-kva.example", "\xff@a", "a@b\r\n",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, wide bool) {
		a, err := mail.ParseMailbox(s, wide)
		if err != nil {
			if !a.IsNull() {
				t.Errorf("%q: %#v beside %v", s, a, err)
			}
			return
		}
		checkReparse(t, a)
		checkHarmless(t, a)
		out := a.String()
		if len(out) > len(s) || len(out) > mail.MaxPath-2 || len(a.Domain) > mail.MaxDomain {
			t.Errorf("%q: written as %q", s, out)
		}
		if !wide && a.NeedsUTF8() {
			t.Errorf("%q: non-ASCII without SMTPUTF8", s)
		}
		a.IP()
	})
}

// Whatever the two fields hold, what is written is one path.
func FuzzAddressString(f *testing.F) {
	f.Add("a", "b")
	f.Add("a> NOTIFY=NEVER", "b> X")
	f.Add(`a"> X`, `[">]`)
	f.Add("a\\", "[a>b]")
	f.Add("\xc2", "\xe2\x80")
	f.Add("", "\r\n")
	f.Fuzz(func(t *testing.T, local, domain string) {
		checkHarmless(t, mail.Address{Local: local, Domain: domain})
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"<>", "<a@b> SIZE=1", "<@a,@b:c@d>", "<postmaster> X", `<"a>b"@c>`, "<@[1.2.3.4]:a@b>"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, wide bool) {
		for _, parse := range []func(string, bool) (mail.Address, string, error){mail.ParseForwardPath, mail.ParseReversePath} {
			a, rest, err := parse(s, wide)
			if err != nil {
				continue
			}
			if !strings.HasSuffix(s, ">"+rest) || len(s)-len(rest) > mail.MaxPath {
				t.Errorf("%q: rest %q", s, rest)
			}
			checkHarmless(t, a)
			again, rest2, err := parse("<"+a.String()+">"+rest, wide)
			if err != nil || again != a || rest2 != rest {
				t.Errorf("%q: %#v, written again %#v, %q, %v", s, a, again, rest2, err)
			}
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{"rfc822;a@b", `utf-8;\x{F6}`, "utf-8;ä+2B", "a+20b", "SUCCESS,DELAY", "x;+0A", "FULL", "8BITMIME", "123"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, wide bool) {
		if typ, addr, err := mail.ParseORcpt(s, wide); err == nil {
			for _, peer := range []bool{false, true} {
				out := mail.FormatORcpt(typ, addr, peer)
				typ2, addr2, err := mail.ParseORcpt(out, peer)
				if tooLong := len(out) > mail.MaxORcpt; !tooLong && (err != nil || typ2 != typ || addr2 != addr) {
					t.Errorf("%q: %q, %q, written as %q, read as %q, %q, %v", s, typ, addr, out, typ2, addr2, err)
				}
				checkWord(t, out)
			}
		}
		checkWord(t, mail.FormatORcpt("utf-8", s, wide))
		checkWord(t, mail.FormatORcpt(s, s, wide))
		if id, err := mail.ParseEnvID(s); err == nil {
			if again, err := mail.ParseXText(mail.XText(id)); err != nil || again != id {
				t.Errorf("%q: ENVID %q comes back as %q, %v", s, id, again, err)
			}
		}
		checkWord(t, mail.XText(s))
		if n, err := mail.ParseNotify(s); err == nil {
			if again, err := mail.ParseNotify(n.String()); err != nil || again != n {
				t.Errorf("%q: NOTIFY %v comes back as %v, %v", s, n, again, err)
			}
		}
		if id, err := mail.ParseID(s); err == nil && !strings.EqualFold(id.String(), s) {
			t.Errorf("ID %q is written as %q", s, id)
		}
	})
}

// checkWord fails when a parameter value would not stay one.
func checkWord(t *testing.T, s string) {
	t.Helper()
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '=' {
			t.Errorf("value %q", s)
		}
	}
}
