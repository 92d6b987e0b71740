package bounce

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
)

// reply reads "550 5.1.1 text".
func reply(line string) *mail.Reply {
	r := &mail.Reply{}
	for _, c := range []byte(line[:3]) {
		r.Code = r.Code*10 + int(c-'0')
	}
	r.Text = strings.TrimPrefix(line[3:], " ")
	if first, rest, _ := strings.Cut(r.Text, " "); mail.ParseEnhancedCode(first) != (mail.EnhancedCode{}) {
		r.Enhanced, r.Text = mail.ParseEnhancedCode(first), rest
	}
	return r
}

// TestReplies holds replies as servers give them against what an operator
// would call them.
func TestReplies(t *testing.T) {
	for line, want := range map[string]string{
		// the text decides
		"550 5.1.1 <jane@example.org>: Recipient address rejected: User unknown in virtual mailbox table": "no-mailbox hard 5.1.1",
		"550 No such user here": "no-mailbox hard 5.0.0",
		"550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking the address": "no-mailbox hard 5.1.1",
		"554 5.7.1 <jane@example.org>: Relay access denied":                                                          "relay-denied soft 5.7.1",
		"452 4.2.2 The recipient's inbox is out of storage space":                                                    "mailbox-full soft 4.2.2",
		"552 5.2.2 Over quota":             "mailbox-full soft 5.2.2",
		"550 5.7.1 Mailbox quota exceeded": "mailbox-full soft 5.7.1",
		"450 4.2.0 <jane@example.org>: Recipient address rejected: Greylisted, see http://postgrey.example/help": "greylisted soft 4.2.0",
		"554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example":                       "reputation soft 5.7.1",
		"550 5.7.25 The sending IP does not have a PTR record":                                                   "reputation soft 5.7.25",
		"550 5.7.26 This mail is unauthenticated, neither DKIM nor SPF passed":                                   "authentication soft 5.7.26",
		"550 5.7.1 Message rejected as spam":                                                                     "spam soft 5.7.1",
		"554 5.7.1 Virus found: Eicar-Test":                                                                      "virus soft 5.7.1",
		"421 4.7.28 Our system has detected an unusual rate of mail":                                             "rate soft 4.7.28",
		"421 4.7.0 Too many connections from 192.0.2.1":                                                          "rate soft 4.7.0",
		"552 5.3.4 Message size exceeds fixed limit":                                                             "too-big soft 5.3.4",
		"530 5.7.0 Must issue a STARTTLS command first":                                                          "tls soft 5.7.0",
		"535 5.7.8 Username and Password not accepted":                                                           "login soft 5.7.8",
		"550 5.2.1 The account is disabled":                                                                      "inactive soft 5.2.1",
		"550 5.4.6 Too many hops":                                                                                "loop soft 5.4.6",
		"553 5.1.8 Domain of sender address does not exist":                                                      "sender soft 5.1.8",
		"550 5.1.2 Host unknown":                                                                                 "no-domain hard 5.1.2",
		"451 4.4.1 connection timed out":                                                                         "network soft 4.4.1",
		"451 4.3.0 Temporary lookup failure":                                                                     "dns soft 4.3.0",
		"452 4.3.1 Insufficient system storage":                                                                  "system soft 4.3.1",
		"451 4.4.1 connect to spamfilter.example.org[192.0.2.1]:25: connection refused":                          "network soft 4.4.1",
		"550 5.1.1 <spam@blocklist.example>: User unknown":                                                       "no-mailbox hard 5.1.1",
		"451 4.4.3 MX lookup of virus.example failed":                                                            "dns soft 4.4.3",
		"554 5.7.1 192.0.2.1 https://www.spamhaus.org/query/ip/192.0.2.1":                                        "reputation soft 5.7.1",
		"554 5.0.0 returned by the postmaster":                                                                   "operator soft 5.0.0",
		"454 4.7.4 the next hop refuses TLS: 454 4.3.0 try later":                                                "tls soft 4.7.4",
		// the enhanced status code decides
		"556 5.1.10 example.org": "no-domain hard 5.1.10",
		"551 5.1.6 elsewhere":    "relocated hard 5.1.6",
		"550 5.7.17 no":          "no-mailbox hard 5.7.17",
		"451 4.4.3 hm":           "dns soft 4.4.3",
		"554 5.4.7 no":           "expired soft 5.4.7",
		"550 5.6.7 no":           "content soft 5.6.7",
		"450 4.1.1 perhaps":      "no-mailbox soft 4.1.1",
		// weak words, and the reply code alone
		"550 blocked":                   "policy soft 5.0.0",
		"500 what":                      "protocol soft 5.0.0",
		"421 bye":                       "system soft 4.0.0",
		"599 hm":                        "other soft 5.0.0",
		"550 5.0.0 mail for you: 5.2.2": "mailbox-full soft 5.2.2",
	} {
		v := Of(reply(line))
		got := v.Class.String() + " soft " + v.Status.String()
		if v.Hard {
			got = strings.Replace(got, "soft", "hard", 1)
		}
		if got != want {
			t.Errorf("%s\n got %s, want %s", line, got, want)
		}
	}
	if v := Of(&mail.Reply{}); v != (Verdict{}) || v.Class != None {
		t.Errorf("nothing: %+v", v)
	}
}

// denied is the cause of a refusal by a limit, as allow.Denied.
type denied struct{ error }

func (denied) OwnLimit() {}

// TestLimit: a limit of our own is known by its cause, whatever it is called, and
// the same words of a receiver are something else.
func TestLimit(t *testing.T) {
	for _, text := range []string{"rate of limit spam for site=blocked.example", "suspended by x: 550 5.1.1 user unknown"} {
		r := mail.NewReply(451, "4.3.2", text)
		if v := Of(r.WithCause(fmt.Errorf("kept: %w", denied{errors.New(text)}))); v.Class != Limit || v.Hard || v.Status.String() != "4.3.2" {
			t.Errorf("ours: %+v", v)
		}
		for name, r := range map[string]*mail.Reply{"a receiver's": r, "with another cause": r.WithCause(errors.New("x"))} {
			if v := Of(r); v.Class == Limit {
				t.Errorf("%s %q is taken for a limit of ours", name, text)
			}
		}
	}
}

func TestFindCode(t *testing.T) {
	for text, want := range map[string][2]int{
		"host mx[192.0.2.45] said: 550 5.1.1 no": {26, 550}, "550-5.1.1 x": {0, 550}, "port 25, 4500 octets, 450.5": {0, 0},
		"": {0, 0}, "(#4.4.1)": {0, 0}, "x550 550x": {0, 0}, "code 421.": {5, 421}, "599 5.1.1": {0, 0},
	} {
		if at, code := FindCode(text); at != want[0] || code != want[1] {
			t.Errorf("%q: %d at %d", text, code, at)
		}
	}
}

// TestEveryPhraseCounts: a phrase that an earlier rule always overrules would
// be dead weight, and hide a mistake.
func TestEveryPhraseCounts(t *testing.T) {
	n := 0
	for _, r := range words.rules {
		for _, p := range r.phrases {
			n++
			strong, weak := words.find("x " + strings.ReplaceAll(p, "..", " q "))
			got := strong
			if !r.strong && strong == Other {
				got = weak
			}
			if got != r.class {
				t.Errorf("%q of %s means %s", p, r.class, got)
			}
			if p != strings.ToLower(p) || strings.ContainsAny(p, "'\"") || len(p) < 3 {
				t.Errorf("%q is not in the form of a phrase", p)
			}
		}
	}
	t.Logf("%d rules, %d phrases", len(words.rules), n)
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for c, name := range Names() {
		if name == "" || seen[name] || Class(c).String() != name {
			t.Errorf("class %d is called %q", c, name)
		}
		seen[name] = true
		if got, ok := Parse(name); !ok || got != Class(c) {
			t.Errorf("%q: %v %t", name, got, ok)
		}
	}
	if _, ok := Parse("nonsense"); ok || Class(200).String() != "other" {
		t.Error("a class that is none")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(550, 5, 1, 1, "550 5.1.1 <jane@example.org>: User unknown")
	f.Add(0, 0, 0, 0, "said: 4.2.2 552-5.2.2 \xff\xfe quota..exceeded")
	f.Fuzz(func(t *testing.T, code, a, b, c int, text string) {
		v := Classify(code, mail.EnhancedCode{a, b, c}, text)
		if v.Class == None || v.Class >= classes {
			t.Errorf("class %d", v.Class)
		}
		if v.Hard && code >= 400 && code < 500 {
			t.Error("a temporary failure is hard")
		}
		if v != Classify(code, mail.EnhancedCode{a, b, c}, text) {
			t.Error("not the same twice")
		}
		at, found := FindCode(text)
		if found != 0 && (at+3 > len(text) || text[at] < '4') {
			t.Errorf("code %d at %d", found, at)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	for name, line := range map[string]string{
		"short": "550 5.1.1 <jane@example.org>: Recipient address rejected: User unknown in virtual mailbox table",
		"long":  "550 5.7.26 This mail has been blocked because the sender is unauthenticated. " + strings.Repeat("Some more words of explanation follow here. ", 8),
		"other": "599 " + strings.Repeat("mumble and more mumble ", 8),
	} {
		r := reply(line)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Of(r)
			}
		})
	}
}
