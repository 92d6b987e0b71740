package dnsx

import (
	"errors"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer: no packet makes the resolver panic or take more than it should,
// and none is taken that does not repeat the question.
func FuzzAnswer(f *testing.F) {
	types := []Type{TypeA, TypePTR, TypeMX, TypeTXT, TypeAAAA, TypeTLSA}
	query := func(t Type) (*dns.Msg, []byte) {
		q := &dns.Msg{}
		q.SetQuestion("a.example.", uint16(t))
		q.Id = 0x1234
		wire, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return q, wire
	}
	for i, records := range [][]string{
		{"a.example. 60 IN A 192.0.2.1"}, {"a.example. 60 IN PTR b."}, {"a.example. 60 IN MX 10 b.", "a.example. 60 IN MX 0 ."},
		{`a.example. 60 IN TXT "x\\y\001\"" "z"`}, {"a.example. 60 IN CNAME b.", "b. 60 IN AAAA ::1"}, {"a.example. 60 IN TLSA 3 1 1 ab12"},
	} {
		q, _ := query(types[i])
		m := &dns.Msg{}
		m.SetReply(q)
		m.Compress = true
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		soa, err := dns.NewRR("example. 60 IN SOA ns. h. 1 2 3 4 5")
		if err != nil {
			f.Fatal(err)
		}
		m.Ns = append(m.Ns, soa)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), wire)
	}
	f.Fuzz(func(t *testing.T, which uint8, packet []byte) {
		typ := types[int(which)%len(types)]
		_, wire := query(typ)
		m, err := parse(packet, wire)
		if err != nil {
			if !errors.Is(err, errStray) && !errors.Is(err, errMalformed) {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(packet) < headerLen || packet[0] != 0x12 || packet[1] != 0x34 {
			t.Fatalf("taken with another ID: %x", packet)
		}
		rd := read(m, "a.example", typ)
		a := &rd.ans
		if len(a.MX) > maxRecords || len(a.Addrs) > maxRecords || len(a.TXT) > maxRecords || len(a.Names) > maxRecords || len(a.TLSA) > maxRecords {
			t.Fatalf("too many records: %d", a.records)
		}
		if (rd.kind == found) != (len(a.MX)+len(a.Addrs)+len(a.TXT)+len(a.Names)+len(a.TLSA) > 0) {
			t.Fatalf("kind %d with %+v", rd.kind, a)
		}
		if a.size() < 200 || rd.kind == unusable && rd.err == nil {
			t.Fatalf("%+v", rd)
		}
	})
}

// FuzzName: what is taken for a name can be asked for.
func FuzzName(f *testing.F) {
	for _, s := range []string{"", ".", "a.example.", "A..b", "_25._tcp.x", "a b", "xn--a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := canonical(s)
		if err != nil {
			return
		}
		if again, err := canonical(name); err != nil || again != name {
			t.Fatalf("%q gives %q, and that %q, %v", s, name, again, err)
		}
		m := &dns.Msg{}
		m.SetQuestion(dns.Fqdn(name), dns.TypeMX)
		wire, err := m.Pack()
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		m.Response = true
		reply, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(reply, wire); err != nil {
			t.Fatalf("%q: its own answer is not known: %v", name, err)
		}
	})
}
