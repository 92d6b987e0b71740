package picks_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func entry() *picks.Entry {
	return &picks.Entry{
		ID: mail.ID{1}, Node: "mx1", From: mail.Address{Local: "news", Domain: "home.example"}, To: mail.Address{Local: "J.Doe", Domain: "B\u00dcCHER.example"},
		State: mail.StateDeferred, Size: 5000, Arrived: time.Unix(1_700_000_000, 0), Attempts: 3,
		LastReply: *mail.NewReply(451, "4.7.1", "Greylisting in action"),
		Client:    mail.Client{Addr: netip.MustParseAddr("::ffff:192.0.2.7"), Sender: "payroll"},
		Lane:      "smarthost:mx.partner.example:587,[2001:db8::2]:25;tls=verify", Rule: "r-1",
	}
}

func size(n int64) *int64    { return &n }
func tries(n uint32) *uint32 { return &n }

// Each selector is alone; the first of each pair matches entry, the second
// does not.
func TestSelectors(t *testing.T) {
	for name, pair := range map[string][2]*adminv1.Selector{
		"domain, A-label":  {{Domains: []string{"xn--bcher-kva.example"}}, {Domains: []string{"xn--bcher-xyz.example"}}},
		"domain, U-label":  {{Domains: []string{"b\u00fccher.EXAMPLE."}}, {Domains: []string{"bucher.example"}}},
		"domain, below":    {{Domains: []string{"*.example"}}, {Domains: []string{"*.xn--bcher-kva.example"}}},
		"rcpt, A-label":    {{Rcpts: []string{"j.doe@xn--bcher-kva.example"}}, {Rcpts: []string{"j.d@xn--bcher-kva.example"}}},
		"rcpt, as written": {{Rcpts: []string{"*@b*cher*"}}, {Rcpts: []string{"*@bucher*"}}},
		"from":             {{Froms: []string{"news@*"}}, {Froms: []string{"<>"}}},
		"sender":           {{Senders: []string{"x", "payroll"}}, {Senders: []string{"pay"}}},
		"node":             {{Nodes: []string{"mx1"}}, {Nodes: []string{"mx2"}}},
		"client":           {{Clients: []string{"192.0.2.0/24"}}, {Clients: []string{"192.0.2.8"}}},
		"client, mapped":   {{Clients: []string{"::ffff:192.0.2.7"}}, {Clients: []string{"2001:db8::/32"}}},
		"reply":            {{Replies: []string{"GREYLIST"}}, {Replies: []string{"blocked"}}},
		"reply, code":      {{Replies: []string{"451 4.7.1"}}, {Replies: []string{"452"}}},
		"dsn":              {{Dsns: []string{"4.7.*"}}, {Dsns: []string{"4.7.2"}}},
		"dsn, short":       {{Dsns: []string{"4.*"}}, {Dsns: []string{"5.*"}}},
		"class":            {{ReasonClasses: []string{"greylisted", "none"}}, {ReasonClasses: []string{"network"}}},
		"class, of old":    {{ReasonClasses: []string{"address", "greylisted"}}, {ReasonClasses: []string{"mailbox", "address"}}},
		"size":             {{SizeOver: size(4999)}, {SizeOver: size(5000)}},
		"attempts":         {{AttemptsOver: tries(2)}, {AttemptsOver: tries(3)}},
		"rule":             {{Rules: []string{"r-1"}}, {Rules: []string{"r-2"}}},
		"route, kind":      {{Routes: []string{"smarthost"}}, {Routes: []string{"mx"}}},
		"route, host":      {{Routes: []string{"MX.partner.example"}}, {Routes: []string{"partner.example"}}},
		"route, port":      {{Routes: []string{"mx.partner.example:587"}}, {Routes: []string{"mx.partner.example:25"}}},
		"route, IPv6":      {{Routes: []string{"2001:db8::2"}}, {Routes: []string{"2001:db8::3"}}},
		"route, whole":     {{Routes: []string{"smarthost:mx.partner.example:587,[2001:db8::2]:25"}}, {Routes: []string{"lmtp:mx.partner.example:587"}}},
		"all":              {{}, {States: []adminv1.RecipientState{adminv1.RecipientState_RECIPIENT_STATE_TRASH}}},
		"of two, one each": {{Senders: []string{"payroll"}, Dsns: []string{"4.7.1"}}, {Senders: []string{"payroll"}, Dsns: []string{"4.7.0"}}},
	} {
		for i, in := range pair {
			sel, err := picks.New(in)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := sel.Match(entry()); got != (i == 0) {
				t.Errorf("%s: %v matches: %v", name, in, got)
			}
		}
	}
}

func TestTrashHasToBeAskedFor(t *testing.T) {
	e := entry()
	e.State = mail.StateTrashed
	for _, in := range []*adminv1.Selector{{}, {Everything: true}, {Senders: []string{"payroll"}}} {
		if sel, err := picks.New(in); err != nil || sel.Match(e) {
			t.Errorf("%v picks what is in the trash, %v", in, err)
		}
	}
	sel, err := picks.New(&adminv1.Selector{States: []adminv1.RecipientState{adminv1.RecipientState_RECIPIENT_STATE_TRASH}})
	if err != nil || !sel.Match(e) {
		t.Errorf("the trash is not picked: %v", err)
	}
}

func TestBadSelectors(t *testing.T) {
	for want, in := range map[string]*adminv1.Selector{
		"neither an address nor a network": {Clients: []string{"192.0.2.0/33"}},
		"not an enhanced status code":      {Dsns: []string{"4.7"}},
		"code such as":                     {Dsns: []string{"3.7.1"}},
		"reason class \"spit\" is none of": {ReasonClasses: []string{"spit"}},
		"neither a name nor *.name":        {Domains: []string{"a*.example"}},
		"senders: an empty value":          {Senders: []string{""}},
		"more than 1000":                   {Replies: make([]string, 1001)},
		"must not be negative":             {SizeOver: size(-1)},
		"goes with no other":               {Everything: true, Nodes: []string{"mx1"}},
	} {
		if _, err := picks.New(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", in, err, want)
		}
	}
}

// TestHintsAreTrue: what Domains leaves out does not match.
func TestHintsAreTrue(t *testing.T) {
	for _, c := range []struct {
		in   *adminv1.Selector
		want string
	}{
		{&adminv1.Selector{Domains: []string{"B\u00fccher.example", "x.org"}}, "xn--bcher-kva.example x.org"},
		{&adminv1.Selector{Domains: []string{"*.example", "x.org"}}, ""},
		{&adminv1.Selector{Rcpts: []string{"a*@X.org", "b@y.org"}}, "x.org y.org"},
		{&adminv1.Selector{Rcpts: []string{"a*@x.org", "b@*.org"}}, ""},
		{&adminv1.Selector{Rcpts: []string{"postmaster"}}, ""},
		{&adminv1.Selector{Domains: []string{"*.org"}, Rcpts: []string{"a@x.org"}}, "x.org"},
		{&adminv1.Selector{Froms: []string{"a@x.org"}}, ""},
	} {
		sel, err := picks.New(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(sel.Domains(), " "); got != c.want {
			t.Errorf("%v: %q, want %q", c.in, got, c.want)
		}
	}
}

// TestNewIsKnown: a selector that an older program would overlook is known as
// one.
func TestNewIsKnown(t *testing.T) {
	old := &adminv1.Selector{Ids: []string{"x"}, Domains: []string{"x"}, Rcpts: []string{"x"}, Froms: []string{"x"}, Everything: true}
	fields := old.ProtoReflect().Descriptor().Fields()
	if picks.IsNew(old) || fields.Len() != 18 {
		t.Errorf("%d fields: does IsNew know those above 18?", fields.Len())
	}
	for _, in := range []*adminv1.Selector{{Senders: []string{"x"}}, {Nodes: []string{"x"}}, {Routes: []string{"x"}}, {Clients: []string{"x"}}, {Replies: []string{"x"}},
		{Dsns: []string{"x"}}, {ReasonClasses: []string{"x"}}, {SizeOver: size(0)}, {AttemptsOver: tries(0)}, {Rules: []string{"x"}}} {
		if !picks.IsNew(in) {
			t.Errorf("%v is not known as new", in)
		}
	}
}
