package mail_test

import (
	"bufio"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
)

func suite(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CLRELAY_SUITES")
	if dir == "" {
		t.Skip("CLRELAY_SUITES names no folder of test suites")
	}
	return filepath.Join(dir, name)
}

// TestIsemailSuite takes its categories as verdicts for MAIL and RCPT: what
// only a header may hold (comments, folding, obsolete forms) is refused.
func TestIsemailSuite(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(suite(t, "address-isemail"), "tests.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Tests []struct {
			ID        string `xml:"id,attr"`
			Address   string `xml:"address"`
			Category  string `xml:"category"`
			Diagnosis string `xml:"diagnosis"`
		} `xml:"test"`
	}
	if err := xml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Tests) < 160 {
		t.Fatalf("only %d tests were read", len(doc.Tests))
	}
	for _, c := range doc.Tests {
		var accept bool
		switch c.Category {
		case "ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321":
			accept = true
		case "ISEMAIL_ERR", "ISEMAIL_CFWS", "ISEMAIL_DEPREC", "ISEMAIL_RFC5322":
		default:
			t.Errorf("test %s: unknown category %s", c.ID, c.Category)
		}
		// The suite writes control characters as the pictures of them.
		addr := strings.Map(func(r rune) rune {
			if r >= 0x2400 && r < 0x2420 {
				return r - 0x2400
			}
			return r
		}, c.Address)
		for _, wide := range []bool{false, true} {
			a, err := mail.ParseMailbox(addr, wide)
			if (err == nil) != accept {
				t.Errorf("test %s (%s), SMTPUTF8 %t: %q: %v", c.ID, c.Diagnosis, wide, addr, err)
			}
			if err == nil && wide && a.String() != addr {
				checkReparse(t, a)
			}
		}
	}
}

const oneGroup = `"::" stands for two groups or more (RFC 5321 4.1.3 IPv6-comp and IPv6v4-comp)`

// Where flanker, a checker of address lists, judges otherwise than the
// grammar of a path does, and why.
var flankerExceptions = map[string]string{
	// called invalid there, taken here
	"test@xn--example.com": "an LDH label is a label; that it decodes to nothing is for the resolver to find",
	// called valid there, refused here
	`Bill Gates <"billy"@retired.Micr!osoft99.com>`:              "a display name stands in headers alone, and ! in no domain",
	"Steve Jobs <steve@apple.com>":                               "a display name stands in headers alone",
	`Matt "The Matt" Mickiewicz <matt.Mickiewicz@99designs.com>`: "a display name stands in headers alone",
	`"<john@smith.com>" <john@smith.com>`:                        "a display name stands in headers alone",
	"first.last@[IPv6:1111:2222:3333::4444:5555:12.34.56.78]":    oneGroup,
	"first.last@[IPv6:1111:2222:3333::4444:5555:6666:7777]":      oneGroup,
	"first.last@[IPv6:::a2:a3:a4:b1:b2:b3:b4]":                   oneGroup,
	"first.last@[IPv6:a1:a2:a3:a4:b1:b2:b3::]":                   oneGroup,
	"first.last@[IPv6:::a2:a3:a4:b1:ffff:11.22.33.44]":           oneGroup,
	"first.last@[IPv6:a1:a2:a3:a4:b1::11.22.33.44]":              oneGroup,
	"(this is a comment) test@example.com":                       "a path has no comments (RFC 5321 4.1.2)",
	"(this is a comment)test@example.com":                        "a path has no comments (RFC 5321 4.1.2)",
	"test@example.com(this is a comment)":                        "a path has no comments (RFC 5321 4.1.2)",
	"test@example.com (this is a comment)":                       "a path has no comments (RFC 5321 4.1.2)",
}

// flankerLines reads a list of the suite. Address literals stand there behind
// "#", for its own parser lacks them; they are read too.
func flankerLines(t *testing.T, name string, visit func(line string)) {
	t.Helper()
	f, err := os.Open(filepath.Join(suite(t, "address-flanker"), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		line := in.Text()
		if i := strings.Index(line, "   #"); i >= 0 {
			line = strings.TrimRight(line[:i], " ")
		}
		if i := strings.Index(line, "      "); i >= 0 {
			line = line[:i]
		}
		if rest, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(rest, "@[") {
			visit(rest)
			continue
		}
		prose := strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "##########")
		if line != "" && line[0] != ' ' && !prose {
			visit(line)
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestFlankerMailboxes(t *testing.T) {
	used := map[string]bool{}
	for name, valid := range map[string]bool{"mailbox_valid.txt": true, "mailbox_invalid.txt": false} {
		n := 0
		flankerLines(t, name, func(line string) {
			n++
			accept := valid
			if _, ok := flankerExceptions[line]; ok {
				used[line] = true
				accept = !valid
			}
			a, err := mail.ParseMailbox(line, true)
			if (err == nil) != accept {
				t.Errorf("%s: %q: %v", name, line, err)
			}
			if err == nil {
				checkReparse(t, a)
			}
		})
		if n < 85 {
			t.Errorf("%s: only %d lines were read", name, n)
		}
	}
	for line := range flankerExceptions {
		if !used[line] {
			t.Errorf("the exception %q is not in the suite", line)
		}
	}
}

func TestFlankerLocalParts(t *testing.T) {
	for name, valid := range map[string]bool{"abridged_localpart_valid.txt": true, "abridged_localpart_invalid.txt": false} {
		n := 0
		flankerLines(t, name, func(line string) {
			n++
			a, err := mail.ParseMailbox(line+"@example.org", true)
			if (err == nil) != valid {
				t.Errorf("%s: %q: %v", name, line, err)
			}
			if err == nil {
				checkReparse(t, a)
			}
		})
		if n < 30 {
			t.Errorf("%s: only %d lines were read", name, n)
		}
	}
}

// The domains are lists of typos of great providers: each is a possible name
// but those that hold a character of no host name.
func TestFlankerDomains(t *testing.T) {
	bad := map[string]bool{"gmail.com?": true, "gmail.com`": true, "gmiail.com'": true}
	for _, name := range []string{"domain_typos_valid.txt", "domain_typos_invalid.txt"} {
		flankerLines(t, name, func(line string) {
			for domain := range strings.SplitSeq(line, ",") {
				if _, err := mail.ParseMailbox("a@"+domain, false); (err != nil) != bad[domain] {
					t.Errorf("%q: %v", domain, err)
				}
			}
		})
	}
}

// checkReparse fails when what String gives is not the same address again.
func checkReparse(t *testing.T, a mail.Address) {
	t.Helper()
	again, err := mail.ParseMailbox(a.String(), true)
	if err != nil || again != a {
		t.Errorf("%#v: written as %q, which reads as %#v, %v", a, a.String(), again, err)
	}
}
