package limits

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/config"
	section "github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// shelf is what is queued.
type shelf struct{ d *desk }

func (s shelf) List(_ context.Context, sel queue.Selector, visit func(*queue.Row) error) error {
	for i := range s.d.rows {
		r := &s.d.rows[i]
		env := &mail.Envelope{Recipients: []mail.Recipient{{Addr: r.To}}}
		if !sel.MatchRecipient(r.State, r.Attempts, r.Lane) || !sel.MatchStored(env, 0, nil, "") {
			continue
		}
		if err := visit(r); err != nil {
			return err
		}
	}
	return nil
}

// queued puts n like r into the queue.
func (d *desk) queued(n int, r queue.Row) {
	if r.Client == nil {
		r.Client = &mail.Client{}
	}
	if r.Lane == "" && len(d.lanes) > 0 {
		r.Lane = d.lanes[0].Key
	}
	for range n {
		d.rows = append(d.rows, r)
	}
}

func box(domain string) mail.Address { return mail.Address{Local: "u", Domain: domain} }

// explain asks about a.example.
func (d *desk) explain(t *testing.T, from string) *adminv1.ExplainLimitsResponse {
	t.Helper()
	res, err := d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "a.example", From: from})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// smarthost makes the one route lead to a host that is shared by all domains,
// and gives the clients of group bulk a pool.
func (d *desk) smarthost() {
	table, _ := route.New([]route.Rule{{Name: "out", Action: route.Action{Hosts: []mail.HostPort{{Name: "hub.example", Port: 25}}}}}, map[string]string{"bulk": "bulk"})
	c := &config.Cluster{Routes: []config.Route{{Name: "out", Action: config.Action{Smarthost: []config.Host{{Name: "hub.example", Port: 25}}}}}}
	d.Set = func() Settings { return Settings{Cluster: c, Router: table} }
}

// What senders with a pool have queued has a lane of its own.
func TestLanesOfPools(t *testing.T) {
	d := newDesk()
	d.smarthost()
	d.queued(1, queue.Row{To: box("a.example"), Lane: "smarthost:hub.example:25;pool=bulk"})
	d.lanes = []queue.Lane{
		{Key: "smarthost:hub.example:25", State: "limited", Recipients: 9, Limit: 20}, {Key: "smarthost:hub.example:25;pool=bulk", State: "down", Recipients: 3, Running: 1, Limit: 2},
		{Key: "smarthost:hub.example:2525", Recipients: 9}, {Key: "smarthost:hub.example:25;tls=none", Recipients: 9},
	}
	res, err := d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "a.example"})
	if err != nil || res.GetRecipients() != 3 || res.GetState() != "down" || res.GetRunning() != 1 || res.GetMost() != 2 || res.GetLane() != "smarthost:hub.example:25;pool=bulk" {
		t.Errorf("%v, %v", res, err)
	}
	r := &Routes{Set: d.Set, Lanes: d}
	if res, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{Name: "out"}); err != nil || res.GetRoutes()[0].GetRecipients() != 12 || res.GetRoutes()[0].GetDown() != 1 {
		t.Errorf("%v, %v", res, err)
	}
}

// What was put off is told with the commonest reply, but for replies to others:
// one that was never tried has had none.
func TestDeferred(t *testing.T) {
	d := newDesk()
	d.lanes = []queue.Lane{{Key: "mx:a.example", State: "proven", Recipients: 4, Limit: 20}}
	late := queue.Row{To: box("A.example"), State: mail.StateDeferred, Attempts: 1, Next: d.now.Add(4 * time.Minute), LastReply: *mail.NewReply(450, "4.2.1", "later.")}
	d.queued(2, late)
	late.LastReply, late.Next = *mail.NewReply(451, "4.7.1", "greylisted"), d.now.Add(3*time.Minute)
	d.queued(1, late)
	want := "Mail for a.example is deferred. Queued for it: 3 recipients; deliveries under way: 0. Deferred: 3 recipients, the first tried again in 3 min; the commonest last reply, to 2 of them: 450 4.2.1 later."
	if s := d.explain(t, "").GetSummary(); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	d.rows = nil
	late.Attempts = 0
	d.queued(1, late)
	d.queued(1, queue.Row{To: box("a.example"), LastReply: late.LastReply})
	d.queued(5, queue.Row{To: box("b.example")})
	d.queued(5, queue.Row{To: box("a.example"), State: mail.StateTrashed})
	want = "Mail for a.example moves. Queued for it: 2 recipients; deliveries under way: 0. Deferred: 1 recipient, the first tried again in 3 min."
	if s := d.explain(t, "").GetSummary(); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	// A destination that is down, and all that it is known by is deferred.
	d.rows, late.Attempts = nil, 1
	d.queued(1, late)
	d.lanes[0] = queue.Lane{Key: "mx:a.example", State: "down", Recipients: 1, Why: mail.NewReply(451, "4.7.1", "greylisted")}
	want = "Mail for a.example does not move: the last tries failed. The last word was: 451 4.7.1 greylisted. It is tried again in 3 min. Queued for it: 1 recipient; deliveries under way: 0. Deferred: 1 recipient, the first tried again in 3 min."
	if s := d.explain(t, "").GetSummary(); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
}

// Of a smarthost the domain's own mail is counted, and what all have in the lane.
func TestSharedLane(t *testing.T) {
	d := newDesk()
	d.smarthost()
	d.Sites = named("a.example")
	d.lanes = []queue.Lane{{Key: "smarthost:hub.example:25", State: "proven", Recipients: 10, Running: 2, Limit: 20, Why: mail.NewReply(451, "4.3.2", "budget of limit cl"), Next: d.now.Add(time.Hour)}}
	d.queued(3, queue.Row{To: box("a.example")})
	res := d.explain(t, "")
	// What the lane says of senders who wait there is not about this mail.
	want := "Mail for a.example moves. Queued for it: 3 recipients, of 10 in the lane; deliveries under way there: 2."
	if res.GetSummary() != want || res.GetMail().GetRecipients() != 3 || res.GetRecipients() != 10 {
		t.Errorf("%s\nwant %s", res.GetSummary(), want)
	}
	d.queued(maxSample, queue.Row{To: box("a.example")})
	if s := d.explain(t, "").GetSummary(); !strings.Contains(s, "at least 10000 recipients") {
		t.Error(s)
	}
	// The site is a host with a port: no comma stands twice.
	d.rows = nil
	d.Sites = named("127.0.0.1:25")
	if s := d.explain(t, "").GetSummary(); s != "Nothing is queued for a.example, which is served by 127.0.0.1:25, and nothing is known to hold new mail back." {
		t.Error(s)
	}
}

type named string

func (n named) Site(context.Context, mail.NextHop) string { return string(n) }

// held is what the queue says of mail that a limit has refused.
func (d *desk) held(l *limit.Definition, kind limit.Kind, key string, left time.Duration) queue.Row {
	why := (&allow.Denied{Limit: l.Name, Key: key, Kind: kind, Reason: l.Reason}).Reply()
	return queue.Row{To: box("a.example"), From: mail.Address{Local: "news", Domain: "Example.edu"}, Limit: why, Next: d.now.Add(left), Client: &mail.Client{Sender: "news", Addr: netip.MustParseAddr("127.0.0.1")}}
}

// A limit that looks at who sends is asked with what is queued, and named with
// what waits for it.
func TestHeldBySender(t *testing.T) {
	d := newDesk()
	l := limit.Definition{Name: "cl", Budget: limit.Rate{N: 5, Per: 24 * time.Hour}, Per: []limit.Field{limit.Client}}
	l.Match[limit.Group] = []string{"news"}
	d.Set().Cluster.Limits = []section.Limit{{Name: "cl", Budget: section.Rate{Rate: limit.Rate{N: 5, Per: 24 * time.Hour}}}}
	d.lanes = []queue.Lane{{Key: "mx:a.example", State: "proven", Recipients: 14, Limit: 20}}
	d.verdict = []local.Verdict{
		{Usage: local.Usage{Definition: &l, Kind: limit.KindBudget, Words: "client=127.0.0.2", Used: 5}},
		{Usage: local.Usage{Definition: &l, Kind: limit.KindBudget, Words: "client=127.0.0.1", Used: 5}, Wait: 2 * time.Hour},
	}
	d.queued(1, d.held(&l, limit.KindBudget, "client=127.0.0.2", time.Hour))
	d.queued(11, d.held(&l, limit.KindBudget, "client=127.0.0.1", 2*time.Hour))
	d.queued(2, queue.Row{To: box("a.example")})
	res := d.explain(t, "")
	want := "Some of the mail for a.example waits for a limit, the rest moves. Limit cl holds 12 recipients, 11 of them for client=127.0.0.1: " +
		"5 of the budget of 5/d are spent for client=127.0.0.1; the next may go in 2.0 h, at 03:47 UTC; it is of the cluster's configuration. Queued for it: 14 recipients; deliveries under way: 0."
	if res.GetSummary() != want {
		t.Errorf("%s\nwant %s", res.GetSummary(), want)
	}
	if !slices.ContainsFunc(d.subjects, func(s limit.Subject) bool {
		return s.Group == "news" && s.Sender == "news@example.edu" && s.Client == netip.MustParseAddr("127.0.0.1") && s.Route == "out"
	}) {
		t.Errorf("asked for %+v", d.subjects)
	}
	// What is missing in the sum is told of, unless somebody may have some yet.
	d.verdict[1].Used, d.verdict[1].Limit = 3, 3
	want = "3 of the budget of 5/d are spent for client=127.0.0.1; the other 2 were given away, too, to nodes that were restarted since or do not answer, or before the budget was made smaller; the next may go in 2.0 h, at 03:47 UTC;"
	if s := d.explain(t, "").GetSummary(); !strings.Contains(s, want) {
		t.Errorf("%s\nwant %s", s, want)
	}
	d.verdict[1].Wait, d.verdict[1].Allowed = 0, true
	want = "3 of the budget of 5/d are spent for client=127.0.0.1; it is"
	if s := d.explain(t, "").GetSummary(); !strings.Contains(s, want) {
		t.Errorf("%s\nwant %s", s, want)
	}
	// Another sender's mail is not held.
	d.verdict = nil
	d.queued(1, queue.Row{To: box("a.example"), From: mail.Address{Local: "Other", Domain: "example.edu"}})
	want = "Mail for a.example from other@example.edu moves. Queued for it: 1 recipient; deliveries under way: 0."
	if s := d.explain(t, "other@example.edu").GetSummary(); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	// What is no limit of the list is told in its own words.
	d.rows, d.verdict = nil, nil
	d.queued(2, d.held(&limit.Definition{Name: "of mx:a.example"}, limit.KindRate, "", time.Minute))
	want = "Mail for a.example waits for a limit. What holds 2 recipients: rate of limit of mx:a.example; if nothing changes the next may go in 60 s."
	if s := d.explain(t, "").GetSummary(); !strings.HasPrefix(s, want) {
		t.Errorf("%s\nwant %s", s, want)
	}
}

// The warm-up of a source is named, and ends at midnight; the limit is asked for
// mail from that source.
func TestHeldByWarmUp(t *testing.T) {
	d := newDesk()
	d.warmUps = []warmup.Ramp{{Source: "new1", Since: d.now, Days: []int64{1, 5}, PerSite: true}}
	defs := warmup.Definitions(d.warmUps, d.now)
	l := &defs[0]
	d.lanes = []queue.Lane{{Key: "mx:a.example", State: "limited", Recipients: 3, Limit: 20}}
	left := warmup.Next(d.now).Sub(d.now)
	d.verdict = []local.Verdict{{Usage: local.Usage{Definition: l, Kind: limit.KindBudget, Words: "source=new1,site=a.example", Used: 1, Next: left}}}
	d.queued(3, d.held(l, limit.KindBudget, "source=new1,site=a.example", left))
	want := "Mail for a.example waits for a limit. Limit warm-up:new1 holds 3 recipients: 1 of the budget of 1/d is spent for source=new1,site=a.example; " +
		"the next may go in 22.2 h, at midnight UTC; it is of the cluster's configuration: day 1 of 2 of the warm-up of new1: 1 message for each site. Queued for it: 3 recipients; deliveries under way: 0."
	if s := d.explain(t, "").GetSummary(); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	if !slices.ContainsFunc(d.subjects, func(s limit.Subject) bool { return s.Source == "new1" }) {
		t.Errorf("asked for %+v", d.subjects)
	}
	list, _ := d.ListLimits(t.Context(), nil)
	if got := list.GetLimits()[0]; got.GetName() != "warm-up:new1" || got.GetReason() != l.Reason || got.GetOrigin() != "configured" {
		t.Errorf("%v", list)
	}
	if _, err := d.ClearLimit(t.Context(), &adminv1.ClearLimitRequest{Name: "warm-up:new1"}); err == nil || !strings.Contains(err.Error(), "in pools") {
		t.Error(err)
	}
}
