package policy_test

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/policy"
)

func chain(t *testing.T, o policy.Options) *policy.Chain {
	t.Helper()
	c, err := policy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ask(t *testing.T, c *policy.Chain, client, rcpt string) (mail.Client, mail.Address, mail.Verdict) {
	t.Helper()
	a, _, err := mail.ParseForwardPath("<"+rcpt+">", true)
	if err != nil {
		t.Fatal(err)
	}
	cl := mail.Client{}
	if client != "" {
		cl.Addr = netip.MustParseAddr(client)
	}
	to := mail.Recipient{Addr: a}
	v := c.Recipient(&cl, mail.Address{}, &to)
	return cl, to.Addr, v
}

func site() policy.Options {
	return policy.Options{
		Hostname: "mx1.example.edu",
		Senders: []policy.Sender{
			{Name: "campus", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}},
			{Name: "lab", Networks: []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.0/120")}},
		},
		Domains:    []string{"Example.edu", "bücher.example"},
		Postmaster: mail.Address{Local: "root", Domain: "example.edu"},
	}
}

func TestWhoMayRelay(t *testing.T) {
	c := chain(t, site())
	for _, tc := range []struct {
		client, rcpt, sender string
		ok                   bool
	}{
		{"10.1.2.3", "a@elsewhere.example", "campus", true},
		{"10.1.2.3", "a@example.edu", "campus", true},
		{"10.1.2.3", "postmaster@example.edu", "campus", true},
		{"2001:db8::1", "a@elsewhere.example", "campus", true},
		{"192.0.2.77", "a@elsewhere.example", "lab", true},
		{"192.0.3.77", "a@elsewhere.example", "", false},
		{"198.51.100.1", "a@example.edu", "", true},
		{"198.51.100.1", "a@EXAMPLE.EDU", "", true},
		{"198.51.100.1", "a@bücher.example", "", true},
		{"198.51.100.1", "a@xn--bcher-kva.example", "", true},
		{"198.51.100.1", "a@sub.example.edu", "", false},
		{"198.51.100.1", "a@notexample.edu", "", false},
		{"198.51.100.1", "a@[10.0.0.1]", "", false},
		{"10.1.2.3", "a@[10.0.0.1]", "campus", true},
		{"198.51.100.1", `"a@example.edu"@elsewhere.example`, "", false},
		{"198.51.100.1", "a%elsewhere.example@example.edu", "", true},
		{"", "a@elsewhere.example", "", false},
		{"", "a@example.edu", "", true},
	} {
		cl, to, v := ask(t, c, tc.client, tc.rcpt)
		if (v == nil) != tc.ok || cl.Sender != tc.sender {
			t.Errorf("%s to %s: %v, sender %q; want %v, %q", tc.client, tc.rcpt, v, cl.Sender, tc.ok, tc.sender)
		}
		if v == nil && to.String() != tc.rcpt {
			t.Errorf("%s was rewritten to %s", tc.rcpt, to)
		}
		if v != nil && (v.Code != 550 || v.Enhanced.String() != "5.7.1" || !strings.Contains(v.Text, "senders")) {
			t.Errorf("refusal %q does not name the setting", v.Line())
		}
	}
}

// The entry is that of the client's address from MAIL on, whatever was asked
// before, and after a reload that of the settings in force.
func TestEntryOfASession(t *testing.T) {
	c := chain(t, site())
	in, out := mail.Client{Addr: netip.MustParseAddr("10.1.2.3")}, mail.Client{Addr: netip.MustParseAddr("198.51.100.1")}
	for i, domain := range []string{"example.edu", "elsewhere.example", "example.edu"} {
		for cl, want := range map[*mail.Client]string{&in: "campus", &out: ""} {
			c.Sender(cl, mail.Address{})
			if cl.Sender != want {
				t.Errorf("MAIL %d of %s: sender %q, want %q", i, cl.Addr, cl.Sender, want)
			}
			c.Recipient(cl, mail.Address{}, &mail.Recipient{Addr: mail.Address{Local: "a", Domain: domain}})
			if cl.Sender != want {
				t.Errorf("%s to %s: sender %q, want %q", cl.Addr, domain, cl.Sender, want)
			}
		}
	}
	if err := c.Reload(policy.Options{Hostname: "mx1.example.edu", Domains: []string{"example.edu"}}); err != nil {
		t.Fatal(err)
	}
	c.Recipient(&in, mail.Address{}, &mail.Recipient{Addr: mail.Address{Local: "a", Domain: "example.edu"}})
	if in.Sender != "" {
		t.Errorf("after the entry was taken away: sender %q", in.Sender)
	}
}

func TestNothingSetNobodyRelays(t *testing.T) {
	c := chain(t, policy.Options{Hostname: "mx1.example.edu"})
	for _, client := range []string{"127.0.0.1", "::1", "10.0.0.1", ""} {
		for _, rcpt := range []string{"a@example.edu", "a@mx1.example.edu", "a@[127.0.0.1]", "a@localhost"} {
			if _, _, v := ask(t, c, client, rcpt); v == nil {
				t.Errorf("%q may relay to %s", client, rcpt)
			}
		}
	}
}

func TestPostmasterIsAlwaysTaken(t *testing.T) {
	none := policy.Options{Hostname: "mx1.example.edu"}
	domain := none
	domain.Domains = []string{"example.edu", "example.org"}
	for _, tc := range []struct {
		o    policy.Options
		rcpt string
		want string
	}{
		{site(), "postmaster", "root@example.edu"},
		{site(), "PostMaster", "root@example.edu"},
		{site(), "postmaster@MX1.example.edu", "root@example.edu"},
		{site(), "postmaster@example.edu", "postmaster@example.edu"},
		{domain, "postmaster", "postmaster@example.edu"},
		{none, "postmaster", "postmaster@mx1.example.edu"},
	} {
		_, to, v := ask(t, chain(t, tc.o), "198.51.100.1", tc.rcpt)
		if v != nil || to.String() != tc.want {
			t.Errorf("%s: %s, %v; want %s", tc.rcpt, to, v, tc.want)
		}
	}
	if _, _, v := ask(t, chain(t, site()), "198.51.100.1", "postmaster@elsewhere.example"); v == nil {
		t.Error("somebody else's postmaster was taken")
	}
}

func TestReload(t *testing.T) {
	c := chain(t, site())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				ask(t, c, "10.1.2.3", "a@elsewhere.example")
			}
		}
	})
	bad := site()
	bad.Domains = []string{""}
	if err := c.Reload(bad); err == nil {
		t.Error("an empty domain was taken")
	}
	if _, _, v := ask(t, c, "10.1.2.3", "a@elsewhere.example"); v != nil {
		t.Error("a bad reload changed something")
	}
	if err := c.Reload(policy.Options{Hostname: "mx1.example.edu"}); err != nil {
		t.Fatal(err)
	}
	if _, _, v := ask(t, c, "10.1.2.3", "a@elsewhere.example"); v == nil {
		t.Error("the reload changed nothing")
	}
	close(stop)
	wg.Wait()
}

func TestSettingsThatAreWrong(t *testing.T) {
	for _, o := range []policy.Options{
		{},
		{Hostname: "h.example", Senders: []policy.Sender{{Name: "x", Networks: []netip.Prefix{{}}}}},
		{Hostname: "h.example", Domains: []string{"-ü-.example"}},
		{Hostname: "h.example", Postmaster: mail.Address{Local: "postmaster"}},
	} {
		if _, err := policy.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
