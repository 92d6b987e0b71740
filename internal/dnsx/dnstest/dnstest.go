// Package dnstest is a small authoritative DNS server on a loopback port, for
// tests and for the demo: the world of invented domains that a relay sends
// mail into, with those that fail in every way a name can.
//
// The world is a Zone, a Go literal, and can be changed while the server runs.
// It is no server for the internet: it knows no zones cuts, no DNSSEC, no
// transfers, and answers whoever asks. Start serves UDP and TCP on one port
// until Close; all methods are safe for concurrent use.
//
//	srv, err := dnstest.Start(dnstest.Zone{
//		"example.org":    {MX: []dnstest.MX{{Pref: 10, Host: "mx.example.org"}}},
//		"mx.example.org": {A: []string{"127.0.0.1"}},
//		"null.example":   {MX: []dnstest.MX{{Host: "."}}},
//		"broken.example": {Rcode: dnstest.ServFail},
//		"dead.example":   {Drop: true},
//		"*.bulk.example": {A: []string{"127.0.0.1"}},
//	})
package dnstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Zone is the world by name: lower case, without a dot at the end. A name
// "*.example.org" stands for all below example.org that are not listed. A name
// that is neither listed nor above one that is does not exist (NXDOMAIN).
type Zone map[string]Name

// Name is what there is at a name, and how it is answered. The zero value is
// a name that exists and has nothing.
type Name struct {
	A, AAAA []string
	MX      []MX
	TXT     []string
	PTR     []string
	TLSA    []TLSA
	CNAME   string // followed as long as the target is in the zone

	TTL      uint32 // of the records, and of "there is none"; default 60
	AD       bool   // say that the data was validated
	Rcode    int    // answer with this code and nothing else
	Drop     bool   // do not answer at all
	Truncate bool   // answer UDP with the TC flag and nothing else, as if it did not fit
}

// MX is a mail exchanger; host "." makes it a null MX (RFC 7505).
type MX struct {
	Pref uint16
	Host string
}

// TLSA is a certificate association; Data is hexadecimal.
type TLSA struct {
	Usage, Selector, MatchingType uint8
	Data                          string
}

// Response codes for Name.Rcode.
const (
	FormErr  = dns.RcodeFormatError
	ServFail = dns.RcodeServerFailure
	NotImpl  = dns.RcodeNotImplemented
	Refused  = dns.RcodeRefused
)

const (
	defaultTTL = 60
	maxLinks   = 8 // CNAMEs that are followed in one answer
	classicUDP = 512
)

// Server answers for a Zone.
type Server struct {
	addr     netip.AddrPort
	udp, tcp *dns.Server

	mu    sync.Mutex
	zone  Zone
	asked map[string]int
}

// Start serves zone on a free port of 127.0.0.1.
func Start(zone Zone) (*Server, error) { return Listen("127.0.0.1:0", zone) }

// Listen is Start at an address that the caller chooses. With port 0 a port is
// taken that is free for both UDP and TCP.
func Listen(addr string, zone Zone) (*Server, error) {
	var udp net.PacketConn
	var tcp net.Listener
	err := errors.New("no try")
	for try := 0; err != nil; try++ {
		if try == 20 {
			return nil, fmt.Errorf("dnstest: %w", err)
		}
		if udp, err = net.ListenPacket("udp", addr); err != nil {
			continue
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err != nil {
			_ = udp.Close() // the port is taken for TCP: try another one
		}
	}
	s := &Server{zone: maps.Clone(zone), asked: map[string]int{}, addr: udp.LocalAddr().(*net.UDPAddr).AddrPort()}
	ready := make(chan struct{}, 2)
	started := func() { ready <- struct{}{} }
	s.udp = &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(s.serve), NotifyStartedFunc: started}
	s.tcp = &dns.Server{Listener: tcp, Handler: dns.HandlerFunc(s.serve), NotifyStartedFunc: started}
	go s.udp.ActivateAndServe() //nolint:errcheck // it ends with Close
	go s.tcp.ActivateAndServe() //nolint:errcheck // it ends with Close
	<-ready
	<-ready
	return s, nil
}

// Addr is where the server answers, over UDP and TCP.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close stops the server.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := errors.Join(s.udp.ShutdownContext(ctx), s.tcp.ShutdownContext(ctx)); err != nil {
		return fmt.Errorf("dnstest: %w", err)
	}
	return nil
}

// Set puts a name into the world, or changes it.
func (s *Server) Set(name string, n Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[strings.ToLower(name)] = n
}

// Remove takes a name out of the world.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.zone, strings.ToLower(name))
}

// Asked counts the questions for a name since the start, of any type, over UDP
// and TCP, also those that were not answered.
func (s *Server) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[strings.ToLower(name)]
}

func (s *Server) serve(w dns.ResponseWriter, req *dns.Msg) {
	if len(req.Question) != 1 {
		return
	}
	q := req.Question[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	s.mu.Lock()
	s.asked[name]++
	m := s.answer(req, name, q.Qtype)
	n, _ := s.lookup(name)
	s.mu.Unlock()
	if n.Drop {
		return
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := classicUDP
		if opt := req.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		if n.Truncate {
			m.Answer, m.Ns, m.Truncated = nil, nil, true
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // who asked is gone
}

// answer builds the message; the caller holds mu.
func (s *Server) answer(req *dns.Msg, name string, qtype uint16) *dns.Msg {
	m := &dns.Msg{}
	m.SetReply(req)
	m.Authoritative, m.RecursionAvailable, m.Compress = true, true, true
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(opt.UDPSize(), opt.Do())
	}
	for range maxLinks {
		n, ok := s.lookup(name)
		if n.Rcode != 0 {
			m.Rcode, m.Answer = n.Rcode, nil
			return m
		}
		if !ok {
			m.Rcode = dns.RcodeNameError
		}
		m.AuthenticatedData = n.AD
		if n.CNAME != "" && qtype != dns.TypeCNAME {
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(name, dns.TypeCNAME, n), Target: dns.Fqdn(n.CNAME)})
			name = strings.ToLower(strings.TrimSuffix(n.CNAME, "."))
			continue
		}
		data := records(name, qtype, n)
		if len(data) == 0 {
			m.Ns = append(m.Ns, soa(name, n))
		}
		m.Answer = append(m.Answer, data...)
		return m
	}
	return m
}

// lookup finds a name, the wildcard over it, or that names exist below it; the
// caller holds mu.
func (s *Server) lookup(name string) (Name, bool) {
	if n, ok := s.zone[name]; ok {
		return n, true
	}
	for rest := name; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		if n, ok := s.zone["*."+rest]; ok {
			return n, true
		}
	}
	for other := range s.zone {
		if strings.HasSuffix(other, "."+name) {
			return Name{}, true
		}
	}
	return Name{}, false
}

func header(name string, typ uint16, n Name) dns.RR_Header {
	ttl := n.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// soa is what goes with "there is none": the root stands for the zone.
func soa(name string, n Name) dns.RR {
	h := header(name, dns.TypeSOA, n)
	h.Name = "."
	return &dns.SOA{Hdr: h, Ns: "ns.", Mbox: "hostmaster.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: h.Ttl}
}

// records gives the data of one type; ANY gives none.
func records(name string, qtype uint16, n Name) []dns.RR {
	var out []dns.RR
	h := header(name, qtype, n)
	switch qtype {
	case dns.TypeA:
		for _, a := range n.A {
			out = append(out, &dns.A{Hdr: h, A: net.ParseIP(a)})
		}
	case dns.TypeAAAA:
		for _, a := range n.AAAA {
			out = append(out, &dns.AAAA{Hdr: h, AAAA: net.ParseIP(a)})
		}
	case dns.TypeMX:
		for _, mx := range n.MX {
			out = append(out, &dns.MX{Hdr: h, Preference: mx.Pref, Mx: dns.Fqdn(mx.Host)})
		}
	case dns.TypeTXT:
		for _, t := range n.TXT {
			out = append(out, &dns.TXT{Hdr: h, Txt: chunks(t)})
		}
	case dns.TypePTR:
		for _, p := range n.PTR {
			out = append(out, &dns.PTR{Hdr: h, Ptr: dns.Fqdn(p)})
		}
	case dns.TypeTLSA:
		for _, t := range n.TLSA {
			out = append(out, &dns.TLSA{Hdr: h, Usage: t.Usage, Selector: t.Selector, MatchingType: t.MatchingType, Certificate: t.Data})
		}
	case dns.TypeCNAME:
		if n.CNAME != "" {
			out = append(out, &dns.CNAME{Hdr: h, Target: dns.Fqdn(n.CNAME)})
		}
	}
	return out
}

// chunks cuts a text into strings of a TXT record, 255 octets each.
func chunks(s string) []string {
	var out []string
	for len(s) > 255 {
		out, s = append(out, escape(s[:255])), s[255:]
	}
	return append(out, escape(s))
}

// escape keeps backslashes and quotes from being taken for escapes.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
