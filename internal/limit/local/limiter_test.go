package local

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// clock is time by hand.
type clock struct{ now time.Duration }

var epoch = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func (c *clock) limiter(t testing.TB, defs ...limit.Definition) *Limiter {
	t.Helper()
	l := New(Options{Now: func() time.Duration { return c.now }, Wall: func() time.Time { return epoch.Add(c.now) }})
	if err := l.Configure(defs); err != nil {
		t.Fatal(err)
	}
	return l
}

func alone() limit.Update { return limit.Update{Full: true, Seats: 1, Leased: true} }

func perSite(n, burst int64) limit.Definition {
	return limit.Definition{Name: "sites", Per: []limit.Field{limit.Site}, Rate: rate(n, time.Second), Burst: burst}
}

var one = limit.Amount{Messages: 1, Recipients: 1, Octets: 1000}

// send tells how many of n messages go at once.
func send(l *Limiter, s *limit.Subject, n int) (sent int, denied *limit.Denied) {
	for range n {
		t, d := l.Reserve(limit.Deliver, s, one)
		if d != nil {
			return sent, d
		}
		if t.Use() > 0 {
			t.Cancel()
			return sent, nil
		}
		sent++
	}
	return sent, nil
}

func TestNothingBeforeTheFirstUpdate(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(10, 10))
	_, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one)
	if d == nil || d.Wait != time.Second || d.Limit != "sites" || d.Key != "site=a" || d.Kind != limit.KindRate {
		t.Fatalf("got %+v, want a second's wait at sites of site=a", d)
	}
	if _, d := l.Reserve(limit.Deliver, &limit.Subject{Domain: "a"}, one); d != nil {
		t.Fatalf("a message that no limit is about was denied: %+v", d)
	}
	l.Apply(alone())
	if n, _ := send(l, &limit.Subject{Site: "a"}, 5); n != 0 {
		t.Fatalf("%d went at once after the first update, want 0: a fresh bucket is empty", n)
	}
	c.now += time.Second
	if n, _ := send(l, &limit.Subject{Site: "a"}, 50); n != 10 {
		t.Fatalf("%d went after a second, want 10", n)
	}
	if n, _ := send(l, &limit.Subject{Site: "b"}, 50); n != 10 {
		t.Fatalf("%d went to a site not seen so far, want 10", n)
	}
}

func TestRateAheadOfTokens(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(100, 1))
	l.Apply(alone())
	c.now = time.Minute
	s := &limit.Subject{Site: "a"}
	var ts []Ticket
	for {
		tk, d := l.Reserve(limit.Deliver, s, one)
		if d != nil {
			break
		}
		ts = append(ts, tk)
	}
	if len(ts) != 51 {
		t.Fatalf("%d were begun ahead, want 51: the burst, and half a second of 100/s", len(ts))
	}
	if w := ts[0].Use(); w != 0 {
		t.Fatalf("the first waits %v", w)
	}
	w := ts[1].Use()
	if w != 10*time.Millisecond {
		t.Fatalf("the second waits %v, want 10ms", w)
	}
	c.now += w
	if w := ts[1].Use(); w != 0 {
		t.Fatalf("the second still waits %v", w)
	}
	for i := range ts {
		ts[i].Cancel()
	}
	l.Usage(func(u *Usage) {
		if u.Total != 2 {
			t.Errorf("%d were counted, want 2", u.Total)
		}
	})
	if tk, d := l.Reserve(limit.Deliver, s, one); d != nil {
		t.Fatalf("after all were given up one is denied: %+v", d)
	} else if tk.Cancel(); tk.Use() != 0 {
		t.Fatal("a ticket given up is used")
	}
}

// What one limit denies is not taken from the others.
func TestAllOrNone(t *testing.T) {
	c := &clock{}
	wide := perSite(1000, 1000)
	narrow := limit.Definition{Name: "narrow", Match: [limit.Fields][]string{limit.Sender: {"a@x"}}, Rate: rate(1, time.Hour), Burst: 3}
	l := c.limiter(t, wide, narrow)
	l.Apply(alone())
	c.now = 5 * time.Hour
	s := &limit.Subject{Site: "g", Sender: "a@x"}
	n, d := send(l, s, 20)
	if n != 3 || d == nil || d.Limit != "narrow" || d.Wait != time.Minute || d.Left < 59*time.Minute {
		t.Fatalf("%d went, then %+v: want 3, then an hour at narrow, asked again in a minute", n, d)
	}
	if n, _ := send(l, &limit.Subject{Site: "g", Sender: "b@x"}, 2000); n != 997 {
		t.Fatalf("others sent %d, want 997: what was denied counted", n)
	}
}

func TestUseTakesAllOrNone(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(1000, 1000), limit.Definition{Name: "other", Rate: rate(10, time.Second), Burst: 10})
	l.Apply(alone())
	c.now = time.Hour
	tk, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "g"}, one)
	if d != nil {
		t.Fatal(d)
	}
	l.Apply(limit.Update{Seats: 1, Leased: true, Shares: []limit.Share{{Key: "other#rate", Units: 0, Of: 10}}})
	if w := tk.Use(); w != time.Second {
		t.Fatalf("a share that is gone lets it wait %v, want 1s", w)
	}
	l.Usage(func(u *Usage) {
		if u.Definition.Name == "sites" && (u.Free != 1000 || u.Used != 0 || u.Total != 0) {
			t.Errorf("of sites %v are free, %d used, %d counted: want 1000, 0 and 0", u.Free, u.Used, u.Total)
		}
	})
	l.Apply(limit.Update{Seats: 1, Leased: true, Even: []limit.Key{"other#rate"}})
	c.now += time.Second
	if w := tk.Use(); w != 0 {
		t.Fatalf("it still waits %v", w)
	}
}

// A key whose bucket is full again in the instant between the parts of a Use is
// not forgotten: the second Use counts there as well.
func TestUseIsNotForgotten(t *testing.T) {
	var l *Limiter
	var first *state
	now, swept := time.Hour, false
	wall := func() time.Time { // asked for the second part, with its shard locked
		if first != nil && !swept {
			swept = true
			for range 10 {
				l.sweep(first.home, 10, now+time.Second)
			}
		}
		return epoch.Add(now)
	}
	budget := limit.Definition{Name: "z-budget", Match: [limit.Fields][]string{limit.Sender: {"a@x"}}, Budget: rate(5, 24*time.Hour)}
	for first == nil { // until the two are in different shards
		now = time.Hour
		l = New(Options{Now: func() time.Duration { return now }, Wall: wall})
		if err := l.Configure([]limit.Definition{perSite(1000, 1000), budget}); err != nil {
			t.Fatal(err)
		}
		l.Apply(alone())
		now += time.Hour
		day := uint64(epoch.Unix() / 86400)
		l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{{Key: "z-budget#budget", Window: day, Ends: epoch.Add(20 * time.Hour), Granted: 2}}})
		tk, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "g", Sender: "a@x"}, one)
		if d != nil || tk.n != 2 {
			t.Fatalf("%+v, of %d limits", d, tk.n)
		}
		if tk.at(0).s.home == tk.at(1).s.home {
			continue
		}
		if tk.at(0).s.rule.Name != "sites" {
			t.Fatal("the budget is asked first")
		}
		tk.at(1).s.budget.Spend(2)
		first = tk.at(0).s
		if tk.Use() == 0 || !swept {
			t.Fatal("the budget is used up, and nothing keeps it")
		}
		tk.at(1).s.budget.Spend(-2)
		if w := tk.Use(); w > 0 {
			t.Fatal(w)
		}
		if first.gone || first.total != 1 || first.rate.Reserved != 0 || tk.at(1).s.rate.Reserved != 0 {
			t.Errorf("forgotten: %v, counted %d, reserved %d", first.gone, first.total, first.rate.Reserved)
		}
	}
}

func TestGrowthIsEmptyAndShrinkingSettles(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(100, 100))
	key := limit.Key("sites#rate,site=a")
	l.Apply(limit.Update{Full: true, Seats: 1, Leased: true, Shares: share(key, 10, 100)})
	c.now = time.Minute
	l.Apply(limit.Update{Seats: 1, Leased: true, Shares: share(key, 90, 100)})
	s := &limit.Subject{Site: "a"}
	if n, _ := send(l, s, 200); n != 10 {
		t.Fatalf("%d went right after growth, want the 10 of before", n)
	}
	c.now += time.Second // 90 tokens at the new rate
	l.Apply(limit.Update{Seats: 1, Leased: true, Shares: share(key, 20, 100)})
	if n, _ := send(l, s, 200); n != 20 {
		t.Fatalf("%d went after shrinking, want 20", n)
	}
	// What is unseen when all parts grow starts as if emptied then.
	l.Apply(limit.Update{Seats: 3, Leased: true})
	c.now += time.Minute
	l.Apply(limit.Update{Seats: 2, Leased: true})
	if n, _ := send(l, &limit.Subject{Site: "new"}, 10); n != 0 {
		t.Fatalf("%d went to an unseen key right after growth", n)
	}
}

func TestCutOff(t *testing.T) {
	c := &clock{}
	for _, tt := range []struct {
		p    limit.Partition
		want int
	}{{limit.Floor, 10}, {limit.Stop, 0}, {limit.Full, 100}} {
		d := perSite(300, 300)
		d.OnPartition = tt.p
		l := c.limiter(t, d)
		l.Apply(limit.Update{Full: true, Seats: 3, Leased: true})
		c.now += time.Minute
		l.Apply(limit.Update{Seats: 3})
		if n, _ := send(l, &limit.Subject{Site: "a"}, 1000); n != tt.want {
			t.Errorf("on_partition %v: %d went, want %d", tt.p, n, tt.want)
		}
	}
}

func TestLargerThanTheBurst(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "octets", Count: limit.Octets, Rate: rate(1000, time.Second), Burst: 5000})
	l.Apply(alone())
	c.now = time.Minute
	big := limit.Amount{Messages: 1, Octets: 20_000}
	tk, d := l.Reserve(limit.Deliver, &limit.Subject{}, big)
	if d != nil || tk.Use() != 0 {
		t.Fatalf("what is larger than the burst never goes: %+v", d)
	}
	_, d = l.Reserve(limit.Deliver, &limit.Subject{}, limit.Amount{Octets: 1})
	if d == nil || d.Left < 14*time.Second || d.Left > 15*time.Second {
		t.Fatalf("the next waits %+v, want until the debt of 15000 is paid", d)
	}
}

func TestConnections(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "conns", Per: []limit.Field{limit.Site}, Connections: 6})
	l.Apply(alone())
	revoked := map[int]string{}
	s := &limit.Subject{Site: "a"}
	var open []Slot
	for i := range 6 {
		slot, d := l.Open(limit.Deliver, s, func(now bool) { revoked[i] += fmt.Sprint(now, " ") })
		if d != nil {
			t.Fatal(d)
		}
		open = append(open, slot)
	}
	if _, d := l.Open(limit.Deliver, s, nil); d == nil || d.Kind != limit.KindConnections {
		t.Fatalf("a seventh was allowed: %+v", d)
	}
	l.Apply(limit.Update{Seats: 2, Leased: true})
	l.Apply(limit.Update{Seats: 2, Leased: true, Shares: share("conns#connections,site=a", 3, 6)})
	if len(revoked) != 3 {
		t.Fatalf("revoked %v, want three, once each", revoked)
	}
	dem := l.Demands(nil, 0)
	if len(dem) != 1 || dem[0].Used != 6 || dem[0].Units != 6 || dem[0].Want != 6 {
		t.Fatalf("demands %+v, want the open connections of the share although none fits", dem)
	}
	l.Apply(limit.Update{Seats: 2}) // cut off: 6/30 is none
	if len(revoked) != 6 {
		t.Fatalf("revoked %v, want all", revoked)
	}
	for i, how := range revoked {
		if !strings.HasSuffix(how, "true ") {
			t.Errorf("connection %d heard %q, want the last true", i, how)
		}
	}
	for i := range open {
		open[i].Close()
		open[i].Close()
	}
	l.Apply(limit.Update{Seats: 2, Leased: true})
	for i := range 4 {
		if _, d := l.Open(limit.Deliver, s, nil); (d == nil) != (i < 3) {
			t.Fatalf("connection %d: %+v, want 3 allowed", i, d)
		}
	}
}

// A limit that is set while connections are open counts them.
func TestConnectionsOpenBefore(t *testing.T) {
	c := &clock{}
	l := c.limiter(t)
	l.Apply(alone())
	revoked := map[int]bool{}
	var open []Slot
	for i := range 5 {
		slot, _ := l.Open(limit.Deliver, &limit.Subject{Site: "a"}, func(bool) { revoked[i] = true })
		open = append(open, slot)
	}
	learned := limit.Definition{Name: "shaping/a", Match: [limit.Fields][]string{limit.Site: {"a"}}, Connections: 2, Author: "shaping"}
	if err := l.Override([]limit.Definition{learned}); err != nil {
		t.Fatal(err)
	}
	if len(revoked) != 3 {
		t.Fatalf("%d were revoked, want 3 of 5", len(revoked))
	}
	if _, d := l.Open(limit.Deliver, &limit.Subject{Site: "a"}, nil); d == nil {
		t.Fatal("a sixth was allowed")
	}
	for i := range revoked {
		open[i].Close()
	}
	if _, d := l.Open(limit.Deliver, &limit.Subject{Site: "a"}, nil); d == nil {
		t.Fatal("with two open another was allowed")
	}
	learned.Connections = 1
	if err := l.Override([]limit.Definition{learned}); err != nil || len(revoked) != 4 {
		t.Fatalf("%v; %d were revoked, want a fourth", err, len(revoked))
	}
}

func TestBudget(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "daily", Per: []limit.Field{limit.User}, Budget: rate(1000, time.Hour)})
	l.Apply(alone())
	s := &limit.Subject{User: "joe"}
	says := func(allowed bool, wait time.Duration, when string) {
		t.Helper()
		if v := l.Explain(limit.Deliver, s); len(v) != 1 || v[0].Allowed != allowed || v[0].Wait != wait || v[0].Next != wait {
			t.Fatalf("%s: %+v", when, v)
		}
	}
	says(true, 0, "nobody has asked for a part")
	_, d := l.Reserve(limit.Deliver, s, one)
	says(false, 0, "a part is asked for")
	if d == nil || d.Kind != limit.KindBudget || d.Wait != 200*time.Millisecond {
		t.Fatalf("got %+v, want to be asked again soon", d)
	}
	c.now += time.Second
	dem := l.Demands(nil, 10)
	if len(dem) != 1 || dem[0].Key != "daily#budget,user=joe" || dem[0].Units != 1000 || dem[0].Want < 1 || dem[0].Used != 0 || dem[0].Window != time.Hour || dem[0].Each != 1 {
		t.Fatalf("demands %+v", dem)
	}
	g := limit.Grant{Key: dem[0].Key, Window: uint64(epoch.Unix() / 3600), Ends: epoch.Add(time.Hour), Granted: 5}
	l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{g}})
	if n, _ := send(l, s, 20); n != 5 {
		t.Fatalf("%d went, want the 5 granted", n)
	}
	says(false, 0, "more may come")
	g.All = 1000
	l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{g}}) // told again
	says(false, time.Hour-time.Second, "all is given away")
	g.All = 0
	g.Granted = 7
	l.Apply(limit.Update{Seats: 1, Grants: []limit.Grant{g}}) // and cut off: what is granted may be spent
	if n, _ := send(l, s, 20); n != 2 {
		t.Fatalf("%d went, want 2 more", n)
	}
	c.now += 10 * time.Second
	_, _ = l.Reserve(limit.Deliver, s, one)
	c.now += 5 * time.Second
	if _, d := l.Reserve(limit.Deliver, s, one); d == nil || d.Wait != time.Minute || d.Left < 59*time.Minute {
		t.Fatalf("got %+v, want to wait for the next hour", d)
	}
	g.Granted = 20
	c.now = time.Hour
	l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{g}})
	if n, _ := send(l, s, 20); n != 0 {
		t.Fatalf("%d went on a grant of the hour before", n)
	}
	g.Window, g.Ends, g.Granted = g.Window+1, g.Ends.Add(time.Hour), 3
	l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{g}})
	if n, _ := send(l, s, 20); n != 3 {
		t.Fatalf("%d went in the new hour, want 3", n)
	}
}

// A budget that an operator makes smaller, or whose larger override is cleared,
// holds at once.
func TestABudgetThatIsMadeSmaller(t *testing.T) {
	c := &clock{}
	small := limit.Definition{Name: "bud", Budget: rate(1, 24*time.Hour)}
	large := small
	large.Budget.N = 100
	l := c.limiter(t, small)
	if err := l.Override([]limit.Definition{large}); err != nil {
		t.Fatal(err)
	}
	g := limit.Grant{Key: "bud#budget", Window: uint64(epoch.Unix() / 86400), Ends: epoch.Add(12 * time.Hour), Granted: 10, All: 40}
	told := limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{g}}
	l.Apply(told)
	s := &limit.Subject{}
	if n, _ := send(l, s, 3); n != 3 {
		t.Fatalf("%d went of the larger one, want 3", n)
	}
	under, d := l.Reserve(limit.Deliver, s, one)
	if d != nil {
		t.Fatal(d)
	}
	if err := l.Override(nil); err != nil {
		t.Fatal(err)
	}
	if under.Use() == 0 {
		t.Error("what was reserved of the larger one was counted")
	}
	under.Cancel()
	l.Apply(told)
	if n, _ := send(l, s, 1); n != 0 {
		t.Error("more went than the budget")
	}
	l.Usage(func(u *Usage) {
		if u.Used != 3 || u.Limit != 1 || u.Free != 0 || u.Next != 12*time.Hour {
			t.Errorf("usage: %d of %d, %v free, the next in %v", u.Used, u.Limit, u.Free, u.Next)
		}
	})
	// Raised again, to what was given away: what is left of it goes out.
	large.Budget.N = 40
	if err := l.Override([]limit.Definition{large}); err != nil {
		t.Fatal(err)
	}
	if n, _ := send(l, s, 20); n != 7 {
		t.Errorf("%d went once it was raised, want 7", n)
	}
}

// What was spent of a budget is not spent again when the limit was away, or had
// none, for a while.
func TestABudgetThatComesBack(t *testing.T) {
	c := &clock{}
	bud := limit.Definition{Name: "bud", Per: []limit.Field{limit.User}, Budget: rate(10, 24*time.Hour)}
	other := limit.Definition{Name: "bud", Per: bud.Per, Rate: rate(1000, time.Second), Burst: 1000}
	s := &limit.Subject{User: "joe"}
	day := uint64(epoch.Unix() / 86400)
	for name, meanwhile := range map[string][]limit.Definition{"none": nil, "a rate": {other}} {
		c.now = 0
		l := c.limiter(t, bud)
		grant := func(n uint64) {
			ends := epoch.Truncate(24 * time.Hour).Add(time.Duration(day-uint64(epoch.Unix()/86400)+1) * 24 * time.Hour)
			l.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{{Key: "bud#budget,user=joe", Window: day, Ends: ends, Granted: n}}})
		}
		grant(5)
		if n, _ := send(l, s, 4); n != 4 {
			t.Fatalf("%s: %d went, want 4", name, n)
		}
		for _, defs := range [][]limit.Definition{meanwhile, {bud}} {
			if err := l.Configure(defs); err != nil {
				t.Fatal(err)
			}
			send(l, s, 1)
		}
		grant(6)
		if n, _ := send(l, s, 10); n != 1 {
			t.Errorf("%s: %d went afterwards, want 1", name, n)
		}
		day++
		c.now += 24 * time.Hour
		grant(3)
		if n, _ := send(l, s, 10); n != 3 {
			t.Errorf("%s: %d went the next day, want 3", name, n)
		}
		day--
	}
}

// What an operator reads of a limit with two parts: each has its own figures, and
// who was refused by one is not counted at the other.
func TestUsageOfBothParts(t *testing.T) {
	c := &clock{}
	l := c.limiter(t)
	if err := l.Configure([]limit.Definition{{Name: "sink", Rate: limit.Rate{N: 120, Per: time.Minute}, Burst: 10, Connections: 2}}); err != nil {
		t.Fatal(err)
	}
	l.Apply(limit.Update{Full: true, Seats: 2, Leased: true})
	s := &limit.Subject{Site: "a.example"}
	if _, d := l.Open(limit.Deliver, s, nil); d != nil {
		t.Fatal(d)
	}
	for range 2 {
		if _, d := l.Open(limit.Deliver, s, nil); d == nil {
			t.Fatal("a second connection of one")
		}
	}
	for range 5 * 60 { // five minutes at the node's pace of one a second
		c.now += time.Second
		tk, d := l.Reserve(limit.Deliver, s, one)
		if d != nil || tk.Use() != 0 {
			t.Fatalf("%+v", d)
		}
	}
	seen := map[limit.Kind]bool{}
	for _, v := range l.Explain(limit.Deliver, s) {
		seen[v.Kind] = true
		switch {
		case v.Kind == limit.KindRate && (v.Pace() != 60 || v.Lately < 58 || v.Lately > 62 || v.Denied != 0 || v.Waiting != 0 || v.Limit != 5):
			t.Errorf("of the rate: %v/m of %v/m, %+v", v.Lately, v.Pace(), v)
		case v.Kind == limit.KindConnections && (v.Used != 1 || v.Limit != 1 || v.Denied != 2 || v.Allowed):
			t.Errorf("of connections: %+v", v)
		}
	}
	if !seen[limit.KindRate] || !seen[limit.KindConnections] {
		t.Errorf("parts are missing: %v", seen)
	}
}

func TestSuspendedAndUntil(t *testing.T) {
	c := &clock{}
	l := c.limiter(t)
	err := l.Override([]limit.Definition{{
		Name: "stop", Match: [limit.Fields][]string{limit.RecipientDomain: {"*.example.org", "example.org"}},
		Suspended: true, Reason: "they asked", Author: "jane", Until: epoch.Add(10 * time.Second),
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := &limit.Subject{Domain: "mx.a.example.org"}
	_, d := l.Reserve(limit.Deliver, s, one)
	_, o := l.Open(limit.Deliver, s, nil)
	if d == nil || o == nil || d.Kind != limit.KindSuspended || d.Left != 10*time.Second || d.Reason != "they asked" {
		t.Fatalf("got %+v and %+v, want suspended for 10s", d, o)
	}
	if v := l.Explain(limit.Deliver, s); len(v) != 1 || v[0].Allowed || v[0].Wait != 10*time.Second {
		t.Fatalf("explained as %+v", v)
	}
	if _, d := l.Reserve(limit.Deliver, &limit.Subject{Domain: "notexample.org"}, one); d != nil {
		t.Fatal("*.example.org is for notexample.org")
	}
	c.now += 10 * time.Second
	if _, d := l.Reserve(limit.Deliver, s, one); d != nil {
		t.Fatalf("it goes on after its end: %+v", d)
	}
}

// TestUntilIsOfTheWall: a clock that was ahead when a limit was set, and is put
// right, does not end it early. The budget of a source that warms up is for a day
// of the wall clock.
func TestUntilIsOfTheWall(t *testing.T) {
	c, ahead := &clock{}, 30*time.Minute
	l := New(Options{Now: func() time.Duration { return c.now }, Wall: func() time.Time { return epoch.Add(c.now + ahead) }})
	day := limit.Definition{
		Name: "warm-up:new", Per: []limit.Field{limit.Source}, Match: [limit.Fields][]string{limit.Source: {"new"}},
		Budget: rate(1, 24*time.Hour), Until: epoch.Add(12 * time.Hour),
	}
	stop := limit.Definition{Name: "stop", Match: [limit.Fields][]string{limit.Site: {"a"}}, Suspended: true, Until: day.Until}
	if err := l.Configure([]limit.Definition{day, stop}); err != nil {
		t.Fatal(err)
	}
	l.Apply(alone())
	ahead = 0
	c.now = 11*time.Hour + 45*time.Minute
	for range 3 { // the second time the budget counts as used up
		if n, _ := send(l, &limit.Subject{Source: "new"}, 10); n > 0 {
			t.Errorf("%d went without a budget a quarter of an hour before midnight", n)
		}
		_, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one)
		if left := day.Until.Sub(epoch) - c.now; d == nil || d.Left != left || d.Wait != time.Minute {
			t.Errorf("%+v: suspended for another %v", d, left)
		}
		if v := l.Explain(limit.Deliver, &limit.Subject{Site: "a"}); len(v) != 1 || v[0].Wait != day.Until.Sub(epoch)-c.now {
			t.Errorf("explained as %+v", v)
		}
		c.now += 4 * time.Minute
	}
	shown := 0
	l.Usage(func(u *Usage) { shown++ })
	if shown == 0 {
		t.Error("the suspension is not shown any more")
	}
	c.now = 12 * time.Hour
	if _, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one); d != nil {
		t.Errorf("it goes on after its end: %+v", d)
	}
}

func TestConfigureKeepsBuckets(t *testing.T) {
	c := &clock{}
	d := perSite(10, 10)
	l := c.limiter(t, d)
	l.Apply(alone())
	c.now = time.Minute
	s := &limit.Subject{Site: "a"}
	send(l, s, 10)
	configure := func(d ...limit.Definition) {
		t.Helper()
		if err := l.Configure(d); err != nil {
			t.Fatal(err)
		}
	}
	configure(d, limit.Definition{Name: "another", Connections: 1})
	if n, _ := send(l, s, 1); n != 0 {
		t.Fatal("an unchanged limit forgot what was sent")
	}
	d.Rate.N, d.Burst = 100, 100
	configure(d)
	if n, _ := send(l, s, 1); n != 0 {
		t.Fatal("a raised limit forgot what was sent")
	}
	c.now += 100 * time.Millisecond
	if n, _ := send(l, s, 50); n != 10 {
		t.Fatalf("%d went at the new rate after 100ms, want 10", n)
	}
	configure()
	configure(d) // gone and back: starts empty
	if n, _ := send(l, s, 1); n != 0 {
		t.Fatal("a limit that was taken out and put back is full")
	}
	if err := l.Configure([]limit.Definition{d, d}); err == nil {
		t.Fatal("two limits of one name are allowed")
	}
	if err := l.Configure([]limit.Definition{{Name: "none"}}); err == nil {
		t.Fatal("a limit of nothing is allowed")
	}
}

// Beyond the bound names are counted together, those that were there stay as
// they are, and what is full again makes room.
func TestTooManyKeys(t *testing.T) {
	c := &clock{}
	l := New(Options{Now: func() time.Duration { return c.now }, Wall: func() time.Time { return epoch }, Keys: 100})
	if err := l.Configure([]limit.Definition{{Name: "senders", Per: []limit.Field{limit.Sender}, Rate: rate(1, time.Minute), Burst: 2}}); err != nil {
		t.Fatal(err)
	}
	l.Apply(alone())
	c.now = time.Hour
	victim := &limit.Subject{Sender: "victim@x"}
	send(l, victim, 2)
	sent := 0
	for i := range 10_000 {
		n, _ := send(l, &limit.Subject{Sender: fmt.Sprintf("%d@x", i)}, 1)
		sent += n
	}
	if sent != 49+2 {
		t.Errorf("%d of 10000 new senders sent, want 49 told apart and 2 of all others", sent)
	}
	if n, d := send(l, victim, 1); n != 0 || d.Key != "sender=victim@x" {
		t.Errorf("after a flood the victim's bucket is another: %d, %+v", n, d)
	}
	if _, d := l.Reserve(limit.Deliver, &limit.Subject{Sender: "late@x"}, one); d == nil || d.Key != limit.Others {
		t.Errorf("a sender beyond the bound got %+v", d)
	}
	if n := l.count.Load(); n > 51 {
		t.Errorf("%d keys are kept", n)
	}
	for range 2 {
		c.now += time.Hour
		l.Demands(nil, 0)
	}
	room := 0
	for i := range 200 {
		_, d := l.Reserve(limit.Deliver, &limit.Subject{Sender: fmt.Sprintf("again%d@x", i)}, limit.Amount{Messages: 3})
		if d == nil || d.Key != limit.Others {
			room++
		}
	}
	if room < 49 || room > 51 {
		t.Errorf("when all buckets are full again %d new senders are told apart, want some 50", room)
	}
}

func TestMatching(t *testing.T) {
	c := &clock{}
	def := func(name string, f limit.Field, v ...string) limit.Definition {
		d := limit.Definition{Name: name, Suspended: true}
		d.Match[f] = v
		return d
	}
	both := def("both", limit.Site, "g")
	both.Match[limit.Sender] = []string{"a@x"}
	recv := def("recv", limit.Client, "10.0.0.0/8")
	recv.Side = limit.Receive
	l := c.limiter(t, both, recv, def("net", limit.Client, "192.0.2.0/24", "2001:db8::/32", "::ffff:198.51.100.7"),
		def("below", limit.SenderDomain, "*.example.org"), def("user", limit.User, "Joe"),
		limit.Definition{Name: "per", Per: []limit.Field{limit.Route}, Suspended: true})
	for _, tt := range []struct {
		side limit.Side
		s    limit.Subject
		want string
	}{
		{limit.Deliver, limit.Subject{}, ""},
		{limit.Deliver, limit.Subject{Site: "g"}, ""},
		{limit.Deliver, limit.Subject{Site: "g", Sender: "a@x"}, "both"},
		{limit.Deliver, limit.Subject{Client: netip.MustParseAddr("10.1.1.1")}, ""},
		{limit.Receive, limit.Subject{Client: netip.MustParseAddr("10.1.1.1")}, "recv"},
		{limit.Receive, limit.Subject{Client: netip.MustParseAddr("::ffff:10.1.1.1")}, "recv"},
		{limit.Deliver, limit.Subject{Client: netip.MustParseAddr("192.0.2.77")}, "net"},
		{limit.Deliver, limit.Subject{Client: netip.MustParseAddr("2001:db8:1::1")}, "net"},
		{limit.Deliver, limit.Subject{Client: netip.MustParseAddr("198.51.100.7")}, "net"},
		{limit.Deliver, limit.Subject{Client: netip.MustParseAddr("198.51.100.8")}, ""},
		{limit.Deliver, limit.Subject{SenderDomain: "example.org"}, ""},
		{limit.Deliver, limit.Subject{SenderDomain: "b.a.example.org"}, "below"},
		{limit.Deliver, limit.Subject{User: "joe"}, ""},
		{limit.Deliver, limit.Subject{User: "Joe", Route: "r"}, "per user"},
	} {
		var got []string
		for _, v := range l.Explain(tt.side, &tt.s) {
			got = append(got, v.Definition.Name)
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%v %+v: %q apply, want %q", tt.side, tt.s, g, tt.want)
		}
	}
}

// TestByDomain: which domains limits on delivery look at.
func TestByDomain(t *testing.T) {
	c := &clock{}
	some := limit.Definition{Name: "some", Suspended: true}
	some.Match[limit.RecipientDomain] = []string{"a.example", "*.b.example"}
	here := limit.Definition{Name: "here", Side: limit.Receive, Per: []limit.Field{limit.RecipientDomain}, Rate: rate(1, time.Second), Burst: 1}
	l := c.limiter(t, some, here, perSite(1, 1))
	for domain, want := range map[string]bool{"a.example": true, "x.b.example": true, "b.example": false, "c.example": false} {
		if got := l.ByDomain(domain); got != want {
			t.Errorf("%s: %v, want %v", domain, got, want)
		}
	}
	_, d := l.Reserve(limit.Deliver, &limit.Subject{Domain: "a.example"}, one)
	if d == nil || !d.Domain || d.Sender {
		t.Errorf("a suspended domain is denied with %+v", d)
	}
	here.Side = limit.Deliver
	if l = c.limiter(t, here); !l.ByDomain("c.example") {
		t.Error("a limit counts by each domain, and it is not told")
	}
	if _, d := l.Reserve(limit.Deliver, &limit.Subject{Domain: "c.example"}, one); d == nil || !d.Domain {
		t.Errorf("a domain with its own rate is denied with %+v", d)
	}
}

func TestClientsCountByNetwork(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "c", Per: []limit.Field{limit.Client}, Connections: 1})
	l.Apply(alone())
	open := func(a string) bool {
		_, d := l.Open(limit.Deliver, &limit.Subject{Client: netip.MustParseAddr(a)}, nil)
		return d == nil
	}
	if !open("2001:db8::1") || open("2001:db8::2:1") || !open("2001:db8:0:1::1") || !open("192.0.2.1") || open("::ffff:192.0.2.1") || !open("192.0.2.2") {
		t.Fatal("clients are not counted by IPv4 address and IPv6 /64")
	}
}

func TestWaitersComeOneAfterTheOther(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(20, 1))
	l.Apply(alone())
	c.now = time.Minute
	for range 11 {
		if _, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one); d != nil {
			t.Fatal(d)
		}
	}
	last := time.Duration(0)
	for i := range 4 {
		_, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one)
		if d == nil || i > 0 && d.Wait != last+50*time.Millisecond {
			t.Fatalf("waiter %d: %+v after %v, want 50ms more", i, d, last)
		}
		last = d.Wait
	}
}

// Tokens go to who has waited for them the longest, not to whoever asks in the
// right moment; who leaves the line keeps nobody.
func TestTokensGoInTurn(t *testing.T) {
	c := &clock{}
	both := perSite(20, 10)
	all := limit.Definition{Name: "all", Rate: rate(20, time.Second), Burst: 10}
	l := c.limiter(t, both, all)
	l.Apply(alone())
	a := &limit.Subject{Site: "a"}
	c.now = time.Minute
	if n, d := send(l, a, 10); n != 10 {
		t.Fatal(n, d)
	}
	reserve := func(s *limit.Subject) *Ticket {
		tk, d := l.Reserve(limit.Deliver, s, one)
		if d != nil {
			t.Fatal(d)
		}
		return &tk
	}
	waits := func(tk *Ticket, want time.Duration) {
		t.Helper()
		if got := tk.Use(); (got - want).Abs() > 2*time.Millisecond {
			t.Fatalf("at %v: it has to wait for %v, want %v", c.now, got, want)
		}
	}
	first, second, third, late := reserve(a), reserve(a), reserve(a), reserve(a)
	waits(first, 50*time.Millisecond)
	waits(second, 100*time.Millisecond)
	waits(third, 150*time.Millisecond)
	c.now += 51 * time.Millisecond
	waits(late, 149*time.Millisecond)
	waits(third, 99*time.Millisecond)
	waits(second, 49*time.Millisecond)
	waits(first, 0)
	second.Cancel()
	c.now += 50 * time.Millisecond
	waits(late, 49*time.Millisecond)
	waits(third, 0)
	c.now += 50 * time.Millisecond
	waits(late, 0)
	for _, st := range []*claim{first.at(0), first.at(1), late.at(0)} {
		if b := &st.s.rate; b.Reserved != 0 || st.place.Waits() {
			t.Errorf("nobody waits, and %d are reserved, %+v is in the line", b.Reserved, st.place)
		}
	}
}

// Those who wait under two limits use both up, also where the bursts are small.
func TestTwoLinesAreUsedUp(t *testing.T) {
	for _, burst := range []int64{1, 2, 5} {
		c := &clock{}
		l := c.limiter(t, limit.Definition{Name: "all", Rate: rate(200, time.Second), Burst: burst}, perSite(20, burst))
		l.Apply(alone())
		c.now = time.Minute
		type attempt struct {
			tk       *Ticket
			next, by time.Duration
		}
		all, sent := make([]attempt, 60), 0
		for range 30_000 {
			for i := range all {
				a := &all[i]
				if c.now < a.next {
					continue
				}
				if a.tk == nil {
					tk, d := l.Reserve(limit.Deliver, &limit.Subject{Site: string(rune('a' + i%5))}, one)
					if d != nil {
						a.next = c.now + d.Wait
						continue
					}
					a.tk, a.next = &tk, c.now+30*time.Millisecond // connecting
					a.by = a.next + time.Second
					continue
				}
				switch w := a.tk.Use(); {
				case w == 0:
					sent++
					a.tk, a.next = nil, c.now+5*time.Millisecond
				case c.now+w > a.by:
					a.tk.Cancel()
					a.tk, a.next = nil, c.now+w
				default:
					a.next = c.now + min(w, 250*time.Millisecond)
				}
			}
			c.now += time.Millisecond
		}
		if sent < 2600 { // of 3000
			t.Errorf("burst %d: %d went in half a minute, 3000 may", burst, sent)
		}
	}
}

// What was wanted of connections is forgotten with the limit of them.
func TestNotActiveForEver(t *testing.T) {
	c := &clock{now: time.Minute}
	d := limit.Definition{Name: "conns", Per: []limit.Field{limit.Site}, Rate: rate(100, time.Second), Burst: 100, Connections: 1}
	l := c.limiter(t, d)
	l.Apply(alone())
	s := &limit.Subject{Site: "a"}
	slot, _ := l.Open(limit.Deliver, s, nil)
	if _, d := l.Open(limit.Deliver, s, nil); d == nil {
		t.Fatal("a second connection was opened")
	}
	slot.Close()
	d.Connections = 0
	if err := l.Configure([]limit.Definition{d}); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		c.now += time.Second
		l.Demands(nil, 10)
		for i := range l.shards {
			l.sweep(&l.shards[i], 10, c.now)
		}
	}
	if n := l.count.Load(); n > 0 {
		t.Errorf("%d keys are there that say nothing", n)
	}
}

// A node that has nothing of a rate wants some in every report, however late who
// was denied comes back.
func TestWhoHasNothingWantsSome(t *testing.T) {
	c := &clock{now: time.Minute}
	l := c.limiter(t, perSite(100, 100))
	l.Apply(limit.Update{Full: true, Seats: 3, Leased: true, Shares: share("sites#rate,site=a", 0, 100)})
	var next time.Duration
	for range 200 {
		if c.now >= next {
			_, d := l.Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one)
			next = c.now + d.Wait + 70*time.Millisecond
		}
		for _, d := range l.Demands(nil, 10) {
			if d.Want == 0 {
				t.Fatalf("at %v nothing is wanted, the next asks at %v", c.now, next)
			}
		}
		c.now += 50 * time.Millisecond
	}
}

func TestDemandsOfARate(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, perSite(100, 100))
	l.Apply(limit.Update{Full: true, Seats: 3, Leased: true})
	c.now = time.Minute
	s := &limit.Subject{Site: "a"}
	send(l, s, 20)
	if d := l.Demands(nil, 10); len(d) != 0 {
		t.Fatalf("demands %+v of a key of which there is enough", d)
	}
	send(l, s, 30)
	select {
	case <-l.Wanting():
	default:
		t.Fatal("Wanting says nothing when a key is short")
	}
	c.now += time.Second
	d := l.Demands(nil, 10)
	if len(d) != 1 || d[0] != (limit.Demand{Key: "sites#rate,site=a", Kind: limit.KindRate, Units: 100, Want: 45}) {
		t.Fatalf("demands %+v, want a third more than the 33 there are", d)
	}
	l.Apply(limit.Update{Seats: 3, Leased: true, Shares: share("sites#rate,site=a", 80, 100)})
	for range 100 { // ten seconds of 20/s
		c.now += 100 * time.Millisecond
		send(l, s, 2)
	}
	d = l.Demands(nil, 10)
	if len(d) != 1 || d[0].Want < 20 || d[0].Want > 30 {
		t.Fatalf("demands %+v, want a bit more than the 20 in use", d)
	}
	// What comes in bursts is denied now and then, and needs no more than it uses
	// and some.
	for range 10 {
		c.now += time.Second
		for range 3 {
			send(l, s, 81)
			l.Demands(nil, 10)
		}
		c.now += 3 * time.Second
	}
	if d = l.Demands(nil, 10); len(d) != 1 || d[0].Want > 60 {
		t.Errorf("demands %+v of what comes in bursts of 80 every 4 seconds", d)
	}
	c.now += time.Minute
	if d = l.Demands(nil, 10); len(d) != 1 || d[0].Want > 1 {
		t.Fatalf("demands %+v of an idle share, want about none", d)
	}
	l.Apply(limit.Update{Seats: 3, Leased: true, Even: []limit.Key{"sites#rate,site=a"}})
	if d = l.Demands(nil, 10); len(d) != 0 {
		t.Fatalf("demands %+v of a key that is even and idle", d)
	}
}

// Who was refused a connection asks again after a second. The node wants one
// until then, however often it reports.
func TestWhoWaitsForAConnectionIsTold(t *testing.T) {
	c := &clock{now: time.Minute}
	l := c.limiter(t, limit.Definition{Name: "conns", Per: []limit.Field{limit.Site}, Rate: rate(100, time.Second), Burst: 100, Connections: 10})
	l.Apply(limit.Update{Full: true, Seats: 3, Leased: true, Shares: share("conns#connections,site=a", 0, 10)})
	wanted := func(demands []limit.Demand) (n uint32) {
		for _, d := range demands {
			if d.Kind == limit.KindConnections {
				n += d.Want
			}
		}
		return n
	}
	_, d := l.Open(limit.Deliver, &limit.Subject{Site: "a"}, nil)
	if d == nil {
		t.Fatal("a node without a part opened a connection")
	}
	for at := time.Duration(0); at <= d.Wait; at += 100 * time.Millisecond {
		if got := l.Demands(nil, 10); wanted(got) < 1 {
			t.Fatalf("demands %+v %v after a connection was refused, and the next is asked for after %v", got, at, d.Wait)
		}
		c.now += 100 * time.Millisecond
	}
	c.now += time.Minute
	if got := l.Demands(nil, 10); wanted(got) > 0 {
		t.Fatalf("demands %+v a minute later", got)
	}
}

// A node that has too many connections says so although it wants no more, also
// of what is divided evenly.
func TestTooManyOpenIsTold(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "conns", Per: []limit.Field{limit.Site}, Connections: 6})
	l.Apply(alone())
	var open []Slot
	for range 4 {
		slot, _ := l.Open(limit.Deliver, &limit.Subject{Site: "a"}, func(bool) {})
		open = append(open, slot)
	}
	if d := l.Demands(nil, 0); len(d) != 0 {
		t.Fatalf("demands %+v, want none", d)
	}
	l.Apply(limit.Update{Seats: 3, Leased: true})
	for range 2 {
		c.now += time.Minute
		if d := l.Demands(nil, 0); len(d) != 1 || d[0].Used != 4 {
			t.Fatalf("demands %+v, want the 4 of 2", d)
		}
	}
	open[0].Close()
	open[1].Close()
	if l.Demands(nil, 0); len(l.Demands(nil, 0)) != 0 {
		t.Fatal("it is told on although all is well")
	}
}

// What the cluster takes no key of is counted together.
func TestLongValues(t *testing.T) {
	c := &clock{}
	l := c.limiter(t, limit.Definition{Name: "senders", Per: []limit.Field{limit.Sender}, Connections: 1})
	l.Apply(alone())
	long := strings.Repeat("\x01", 300) + "@x"
	for i, s := range []string{long + "a", long + "b"} {
		_, d := l.Open(limit.Deliver, &limit.Subject{Sender: s}, nil)
		if (d == nil) != (i == 0) || d != nil && d.Key != limit.Others {
			t.Fatalf("sender %d: %+v", i, d)
		}
		if _, d = l.Open(limit.Deliver, &limit.Subject{Sender: s}, nil); d == nil {
			t.Fatal("a second connection was allowed")
		}
	}
}

// many is a cluster of Limiters and the rules by which units move: what one
// gives up is another's only afterwards.
type many struct {
	c      *clock
	rng    *rand.Rand
	nodes  []*Limiter
	units  []uint32 // what each may be using at most
	of     uint32
	leased []bool
	early  bool // a broken rule: units are the taker's before the giver knows
}

func (m *many) floor() uint32 { return m.of / 30 }

func (m *many) tell(i int, u uint32) {
	m.nodes[i].Apply(limit.Update{Seats: 3, Leased: m.leased[i], Shares: share("sites#rate,site=a", u, m.of)})
}

// step moves something.
func (m *many) step() {
	i, j := m.rng.IntN(3), m.rng.IntN(3)
	switch m.rng.IntN(10) {
	case 0: // loses its lease, or gets it back with what is left for it
		m.leased[i] = !m.leased[i]
		m.tell(i, m.units[i])
	case 1, 2: // moves units
		if i == j || m.units[i] <= m.floor() {
			return
		}
		n := m.rng.Uint32N(m.units[i]-m.floor()) + 1
		if m.early {
			m.units[j] += n
			m.tell(j, m.units[j])
			return
		}
		m.units[i] -= n
		m.tell(i, m.units[i])
		m.units[j] += n
		m.tell(j, m.units[j])
	case 3: // a process starts anew
		def := perSite(int64(m.of), int64(m.of))
		m.nodes[i] = New(m.nodes[i].opts)
		if err := m.nodes[i].Configure([]limit.Definition{def}); err != nil {
			panic(err)
		}
		m.tell(i, m.units[i])
	}
}

// run sends as much as it can and says by how much the limit was exceeded.
func (m *many) run(steps int) (over float64, sent int) {
	b := float64(m.of)
	level, at := b, m.c.now // a bucket of the whole cluster, full when it begins
	var tickets [3][]Ticket
	for range steps {
		m.c.now += time.Duration(m.rng.Int64N(int64(40 * time.Millisecond)))
		m.step()
		i := m.rng.IntN(3)
		for range m.rng.IntN(30) {
			if t, d := m.nodes[i].Reserve(limit.Deliver, &limit.Subject{Site: "a"}, one); d == nil {
				tickets[i] = append(tickets[i], t)
			}
		}
		for len(tickets[i]) > 0 && m.rng.IntN(20) > 0 {
			t := tickets[i][0]
			tickets[i] = tickets[i][1:]
			if t.Use() > 0 {
				t.Cancel()
				continue
			}
			sent++
			level = min(b, level+float64(m.c.now-at)*b/float64(time.Second)) - 1
			at = m.c.now
			over = max(over, -level)
		}
	}
	return over, sent
}

func newMany(t *testing.T, seed uint64, of uint32) *many {
	m := &many{c: &clock{}, rng: rand.New(rand.NewPCG(seed, 1)), of: of, units: []uint32{of / 3, of / 3, of / 3}, leased: []bool{true, true, true}}
	for i := range 3 {
		m.nodes = append(m.nodes, m.c.limiter(t, perSite(int64(of), int64(of))))
		m.tell(i, of/3)
	}
	return m
}

// However units move, the nodes together never send more than the burst and what
// the rate gives, in any window; and if one rule of moving them is broken, this
// test sees it.
func TestNeverMoreThanTheLimit(t *testing.T) {
	broken := 0
	for seed := range uint64(40) {
		of := []uint32{1, 3, 10, 60, 300, 1000}[seed%6]
		m := newMany(t, seed, of)
		over, sent := m.run(3000)
		if over > 1e-6 {
			t.Errorf("seed %d, %d units: %v messages too many", seed, of, over)
		}
		if of >= 10 && sent < int(of) {
			t.Errorf("seed %d, %d units: %d messages in a minute show nothing", seed, of, sent)
		}
		m = newMany(t, seed, of)
		m.early = true
		if over, _ := m.run(3000); over > 1 {
			broken++
		}
	}
	if broken < 10 {
		t.Errorf("units that two nodes have at once were seen in %d runs of 40", broken)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add("a@example.org", "google.com", "192.0.2.1")
	f.Add("a,\\b\x01\xff", "*", "2001:db8::1")
	f.Fuzz(func(t *testing.T, sender, site, client string) {
		per := []limit.Field{limit.Sender, limit.Client, limit.Site}
		addr, err := netip.ParseAddr(client)
		s := limit.Subject{Sender: sender, Site: site, Client: addr}
		if err != nil || sender == "" || site == "" || strings.ContainsRune(sender+site, 0) {
			return
		}
		vals := pack(&s, per)
		if !packed(&s, per, vals) {
			t.Fatalf("%q is not what was packed of %+v", vals, s)
		}
		u := unpack(per, vals)
		words := s.Words(per)
		if u.Words(per) != words {
			t.Fatalf("unpacked %q, want %q", u.Words(per), words)
		}
		name, kind, w, ok := limit.KeyOf("n", limit.KindBudget, words).Parts()
		if !ok || name != "n" || kind != limit.KindBudget || w != words {
			t.Fatalf("parts %q %v %q", name, kind, w)
		}
		back, ok := limit.ParseWords(per, w)
		if !ok || !packed(&back, per, vals) {
			t.Fatalf("%q is read as %+v", w, back)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("192.0.2.0/24", "*.example.org", "60/s", uint8(4))
	f.Add("::ffff:1.2.3.4/100", "*", "0/d", uint8(5))
	f.Fuzz(func(t *testing.T, client, value, rate string, field uint8) {
		fd := limit.Field(field % uint8(limit.Fields))
		d := limit.Definition{Name: "x", Suspended: true}
		d.Match[limit.Client] = []string{client}
		d.Match[fd] = []string{value}
		if r, err := limit.ParseRate(rate); err == nil {
			if again, err := limit.ParseRate(r.String()); err != nil || again != r {
				t.Fatalf("%q is %v, and that is %v, %v", rate, r, again, err)
			}
			d.Rate, d.Burst = r, 1
		}
		if d.Check() != nil {
			return
		}
		c := &clock{}
		l := c.limiter(t, d)
		s := limit.Subject{Client: netip.MustParseAddr("192.0.2.1")}
		s.Set(fd, value)
		var fnd found
		l.index.Load().sides[limit.Deliver].find(&fnd, &s, 0)
		if want := l.byName["x"].applies(&s, 0); want != (fnd.n == 1) {
			t.Fatalf("the index finds %d, the rule says %v", fnd.n, want)
		}
	})
}

func rate(n int64, per time.Duration) limit.Rate { return limit.Rate{N: n, Per: per} }

func share(k limit.Key, units, of uint32) []limit.Share {
	return []limit.Share{{Key: k, Units: units, Of: of}}
}
