package abuse

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func anybody(netip.Addr) bool { return true }

// count has a client do something n times.
func count(t *Table, client string, k Kind, n int) {
	for range n {
		t.Count(ip(client), k)
	}
}

func TestWorstFirst(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	count(tab, "192.0.2.1", Unknown, 15)
	c.now += time.Minute
	count(tab, "2001:db8::7", Refused, 30)
	count(tab, "192.0.2.3", Unknown, 2)
	count(tab, "192.0.2.4", Unknown, 5)
	count(tab, "192.0.2.5", Unknown, 10)
	count(tab, "192.0.2.6", Refused, 1) // not worth being shown
	said := func(list []Standing) (out []string) {
		for _, s := range list {
			out = append(out, fmt.Sprint(s.Client, " ", s.State, " ", s.Out, " ", s.Why))
		}
		return out
	}
	list, more := tab.Standings(true, 10, anybody)
	want := []string{
		"2001:db8:: locked out 1h0m0s refused commands", "192.0.2.1 locked out 59m0s unknown recipients",
		"192.0.2.5 kept waiting 0s unknown recipients", "192.0.2.4 kept waiting 0s unknown recipients", "192.0.2.3 counted 0s unknown recipients",
	}
	if got := said(list); !slices.Equal(got, want) || more {
		t.Errorf("%q, more %v\nwant %q", got, more, want)
	}
	if list[2].Score[Unknown] != 10 || list[2].Threshold[Unknown] != 5 {
		t.Errorf("scores %v of %v", list[2].Score, list[2].Threshold)
	}
	if list, more := tab.Standings(false, 10, anybody); !slices.Equal(said(list), want[:2]) || more {
		t.Errorf("locked out: %q, more %v", said(list), more)
	}
	if list, more := tab.Standings(true, 3, anybody); !slices.Equal(said(list), want[:3]) || !more {
		t.Errorf("the worst 3: %q, more %v", said(list), more)
	}
	if list, _ := tab.Standings(true, 3, netip.MustParsePrefix("192.0.2.4/31").Contains); !slices.Equal(said(list), want[2:4]) {
		t.Errorf("of a network: %q", said(list))
	}
	c.now += 59 * time.Minute
	if list, _ := tab.Standings(false, 10, anybody); !slices.Equal(said(list), []string{"2001:db8:: locked out 1m0s refused commands"}) {
		t.Errorf("after an hour: %q", said(list))
	}
}

// Nobody is said to be kept waiting where nobody is.
func TestStandingsWithoutTarpit(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	r := rules()
	r.Hold = 0
	tab.Configure(r)
	count(tab, "192.0.2.1", Unknown, 6)
	if list, _ := tab.Standings(true, 10, anybody); len(list) != 1 || list[0].State != Counted {
		t.Errorf("%+v", list)
	}
}

// A client that is lifted begins anew: neither what it did here and is not told
// yet, nor what others did not tell in time, counts. What it does now does.
func TestLift(t *testing.T) {
	c := &clock{}
	a, b := c.table(0), c.table(0)
	count(a, "2001:db8::1", Unknown, 15)
	count(b, "2001:db8::2", Unknown, 15)
	count(a, "192.0.2.9", Unknown, 2)
	late := b.Deltas(nil, 10)
	was := a.Lift([]netip.Addr{ip("2001:db8::3"), ip("192.0.2.1")})
	if len(was) != 2 || was[0].Client != ip("2001:db8::") || was[0].State != LockedOut || was[0].Out != time.Hour || was[0].Why != Unknown || was[1].State != Unnoticed {
		t.Fatalf("what was lifted: %+v", was)
	}
	if d := a.Deltas(nil, 10); len(d) != 1 || d[0].Client != ip("192.0.2.9") {
		t.Errorf("after it was lifted others are told %+v", d)
	}
	c.now += Deaf - 1
	a.Merge(late)
	if v := a.Look(ip("2001:db8::1")); v != (Verdict{}) {
		t.Errorf("by late gossip: %+v", v)
	}
	count(a, "2001:db8::1", Unknown, 5)
	if v := a.Look(ip("2001:db8::1")); v.Hold == 0 {
		t.Errorf("it does it again: %+v", v)
	}
	if d := a.Deltas(nil, 10); len(d) != 1 || d[0].Counts[Unknown] != 5 {
		t.Errorf("what it does again is told as %+v", d)
	}
	c.now++
	a.Merge(late)
	if v := a.Look(ip("2001:db8::1")); v.Out == 0 {
		t.Errorf("others are not heard later: %+v", v)
	}
	a.Lift(nil)
	if len(a.lifted) != 0 {
		t.Errorf("%d that were lifted long ago are remembered", len(a.lifted))
	}
}

// Who does it again at once is told once, with what came afterwards.
func TestToldOnceAfterLift(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	count(tab, "192.0.2.1", Unknown, 7)
	tab.Lift([]netip.Addr{ip("192.0.2.1")})
	count(tab, "192.0.2.1", Unknown, 2)
	if d := tab.Deltas(nil, 10); len(d) != 1 || d[0].Counts[Unknown] != 2 {
		t.Errorf("deltas %+v", d)
	}
}

func TestParseClient(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "192.0.2.7/32": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8::1": "2001:db8::", "2001:db8::/64": "2001:db8::",
		"192.0.2.0/24": "!counted by address", "2001:db8::/48": "!counted by /64, so name these", "2001:db8::/80": "!which is 2001:db8::/64 here",
		"2001:db8::1/64": "!write either", "192.0.2.7/24": "!write either", "mail.example": "!no address and no network", "fe80::1%eth0": "!zone", "": "!no address",
	} {
		got, err := ParseClient(text)
		if complaint, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), complaint) {
				t.Errorf("%s: %v, %v, want %q", text, got, err, complaint)
			}
		} else if err != nil || got != ip(want) {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
}

// To look at a full table takes no longer than clients can wait.
func BenchmarkStandings(b *testing.B) {
	c := &clock{}
	tab := c.table(0)
	for i := range MaxClients {
		tab.Count(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Login)
	}
	for b.Loop() {
		c.now += time.Second
		tab.standings(true, anybody)
	}
}
