package dnsx_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/clrelay/clrelay/internal/dnsx"
)

// fake is a server in memory that says whatever a test wants. It gets the
// packed question and returns packets; nil is silence.
type fake func(network, addr string, query *dns.Msg) [][]byte

// dial connects to the fake over a pipe, which works in a synctest bubble.
func (f fake) dial(_ context.Context, network, addr string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		buf := make([]byte, 4096)
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		packet := buf[:n]
		if network == "tcp" {
			packet = packet[2:]
		}
		q := &dns.Msg{}
		if err := q.Unpack(packet); err != nil {
			return
		}
		for _, p := range f(network, addr, q) {
			if network == "tcp" {
				p = append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
			}
			if _, err := server.Write(p); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, server) // stay until the client leaves
	}()
	return client, nil
}

func (f fake) resolver(o dnsx.Options) *dnsx.Resolver {
	if o.Servers == nil {
		o.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	o.Dial = f.dial
	return dnsx.New(o)
}

// counter counts what goroutines of fakes see.
type counter struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *counter) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]int{}
	}
	c.m[key]++
}

func (c *counter) get(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[key]
}

func (c *counter) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.m)
}

// reply answers a query with records in zone file form; those that begin with
// "soa:" go into the authority section.
func reply(t *testing.T, q *dns.Msg, records ...string) *dns.Msg {
	m := &dns.Msg{}
	m.SetReply(q)
	m.RecursionAvailable = true
	for _, text := range records {
		text, authority := strings.CutPrefix(text, "soa:")
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Error(err)
		}
		if authority {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func pack(t *testing.T, m *dns.Msg) []byte {
	p, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return p
}

const goodA = "a.example. 60 IN A 192.0.2.1"

// What a server sends before, or instead of, the answer.
func TestHostileAnswers(t *testing.T) {
	good := func(q *dns.Msg) *dns.Msg { return reply(t, q, goodA) }
	edit := func(f func(m *dns.Msg)) fake {
		return func(_, _ string, q *dns.Msg) [][]byte {
			m := reply(t, q, "a.example. 60 IN A 203.0.113.66")
			f(m)
			return [][]byte{pack(t, m), pack(t, good(q))}
		}
	}
	raw := func(f func(p []byte) []byte) fake {
		return func(network, _ string, q *dns.Msg) [][]byte {
			if network == "tcp" {
				return [][]byte{pack(t, good(q))}
			}
			return [][]byte{f(pack(t, reply(t, q, "a.example. 60 IN A 203.0.113.66"))), pack(t, good(q))}
		}
	}
	records := func(rs ...string) fake {
		return func(_, _ string, q *dns.Msg) [][]byte { return [][]byte{pack(t, reply(t, q, rs...))} }
	}
	const right = "[192.0.2.1]"
	var chain []string
	for i := range 20 {
		chain = append(chain, fmt.Sprintf("%s.example. 60 IN CNAME %s.example.", strings.Repeat("a", i+1), strings.Repeat("a", i+2)))
	}
	for name, c := range map[string]struct {
		f    fake
		want string // addresses, or what the error holds
	}{
		"another ID":    {edit(func(m *dns.Msg) { m.Id++ }), right},
		"another name":  {edit(func(m *dns.Msg) { m.Question[0].Name = "b.example." }), right},
		"a longer name": {edit(func(m *dns.Msg) { m.Question[0].Name = "a.example.org." }), right},
		"another type":  {edit(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }), right},
		"another class": {edit(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), right},
		"no question":   {edit(func(m *dns.Msg) { m.Question = nil }), right},
		"two questions": {edit(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), right},
		"a query":       {edit(func(m *dns.Msg) { m.Response = false }), right},
		"a status":      {edit(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), right},
		"the name in other case": {func(_, _ string, q *dns.Msg) [][]byte {
			m := good(q)
			m.Question[0].Name = "A.eXample."
			return [][]byte{pack(t, m)}
		}, right},
		"nothing":                       {raw(func([]byte) []byte { return []byte{} }), right},
		"half a header":                 {raw(func(p []byte) []byte { return p[:7] }), right},
		"header alone":                  {raw(func(p []byte) []byte { return p[:12] }), right},
		"half an answer: TCP":           {raw(func(p []byte) []byte { return p[:len(p)-3] }), right},
		"pointer to itself: TCP":        {raw(func(p []byte) []byte { copy(p[len(p)-16:], []byte{0xc0, byte(len(p) - 16)}); return p }), right},
		"records that are missing: TCP": {raw(func(p []byte) []byte { p[7] = 200; return p }), right},
		"truncated, with records":       {raw(func(p []byte) []byte { p[2] |= 2; return p }), right},

		"records of other names":    {records("b.example. 60 IN A 203.0.113.66", goodA, "example. 60 IN A 203.0.113.66"), right},
		"records of other types":    {records("a.example. 60 IN TXT x", goodA, "a.example. 60 IN AAAA 2001:db8::66"), right},
		"records of other classes":  {records("a.example. 60 CH A 203.0.113.66", goodA), right},
		"owner in other case":       {records("A.EXAMPLE. 60 IN A 192.0.2.1"), right},
		"a chain to the data":       {records("c.example. 60 IN A 192.0.2.1", "b.example. 60 IN CNAME C.example.", "a.example. 60 IN CNAME b.example."), right},
		"data beside the chain":     {records("a.example. 60 IN CNAME b.example.", "a.example. 60 IN A 203.0.113.66", "b.example. 60 IN A 192.0.2.1"), right},
		"a chain to itself":         {records("a.example. 60 IN CNAME a.example."), "CNAME chain"},
		"a chain in a ring":         {records("a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example."), "CNAME chain"},
		"a long chain":              {records(chain...), "CNAME chain"},
		"a chain to no host name":   {records(`a.example. 60 IN CNAME a\032b.example.`), "not a domain name"},
		"a chain to the root":       {records("a.example. 60 IN CNAME ."), "not a domain name"},
		"negative for another zone": {records("soa:other. 60 IN SOA ns. h. 1 2 3 4 60"), "has no A record"},
		"a referral":                {records("soa:example. 60 IN NS ns.example."), "did not ask further"},
		"SERVFAIL with records":     {func(_, _ string, q *dns.Msg) [][]byte { m := good(q); m.Rcode = 2; return [][]byte{pack(t, m)} }, "SERVFAIL"},
		"an unknown code":           {func(_, _ string, q *dns.Msg) [][]byte { m := good(q); m.Rcode = 14; return [][]byte{pack(t, m)} }, "14"},
		"truncated over TCP":        {func(_, _ string, q *dns.Msg) [][]byte { m := good(q); m.Truncated = true; return [][]byte{pack(t, m)} }, "malformed answer"},
		"garbage over TCP":          {func(_, _ string, q *dns.Msg) [][]byte { p := pack(t, good(q)); return [][]byte{p[:len(p)-3]} }, "malformed answer"},
		"a flood of other answers": {func(_, _ string, q *dns.Msg) (out [][]byte) {
			for range 1000 {
				m := good(q)
				m.Id++
				out = append(out, pack(t, m))
			}
			return out
		}, "other questions"},
		"TCP alone, and that is closed": {func(network, _ string, q *dns.Msg) [][]byte {
			if network == "tcp" {
				return nil
			}
			m := good(q)
			m.Truncated = true
			return [][]byte{pack(t, m)}
		}, "no answer"},
		"data of no length": {records(`a.example. 60 IN A \# 0`), "has no A record"},
		"silence":           {func(string, string, *dns.Msg) [][]byte { return nil }, "no answer"},
		"does not know EDNS": {func(_, _ string, q *dns.Msg) [][]byte {
			if q.IsEdns0() != nil {
				return [][]byte{{byte(q.Id >> 8), byte(q.Id), 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0}}
			}
			return [][]byte{pack(t, good(q))}
		}, right},
		"understands nothing": {func(_, _ string, q *dns.Msg) [][]byte {
			return [][]byte{{byte(q.Id >> 8), byte(q.Id), 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0}}
		}, "FORMERR"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := c.f.resolver(dnsx.Options{}).Query(t.Context(), "a.example", dnsx.TypeA)
				got := fmt.Sprint(err)
				if err == nil {
					got = fmt.Sprint(a.Addrs)
				}
				if !strings.Contains(got, c.want) {
					t.Errorf("%s, want %s", got, c.want)
				}
				synctest.Wait()
			})
		})
	}
}

// An authoritative server does not follow CNAMEs out of its zones.
func TestChase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked counter
		f := fake(func(_, _ string, q *dns.Msg) [][]byte {
			asked.add("")
			name := q.Question[0].Name
			var n int
			if _, err := fmt.Sscanf(name, "n%d.example.", &n); err != nil || n < 0 {
				return [][]byte{pack(t, reply(t, q))}
			}
			if n == 0 {
				return [][]byte{pack(t, reply(t, q, name+" 60 IN A 192.0.2.1"))}
			}
			return [][]byte{pack(t, reply(t, q, fmt.Sprintf("%s 60 IN CNAME n%d.example.", name, n-1)))}
		})
		r := f.resolver(dnsx.Options{})
		if a, err := r.Query(t.Context(), "n5.example", dnsx.TypeA); err != nil || a.Name != "n0.example" || asked.get("") != 6 {
			t.Errorf("%+v, %v, asked %d", a, err, asked.get(""))
		}
		asked.clear()
		if _, err := r.Query(t.Context(), "n50.example", dnsx.TypeA); err == nil || !strings.Contains(err.Error(), "CNAME chain") || asked.get("") != 11 {
			t.Errorf("%v, asked %d", err, asked.get(""))
		}
	})
}

// Entries live as long as their TTL says, between the bounds.
func TestCacheTimes(t *testing.T) {
	for name, c := range map[string]struct {
		records []string
		rcode   int
		want    time.Duration
	}{
		"as it says":         {[]string{goodA}, 0, time.Minute},
		"the least of all":   {[]string{goodA, "a.example. 30 IN A 192.0.2.2"}, 0, 30 * time.Second},
		"the chain counts":   {[]string{"a.example. 20 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.2"}, 0, 20 * time.Second},
		"not below":          {[]string{"a.example. 0 IN A 192.0.2.1"}, 0, 5 * time.Second},
		"not above":          {[]string{"a.example. 604800 IN A 192.0.2.1"}, 0, time.Hour},
		"negative is zero":   {[]string{"a.example. 4294967295 IN A 192.0.2.1"}, 0, 5 * time.Second},
		"no data":            {[]string{"soa:example. 300 IN SOA ns. h. 1 2 3 4 40"}, 0, 40 * time.Second},
		"the SOA's own":      {[]string{"soa:example. 50 IN SOA ns. h. 1 2 3 4 300"}, 0, 50 * time.Second},
		"no name":            {[]string{"soa:example. 86400 IN SOA ns. h. 1 2 3 4 86400"}, 3, 15 * time.Minute},
		"nothing about none": {nil, 3, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked counter
				r := fake(func(_, _ string, q *dns.Msg) [][]byte {
					asked.add("")
					m := reply(t, q, c.records...)
					m.Rcode = c.rcode
					return [][]byte{pack(t, m)}
				}).resolver(dnsx.Options{})
				ask := func() {
					a, err := r.Query(t.Context(), "a.example", dnsx.TypeA)
					if err != nil && !errors.Is(err, dnsx.ErrNotFound) {
						t.Fatal(err)
					}
					if err == nil && asked.get("") == 1 && a.TTL > c.want {
						t.Errorf("TTL %v", a.TTL)
					}
				}
				ask()
				time.Sleep(c.want - time.Nanosecond)
				ask()
				if asked.get("") != 1 {
					t.Errorf("asked %d times before %v were over", asked.get(""), c.want)
				}
				time.Sleep(time.Nanosecond)
				ask()
				if asked.get("") != 2 {
					t.Errorf("asked %d times when %v were over", asked.get(""), c.want)
				}
			})
		})
	}
}

func TestCacheBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked counter
		f := fake(func(_, _ string, q *dns.Msg) [][]byte {
			name := q.Question[0].Name
			asked.add(name)
			text := "x"
			if strings.HasPrefix(name, "big") {
				text = strings.Repeat("x", 250)
			}
			return [][]byte{pack(t, reply(t, q, name+" 60 IN TXT "+text+" "+text))}
		})
		query := func(r *dnsx.Resolver, names ...string) {
			for _, n := range names {
				if _, err := r.LookupTXT(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			}
		}
		query(f.resolver(dnsx.Options{MaxEntries: 2}), "a", "b", "a", "c", "a", "b")
		if asked.get("a.") != 1 || asked.get("b.") != 2 || asked.get("c.") != 1 {
			t.Errorf("by entries: %v", asked.m)
		}
		asked.clear()
		query(f.resolver(dnsx.Options{MaxBytes: 600}), "a", "b", "a", "big", "big", "a", "b")
		if asked.get("a.") != 1 || asked.get("b.") != 1 || asked.get("big.") != 2 {
			t.Errorf("by octets, one that is too large: %v", asked.m)
		}
		asked.clear()
		query(f.resolver(dnsx.Options{MaxBytes: 1000}), "a", "b", "big", "a", "big")
		if asked.get("a.") != 2 || asked.get("big.") != 1 {
			t.Errorf("by octets, one that is large: %v", asked.m)
		}
	})
}

// A server that is silent is not waited for by every lookup.
func TestSilentServerIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked counter
		var dead atomic.Bool
		dead.Store(true)
		r := fake(func(_, addr string, q *dns.Msg) [][]byte {
			asked.add(addr)
			if addr == "127.0.0.1:53" && dead.Load() {
				return nil
			}
			return [][]byte{pack(t, reply(t, q, q.Question[0].Name+" 60 IN A 192.0.2.1"))}
		}).resolver(dnsx.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("127.0.0.2:53")}})
		start, n := time.Now(), 0
		query := func(times int) {
			for range times {
				n++
				if _, err := r.Query(t.Context(), fmt.Sprintf("n%d.example", n), dnsx.TypeA); err != nil {
					t.Fatal(err)
				}
			}
		}
		query(20)
		if d := time.Since(start); d != 3*time.Second || asked.get("127.0.0.1:53") != 1 {
			t.Errorf("20 lookups took %v and asked the dead server %d times", d, asked.get("127.0.0.1:53"))
		}
		time.Sleep(10 * time.Second)
		query(20)
		if d := time.Since(start); d != 16*time.Second || asked.get("127.0.0.1:53") != 2 {
			t.Errorf("it was tried again %d times, after %v", asked.get("127.0.0.1:53"), d)
		}
		dead.Store(false)
		time.Sleep(20 * time.Second)
		query(20)
		if asked.get("127.0.0.1:53") != 12 {
			t.Errorf("it is back, and was asked %d times", asked.get("127.0.0.1:53"))
		}
	})
}

// Nobody answers: the lookup ends after all tries, and says so.
func TestAllSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := fake(func(string, string, *dns.Msg) [][]byte { return nil }).resolver(dnsx.Options{})
		_, err := r.LookupAddrs(t.Context(), "a.example")
		if err == nil || !strings.Contains(err.Error(), "a.example at 127.0.0.1:53: no answer") || time.Since(start) != 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		if _, err := r.LookupMX(ctx, "a.example"); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("%v", err)
		}
		synctest.Wait()
	})
}

// Of two lookups of the same, one may give up without hurting the other; when
// both do, the question ends.
func TestSharedQuestionOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked counter
		gate := make(chan struct{})
		r := fake(func(_, _ string, q *dns.Msg) [][]byte {
			asked.add("")
			<-gate
			return [][]byte{pack(t, reply(t, q, goodA))}
		}).resolver(dnsx.Options{Timeout: time.Hour})
		first, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Query(first, "a.example", dnsx.TypeA); !errors.Is(err, context.Canceled) {
				t.Errorf("first: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := r.Query(t.Context(), "a.example", dnsx.TypeA); err != nil {
				t.Errorf("second: %v", err)
			}
		})
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close(gate)
		wg.Wait()
		if asked.get("") != 1 {
			t.Errorf("asked %d times", asked.get(""))
		}
	})
}

// Only so many questions are asked at a time; the others wait, and can give up.
func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		gate := make(chan struct{})
		r := fake(func(_, _ string, q *dns.Msg) [][]byte {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-gate
			mu.Lock()
			now--
			mu.Unlock()
			return [][]byte{pack(t, reply(t, q, q.Question[0].Name+" 60 IN A 192.0.2.1"))}
		}).resolver(dnsx.Options{Timeout: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				_, _ = r.Query(ctx, fmt.Sprintf("n%d.example", i), dnsx.TypeA)
			})
		}
		synctest.Wait()
		if most != 512 {
			t.Errorf("%d questions at a time", most)
		}
		cancel()
		wg.Wait()
		close(gate)
		synctest.Wait()
	})
}

// When only one of the two questions of LookupAddrs is answered.
func TestHalfAnAnswer(t *testing.T) {
	for name, c := range map[string]struct{ a, aaaa, want string }{
		"A alone":             {"a.example. 60 IN A 192.0.2.1", "fail", "[192.0.2.1]"},
		"AAAA alone":          {"fail", "a.example. 60 IN AAAA 2001:db8::1", "[2001:db8::1]"},
		"no A, AAAA fails":    {"", "fail", "SERVFAIL"},
		"A fails, no AAAA":    {"fail", "", "SERVFAIL"},
		"both fail":           {"fail", "fail", "SERVFAIL"},
		"neither":             {"", "", "has no"},
		"AAAA that is mapped": {"", "a.example. 60 IN AAAA ::ffff:192.0.2.7", "[192.0.2.7]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := fake(func(_, _ string, q *dns.Msg) [][]byte {
				text := c.a
				if q.Question[0].Qtype == dns.TypeAAAA {
					text = c.aaaa
				}
				m := reply(t, q)
				switch text {
				case "fail":
					m.Rcode = 2
				case "":
				default:
					m = reply(t, q, text)
				}
				return [][]byte{pack(t, m)}
			}).resolver(dnsx.Options{})
			addrs, err := r.LookupAddrs(t.Context(), "a.example")
			got := fmt.Sprint(addrs)
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		})
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var asked counter
		r := fake(func(_, addr string, q *dns.Msg) [][]byte {
			asked.add(addr)
			return [][]byte{pack(t, reply(t, q, q.Question[0].Name+" 60 IN A 192.0.2.1"))}
		}).resolver(dnsx.Options{ResolvConf: file, Servers: []netip.AddrPort{}})
		n := 0
		query := func(want string) {
			t.Helper()
			asked.clear()
			n++
			if _, err := r.Query(t.Context(), fmt.Sprintf("n%d.example", n), dnsx.TypeA); err != nil {
				t.Fatal(err)
			}
			if asked.get(want) != 1 {
				t.Errorf("asked %v, want %s", asked.m, want)
			}
		}
		query("127.0.0.1:53") // no file
		write("# comment\nsearch example.org\nnameserver 192.0.2.53\nnameserver bad\nnameserver\n")
		query("127.0.0.1:53") // not looked at yet
		time.Sleep(5 * time.Second)
		query("192.0.2.53:53")
		write("nameserver fe80::1%eth0\n")
		time.Sleep(5 * time.Second)
		query("[fe80::1%eth0]:53")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		query("[fe80::1%eth0]:53") // what was known stays
		write("search example.org\n")
		time.Sleep(5 * time.Second)
		query("127.0.0.1:53")
		write(strings.Repeat("nameserver 192.0.2.54\n", 100))
		time.Sleep(5 * time.Second)
		query("192.0.2.54:53")
	})
}
