package mail_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
)

func rep(s string, n int) string { return strings.Repeat(s, n) }

// domainOf gives a domain name of n octets.
func domainOf(n int) string {
	var b strings.Builder
	for n-b.Len() > 64 {
		b.WriteString(rep("d", 63) + ".")
	}
	rest := n - b.Len()
	if rest == 64 { // a label has 63 at most
		b.WriteString("a." + rep("e", 62))
	} else {
		b.WriteString(rep("e", rest))
	}
	return b.String()
}

func TestParseMailbox(t *testing.T) {
	for _, c := range []struct {
		in            string
		local, domain string
		out           string // "" when it is in
	}{
		{"a@b", "a", "b", ""},
		{"John.Smith+tag@Example.ORG", "John.Smith+tag", "Example.ORG", ""},
		{"!#$%&'*+-/=?^_`{|}~@x.example", "!#$%&'*+-/=?^_`{|}~", "x.example", ""},
		{`"john smith"@x.example`, "john smith", "x.example", ""},
		{`"plain.word"@x.example`, "plain.word", "x.example", "plain.word@x.example"},
		{`"\p\l\a\i\n"@x.example`, "plain", "x.example", "plain@x.example"},
		{`""@x.example`, "", "x.example", ""},
		{`"a\"b\\c"@x.example`, `a"b\c`, "x.example", ""},
		{`"a@b"@c.example`, "a@b", "c.example", ""},
		{`"x> NOTIFY=NEVER"@d.example`, "x> NOTIFY=NEVER", "d.example", ""},
		{`".a"@d.example`, ".a", "d.example", ""},
		{`"a."@d.example`, "a.", "d.example", ""},
		{`"a..b"@d.example`, "a..b", "d.example", ""},
		{`"\ "@d.example`, " ", "d.example", `" "@d.example`},
		{"a@[127.0.0.1]", "a", "[127.0.0.1]", ""},
		{"a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]", ""},
		{"a@[ipv6:::ffff:192.0.2.1]", "a", "[ipv6:::ffff:192.0.2.1]", ""},
		{"a@[X400:c=us;a=x]", "a", "[X400:c=us;a=x]", ""},
		{"a@my_host._x.example", "a", "my_host._x.example", ""},
		{"a@1.2.3.4", "a", "1.2.3.4", ""},
		{rep("a", 64) + "@" + domainOf(189), rep("a", 64), domainOf(189), ""},
		{"a@" + domainOf(252), "a", domainOf(252), ""},
		{"a@" + rep("d", 63) + ".example", "a", rep("d", 63) + ".example", ""},
	} {
		a, err := mail.ParseMailbox(c.in, false)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if a.Local != c.local || a.Domain != c.domain {
			t.Errorf("%q: parsed as %q at %q", c.in, a.Local, a.Domain)
		}
		if want := c.out; a.String() != want && (want != "" || a.String() != c.in) {
			t.Errorf("%q: written as %q", c.in, a.String())
		}
	}
}

func TestParseMailboxRefuses(t *testing.T) {
	for _, in := range []string{
		"", "@", "a", "a@", "@b", "a@b@c", "a b@c", "a@b c", " a@b", "a@b ", "a@b\r\n", "a@b\x00", "a\x00@b", "a\r@b",
		".a@b", "a.@b", "a..b@c", `"a"b@c`, `a"b"@c`, `"a@b`, `"a\"@b`, `"a` + "\t" + `"@b`, "\"\x7f\"@b", `"\` + "\x01" + `"@b`, `"a"."b"@c`,
		"a(c)@b", "a@b(c)", "a,b@c", "a:b@c", "a;b@c", "a<b@c", "a>b@c", "a[b@c", `a\b@c`,
		"a@.b", "a@b.", "a@b..c", "a@-b", "a@b-", "a@b-.c", "a@b.-c", "a@" + rep("d", 64), "a@b!c", "a@b/c",
		"a@[", "a@[]", "a@[1.2.3]", "a@[1.2.3.4.5]", "a@[1.2.3.256]", "a@[01.2.3.4]", "a@[1.2.3.4", "a@1.2.3.4]", "a@[1.2.3.4]x", "a@[ 1.2.3.4]",
		"a@[::1]", "a@[fe80::1]", "a@[2001:db8::1]", "a@[IPv6:]", "a@[IPv6:1.2.3.4]", "a@[IPv6:fe80::1%eth0]", "a@[IPv6:1:2:3:4:5:6:7::]", "a@[IPv6:1:2:3:4:5::1.2.3.4]",
		"a@[x:]", "a@[x-:y]", "a@[:y]", "a@[x_y:z]", "a@[x:a>b]", "a@[x:a b]", `a@[x:a\]b]`, `a@[x:a"b]`, "a@[x:\x80]",
		rep("a", 65) + "@b", `"` + rep("a", 63) + `"@b`, rep("a", 64) + "@" + domainOf(190), "a@" + domainOf(253), "a@" + domainOf(256),
		"\xff@b", "a@\xff", "ä@b", "a@ä", `"ä"@b`, "<a@b>",
	} {
		a, err := mail.ParseMailbox(in, false)
		if err == nil {
			t.Errorf("%q was taken as %q at %q", in, a.Local, a.Domain)
		} else if !errors.Is(err, mail.ErrAddress) {
			t.Errorf("%q: %v does not wrap ErrAddress", in, err)
		}
		if !a.IsNull() {
			t.Errorf("%q: an address beside the error", in)
		}
	}
}

func TestParseMailboxUTF8(t *testing.T) {
	for _, in := range []string{"jörg@example.org", "用户@例子.广告", `"jörg müller"@x.example`, "a@bücher.example", "अ@उदाहरण.परीक्षा", "a@" + rep("ж", 59)} {
		a, err := mail.ParseMailbox(in, true)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if a.String() != in || !a.NeedsUTF8() {
			t.Errorf("%q: written as %q, NeedsUTF8 %t", in, a.String(), a.NeedsUTF8())
		}
		if _, err := mail.ParseMailbox(in, false); !errors.Is(err, mail.ErrNeedsUTF8) || !errors.Is(err, mail.ErrAddress) {
			t.Errorf("%q without SMTPUTF8: %v", in, err)
		}
	}
	for _, in := range []string{
		"\xff@b", "a\xc3@b", "\xed\xa0\x80@b", "\xc0\x80@b", // not UTF-8: RFC 3629
		`"\ä"@b`,                                                            // RFC 6531 leaves quoted-pairSMTP as it was
		"a@b\u3002c", "a@b\uff0ec", "a@b\u00a0c", "a@\u2028", "a@❤.example", // no U-label: RFC 5892
		"a@-ä", "a@ä-", "a@ä..b", "a@" + rep("ж", 60), rep("ä", 33) + "@b",
	} {
		if a, err := mail.ParseMailbox(in, true); err == nil {
			t.Errorf("%q was taken as %q at %q", in, a.Local, a.Domain)
		}
	}
	if (mail.Address{Local: "a", Domain: "b"}).NeedsUTF8() {
		t.Error("an ASCII address needs UTF-8")
	}
}

func TestParsePaths(t *testing.T) {
	const fwd, rev = 1, 2
	for _, c := range []struct {
		in   string
		dirs int
		out  string
		rest string
	}{
		{"<>", rev, "", ""},
		{"<> BODY=8BITMIME", rev, "", " BODY=8BITMIME"},
		{"<a@b>", fwd | rev, "a@b", ""},
		{"<a@b> SIZE=1", fwd | rev, "a@b", " SIZE=1"},
		{"<a@b>SIZE=1", fwd | rev, "a@b", "SIZE=1"},
		{`<"a>b"@c> X`, fwd | rev, `"a>b"@c`, " X"},
		{"<@one.example,@[10.0.0.1]:a@b>", fwd | rev, "a@b", ""},
		{"<@one:a@b>", fwd | rev, "a@b", ""},
		{"<postmaster>", fwd, "postmaster", ""},
		{"<PostMaster> NOTIFY=NEVER", fwd, "PostMaster", " NOTIFY=NEVER"},
		{"<postmaster@x.example>", fwd | rev, "postmaster@x.example", ""},
	} {
		for dir, parse := range map[int]func(string, bool) (mail.Address, string, error){fwd: mail.ParseForwardPath, rev: mail.ParseReversePath} {
			a, rest, err := parse(c.in, false)
			if c.dirs&dir == 0 {
				if err == nil {
					t.Errorf("direction %d: %q was taken", dir, c.in)
				}
				continue
			}
			if err != nil || a.String() != c.out || rest != c.rest {
				t.Errorf("direction %d: %q gave %q, %q, %v", dir, c.in, a.String(), rest, err)
			}
		}
	}
	for _, in := range []string{
		"", "a@b", " <a@b>", "<a@b", "<a@b ", "<a@b>>"[:4], "< a@b>", "<a@b >", "<a>", "<abuse>", `<"postmaster">`, "<postmaster ", "<@>", "<@a@b>", "<@a,b:c@d>",
		"<@a,:c@d>", "<@a:@b:c@d>", "<@a:>", "<@a:postmaster>", "<,@a:c@d>", "<" + rep("a", 64) + "@" + domainOf(190) + ">",
		"<@" + domainOf(200) + ":" + rep("a", 54) + "@b>", // RFC 5321 4.5.3.1.3 counts the route
	} {
		if a, _, err := mail.ParseForwardPath(in, false); err == nil {
			t.Errorf("forward path %q was taken as %q", in, a.String())
		}
		if a, _, err := mail.ParseReversePath(in, false); err == nil {
			t.Errorf("reverse path %q was taken as %q", in, a.String())
		}
	}
}

func TestAddressKinds(t *testing.T) {
	var null mail.Address
	if !null.IsNull() || null.String() != "" || null.IsPostmaster() || null.NeedsUTF8() {
		t.Errorf("null address: %q", null.String())
	}
	for local, want := range map[string]bool{"postmaster": true, "POSTMASTER": true, "postmaster2": false, "": false} {
		for _, domain := range []string{"", "x.example"} {
			if got := (mail.Address{Local: local, Domain: domain}).IsPostmaster(); got != want {
				t.Errorf("%q at %q: IsPostmaster %t", local, domain, got)
			}
		}
	}
	for domain, want := range map[string]string{
		"[192.0.2.1]": "192.0.2.1", "[IPv6:2001:DB8::1]": "2001:db8::1", "[ipv6:::1]": "::1",
		"192.0.2.1": "", "[]": "", "[": "", "": "", "[x:y]": "", "[IPv6:]": "", "[IPv6:1.2.3.4]": "", "[2001:db8::1]": "", "x.example": "",
	} {
		ip, ok := mail.Address{Local: "a", Domain: domain}.IP()
		if ok != (want != "") || ok && ip.String() != want {
			t.Errorf("%q: %v %t", domain, ip, ok)
		}
	}
}

// An Address that no parser made must not reach the wire as anything but one
// argument either.
func TestStringOfForeignFields(t *testing.T) {
	for _, c := range []struct {
		a    mail.Address
		want string
	}{
		{mail.Address{Local: "a\r\nDATA", Domain: "b"}, `"a??DATA"@b`},
		{mail.Address{Local: "a", Domain: "b> NOTIFY=NEVER"}, "a@b??NOTIFY?NEVER"},
		{mail.Address{Local: "a", Domain: "b\r\nQUIT"}, "a@b??QUIT"},
		{mail.Address{Local: "a", Domain: "[1.2.3.4]>]"}, "a@[1.2.3.4??]"},
		{mail.Address{Local: "a", Domain: "["}, "a@?"},
		{mail.Address{Local: "a\x00\xff", Domain: "\xff"}, `"a??"@?`},
		{mail.Address{Domain: "b"}, `""@b`},
		{mail.Address{Local: "abuse"}, "abuse"},
		{mail.Address{Local: "a b"}, `"a b"`},
	} {
		if got := c.a.String(); got != c.want {
			t.Errorf("%#v: %q, want %q", c.a, got, c.want)
		}
	}
}

func TestParseAllocates(t *testing.T) {
	for in, want := range map[string]float64{
		"<john.smith@mail.example.org> SIZE=1000": 0,
		`<"john smith"@mail.example.org>`:         0,
		"<a@[192.0.2.1]>":                         0,
		`<"john\ smith"@mail.example.org>`:        1,
	} {
		got := testing.AllocsPerRun(100, func() {
			if _, _, err := mail.ParseForwardPath(in, true); err != nil {
				t.Fatal(err)
			}
		})
		if got > want {
			t.Errorf("%s: %v allocations, want %v", in, got, want)
		}
	}
}

func BenchmarkParseForwardPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := mail.ParseForwardPath("<john.smith@mail.example.org> NOTIFY=FAILURE", true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAddressString(b *testing.B) {
	a := mail.Address{Local: "john.smith", Domain: "mail.example.org"}
	b.ReportAllocs()
	for b.Loop() {
		_ = a.String()
	}
}
