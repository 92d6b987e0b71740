package dnsx

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Type is the type of a DNS record.
type Type uint16

// The types that can be looked up.
const (
	TypeA    = Type(dns.TypeA)
	TypePTR  = Type(dns.TypePTR)
	TypeMX   = Type(dns.TypeMX)
	TypeTXT  = Type(dns.TypeTXT)
	TypeAAAA = Type(dns.TypeAAAA)
	TypeTLSA = Type(dns.TypeTLSA)
)

// String gives "MX", or "TYPE99".
func (t Type) String() string {
	if s, ok := dns.TypeToString[uint16(t)]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

func (t Type) known() bool {
	return slices.Contains([]Type{TypeA, TypePTR, TypeMX, TypeTXT, TypeAAAA, TypeTLSA}, t)
}

// MX is one mail exchanger (RFC 5321 5.1). Host is in lower case, without a
// dot at its end, as the DNS gave it: it need not be a name that can exist.
type MX struct {
	Pref uint16
	Host string
}

// IsNull tells whether it is the record of a domain that takes no mail
// (RFC 7505): its host is the root, ".".
func (m MX) IsNull() bool { return m.Host == "." }

// TLSA is one certificate association (RFC 6698 2.1).
type TLSA struct {
	Usage, Selector, MatchingType uint8
	Data                          string // hexadecimal, lower case
}

// Answer is the data found for a name. It is shared: do not change it.
type Answer struct {
	Name    string        // where the data stands, after CNAMEs
	AD      bool          // a trusted resolver says that all of it was validated
	TTL     time.Duration // how long it holds from now on
	MX      []MX          // by preference
	Addrs   []netip.Addr
	TXT     []string // the strings of a record joined
	Names   []string // PTR
	TLSA    []TLSA
	records int
}

// Bounds of what is taken from one answer.
const (
	maxRecords = 100 // data records; MX hosts beyond are the least preferred ones
	maxChain   = 10  // CNAMEs from a name to its data, over all questions asked
	maxTXT     = 64 << 10
)

// kind of what a message says about a question.
type kind uint8

const (
	found    kind = iota
	noData        // the name exists
	noName        // it does not
	chase         // a CNAME leads to another name, which was not answered
	unusable      // says nothing about the question
)

// reading is what a message says about a question.
type reading struct {
	kind kind
	ans  Answer // Name is where the chain ends, also without data
	ttl  uint32 // the least of all records that were used
	err  error  // for unusable
}

// noTTL is the TTL of a reading that used no record.
const noTTL = ^uint32(0)

// read takes from a message what answers the question for name and t. The
// caller has checked that the message belongs to the question.
func read(m *dns.Msg, name string, t Type) reading {
	rd := reading{ttl: noTTL, ans: Answer{Name: name, AD: m.AuthenticatedData}}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		rd.kind, rd.err = unusable, rcodeError(m.Rcode)
		return rd
	}
	links := 0
	for ; links <= maxChain; links++ {
		next, ok := rd.follow(m)
		if !ok {
			break
		}
		rd.ans.Name = next
	}
	if links > maxChain {
		rd.kind, rd.err = unusable, errChain
		return rd
	}
	for _, rr := range m.Answer {
		if h := rr.Header(); Type(h.Rrtype) == t && h.Class == dns.ClassINET && owner(h) == rd.ans.Name && rd.ans.records < maxRead {
			if rd.ans.add(rr) {
				rd.ttl = min(rd.ttl, h.Ttl)
			}
		}
	}
	if rd.ans.records > 0 {
		rd.ans.tidy()
		rd.kind = found
		return rd
	}
	rd.negative(m, links > 0)
	return rd
}

// maxRead bounds the records that are looked at before they are sorted and cut
// to maxRecords.
const maxRead = 4096

// follow finds the CNAME of the name where the chain stands.
func (rd *reading) follow(m *dns.Msg) (string, bool) {
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok && c.Hdr.Class == dns.ClassINET && owner(&c.Hdr) == rd.ans.Name {
			rd.ttl = min(rd.ttl, c.Hdr.Ttl)
			return lower(c.Target), true
		}
	}
	return "", false
}

// negative tells the ways of having no data apart (RFC 2308 2).
func (rd *reading) negative(m *dns.Msg, moved bool) {
	var soa *dns.SOA
	referral := false
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *dns.SOA:
			if above(owner(&rr.Hdr), rd.ans.Name) {
				soa = rr
			}
		case *dns.NS:
			referral = true
		}
	}
	switch {
	case m.Rcode == dns.RcodeNameError:
		rd.kind = noName
	case soa == nil && moved:
		rd.kind = chase
		return
	case soa == nil && referral && !m.Authoritative:
		rd.kind, rd.err = unusable, errLame
		return
	default:
		rd.kind = noData
	}
	if soa == nil {
		rd.ttl = 0
		return
	}
	// RFC 2308 5: the lesser of the record's TTL and its MINIMUM field.
	rd.ttl = min(rd.ttl, soa.Hdr.Ttl, soa.Minttl)
}

// add takes the data of one record. It tells whether there was any.
func (a *Answer) add(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok := netip.AddrFromSlice(rr.A)
		if !ok || !addr.Unmap().Is4() {
			return false
		}
		a.Addrs = append(a.Addrs, addr.Unmap())
	case *dns.AAAA:
		addr, ok := netip.AddrFromSlice(rr.AAAA)
		if !ok || !addr.Is6() {
			return false
		}
		a.Addrs = append(a.Addrs, addr.Unmap())
	case *dns.MX:
		a.MX = append(a.MX, MX{rr.Preference, lower(rr.Mx)})
	case *dns.TXT:
		a.TXT = append(a.TXT, unescape(rr.Txt))
	case *dns.PTR:
		a.Names = append(a.Names, lower(rr.Ptr))
	case *dns.TLSA:
		a.TLSA = append(a.TLSA, TLSA{rr.Usage, rr.Selector, rr.MatchingType, strings.ToLower(rr.Certificate)})
	default:
		return false
	}
	a.records++
	return true
}

// tidy sorts and bounds what was read.
func (a *Answer) tidy() {
	slices.SortStableFunc(a.MX, func(x, y MX) int { return cmp.Compare(x.Pref, y.Pref) })
	if len(a.MX) > 1 {
		// A null MX beside others means nothing (RFC 7505 3).
		if rest := slices.DeleteFunc(slices.Clone(a.MX), MX.IsNull); len(rest) > 0 {
			a.MX = rest
		} else {
			a.MX = a.MX[:1]
		}
	}
	a.MX = a.MX[:min(len(a.MX), maxRecords)]
	a.Addrs = a.Addrs[:min(len(a.Addrs), maxRecords)]
	a.Names = a.Names[:min(len(a.Names), maxRecords)]
	a.TLSA = a.TLSA[:min(len(a.TLSA), maxRecords)]
	size := 0
	for i, s := range a.TXT {
		if size += len(s); size > maxTXT || i >= maxRecords {
			a.TXT = a.TXT[:i]
			break
		}
	}
}

// size is about what the answer takes in memory.
func (a *Answer) size() int {
	n := len(a.Name) + 200 + 24*len(a.Addrs)
	for _, m := range a.MX {
		n += 24 + len(m.Host)
	}
	for _, s := range a.TXT {
		n += 16 + len(s)
	}
	for _, s := range a.Names {
		n += 16 + len(s)
	}
	for _, t := range a.TLSA {
		n += 24 + len(t.Data)
	}
	return n
}

// unescape joins the strings of a TXT record, whose special octets miekg/dns
// gives as \DDD or behind a backslash.
func unescape(parts []string) string {
	s := strings.Join(parts, "")
	if !strings.ContainsRune(s, '\\') {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) && digit(s[i+1]) && digit(s[i+2]) && digit(s[i+3]) {
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func owner(h *dns.RR_Header) string { return lower(h.Name) }

// lower is the form in which names are compared: lower case, no dot at the
// end but for the root.
func lower(name string) string {
	if name == "." {
		return name
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// above tells whether zone is name or holds it.
func above(zone, name string) bool {
	return zone == "." || zone == name || strings.HasSuffix(name, "."+zone)
}

// Error says what the server said.
func (e rcodeError) Error() string {
	if s, ok := dns.RcodeToString[int(e)]; ok {
		return s
	}
	return "RCODE " + strconv.Itoa(int(e))
}
