package received_test

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/dsn/received"
)

// sisimai gives each reason of that corpus the classes of ours that say the
// same. Where one of theirs is two of ours, both are there. Reasons that are no
// class here are kinds of messages (vacation, feedback, delivered).
func sisimai() map[string]string {
	return map[string]string{
		"userunknown":     "no-mailbox",
		"filtered":        "no-mailbox inactive policy", // refused by the recipient's side after RCPT, without a cause
		"expired":         "expired network dns system", // what it was tried for in vain is told where it is known
		"mailboxfull":     "mailbox-full",
		"rejected":        "sender policy", // for the sender's address
		"blocked":         "reputation policy",
		"hostunknown":     "no-domain",
		"suspend":         "inactive",
		"policyviolation": "policy content spam", // the form or the content breaks a rule
		"authfailure":     "authentication",
		"systemerror":     "system loop",
		"networkerror":    "network dns loop",
		"securityerror":   "policy login tls authentication",
		"spamdetected":    "spam",
		"requireptr":      "reputation",
		"notaccept":       "no-domain",
		"mailererror":     "system",
		"toomanyconn":     "rate",
		"norelaying":      "relay-denied",
		"notcompliantrfc": "content",
		"badreputation":   "reputation",
		"syntaxerror":     "protocol",
		"speeding":        "rate",
		"ratelimited":     "rate",
		"hasmoved":        "relocated",
		"exceedlimit":     "too-big",
		"mesgtoobig":      "too-big",
		"virusdetected":   "virus",
		"systemfull":      "system",
		"failedstarttls":  "tls",
		"contenterror":    "content",
	}
}

type row struct {
	file, status, code, reason string
	index                      int
	hard                       bool
}

func rows(t *testing.T, dir string) []row {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "expected.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []row
	for _, r := range all[1:] {
		i, err := strconv.Atoi(r[1])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row{file: r[0], index: i, status: r[2], code: r[3], reason: r[4], hard: r[5] == "true"})
	}
	return out
}

func suite(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CLRELAY_SUITES")
	if dir == "" {
		t.Skip("CLRELAY_SUITES names no folder of test suites")
	}
	return filepath.Join(dir, name)
}

func read(t *testing.T, name string) *received.Report {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := received.Read(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// score counts what is right.
type score struct{ right, of int }

func (s *score) add(ok bool) {
	s.of++
	if ok {
		s.right++
	}
}

func (s score) String() string {
	return fmt.Sprintf("%d of %d (%.1f %%)", s.right, s.of, 100*float64(s.right)/float64(s.of))
}

func (s score) under(percent int) bool { return 100*s.right < percent*s.of }

// TestSisimai holds what is read of 333 bounces of some 70 mail systems against
// what their collectors say of them.
func TestSisimai(t *testing.T) {
	dir := suite(t, "dsn-sisimai")
	var status, class, first, hard, kind score
	confusion := map[string]int{}
	cache := map[string]*received.Report{}
	for _, want := range rows(t, dir) {
		got := cache[want.file]
		if got == nil {
			got = read(t, filepath.Join(dir, "maildir", "bsd", want.file))
			cache[want.file] = got
		}
		wantKind := map[string]received.Kind{"feedback": received.Complaint, "vacation": received.AutoReply, "delivered": received.Success}[want.reason]
		if wantKind != received.Unknown {
			kind.add(got.Kind == wantKind)
			if got.Kind != wantKind {
				t.Logf("KIND %s: %s, want %s", want.file, got.Kind, wantKind)
			}
			continue
		}
		kind.add(got.Kind == received.Bounce || got.Kind == received.Delayed)
		if len(got.Recipients) < want.index {
			first.add(false)
			t.Logf("RCPT %s: kind %s: no recipient %d (%s %s)", want.file, got.Kind, want.index, want.status, want.reason)
			status.add(false)
			class.add(false)
			continue
		}
		r := pick(got, want)
		okStatus := sameStatus(r.Verdict.Status.String(), want.status)
		status.add(okStatus)
		if !okStatus {
			t.Logf("STATUS %s.%d: %s, want %s %s", want.file, want.index, r.Verdict.Status, want.status, r.Text)
		}
		if want.reason == "onhold" || want.reason == "undefined" {
			continue // no class there
		}
		ok := strings.Contains(" "+sisimai()[want.reason]+" ", " "+r.Verdict.Class.String()+" ")
		class.add(ok)
		first.add(strings.HasPrefix(sisimai()[want.reason]+" ", r.Verdict.Class.String()+" "))
		if !ok {
			confusion[want.reason+" -> "+r.Verdict.Class.String()]++
			t.Logf("CLASS %s.%d: %s, want %s: %s %s", want.file, want.index, r.Verdict.Class, want.reason, r.Verdict.Status, r.Text)
		}
		if want.reason == "filtered" {
			continue // soft there, whatever was said: "550 User unknown" after DATA
		}
		hard.add(r.Verdict.Hard == want.hard)
		if r.Verdict.Hard != want.hard {
			t.Logf("HARD %s.%d: %t, want %t %s: %s %s", want.file, want.index, r.Verdict.Hard, want.hard, want.reason, r.Verdict.Status, r.Text)
		}
	}
	t.Logf("kind %s, status %s, class %s, the first of those classes alone %s, hard or soft %s", kind, status, class, first, hard)
	for _, line := range list(sisimai()) {
		t.Log("mapping: " + line)
	}
	var lines []string
	for pair, n := range confusion {
		lines = append(lines, fmt.Sprintf("%3d %s", n, pair))
	}
	sort.Sort(sort.Reverse(sort.StringSlice(lines)))
	for _, line := range lines {
		t.Log("confusion: " + line)
	}
	if status.under(95) || class.under(90) || kind.under(98) || hard.under(95) {
		t.Error("too much is read wrong")
	}
}

// pick gives the recipient that a row is about. Several of one report are in
// another order there, and no address tells which is which.
func pick(got *received.Report, want row) *received.Recipient {
	for i := range got.Recipients {
		if r := &got.Recipients[i]; sameStatus(r.Verdict.Status.String(), want.status) && strings.Contains(" "+sisimai()[want.reason]+" ", " "+r.Verdict.Class.String()+" ") {
			return r
		}
	}
	return &got.Recipients[want.index-1]
}

func list(m map[string]string) []string {
	var out []string
	for theirs, ours := range m {
		out = append(out, theirs+" = "+ours)
	}
	sort.Strings(out)
	return out
}

// sameStatus compares codes. One of theirs that ends in 900 and more stands in
// no report: it tells that the report has none, and only its class counts.
func sameStatus(got, want string) bool {
	if want == "" {
		return true
	}
	if detail := want[strings.LastIndexByte(want, '.')+1:]; strings.HasPrefix(want[1:], ".0.") && len(detail) == 3 && detail[0] == '9' {
		return got != "" && got[0] == want[0] && strings.HasSuffix(got, ".0.0")
	}
	return got == want
}
