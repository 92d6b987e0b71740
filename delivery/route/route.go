// Package route says where mail for a domain goes next: rules, each a match
// and an action, of which the first that matches wins.
//
// It looks nothing up and knows no hosts but those that the operator named:
// an MX action leads to the domain, and package delivery finds its hosts. A
// Table does not change after New, so any number of goroutines may ask it; a
// new configuration is a new Table. Its caller is package queue. A domain that
// has no route, or is none, is a permanent reply: no later attempt can do
// better with the same table.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// Rule sends the domains that match one way.
type Rule struct {
	// Domains are names, or "*.name" for all below it. Empty: all.
	Domains []string
	Action  Action
	Name    string // empty: by its place, "routes[0]"
}

// Action is where a rule sends mail: to the domain's MX set when there are no
// Hosts, else to them.
type Action struct {
	Hosts        []mail.HostPort
	LMTP         bool
	TLS          mail.TLSMode
	Auth         *mail.Credentials
	EightBitFail bool
	Balance      bool   // Hosts are equal; false: tried in order
	Pool         string // of own addresses to send from; empty: the sender's
}

// Table is a list of rules, ready to be asked.
type Table struct {
	exact map[string]int // domain -> the first rule that names it
	below map[string]int // name of "*.name" -> the first rule that has it
	all   int            // the first rule that matches everything
	names []string       // by rule
	hops  []mail.NextHop // by rule; for MX the Key is what stands behind the domain
	pools map[string]string
}

var errHost = errors.New("host without name or port")

// New makes a table. pools are those of senders, by the name of their entry:
// what they send leaves from there, unless a rule has a pool of its own. An
// error names the rule, counted from 1.
func New(rules []Rule, pools map[string]string) (*Table, error) {
	t := &Table{exact: map[string]int{}, below: map[string]int{}, all: len(rules), pools: pools}
	for i, r := range rules {
		hop, err := r.Action.hop()
		if err != nil {
			return nil, fmt.Errorf("route: rule %d: %w", i+1, err)
		}
		t.hops = append(t.hops, hop)
		t.names = append(t.names, cmp.Or(r.Name, "routes["+strconv.Itoa(i)+"]"))
		if len(r.Domains) == 0 {
			t.all = min(t.all, i)
		}
		for _, d := range r.Domains {
			where := t.exact
			name, wild := strings.CutPrefix(d, "*.")
			if wild {
				where = t.below
			}
			if name, err = Normalize(name); err != nil {
				return nil, fmt.Errorf("route: rule %d: match %q: %w", i+1, d, err)
			}
			if _, ok := where[name]; !ok {
				where[name] = i
			}
		}
	}
	return t, nil
}

// Route gives the next hop of a sender's mail for a domain as it stands in an
// address: in any case, with labels of any script, or an address literal.
func (t *Table) Route(sender, domain string) (mail.NextHop, *mail.Reply) {
	name, err := Normalize(domain)
	if err != nil {
		return mail.NextHop{}, mail.NewReply(550, "5.1.2", "bad domain in the recipient's address").WithCause(err)
	}
	i := t.find(name)
	if i == len(t.hops) {
		return mail.NextHop{}, mail.NewReply(550, "5.4.4", "no route to the recipient's domain")
	}
	hop := t.hops[i]
	hop.Route = t.names[i]
	more := t.from(&hop, sender)
	if hop.Kind == mail.HopMX {
		hop.Domain = name
		hop.Key = "mx:" + name + hop.Key
	}
	hop.Key += more
	return hop, nil
}

// from gives a hop without a pool that of the sender, and what stands in the
// Key for it.
func (t *Table) from(hop *mail.NextHop, sender string) string {
	if pool := t.pools[sender]; pool != "" && hop.Pool == "" {
		hop.Pool = pool
		return poolWord + pool
	}
	return ""
}

// poolWord keeps destinations apart in their Key that are spoken to from
// different addresses: a host may let in one and not the other.
const poolWord = ";pool="

// Via gives the next hop of a domain for mail that an operator sends elsewhere
// than the rules do: to its MX set ("mx"), or to a host, with or without a port.
// A host that is alone in a rule is spoken to as the first such rule says, and
// so is the MX set of a domain whose own rule leads there; all else is sent on
// port 25, and encrypted where that is offered.
func (t *Table) Via(to, sender, domain string) (mail.NextHop, *mail.Reply) {
	own, reply := t.Route(sender, domain)
	var hop mail.NextHop
	if to == ToMX {
		name, err := Normalize(domain)
		if err != nil || reply == nil && own.Kind == mail.HopMX {
			return own, reply
		}
		hop = mail.NextHop{Kind: mail.HopMX, Domain: name, Key: "mx:" + name}
	} else if hop, reply = t.host(to); reply != nil {
		return hop, reply
	}
	hop.Key += t.from(&hop, sender)
	return hop, nil
}

// host gives the next hop of what an operator sends to a host.
func (t *Table) host(to string) (mail.NextHop, *mail.Reply) {
	host, port, err := ParseHost(to)
	if err != nil {
		return mail.NextHop{}, mail.NewReply(451, "4.3.5", "the host that an operator chose is none").WithCause(err)
	}
	for _, hop := range t.hops {
		if len(hop.Hosts) == 1 && strings.EqualFold(hop.Hosts[0].Name, host) && (port == 0 || port == hop.Hosts[0].Port) {
			return hop, nil
		}
	}
	if port == 0 {
		port = 25
	}
	hop, err := (&Action{Hosts: []mail.HostPort{{Name: host, Port: port}}}).hop()
	if err != nil {
		return mail.NextHop{}, mail.NewReply(451, "4.3.5", "the host that an operator chose is none").WithCause(err)
	}
	return hop, nil
}

// ToMX is what an operator calls the MX set of a recipient's domain.
const ToMX = "mx"

// ParseHost reads HOST or HOST:PORT, an IPv6 address with a port in brackets.
// Without a port that is 0.
func ParseHost(s string) (host string, port uint16, err error) {
	bad := fmt.Errorf("%q is neither a host nor HOST:PORT", s)
	host = s
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, bad
		}
		host, port = h, uint16(n)
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ip.String(), port, nil
	}
	if host, err = Normalize(host); err != nil {
		return "", 0, bad
	}
	return host, port, nil
}

// Rule gives the first rule that matches a domain, counted from 0; ok is false
// where none does or the domain is none.
func (t *Table) Rule(domain string) (i int, ok bool) {
	name, err := Normalize(domain)
	if err != nil {
		return 0, false
	}
	i = t.find(name)
	return i, i < len(t.hops)
}

// Leads gives the rule by which mail comes to the next hop of a Key, counted
// from 0; ok is false where none leads there.
func (t *Table) Leads(key string) (i int, ok bool) {
	if domain, mx := strings.CutPrefix(key, "mx:"); mx {
		domain, _, _ = strings.Cut(domain, ";")
		return t.Rule(domain)
	}
	leads := func(key string) int {
		return slices.IndexFunc(t.hops, func(h mail.NextHop) bool { return h.Key == key })
	}
	if i = leads(key); i < 0 {
		without, _, _ := strings.Cut(key, poolWord) // that of a sender
		i = leads(without)
	}
	return i, i >= 0
}

// find gives the first rule that matches.
func (t *Table) find(name string) int {
	best := t.all
	if i, ok := t.exact[name]; ok {
		best = min(best, i)
	}
	if name[0] == '[' {
		return best
	}
	for dot := strings.IndexByte(name, '.'); dot >= 0 && len(t.below) > 0; {
		parent := name[dot+1:]
		if i, ok := t.below[parent]; ok {
			best = min(best, i)
		}
		n := strings.IndexByte(parent, '.')
		if n < 0 {
			break
		}
		dot += 1 + n
	}
	return best
}

// hop is the next hop of an action, but for the domain.
func (a *Action) hop() (mail.NextHop, error) {
	h := mail.NextHop{Kind: mail.HopMX, Hosts: a.Hosts, TLS: a.TLS, Auth: a.Auth, EightBitFail: a.EightBitFail, Pool: a.Pool}
	if len(a.Hosts) == 0 {
		if a.LMTP || a.Auth != nil {
			return h, errors.New("LMTP and authentication need hosts that are named")
		}
		h.Key = a.options()
		return h, nil
	}
	h.Kind, h.Balance = mail.HopSmarthost, a.Balance && len(a.Hosts) > 1
	word := "smarthost:"
	if a.LMTP {
		h.Kind, word = mail.HopLMTP, "lmtp:"
	}
	names := make([]string, len(a.Hosts))
	for i, hp := range a.Hosts {
		if hp.Name == "" || hp.Port == 0 {
			return h, errHost
		}
		names[i] = net.JoinHostPort(strings.ToLower(hp.Name), strconv.Itoa(int(hp.Port)))
	}
	h.Key = word + strings.Join(names, ",") + a.options()
	return h, nil
}

// options is the part of a Key that keeps apart what is spoken to in different
// ways. Nothing in it is secret; the password file is there as a hash, because
// two files are two identities.
func (a *Action) options() string {
	var b strings.Builder
	switch a.TLS {
	case mail.TLSOpportunistic: // the default
	case mail.TLSNone:
		b.WriteString(";tls=none")
	case mail.TLSRequire:
		b.WriteString(";tls=require")
	case mail.TLSVerify:
		b.WriteString(";tls=verify")
	}
	if a.Auth != nil {
		h := fnv.New32a()
		_, _ = h.Write([]byte(a.Auth.PasswordFile)) // a hash takes everything
		fmt.Fprintf(&b, ";auth=%s#%08x", a.Auth.User, h.Sum32())
	}
	if a.EightBitFail {
		b.WriteString(";eightbit=bounce")
	}
	if a.Balance && len(a.Hosts) > 1 {
		b.WriteString(";balance")
	}
	if a.Pool != "" {
		b.WriteString(poolWord + a.Pool)
	}
	return b.String()
}
