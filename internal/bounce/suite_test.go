package bounce

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kumo gives each class of that classifier those of ours that say the same, or
// a part of it.
func kumo() map[string]string {
	return map[string]string{
		"InvalidRecipient":     "no-mailbox no-domain system", // system: expansion of a list
		"BadDomain":            "no-domain",
		"InactiveMailbox":      "inactive relocated",
		"InvalidSender":        "sender",
		"QuotaIssues":          "mailbox-full too-big system",
		"NoAnswerFromHost":     "network",
		"BadConnection":        "network",
		"DNSFailure":           "dns no-domain",
		"RoutingErrors":        "loop no-domain no-mailbox relay-denied dns",
		"TransientFailure":     "system rate",
		"MessageExpired":       "expired",
		"ProtocolErrors":       "protocol content login",
		"AuthenticationFailed": "authentication login sender tls policy",
		"PolicyRelated":        "policy rate",
		"SpamBlock":            "reputation spam",
		"SpamContent":          "spam virus policy",
		"TooManyRecipients":    "rate",
	}
}

// TestKumo makes a reply of each regular expression of another classifier. The
// rules were not tuned to it: it says what they do with replies that others
// found worth a rule.
func TestKumo(t *testing.T) {
	dir := os.Getenv("CLRELAY_SUITES")
	if dir == "" {
		t.Skip("CLRELAY_SUITES names no folder of test suites")
	}
	section, quoted := regexp.MustCompile(`^(\w+) = \[`), regexp.MustCompile(`^\s*"((?:[^"\\]|\\.)*)"`)
	right, of := 0, 0
	for _, name := range []string{"bounce_classifier/iana.toml", "community/bounces.toml"} {
		text, err := os.ReadFile(filepath.Join(dir, "dsn-kumomta", "assets", filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		class := ""
		for line := range strings.Lines(string(text)) {
			if m := section.FindStringSubmatch(line); m != nil {
				class = m[1]
			}
			m := quoted.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			line := example(m[1])
			of++
			r := reply(line + "    ")
			got := Classify(r.Code, r.Enhanced, r.Text).Class.String()
			if strings.Contains(" "+kumo()[class]+" ", " "+got+" ") {
				right++
				continue
			}
			t.Logf("%s, there %s: %s", got, class, line)
		}
	}
	t.Logf("%d of %d rules (%.1f %%) give the same class", right, of, 100*float64(right)/float64(of))
	if of < 130 || 100*right < 80*of {
		t.Error("too few")
	}
}

// example writes a text that a regular expression fits: the simplest.
func example(re string) string {
	re = strings.ReplaceAll(re, `\\`, `\`)
	re = regexp.MustCompile(`\(([^()|]*)(\|[^()]*)?\)`).ReplaceAllString(re, "$1")
	re = regexp.MustCompile(`\[(.)[^\]]*\]`).ReplaceAllString(re, "$1")
	for _, c := range [][2]string{{`\d{3}`, "550"}, {`\d{2}`, "50"}, {`\d+`, "4"}, {`.+`, " x "}, {`.*`, " "}, {`\`, ""}, {"^", ""}, {"$", ""}} {
		re = strings.ReplaceAll(re, c[0], c[1])
	}
	return re
}
