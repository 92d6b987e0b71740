package shaping

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/site"
	config "github.com/clrelay/clrelay/internal/config/shaping"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

// reply reads a line of a log.
func reply(line string) *mail.Reply {
	code, _ := strconv.Atoi(line[:3])
	_, rest, _ := strings.Cut(line, " ")
	word, text, _ := strings.Cut(rest, " ")
	if mail.ParseEnhancedCode(word) == (mail.EnhancedCode{}) {
		word, text = "", rest
	}
	return mail.NewReply(code, word, text)
}

// Each rule that comes with the program has a reply that it, and no rule before
// it, is for, at one of its sites.
func TestShippedRules(t *testing.T) {
	c, err := config.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	book, names, err := Rules(&config.Shaping{Shipped: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rules) < 30 || len(c.Sites) < 30 {
		t.Errorf("%d rules and %d sites", len(c.Rules), len(c.Sites))
	}
	known := map[string]bool{}
	for _, s := range c.Sites {
		known[string(s.Site)] = true
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		if r.Example == "" {
			t.Errorf("%s has no example", r.Name)
			continue
		}
		at, step := "any.example", "MAIL"
		for _, s := range r.Sites {
			at = string(s)
			if !known[at] {
				t.Errorf("%s: the site %s is nowhere defined", r.Name, at)
			}
		}
		if len(r.Stages) > 0 {
			step = stage(r.Stages[0])
		}
		switch got := book.Match(at, step, reply(string(r.Example))); {
		case got == nil:
			t.Errorf("%s: nothing matches %q", r.Name, r.Example)
		case got.Name != string(r.Name):
			t.Errorf("%s: %s comes first for %q", r.Name, got.Name, r.Example)
		}
	}
	for host, want := range map[string]string{"googlemail.com": "google.com", "google.com": "google.com", "olc.protection.outlook.com": "outlook.com", "mail.protection.outlook.com": "office365.com"} {
		if names[host] != want {
			t.Errorf("%s is of %q", host, names[host])
		}
	}
}

// What says nothing about how much we send must not slow anything.
func TestShippedRulesLeaveAlone(t *testing.T) {
	book, _, err := Rules(&config.Shaping{Shipped: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"550 5.1.1 The email account that you tried to reach does not exist",
		"550 5.1.1 <a@b.example>: Recipient address rejected: User unknown in local recipient table",
		"452 4.2.2 The recipient's inbox is out of storage space",
		"550 5.7.1 Relaying denied",
		"451 4.3.0 Temporary lookup failure",
		"552 5.3.4 Message size exceeds fixed limit",
		"554 5.7.1 Message rejected as spam by Content Filtering",
		"450 4.1.8 <a@b.example>: Sender address rejected: Domain not found",
		"451 4.4.2 connection lost at end of content",
		"421 4.4.2 mx.example.org Error: timeout exceeded",
	} {
		for _, at := range []string{"any.example", "google.com", "outlook.com", "yahoo.com", "icloud.com", "mail.ru"} {
			for _, step := range []string{"RCPT", "end of content"} {
				if r := book.Match(at, step, reply(line)); r != nil {
					t.Errorf("%s at %s, %s: rule %s", line, at, step, r.Name)
				}
			}
		}
	}
	for _, line := range []string{
		"421 Too many concurrent SMTP connections from this IP address; please try again later",
		"421 4.7.0 too many connections",
		"554 mx.example.org Connection limit exceeded",
		"451 Maximum number of simultaneous sessions reached",
		"421 4.3.2 All server ports are busy, session limit",
		"421-4.7.0 [192.0.2.1] Number of connections exceeded",
		"421 Trop de connexions, veuillez verifier votre configuration.",
	} {
		r := book.Match("any.example", "greeting", reply(line))
		if r == nil || !r.Learn {
			t.Errorf("%s: %+v does not learn", line, r)
		}
	}
}

// The operator's rules come first, and one of a shipped name replaces it.
func TestOwnRulesFirst(t *testing.T) {
	own, err := config.Read("own.yaml", []byte(`
sites:
  - {site: google.com, connections: 3}
  - {site: partner.example, hosts: [mail.google.com]}
rules:
  - {name: mine, sites: [google.com], codes: [421], suspend: site, for: 5m, example: "421 4.7.0 Try again later"}
  - {name: greylisting, text: greylisted, wait: 1m}
`))
	if err != nil {
		t.Fatal(err)
	}
	book, names, err := Rules(own)
	if err != nil {
		t.Fatal(err)
	}
	if r := book.Match("google.com", "MAIL", reply("421 4.7.28 unusual rate of mail")); r == nil || r.Name != "mine" {
		t.Errorf("%+v", r)
	}
	if d := book.Default("google.com"); d.Connections != 3 || d.Shipped {
		t.Errorf("%+v", d)
	}
	if names["mail.google.com"] != "partner.example" || names["google.com"] != "google.com" {
		t.Errorf("%v", names)
	}
	if w := book.Wait("any.example", "RCPT", reply("451 4.7.1 greylisted")); w.String() != "1m0s" {
		t.Errorf("greylisting: %v", w)
	}
	own.Shipped = false
	if book, _, err = Rules(own); err != nil {
		t.Fatal(err)
	}
	if r := book.Match("any.example", "greeting", reply("421 too many connections")); r != nil {
		t.Errorf("shipped rules are off, and %s is there", r.Name)
	}
}

// The site of a destination is said by its name, and nobody is asked.
func TestSiteOf(t *testing.T) {
	s := &Shaping{Sites: site.New(site.Options{Resolver: zone{"example.org": {{Host: "mx.big.example"}}}})}
	want := func(lane, site string) {
		t.Helper()
		if got := s.SiteOf(lane); got != site {
			t.Errorf("%s is of %s, want %s", lane, got, site)
		}
	}
	want("mx:example.org", "example.org")
	s.Site(t.Context(), mail.NextHop{Kind: mail.HopMX, Domain: "example.org"})
	want("mx:example.org", "big.example")
	want("mx:example.org;tls=verify;pool=lists", "big.example")
	want("mx:[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]")
	want("smarthost:relay.example.net:587,relay2.example.net:587;auth=a:b#00000000", "relay.example.net")
	want("smarthost:192.0.2.1:2525", "192.0.2.1:2525") // as Site has it
	want("lmtp:[::1]:24", "::1")
	want("returns:bounces.example.org", "bounces.example.org")
	want("unroutable", "unroutable")
}

type zone map[string][]dnsx.MX

func (z zone) LookupMX(_ context.Context, name string) ([]dnsx.MX, error) { return z[name], nil }
