package shaping

import (
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	s, err := Read("x.yaml", []byte(`
shipped: false
sites:
  - {site: Google.com, hosts: [googlemail.com], connections: 20, rate: 100/s}
rules:
  - name: one
    sites: [google.com]
    stages: [greeting, end]
    codes: [421, 4xx]
    enhanced: [4.7.28]
    text: unusual
    open: 2
    after: 3 in 10m
    for: 30m
    connections: halve
    rate: 10/15m
    messages_per_connection: 5
    wait: 6m
    example: "421 4.7.28 Unusual rate"
  - {name: leave, codes: [5xx]}
`))
	if err != nil {
		t.Fatal(err)
	}
	r := &s.Rules[0]
	if s.Shipped || s.Sites[0].Site != "google.com" || s.Sites[0].Rate != (Pace{100, time.Second}) || r.After != (Trigger{3, 10 * time.Minute}) ||
		!r.Connections.Halve || r.Rate.Pace != (Pace{10, 15 * time.Minute}) || r.MessagesPerConnection.N != 5 || r.Wait.Span() != 6*time.Minute || r.Suspend != "none" {
		t.Errorf("%+v", s)
	}
}

// What is wrong is told with its place and what is right.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"rules: [{name: a, codes: [421]}, {name: a, codes: [421]}]":                             "already used in line 1",
		"rules: [{name: a, codes: [421], suspend: site}]":                                       "how long is missing",
		"rules: [{name: a, codes: [421], for: 1h}]":                                             "nothing is done that could last",
		"rules: [{name: a, codes: [421], connections: learn, for: 1h}]":                         "leave for out",
		"rules: [{name: a, codes: [250]}]":                                                      "no code of a refusal",
		"rules: [{name: a, text: \"(\"}]":                                                       "no regular expression (RE2): missing closing )",
		"rules: [{name: a, text: \"(?=x)\"}]":                                                   "no regular expression",
		"rules: [{name: a, enhanced: [2.0.0]}]":                                                 "no enhanced code",
		"rules: [{name: a, codes: [421], rate: 0/m, for: 1h}]":                                  "a rate of nothing",
		"rules: [{name: a, codes: [421], rate: fast, for: 1h}]":                                 "as in 60/s, 1000/m, 5000/h; or halve",
		"rules: [{name: a, codes: [421], after: thrice}]":                                       "3 in 10m",
		"rules: [{name: a, codes: [421], suspend: all, for: 1h}]":                               "is not none, site, source or domain",
		"rules: [{name: a, codes: [421], connections: 0, for: 1h}]":                             "nor halve or learn",
		"rules: [{name: a, codes: [421], messages_per_connection: learn}]":                      "learn is for connections",
		"rules: [{name: a, codes: [421], example: \"450 x\"}]":                                  "the rule does not match it",
		"rules: [{name: a, codes: [421], example: \"hello\"}]":                                  "no reply that refuses",
		"rules: [{name: a, stages: [helo]}]":                                                    "did you mean",
		"rules: [{name: a, sites: [\"*.google.com\"]}]":                                         "write \"google.com\"",
		"sites: [{site: a.example}]":                                                            "says nothing of the site",
		"sites: [{site: a.example, connections: 1}, {site: A.example, rate: 1/s}]":              "already there in line 1",
		"sites: [{site: a.example, hosts: [h.example]}, {site: b.example, hosts: [h.example]}]": "belongs to a site",
		"sites: [{site: \"a b\", connections: 1}]":                                              "no site",
		"rule: []": "unknown key",
	} {
		_, err := Read("x.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yaml:1:") {
			t.Errorf("%s: %v\nwant %q", text, err, want)
		}
	}
}
