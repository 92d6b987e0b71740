package shape

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestAppendNormal(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"  \n ", ""},
		{"try again later", "try again later"},
		{"<bob@example.org>: Recipient address rejected: User unknown", "<addr>: Recipient address rejected: User unknown"},
		{`<"two words"@example.org> is full, don't try`, "<addr> is full, don't try"},
		{"bob+tag@example.org is over quota", "<addr> is over quota"},
		{"mail for 'o'brien@example.org' waits", "mail for '<addr>' waits"},
		{"no mail to bob@[192.0.2.1] or bob@[IPv6:2001:db8::1].", "no mail to <addr> or <addr>."},
		{"connect to mx1.example.org[192.0.2.1]:25: connection refused", "connect to <host>[<ip>]:#: connection refused"},
		{"connect to mx1.example.org[2001:db8::1]:25: connection refused", "connect to <host>[<ip>]:#: connection refused"},
		{"[IPv6:2001:db8:1:2:3:4:5:6] and 2001:db8::2: no", "[<ip>] and <ip>: no"},
		{"::ffff:192.0.2.1 blocked", "<ip> blocked"},
		{"blocked, see https://www.example.org/query?ip=192.0.2.1&x=y.", "blocked, see <url>."},
		{"blocked, see www.example.org/query/ip/192.0.2.1", "blocked, see <host>/query/ip/<ip>"},
		{"queued as 4XyZ1k2Jpz", "queued as #"},
		{"queued as zyBRpQHtFwGk", "queued as #"}, // Postfix, long IDs
		{"queued as DEADBEEFAB", "queued as #"},
		{"id=1rVQ2X-00000000abc-1xyz", "id=#"}, // Exim
		{"unusual rate. For more information go to d2e1a72fcca58-7b5f5a4c3a2si123456b3a.12 - gsmtp", "unusual rate. For more information go to # - gsmtp"},
		{"[AM7EUR03FT012.eop-EUR03.prod.protection.outlook.com 2026-11-23T08:48:00.123Z 08DE2A9F0C6E4F11]", "[<host> # #]"},
		{"Greylisted for 00:04:59, 300 seconds or 1,204.5", "Greylisted for #, # seconds or #"},
		{"(host mx.example.org said: 450 4.7.1 wait)", "(host <host> said: # # wait)"},
		{"ref AbCdEf0123+/ghIJkl= done", "ref # done"},
		{"Outlook JavaScript McDonald rhythm", "Outlook JavaScript McDonald rhythm"},
		{"caf\xe9 \x1b[31m\tMünchen.example münchen", "caf\ufffd [# <host> münchen"},
		{"... - ' @ = / < > @x x@ e.g. this", "... - ' @ = / < > @x x@ e.g. this"},
		{strings.Repeat("1/", 1000), "#/"},
		{strings.Repeat("1:", 20) + "x", "#:x"},
		{strings.Repeat("word ", 100), strings.TrimRight(strings.Repeat("word ", 100)[:maxNormal], " ")},
		{strings.Repeat("é", 200), strings.Repeat("é", maxNormal/2)},
	} {
		if got := string(AppendNormal(nil, c.in)); got != c.want {
			t.Errorf("%q becomes\n  %q, want\n  %q", c.in, got, c.want)
		}
	}
}

// Whatever is put into a template: there is one reason.
func TestSameTextIsOneReason(t *testing.T) {
	kinds := map[string][]string{
		"ADDR": {"<bob@example.org>", "<alice.b+c@mail.Example.COM>", "<x@[192.0.2.7]>", `<"a b"@x.example>`, "<jörg@münchen.example>"},
		"BARE": {"bob@example.org", "a.b-c+d@x.yz.example", "1@2.example", "o'neill@example.org", "user=a@b.example"},
		"HOST": {"mx1.example.org", "a.b.c.d.e.example", "xn--mnchen-3ya.example", "mail-qk1-f171.google.com", "x.xn--p1ai", "10-0-0-1.pool.example.net"},
		"IP":   {"192.0.2.1", "10.200.100.255", "2001:db8::1", "::1", "fe80::1:2", "2001:db8:1:2:3:4:5:6", "64:ff9b::192.0.2.33"},
		"ID":   {"4XyZ1k2Jpz", "9F2C4A11", "12345678", "069NM6SC040000000000000004", "zyBRpQHtFwGk", "u1N2abcd012345", "1rVQ2X-00000000abc-1xyz", "3f2b8a52-0b1c-4f7e-9c67-1c2d3e4f5a6b"},
		"NUM":  {"1", "300", "1,204", "4.5", "99999999999", "12:30:45"},
		"URL":  {"https://example.org/a?b=c", "http://support.example.com/1/2#x"},
	}
	for _, template := range []string{
		"ADDR: greylisted for NUM seconds", "greylisted ADDR", "BARE over quota (NUM of NUM)", "'BARE' unknown", "connect to HOST[IP]:NUM: refused",
		"IP is listed at HOST; see URL", "queued as ID", "ID", "id=ID; retry", "[HOST ID]", "rate NUM/NUM for IP, ID - gsmtp", "HOST said: NUM no", "blocked (IP).", "HOST.", "user BARE.",
	} {
		seen := map[string]string{}
		for i := range 40 {
			text := template
			for kind, values := range kinds {
				text = strings.ReplaceAll(text, kind, values[i%len(values)])
			}
			seen[string(AppendNormal(nil, text))] = text
		}
		if len(seen) != 1 {
			t.Errorf("%q becomes %d reasons: %q", template, len(seen), seen)
		}
	}
}

// FuzzNormal: any octets become a line of UTF-8 that is not too long, and the
// same one with other digits.
func FuzzNormal(f *testing.F) {
	for _, s := range []string{
		"", "<a@b>: x", "a@[1.2.3.4]", "::1:", "1::2:3:", "IPv6:::1", "https://x/1", "ab''c", "'", "x=1/2&3", "\xff1\x00", "a.b1 1.2.3.4.5", "é1.é", "AbC1+/=AbCdEfGhI", "#1,#2", "a:b:c:d:1:2:3:4:5",
		"connect to mx1.example.org[192.0.2.1]:25: connection refused", "~1~ -2- .3. _x@y_",
	} {
		f.Add(s, byte(3))
	}
	f.Fuzz(func(t *testing.T, text string, shift byte) {
		got := string(AppendNormal([]byte("4.7.1 "), text))
		if !utf8.ValidString(got) || len(got) > len("4.7.1 ")+maxNormal || !strings.HasPrefix(got, "4.7.1") {
			t.Fatalf("%q becomes %q", text, got)
		}
		if strings.ContainsFunc(got, unicode.IsControl) || strings.Contains(got, "  ") {
			t.Fatalf("%q becomes %q, which is no clean line", text, got)
		}
		others := []byte(text)
		for i, c := range others {
			if isDigit(c) {
				others[i] = '0' + (c-'0'+shift%10)%10
			}
		}
		if again := string(AppendNormal([]byte("4.7.1 "), string(others))); again != got {
			t.Fatalf("%q becomes %q, and %q %q", text, got, others, again)
		}
	})
}
