package abuse

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

type clock struct{ now time.Duration }

func rules() Rules {
	return Rules{Window: 10 * time.Minute, Most: [Kinds]int{100, 10, 5, 3}, Hold: 5 * time.Second, Lockout: time.Hour}
}

func (c *clock) table(max int) *Table {
	t := New(func() time.Duration { return c.now }, max)
	t.Configure(rules())
	return t
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestFromWaitingToLockout(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	bad := ip("192.0.2.1")
	for i := 1; i <= 15; i++ {
		v := tab.Count(bad, Unknown)
		switch {
		case i < 5 && v != Verdict{}:
			t.Fatalf("unknown recipient %d: %+v, want nothing", i, v)
		case i >= 5 && i < 15 && v != Verdict{Hold: 5 * time.Second, Why: Unknown}:
			t.Fatalf("unknown recipient %d: %+v, want to be kept waiting", i, v)
		case i == 15 && v != Verdict{Hold: 5 * time.Second, Out: time.Hour, Why: Unknown, News: true}:
			t.Fatalf("unknown recipient %d: %+v, want to be locked out", i, v)
		}
	}
	if v := tab.Count(bad, Refused); v.Out != time.Hour || v.News {
		t.Fatalf("the next: %+v, want locked out and no news", v)
	}
	if v := tab.Look(ip("192.0.2.2")); v != (Verdict{}) {
		t.Fatalf("a neighbour: %+v", v)
	}
	c.now += 59 * time.Minute
	if v := tab.Look(bad); v.Out != time.Minute {
		t.Fatalf("after 59 minutes: %+v", v)
	}
	c.now += time.Minute
	if v := tab.Look(bad); v != (Verdict{}) {
		t.Fatalf("after an hour: %+v, want forgiven", v)
	}
}

// A little time between them takes nothing away from a few.
func TestThresholdIsMetInTime(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	for i := 1; i <= 5; i++ {
		if v := tab.Count(ip("192.0.2.1"), Unknown); (v.Hold > 0) != (i == 5) {
			t.Fatalf("unknown recipient %d: %+v", i, v)
		}
		c.now += time.Second
	}
}

func TestCountsFade(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	for range 1000 { // one in 3 minutes: 3.9 at a time
		if v := tab.Count(ip("192.0.2.1"), Unknown); v != (Verdict{}) {
			t.Fatalf("a slow client: %+v", v)
		}
		c.now += 3 * time.Minute
	}
}

func TestNothingWithoutRules(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	tab.Configure(Rules{})
	for range 1000 {
		if v := tab.Count(ip("192.0.2.1"), Refused); v != (Verdict{}) {
			t.Fatalf("without rules: %+v", v)
		}
	}
	if n, _ := tab.Clients(); n != 0 {
		t.Fatalf("without rules %d clients are remembered", n)
	}
}

func TestNetworks(t *testing.T) {
	c := &clock{}
	tab := c.table(0)
	for i := range 10 {
		a := ip("2001:db8::").As16()
		a[15] = byte(i)
		tab.Count(netip.AddrFrom16(a), Unknown)
	}
	if v := tab.Look(ip("2001:db8::ffff")); v.Hold == 0 {
		t.Error("addresses of one /64 are not counted together")
	}
	if v := tab.Look(ip("2001:db8:0:1::1")); v.Hold != 0 {
		t.Error("another /64 is counted with it")
	}
}

// Clients that are forgotten leave nothing behind, also where nobody asks for what
// was counted: on a machine that is alone.
func TestForgottenClientsTakeNoRoom(t *testing.T) {
	c := &clock{}
	tab := c.table(50)
	for i := range 10_000 {
		tab.Count(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), Unknown)
	}
	if n, _ := tab.Clients(); n != 50 || len(tab.changed) > 50 {
		t.Errorf("%d clients are remembered, %d are to be told of", n, len(tab.changed))
	}
	tab.Deltas(nil, 1000)
	tab.Count(ip("192.0.2.1"), Unknown)
	if d := tab.Deltas(nil, 10); len(d) != 1 || d[0].Client != ip("192.0.2.1") {
		t.Errorf("when there is room again: %+v", d)
	}
}

// Who spreads over the nodes is seen as one, and nothing is told twice.
func TestNodesTellEachOther(t *testing.T) {
	c := &clock{}
	a, b := c.table(0), c.table(0)
	bad := ip("192.0.2.1")
	for range 8 {
		a.Count(bad, Unknown)
		b.Count(bad, Unknown)
	}
	da, db := a.Deltas(nil, 10), b.Deltas(nil, 10)
	if len(da) != 1 || da[0].Client != bad || da[0].Counts[Unknown] != 8 {
		t.Fatalf("deltas %+v", da)
	}
	for _, out := range [][]Standing{a.Merge(db), b.Merge(da)} {
		if len(out) != 1 || out[0].Client != bad || out[0].Out != time.Hour || out[0].Why != Unknown {
			t.Errorf("they say that by this %+v are locked out", out)
		}
	}
	if out := a.Merge(db); len(out) != 0 {
		t.Errorf("once more: %+v", out)
	}
	if v := a.Look(bad); v.Out == 0 {
		t.Errorf("16 at two nodes: %+v, want locked out", v)
	}
	if v := b.Look(bad); v.Out == 0 {
		t.Errorf("16 at two nodes: %+v, want locked out", v)
	}
	if d := a.Deltas(nil, 10); len(d) != 0 {
		t.Errorf("told again: %+v", d)
	}
	for i := range 5 {
		a.Count(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Refused)
	}
	if d := a.Deltas(nil, 3); len(d) != 3 {
		t.Errorf("%d were told, want 3", len(d))
	}
	if d := a.Deltas(nil, 3); len(d) != 2 {
		t.Errorf("%d were told then, want the other 2", len(d))
	}
}

// A flood of clients neither takes memory nor has anybody forgotten who is
// locked out.
func TestFlood(t *testing.T) {
	c := &clock{}
	tab := c.table(1000)
	bad := ip("192.0.2.1")
	for range 30 {
		tab.Count(bad, Unknown)
	}
	for i := range 100_000 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(i))
		tab.Count(netip.AddrFrom4(a), Refused)
	}
	if n, out := tab.Clients(); n > 1000 || out != 1 {
		t.Errorf("%d clients are remembered, %d locked out", n, out)
	}
	if v := tab.Look(bad); v.Out == 0 {
		t.Error("who was locked out is forgotten")
	}
}

func TestMessages(t *testing.T) {
	list := make([]Delta, Batch)
	for i := range list {
		list[i] = Delta{Client: netip.AddrFrom16([16]byte{0x20, 1, 7: byte(i)}), Counts: [Kinds]uint16{1, 2, 3, 300}}
	}
	list[0].Client = ip("192.0.2.1")
	b := Encode(list)
	got, err := Decode(b)
	if err != nil || len(got) != len(list) || len(b) > MaxMessage {
		t.Fatalf("%d octets are read as %d clients, %v", len(b), len(got), err)
	}
	for i := range got {
		list[i].Counts[Login] = 255
		if got[i] != list[i] {
			t.Errorf("client %d: %+v, want %+v", i, got[i], list[i])
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]Delta{{Client: ip("192.0.2.1"), Counts: [Kinds]uint16{1, 2, 3, 4}}, {Client: ip("2001:db8::")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Decode(b)
		if err != nil {
			return
		}
		tab := (&clock{}).table(10)
		tab.Merge(list)
		if again := Encode(list); len(list) > 0 && string(again) != string(b) && !mapped(list) {
			t.Fatalf("%x is read and written as %x", b, again)
		}
	})
}

// mapped tells whether an IPv6 network holds mapped addresses, which no client
// has.
func mapped(list []Delta) bool {
	for _, d := range list {
		if d.Client.Is4In6() {
			return true
		}
	}
	return false
}

func BenchmarkCount(b *testing.B) {
	c := &clock{}
	tab := c.table(0)
	a := ip("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		c.now += time.Minute
		tab.Count(a, Refused)
	}
}
