package source_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/clrelay/clrelay/delivery/source"
)

func member(name string, weight int) source.Member {
	return source.Member{Source: source.Source{Name: name, Addr: netip.MustParseAddr("192.0.2.1")}, Weight: weight}
}

func order(t *testing.T, s *source.Set, pool, message, domain string) []source.Source {
	t.Helper()
	list, err := s.Order(pool, message, domain)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestWeights(t *testing.T) {
	members := []source.Member{member("out1", 3), member("out2", 1), member("out3", 1)}
	for _, byMessage := range []bool{false, true} {
		s := source.New([]source.Pool{{Name: "bulk", Members: members, ByMessage: byMessage}})
		first := map[string]int{}
		const n = 20000
		for i := range n {
			message, domain := "one", fmt.Sprintf("d%d.example", i)
			if byMessage {
				message, domain = fmt.Sprint(i), "one.example"
			}
			list := order(t, s, "bulk", message, domain)
			if len(list) != 3 {
				t.Fatalf("%v", list)
			}
			first[list[0].Name]++
		}
		for _, m := range members {
			want := float64(m.Weight) / 5
			if got := float64(first[m.Source.Name]) / n; math.Abs(got-want) > 0.02 {
				t.Errorf("by message %t: %s has %.3f of the mail, want %.3f", byMessage, m.Source.Name, got, want)
			}
		}
	}
}

// The same mail leaves from the same address, however the pool is written down
// and whatever other members it has.
func TestStable(t *testing.T) {
	three := []source.Member{member("out1", 3), member("out2", 1), member("out3", 1)}
	s := source.New([]source.Pool{{Name: "bulk", Members: three}})
	turned := source.New([]source.Pool{{Name: "bulk", Members: []source.Member{three[2], three[0], three[1]}}})
	without := source.New([]source.Pool{{Name: "bulk", Members: three[:2]}})
	for i := range 1000 {
		domain := fmt.Sprintf("d%d.example", i)
		a := order(t, s, "bulk", "one", domain)
		if b := order(t, turned, "bulk", "another", domain); !slices.Equal(a, b) {
			t.Fatalf("%s: %v, and by another message and order of members %v", domain, a, b)
		}
		left := slices.DeleteFunc(slices.Clone(a), func(s source.Source) bool { return s.Name == "out3" })
		if b := order(t, without, "bulk", "one", domain); !slices.Equal(left, b) {
			t.Fatalf("%s: without out3 %v became %v", domain, left, b)
		}
	}
}

func TestNobody(t *testing.T) {
	s := source.New([]source.Pool{{Name: "away"}, {Name: "wait", Wait: true}})
	for _, pool := range []string{"", "away"} {
		if list := order(t, s, pool, "m", "d"); len(list) != 1 || !list[0].IsZero() {
			t.Errorf("pool %q: %v is not the system's choice", pool, list)
		}
	}
	for _, pool := range []string{"wait", "gone"} {
		if list, err := s.Order(pool, "m", "d"); err == nil {
			t.Errorf("pool %q gave %v", pool, list)
		}
	}
}

func TestFits(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	for _, c := range []struct {
		source, host netip.Addr
		want         bool
	}{{four, four, true}, {four, mapped, true}, {four, six, false}, {six, six, true}, {six, four, false}, {netip.Addr{}, six, true}, {netip.Addr{}, four, true}} {
		if got := (source.Source{Addr: c.source}).Fits(c.host); got != c.want {
			t.Errorf("from %v to %v: %t", c.source, c.host, got)
		}
	}
}

func BenchmarkOrder(b *testing.B) {
	s := source.New([]source.Pool{{Name: "bulk", Members: []source.Member{member("out1", 3), member("out2", 1), member("out3", 1)}}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Order("bulk", "m", "example.org"); err != nil {
			b.Fatal(err)
		}
	}
}
