package route_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/mail"
)

func to(name string) route.Action {
	return route.Action{Hosts: []mail.HostPort{{Name: name, Port: 25}}}
}

func table(t testing.TB, rules ...route.Rule) *route.Table {
	t.Helper()
	tb, err := route.New(rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestFirstMatchWins(t *testing.T) {
	tb := table(t,
		route.Rule{Domains: []string{"a.example.edu"}, Action: to("one")},
		route.Rule{Domains: []string{"EXAMPLE.edu.", "*.example.edu"}, Action: to("two")},
		route.Rule{Domains: []string{"b.example.edu", "*.c.example.org"}, Action: to("never")},
		route.Rule{Domains: []string{"bücher.example", "[192.0.2.1]", "*.museum"}, Action: to("three")},
		route.Rule{},
		route.Rule{Domains: []string{"example.com"}, Action: to("too late")},
	)
	for domain, want := range map[string]string{
		"a.example.edu":         "smarthost:one:25",
		"A.Example.EDU.":        "smarthost:one:25",
		"x.a.example.edu":       "smarthost:two:25",
		"example.edu":           "smarthost:two:25",
		"b.example.edu":         "smarthost:two:25",
		"deep.b.example.edu":    "smarthost:two:25",
		"notexample.edu":        "mx:notexample.edu",
		"x.c.example.org":       "smarthost:never:25",
		"c.example.org":         "mx:c.example.org",
		"BÜCHER.example":        "smarthost:three:25",
		"bu\u0308cher.example":  "smarthost:three:25",
		"xn--bcher-kva.example": "smarthost:three:25",
		"XN--BCHER-KVA.EXAMPLE": "smarthost:three:25",
		"[192.0.2.1]":           "smarthost:three:25",
		"x.museum":              "smarthost:three:25",
		"museum":                "mx:museum",
		"[192.0.2.2]":           "mx:[192.0.2.2]",
		"[IPv6:2001:DB8:0::1]":  "mx:[IPv6:2001:db8::1]",
		"_dmarc.example.net":    "mx:_dmarc.example.net",
		"example.com":           "mx:example.com",
		"straße.example":        "mx:xn--strae-oqa.example",
		"例え。テスト":                "mx:xn--r8jz45g.xn--zckzah",
	} {
		hop, r := tb.Route("", domain)
		if r != nil || hop.Key != want {
			t.Errorf("%s: %q, %v; want %q", domain, hop.Key, r, want)
			continue
		}
		if mx, ok := strings.CutPrefix(want, "mx:"); ok != (hop.Kind == mail.HopMX) || ok && hop.Domain != mx {
			t.Errorf("%s: %+v", domain, hop)
		}
	}
}

func TestNoRoute(t *testing.T) {
	tb := table(t, route.Rule{Domains: []string{"example.edu"}})
	for domain, want := range map[string]string{
		"example.org":                     "550 5.4.4 no route to the recipient's domain",
		"":                                "550 5.1.2",
		".":                               "550 5.1.2",
		"a..b":                            "550 5.1.2",
		".a":                              "550 5.1.2",
		"a..":                             "550 5.1.2",
		"a b":                             "550 5.1.2",
		"a\r\nb":                          "550 5.1.2",
		"ä..b":                            "550 5.1.2",
		"192.0.2.1":                       "550 5.1.2",
		"[192.0.2.300]":                   "550 5.1.2",
		"[x]":                             "550 5.1.2",
		"*.example.edu":                   "550 5.1.2",
		"\xff.example":                    "550 5.1.2",
		strings.Repeat("a", 64):           "550 5.1.2",
		strings.Repeat("ä", 64):           "550 5.1.2",
		strings.Repeat("abcd.", 51) + "x": "550 5.1.2",
	} {
		if _, r := tb.Route("", domain); r == nil || !strings.HasPrefix(r.Line(), want) {
			t.Errorf("%q: %v, want %s", domain, r, want)
		}
	}
	if _, r := table(t).Route("", "example.edu"); r == nil || !r.Permanent() {
		t.Errorf("a table without rules: %v", r)
	}
}

// TestKeys: what is spoken to in different ways has different keys, and the
// same has the same.
func TestKeys(t *testing.T) {
	hosts := []mail.HostPort{{Name: "a.example", Port: 25}, {Name: "2001:db8::1", Port: 465}}
	cred := func(user, file string) *mail.Credentials { return &mail.Credentials{User: user, PasswordFile: file} }
	seen := map[string]int{}
	for i, a := range []route.Action{
		{}, {TLS: mail.TLSNone}, {TLS: mail.TLSRequire}, {EightBitFail: true},
		{Hosts: hosts[:1]}, {Hosts: hosts[1:]}, {Hosts: hosts}, {Hosts: []mail.HostPort{hosts[1], hosts[0]}},
		{Hosts: hosts, TLS: mail.TLSNone}, {Hosts: hosts, TLS: mail.TLSRequire}, {Hosts: hosts, TLS: mail.TLSVerify},
		{Hosts: hosts, LMTP: true}, {Hosts: hosts, EightBitFail: true},
		{Hosts: hosts, Balance: true}, {Hosts: hosts, Pool: "p"}, {Pool: "p"}, {Pool: "q"},
		{Hosts: hosts, Auth: cred("u", "/f")}, {Hosts: hosts, Auth: cred("v", "/f")}, {Hosts: hosts, Auth: cred("u", "/g")},
	} {
		for range 2 {
			hop, r := table(t, route.Rule{Action: a}).Route("", "example.net")
			if r != nil {
				t.Fatal(r)
			}
			if j, ok := seen[hop.Key]; ok && j != i {
				t.Errorf("actions %d and %d share the key %q", j, i, hop.Key)
			}
			seen[hop.Key] = i
			if strings.Contains(hop.Key, "/f") {
				t.Errorf("key %q names the password file", hop.Key)
			}
		}
	}
	if hop, _ := table(t, route.Rule{Action: route.Action{Hosts: hosts}}).Route("", "example.net"); hop.Key != "smarthost:a.example:25,[2001:db8::1]:465" {
		t.Errorf("key %q", hop.Key)
	}
}

// TestPools: a rule's pool counts before the sender's, and each is a
// destination of its own.
func TestPools(t *testing.T) {
	tb, err := route.New([]route.Rule{
		{Domains: []string{"a.example"}, Action: route.Action{Pool: "rule"}},
		{Domains: []string{"b.example"}, Action: to("b")},
		{},
	}, map[string]string{"list": "bulk"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ via, sender, domain, pool, key string }{
		{"", "list", "a.example", "rule", "mx:a.example;pool=rule"},
		{"", "list", "b.example", "bulk", "smarthost:b:25;pool=bulk"},
		{"", "list", "c.example", "bulk", "mx:c.example;pool=bulk"},
		{"", "office", "c.example", "", "mx:c.example"},
		{"", "", "c.example", "", "mx:c.example"},
		{route.ToMX, "list", "b.example", "bulk", "mx:b.example;pool=bulk"},
		{route.ToMX, "list", "a.example", "rule", "mx:a.example;pool=rule"},
		{"x.example", "list", "a.example", "bulk", "smarthost:x.example:25;pool=bulk"},
		{"x.example", "", "a.example", "", "smarthost:x.example:25"},
	} {
		hop, r := tb.Route(c.sender, c.domain)
		if c.via != "" {
			hop, r = tb.Via(c.via, c.sender, c.domain)
		}
		if r != nil || hop.Pool != c.pool || hop.Key != c.key {
			t.Errorf("%+v: pool %q, key %q, %v", c, hop.Pool, hop.Key, r)
		}
	}
}

func TestBadRules(t *testing.T) {
	for _, r := range []route.Rule{
		{Domains: []string{"a..b"}}, {Domains: []string{""}}, {Domains: []string{"*"}}, {Domains: []string{"*."}}, {Domains: []string{"*.*.a"}},
		{Action: route.Action{LMTP: true}}, {Action: route.Action{Auth: &mail.Credentials{User: "u"}}},
		{Action: route.Action{Hosts: []mail.HostPort{{Name: "a"}}}}, {Action: route.Action{Hosts: []mail.HostPort{{Port: 25}}}},
	} {
		if _, err := route.New([]route.Rule{{}, r}, nil); err == nil || !strings.Contains(err.Error(), "rule 2") {
			t.Errorf("%+v: error %v", r, err)
		}
	}
}

// TestAgainstTheObvious compares with a walk over all rules.
func TestAgainstTheObvious(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "c", "net"})
	name := rapid.Map(rapid.SliceOfN(label, 1, 4), func(l []string) string { return strings.Join(l, ".") })
	pattern := rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "wild") {
			return "*." + name.Draw(t, "name")
		}
		return name.Draw(t, "name")
	})
	rapid.Check(t, func(t *rapid.T) {
		lists := rapid.SliceOfN(rapid.SliceOfN(pattern, 0, 3), 0, 5).Draw(t, "rules")
		var rules []route.Rule
		for i, l := range lists {
			rules = append(rules, route.Rule{Domains: l, Action: to(string(rune('0' + i)))})
		}
		tb, err := route.New(rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		domain := name.Draw(t, "domain")
		want := ""
		for i, l := range lists {
			hit := len(l) == 0
			for _, p := range l {
				below, wild := strings.CutPrefix(p, "*")
				hit = hit || p == domain || wild && strings.HasSuffix(domain, below)
			}
			if hit {
				want = "smarthost:" + string(rune('0'+i)) + ":25"
				break
			}
		}
		hop, r := tb.Route("", domain)
		if hop.Key != want || (r == nil) != (want != "") {
			t.Fatalf("%s: %q, want %q", domain, hop.Key, want)
		}
	})
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"example.org", "EXAMPLE.org.", "bücher.example", "[192.0.2.1]", "[IPv6:::1]", "a..b", "\xff", "xn--a", "ß.de", "。", "a\u200db.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := route.Normalize(s)
		if err != nil {
			return
		}
		if again, err := route.Normalize(n); err != nil || again != n {
			t.Errorf("%q gives %q, which gives %q, %v", s, n, again, err)
		}
		if n == "" || len(n) > 255 || strings.ToLower(n) != n && n[0] != '[' {
			t.Errorf("%q gives %q", s, n)
		}
		for i := range len(n) {
			if n[i] <= ' ' || n[i] >= 0x7f {
				t.Errorf("%q gives %q", s, n)
			}
		}
	})
}

func BenchmarkRoute(b *testing.B) {
	tb := table(b, route.Rule{Domains: []string{"example.edu", "*.example.edu"}, Action: to("a")}, route.Rule{})
	b.ReportAllocs()
	for b.Loop() {
		if _, r := tb.Route("", "mail.example.org"); r != nil {
			b.Fatal(r)
		}
	}
}

// Mail that leaves from a sender's pool takes the rule that leads to the same
// host without one.
func TestLeads(t *testing.T) {
	host := []mail.HostPort{{Name: "hub.example", Port: 25}}
	table, err := route.New([]route.Rule{
		{Domains: []string{"x.example"}, Action: route.Action{Hosts: host, Pool: "own"}},
		{Domains: []string{"y.example"}, Action: route.Action{Hosts: host}},
		{},
	}, map[string]string{"news": "bulk"})
	if err != nil {
		t.Fatal(err)
	}
	for i, domain := range []string{"x.example", "y.example", "z.example"} {
		for _, sender := range []string{"", "news"} {
			hop, _ := table.Route(sender, domain)
			if got, ok := table.Leads(hop.Key); !ok || got != i {
				t.Errorf("%s: rule %d, %v", hop.Key, got, ok)
			}
		}
	}
	if _, ok := table.Leads("smarthost:hub.example:25;tls=none"); ok {
		t.Error("no rule leads there")
	}
}
