package limits

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	share "github.com/clrelay/clrelay/cluster/limit"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/config"
	section "github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

// desk is a Service and all that it asks.
type desk struct {
	*Service
	now      time.Time
	byKey    map[string]control.Record
	version  uint64
	listed   []shape.Listed
	lanes    []queue.Lane
	verdict  []local.Verdict
	asked    limit.Subject // the first
	subjects []limit.Subject
	peers    []fleet.Peer
	shares   []share.Status
	rows     []queue.Row
	warmUps  []warmup.Ramp
}

func newDesk() *desk {
	d := &desk{now: time.Unix(1e9, 0), byKey: map[string]control.Record{}}
	table, _ := route.New([]route.Rule{{}}, nil)
	c := &config.Cluster{Routes: []config.Route{{Name: "out", Action: config.Action{MX: true, TLS: "opportunistic"}}}}
	d.Service = &Service{
		Node: "mx1", Now: func() time.Time { return d.now }, Set: func() Settings { return Settings{Cluster: c, Router: table, WarmUps: d.warmUps} },
		Learned: d, Sites: d, Limiter: d, Records: d, Kept: d, Lanes: d, Queue: shelf{d}, Caller: func(context.Context) string { return "jane" },
	}
	return d
}

func (d *desk) Book() *shape.Book {
	return shape.NewBook(nil, []shape.Default{{Site: "google.com", Connections: 50, Shipped: true}})
}
func (d *desk) List() []shape.Listed { return d.listed }
func (d *desk) Site(_ context.Context, hop mail.NextHop) string {
	if hop.Domain == "gmail.com" {
		return "google.com"
	}
	return hop.Domain
}
func (d *desk) Usage(visit func(*local.Usage)) {
	for i := range d.verdict {
		visit(&d.verdict[i].Usage)
	}
}
func (d *desk) Definition(name string) (limit.Definition, bool) {
	for i := range d.verdict {
		if v := &d.verdict[i]; v.Definition.Name == name {
			return *v.Definition, true
		}
	}
	return limit.Definition{}, false
}
func (d *desk) Others(context.Context) []fleet.Peer { return d.peers }
func (d *desk) Knows(string) bool                   { return true }
func (d *desk) Explain(_ limit.Side, s *limit.Subject) []local.Verdict {
	d.subjects = append(d.subjects, *s)
	d.asked = d.subjects[0]
	return d.verdict
}
func (d *desk) Record(key string) ([]byte, uint64) { return d.byKey[key].Value, d.byKey[key].Version }
func (d *desk) Records(prefix string) (list []control.Record) {
	for k, r := range d.byKey {
		if strings.HasPrefix(k, prefix) {
			list = append(list, r)
		}
	}
	return list
}
func (d *desk) Put(_ context.Context, key string, value []byte, _ uint64) error {
	d.version++
	delete(d.byKey, key)
	if value != nil {
		d.byKey[key] = control.Record{Key: key, Value: value, Version: d.version}
	}
	return nil
}
func (d *desk) Destinations(visit func(*queue.Lane)) {
	for i := range d.lanes {
		visit(&d.lanes[i])
	}
}

func set(name, field, value string) *adminv1.SetLimitRequest {
	return &adminv1.SetLimitRequest{Limit: &adminv1.Limit{Name: name, Match: []*adminv1.LimitMatch{{Field: field, Values: []string{value}}}, Rate: "10/m"}, Reason: "INC-1"}
}

func TestSetAndClear(t *testing.T) {
	d := newDesk()
	req := set("slow", "site", "Google.com")
	req.Hold = durationpb.New(time.Hour)
	res, err := d.SetLimit(t.Context(), req)
	if err != nil || res.GetReplaced() || res.GetLimit().GetAuthor() != "jane" || res.GetLimit().GetMatch()[0].GetValues()[0] != "google.com" ||
		!res.GetLimit().GetUntil().AsTime().Equal(d.now.Add(time.Hour)) {
		t.Fatalf("%v, %v", res, err)
	}
	list, _ := d.ListLimits(t.Context(), nil)
	if len(list.GetLimits()) != 2 || list.GetLimits()[0].GetName() != "slow" || list.GetLimits()[0].GetReason() != "INC-1" || list.GetLimits()[1].GetOrigin() != "shipped" {
		t.Errorf("%v", list)
	}
	if res, err := d.SetLimit(t.Context(), req); err != nil || !res.GetReplaced() {
		t.Errorf("again: %v, %v", res, err)
	}
	if _, err := d.ClearLimit(t.Context(), &adminv1.ClearLimitRequest{Name: "slow"}); err != nil || len(d.byKey) != 0 {
		t.Errorf("clear: %v, %v", err, d.byKey)
	}
	for want, req := range map[string]*adminv1.SetLimitRequest{
		"is no site: its mail goes to the hosts of google.com": set("x", "site", "gmail.com"),
		"is no name":               set("shaping:x", "site", "google.com"),
		"nothing that a limit can": set("x", "planet", "mars"),
		"for which mail":           {Limit: &adminv1.Limit{Name: "x", Rate: "1/s"}},
		"no rate, no connections":  {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}}},
		"is no rate":               {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Rate: "fast"}},
		"is no domain":             set("x", "domain", "foo bar"),
		"the sender":               set("x", "sender", "nobody"),
		"there is no group":        set("x", "group", "campus"),
		"there are: out":           set("x", "route", "in"),
		"there is no source":       set("x", "source", "192.0.2.1"),
		"is no budget":             {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Budget: "10/m"}},
		"for all senders of a domain there is sender_domains: [x.example], or --sender-domain x.example": set("x", "sender", "*@x.example"),
		"networks are written as": set("x", "client", "mail.example"),
		"write \"192.0.2.0/24\"":  set("x", "client", "192.0.2.1/24"),
		"not floor, stop or full": {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Rate: "1/s", OnPartition: "half"}},
		"write count: octets":     {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Rate: "10MiB/s"}},
		"1 second to 90 days":     {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Rate: "1/s"}, Hold: durationpb.New(-1)},
		"more than 500 octets":    {Limit: &adminv1.Limit{Name: "x", Per: []string{"site"}, Rate: "1/s"}, Reason: strings.Repeat("x", 501)},
	} {
		if _, err := d.SetLimit(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	for name, want := range map[string]string{"site:google.com": "comes with the program", "other": "there is no limit"} {
		if _, err := d.ClearLimit(t.Context(), &adminv1.ClearLimitRequest{Name: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("clear %s: %v", name, err)
		}
	}
}

// What an operator writes is brought into the form in which it is compared.
func TestSetAsCompared(t *testing.T) {
	d := newDesk()
	for field, tt := range map[string][2]string{
		"sender": {"News@B\u00fccher.Example", "news@xn--bcher-kva.example"}, "domain": {"*.B\u00fccher.example", "*.xn--bcher-kva.example"}, "sender_domain": {"A.Example", "a.example"},
	} {
		res, err := d.SetLimit(t.Context(), set("x", field, tt[0]))
		if err != nil || res.GetLimit().GetMatch()[0].GetValues()[0] != tt[1] {
			t.Errorf("%s: %v, %v, want %s", tt[0], res, err, tt[1])
		}
	}
	if res, err := d.SetLimit(t.Context(), set("x", "sender", "<>")); err != nil || res.GetLimit().GetMatch()[0].GetValues()[0] != "<>" {
		t.Errorf("the null sender: %v, %v", res, err)
	}
}

// All that a definition knows can be set, in the words of cluster.yaml.
func TestSetAll(t *testing.T) {
	d := newDesk()
	l := set("x", "client", "192.0.2.7").Limit
	l.Count, l.Rate, l.Budget, l.OnPartition = "octets", "10MiB/s", "1GiB/d", "stop"
	res, err := d.SetLimit(t.Context(), &adminv1.SetLimitRequest{Limit: l})
	if err != nil || res.GetLimit().GetOnPartition() != "stop" || res.GetLimit().GetMatch()[0].GetValues()[0] != "192.0.2.7/32" || len(res.GetWarnings()) != 0 {
		t.Errorf("%v, %v", res, err)
	}
	got, err := shape.ParseOrder("x", d.byKey["limit/x"].Value)
	if err != nil || got.Rate != (limit.Rate{N: 10 << 20, Per: time.Second}) || got.Burst != 10<<20 || got.Budget != (limit.Rate{N: 1 << 30, Per: 24 * time.Hour}) || got.OnPartition != limit.Stop {
		t.Errorf("%+v, %v", got, err)
	}
}

// What can never hold is refused, and what is likely wrong comes with a warning.
func TestSetWithDoubts(t *testing.T) {
	d := newDesk()
	receiving := func(per ...string) *adminv1.Limit {
		return &adminv1.Limit{Name: "x", Side: "receiving", Per: per}
	}
	site, domain, conns := receiving("user", "site"), receiving("domain"), receiving("sender")
	site.Rate, domain.Rate, conns.Connections = "60/s", "60/s", 3
	for want, l := range map[string]*adminv1.Limit{
		"x would never hold: it counts by site": site,
		"it takes count: recipients":            domain,
		"it never applies to connections":       conns,
	} {
		if _, err := d.SetLimit(t.Context(), &adminv1.SetLimitRequest{Limit: l}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	suspended, user, slow := receiving("domain"), receiving("user"), receiving("client")
	suspended.Suspended, user.Rate, slow.Rate = true, "1/m", "2/m"
	for _, tt := range []struct {
		l    *adminv1.Limit
		want string
	}{{suspended, ""}, {user, "cannot check a login: it never applies"}, {slow, "for the first 30s"}} {
		res, err := d.SetLimit(t.Context(), &adminv1.SetLimitRequest{Limit: tt.l})
		if got := strings.Join(res.GetWarnings(), "|"); err != nil || (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%v, %q: want %q", err, got, tt.want)
		}
	}
}

// One of a configured name is told of alone, and says what it stands for.
func TestSetInThePlaceOfAConfiguredOne(t *testing.T) {
	d := newDesk()
	d.Set().Cluster.Limits = []section.Limit{{Name: "slow", On: "receiving", Connections: 5}}
	if _, err := d.SetLimit(t.Context(), set("slow", "site", "google.com")); err == nil || !strings.Contains(err.Error(), "not known when mail is taken") {
		t.Errorf("a site on receiving: %v", err)
	}
	here := set("slow", "site", "google.com")
	here.Limit.Side = "delivery"
	res, err := d.SetLimit(t.Context(), here)
	if err != nil || res.GetInstead().GetConnections() != 5 || res.GetReplaced() {
		t.Errorf("%v, %v", res, err)
	}
	// It is on the side of the configured one, where nobody knows the site.
	req := &adminv1.SetLimitRequest{Limit: &adminv1.Limit{Name: "slow", Per: []string{"client"}, Rate: "10/m"}}
	if res, err := d.SetLimit(t.Context(), req); err != nil || res.GetLimit().GetSide() != "receiving" {
		t.Errorf("%v, %v", res, err)
	}
	if d, err := shape.ParseOrder("slow", d.byKey["limit/slow"].Value); err != nil || d.Side != limit.Receive {
		t.Errorf("%+v, %v", d, err)
	}
	list, _ := d.ListLimits(t.Context(), nil)
	if n := len(list.GetLimits()); n != 2 || list.GetLimits()[0].GetOrigin() != "set" {
		t.Errorf("%v", list)
	}
}

// What was learned is cleared as a whole or by its parts.
func TestClearLearned(t *testing.T) {
	d := newDesk()
	state := shape.State{
		Learned: &shape.Learned{Connections: 3, Until: d.now.Add(time.Hour)},
		Held:    []shape.Hold{{Rule: "r", Kind: shape.Suspend, Scope: shape.Site, Until: d.now.Add(time.Hour)}},
	}
	d.listed = []shape.Listed{{Site: "a.example", State: state}}
	_ = d.Put(t.Context(), "shaping/a.example", state.Record(), 0)
	res, err := d.ClearLimit(t.Context(), &adminv1.ClearLimitRequest{Name: "shaping:a.example:r:suspend"})
	left, _ := shape.ParseState(d.byKey["shaping/a.example"].Value)
	if err != nil || !slices.Equal(res.GetNames(), []string{"shaping:a.example:r:suspend"}) || left.Learned == nil || len(left.Held) != 0 {
		t.Errorf("a part: %v, %v, %+v", res, err, left)
	}
	res, err = d.ClearLimit(t.Context(), &adminv1.ClearLimitRequest{Name: "shaping:a.example"})
	if err != nil || len(res.GetNames()) != 2 || len(d.byKey) != 0 {
		t.Errorf("all: %v, %v, %v", res, err, d.byKey)
	}
}

func TestExplain(t *testing.T) {
	d := newDesk()
	suspended := limit.Definition{Name: "stop", Suspended: true, Author: "jane", Reason: "INC-1", Until: d.now.Add(30 * time.Minute)}
	suspended.Match[limit.Site] = []string{"google.com"}
	_ = d.Put(t.Context(), "limit/stop", shape.WriteOrder(&suspended), 0)
	other := limit.Definition{Name: "other", Connections: 3}
	d.lanes = []queue.Lane{{Key: "mx:gmail.com", State: "limited", Recipients: 7, Running: 1, Limit: 20}}
	d.queued(7, queue.Row{From: mail.Address{Local: "News", Domain: "example.edu"}, To: box("gmail.com"), Lane: "mx:gmail.com"})
	d.verdict = []local.Verdict{
		{Usage: local.Usage{Definition: &other, Kind: limit.KindConnections}, Allowed: true},
		{Usage: local.Usage{Definition: &suspended, Kind: limit.KindSuspended}, Wait: 30 * time.Minute},
	}
	res, err := d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "Jane@GMail.com", From: "News@Example.edu"})
	if err != nil {
		t.Fatal(err)
	}
	want := "Mail for gmail.com from news@example.edu, which is served by google.com, is suspended. Limit stop: nothing is sent; set by jane: INC-1; it ends in 30 min (to end it now: clrelay limit clear stop). Queued for it: 7 recipients; deliveries under way: 1."
	if res.GetSummary() != want {
		t.Errorf("%s\nwant %s", res.GetSummary(), want)
	}
	if d.asked.Site != "google.com" || d.asked.Route != "out" || d.asked.Sender != "news@example.edu" || d.asked.SenderDomain != "example.edu" || res.GetVerdicts()[0].GetLimit().GetName() != "stop" {
		t.Errorf("asked for %+v: %v", d.asked, res)
	}
	why := mail.NewReply(451, "4.4.1", "no answer.")
	d.lanes[0] = queue.Lane{Key: "mx:gmail.com", State: "down", Why: why, Next: d.now.Add(40 * time.Second)}
	d.verdict, d.rows = nil, nil
	res, _ = d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "gmail.com"})
	if want := "does not move: the last tries failed. The last word was: 451 4.4.1 no answer. It is tried again in 40 s."; !strings.HasSuffix(res.GetSummary(), want) {
		t.Errorf("%s", res.GetSummary())
	}
	if _, err := d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "@"}); err == nil {
		t.Error("no domain is explained")
	}
}

// A limit with a rate and connections, at two nodes of three: each part is told
// once, with what each node uses of its share.
func TestExplainOfAllNodes(t *testing.T) {
	sink := limit.Definition{Name: "sink", Rate: limit.Rate{N: 100, Per: time.Second}, Burst: 100, Connections: 10}
	verdicts := func(open uint64, pace float64) []local.Verdict {
		return []local.Verdict{
			{Usage: local.Usage{Definition: &sink, Kind: limit.KindRate, Units: 100, Own: 33, Lately: pace, Waiting: 4}, Allowed: true},
			{Usage: local.Usage{Definition: &sink, Kind: limit.KindConnections, Units: 10, Own: 3, Limit: 3, Used: open}, Allowed: open < 3},
		}
	}
	d, other := newDesk(), newDesk()
	other.Node = "mx2"
	d.verdict, other.verdict = verdicts(3, 32.6), verdicts(1, 0.25)
	d.queued(7, queue.Row{To: box("a.example"), Lane: "mx:a.example"})
	other.queued(2, queue.Row{To: box("a.example"), Lane: "mx:a.example"})
	d.lanes = []queue.Lane{{Key: "mx:a.example", State: "limited", Recipients: 7, Running: 3, Limit: 20}}
	other.lanes = []queue.Lane{{Key: "mx:a.example", State: "proven", Recipients: 2, Running: 1, Limit: 20}}
	d.peers = []fleet.Peer{{Name: "mx3", Conn: link{}}, {Name: "mx2", Conn: link{other}}}
	d.Fleet = fleet.Fleet{Peers: d}
	d.shares = []share.Status{{Key: "sink#connections", Of: 10, Nodes: []share.NodeStatus{{Node: "mx2", Units: 3}, {Node: "mx3", Units: 4}}}, {Key: "gone#rate", Of: 10}}
	d.Shares = func(context.Context, string) ([]share.Status, error) { return d.shares, nil }
	res, err := d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	want := "Mail for a.example waits for a limit. Limit sink: it lets 100/s go, and 33/s went lately (mx1 33 of 33, mx2 0.2 of 33); " +
		"4 of 10 connections are open (mx1 3 of 3, mx2 1 of 3); the next may begin when one ends. " +
		"Queued for it: 9 recipients (mx1 7, mx2 2); deliveries under way: 4. No answer came from mx3: what waits there is not counted."
	if res.GetSummary() != want {
		t.Errorf("%s\nwant %s", res.GetSummary(), want)
	}
	if len(res.GetOthers()) != 1 || res.GetOthers()[0].GetSummary() != "" || len(res.GetOthers()[0].GetVerdicts()) != 2 {
		t.Errorf("of the others: %v", res.GetOthers())
	}
	other.Leased = func() bool { return false }
	res, err = d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "a.example"})
	if idle := "Nothing at all is delivered from mx2, without a lease: a majority of the nodes has to be there and hear each other (clrelay cluster status). "; err != nil || res.GetSummary() != idle+want {
		t.Errorf("%v, %s\nwant %s", err, res.GetSummary(), idle+want)
	}
	d.Leased = other.Leased
	res, err = d.ExplainLimits(t.Context(), &adminv1.ExplainLimitsRequest{Destination: "a.example"})
	if begin := "Nothing at all is delivered from mx1, mx2, without a lease"; err != nil || !strings.HasPrefix(res.GetSummary(), begin) || !strings.Contains(res.GetSummary(), "Mail for a.example waits for that.") {
		t.Errorf("%v, %s", err, res.GetSummary())
	}
	use, err := d.LimitUsage(t.Context(), &adminv1.LimitUsageRequest{})
	if err != nil || !slices.Equal(use.GetMissingNodes(), []string{"mx3"}) || len(use.GetUses()) != 5 {
		t.Fatalf("%v, %v", use, err)
	}
	if u := use.GetUses()[2]; u.GetNode() != "mx3" || !u.GetSilent() || u.GetShare() != 4 || u.GetOf() != 10 {
		t.Errorf("of a node that is silent: %v", u)
	}
	if u := use.GetUses()[3]; u.GetKind() != "rate" || u.GetPace() != 32.6 || u.GetPaceShare() != 33 || u.GetRate() != "100/s" {
		t.Errorf("of a rate: %v", u)
	}
}

// link leads to another node, or to none.
type link struct{ to *desk }

func (l link) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if l.to == nil {
		return errors.New("nobody is there")
	}
	var res proto.Message
	var err error
	if strings.HasSuffix(method, "/ExplainLimits") {
		res, err = l.to.ExplainLimits(ctx, args.(*adminv1.ExplainLimitsRequest))
	} else {
		res, err = l.to.LimitUsage(ctx, args.(*adminv1.LimitUsageRequest))
	}
	if err == nil {
		proto.Merge(reply.(proto.Message), res)
	}
	return err
}

func (link) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

func TestRoutes(t *testing.T) {
	d := newDesk()
	d.lanes = []queue.Lane{{Key: "mx:a.example", Recipients: 3}, {Key: "mx:b.example;tls=none", Recipients: 4, State: "down"}, {Key: "smarthost:elsewhere:25", Recipients: 9}}
	r := &Routes{Set: d.Set, Lanes: d}
	res, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{Domain: "c.example"})
	if err != nil || len(res.GetRoutes()) != 1 || res.GetRoutes()[0].GetName() != "out" || res.GetRoutes()[0].GetRecipients() != 7 || res.GetRoutes()[0].GetDown() != 1 {
		t.Errorf("%v, %v", res, err)
	}
	for _, to := range []string{"Jane@A.Example", "\"a@b\"@a.example", " a.example "} {
		if res, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{Domain: to}); err != nil || len(res.GetRoutes()) != 1 {
			t.Errorf("%s: %v, %v", to, res, err)
		}
	}
	if _, err := r.ListRoutes(t.Context(), &adminv1.ListRoutesRequest{Name: "other"}); err == nil {
		t.Error("a route that is not there")
	}
}
