package config

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/config/shaping"
	"github.com/clrelay/clrelay/internal/mail"
)

// Ports that a host has when the file gives none.
const (
	portSMTP = 25
	portLMTP = 24 // RFC 2033 5 leaves it to the sites; 24 is registered for private mail
)

// cluster checks what the settings of cluster.yaml mean together.
func (s check) cluster(c *Cluster) {
	s.checkSenders(c.Senders)
	s.checkDomains(c)
	s.checkRoutes(c.Routes)
	limits.Check(s.File, c.Limits, c.names())
	s.checkPools(c)
	s.checkQueue(c.Queue)
	s.checkFailover(c.Failover)
	s.checkAccess(c.Access)
	shaping.Check(s.File, "shaping", &c.Shaping)
	s.checkReturns(c)
	if pem := s.readable("deliver.ca_file", c.Deliver.CAFile, false); pem != nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		s.Bad("deliver.ca_file", "%s holds no certificate in PEM form", c.Deliver.CAFile)
	}
	if s.Has("dns.servers") && len(c.DNS.Servers) == 0 && s.Fine("dns.servers") {
		s.Bad("dns.servers", "is empty: leave it out to use the system's resolvers")
	}
}

// RouteName is what a route is called: its name, or its place.
func (c *Cluster) RouteName(i int) string {
	if n := c.Routes[i].Name; n != "" {
		return string(n)
	}
	return fmt.Sprintf("routes[%d]", i)
}

// names are what limits may name.
func (c *Cluster) names() (n limits.Names) {
	for _, g := range c.Senders {
		n.Groups = append(n.Groups, string(g.Name))
	}
	for _, r := range c.Routes {
		if r.Name != "" {
			n.Routes = append(n.Routes, string(r.Name))
		}
	}
	for i := range c.Pools {
		for _, one := range c.Pools[i].Sources {
			n.Sources = append(n.Sources, string(one.Name))
		}
	}
	return n
}

// Copies of a message where cluster.yaml says nothing.
const (
	copiesAlone   = 1
	copiesCluster = 2
)

// copies holds spool.copies against the node and completes it. Where nothing
// is known of the node, it stays as it is in the file.
func (s check) copies(c *Cluster, n *Node) {
	switch {
	case n == nil:
	case n.Cluster != nil && !s.Has("spool.copies"):
		c.Spool.Copies = copiesCluster
	case n.Cluster == nil && !s.Has("spool.copies"):
		c.Spool.Copies = copiesAlone
	case n.Cluster == nil && c.Spool.Copies > copiesAlone:
		s.Bad("spool.copies", "%d copies need as many machines, and node.yaml has no cluster section: write 1 or leave it out", c.Spool.Copies)
	case n.Cluster != nil && c.Spool.Copies == copiesAlone:
		s.Warn("spool.copies", "with 1 copy each message is on one machine alone: when its disk is lost, so is the mail")
	}
}

// checkFailover holds the waits against each other: nothing is done about a
// node before it may be taken over.
func (s check) checkFailover(f Failover) {
	for _, w := range []struct {
		key  string
		wait Duration
	}{{"failover.rereplicate_after", f.RereplicateAfter}, {"failover.unclean_after", f.UncleanAfter}} {
		if w.wait != 0 && w.wait < f.Lease && s.Fine(w.key) && s.Fine("failover.lease") {
			s.Bad(w.key, "%v is less than lease, %v, before which nobody knows that a node is gone", w.wait, f.Lease)
		}
	}
}

func (s check) checkSenders(senders []Sender) {
	names := map[Name]int{}
	for i, one := range senders {
		key := fmt.Sprintf("senders[%d]", i)
		if first, dup := names[one.Name]; dup && one.Name != "" {
			s.Bad(key+".name", "%q is already used in line %d", one.Name, first)
		} else {
			names[one.Name] = s.Line(key + ".name")
		}
		if s.Has(key+".networks") && len(one.Networks) == 0 && s.Fine(key+".networks") {
			s.Bad(key+".networks", "is empty: a group without networks lets nobody relay")
		}
		for j, n := range one.Networks {
			if n.IsValid() && n.Bits() == 0 {
				s.Warn(fmt.Sprintf("%s.networks[%d]", key, j), "lets everybody on the internet relay: an open relay is soon blocked everywhere")
			}
		}
	}
}

func (s check) checkAccess(rules []AccessRule) {
	names := map[Name]int{}
	for i, r := range rules {
		key := fmt.Sprintf("access[%d]", i)
		if first, dup := names[r.Name]; dup && r.Name != "" {
			s.Bad(key+".name", "%q already has a role in line %d", r.Name, first)
		} else {
			names[r.Name] = s.Line(key + ".name")
		}
		if r.Content && (r.Role == "viewer" || r.Role == "auditor" || r.Role == "none") {
			s.Bad(key+".content", "takes the role support, operator or admin, not %s", r.Role)
		}
	}
}

func (s check) checkDomains(c *Cluster) {
	lines := map[Domain]int{}
	for i, d := range c.Domains {
		key := fmt.Sprintf("domains[%d].name", i)
		if first, dup := lines[d.Name]; dup && d.Name != "" {
			s.Bad(key, "%q is already listed in line %d", d.Name, first)
		} else {
			lines[d.Name] = s.Line(key)
		}
		s.checkRecipients(fmt.Sprintf("domains[%d]", i), &d)
		if d.Name != "" && c.Postmaster == (Mailbox{}) && !s.Has("postmaster") {
			c.Postmaster = Mailbox{Address: mail.Address{Local: "postmaster", Domain: string(d.Name)}}
		}
	}
}

// checkRecipients holds the settings of a domain's recipients against each other.
// Whether there is a list is the running relay's matter: it is a file of each
// node.
func (s check) checkRecipients(key string, d *LocalDomain) {
	if !s.Fine(key + ".recipients") {
		return
	}
	for _, k := range []struct{ name, mode string }{{"list", "list"}, {"subaddress", "list"}, {"verify", "verify"}} {
		if s.Has(key+"."+k.name) && d.Recipients != k.mode {
			s.Bad(key+"."+k.name, "is for recipients: %s, and it is %s", k.mode, d.Recipients)
		}
	}
	if d.Recipients == "list" && !s.Has(key+".list") {
		s.Bad(key, "recipients: list needs the file: list: users.txt")
	}
	if len(d.Subaddress) > 1 || strings.ContainsAny(string(d.Subaddress), "@ \"") {
		s.Bad(key+".subaddress", "%q is no single character such as +", d.Subaddress)
	}
}

func (s check) checkRoutes(routes []Route) {
	if s.Has("routes") && len(routes) == 0 && s.Fine("routes") {
		s.Bad("routes", "is empty, so that all mail would bounce: leave it out to deliver by MX")
		return
	}
	s.checkRouteNames(routes)
	lines := map[Pattern]int{} // where a pattern was first matched
	all := 0                   // the line of the route that matches everything
	for i := range routes {
		key := fmt.Sprintf("routes[%d]", i)
		s.checkAction(key+".action", &routes[i].Action)
		line := s.Line(key)
		if all > 0 {
			s.Bad(key, "is never reached: the route in line %d matches every domain", all)
			continue
		}
		domains := routes[i].Match.Domains
		if len(domains) == 0 {
			switch {
			case s.Has(key + ".match.domains"):
				if s.Fine(key + ".match.domains") {
					s.Bad(key+".match.domains", "is empty: leave it out, match: {}, for every domain")
				}
			case s.Fine(key+".match") && s.Fine(key) && (s.Has(key+".match") || !s.Has("routes")):
				all = line
			}
		}
		s.checkPatterns(key, domains, lines)
		for _, d := range domains {
			if lines[d] == 0 {
				lines[d] = line
			}
		}
	}
	if all == 0 && len(routes) > 0 {
		s.Warn("routes", "no route matches every domain: mail for all others bounces; a last route with match: {} and action: {mx: true} delivers it")
	}
}

func (s check) checkRouteNames(routes []Route) {
	names := map[Name]int{}
	for i := range routes {
		key := fmt.Sprintf("routes[%d].name", i)
		if first, dup := names[routes[i].Name]; dup && routes[i].Name != "" {
			s.Bad(key, "%q is already used in line %d", routes[i].Name, first)
		} else {
			names[routes[i].Name] = s.Line(key)
		}
	}
}

// checkPatterns reports domains that an earlier route takes already.
func (s check) checkPatterns(key string, domains []Pattern, lines map[Pattern]int) {
	for j, d := range domains {
		name, wild := strings.CutPrefix(string(d), "*.")
		first := lines[d]
		for rest := name; first == 0; {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			if up := Pattern("*" + rest[i:]); !wild || up != d {
				first = lines[up]
			}
			rest = rest[i+1:]
		}
		if first > 0 {
			s.Bad(fmt.Sprintf("%s.match.domains[%d]", key, j), "%q is never reached: the route in line %d takes it already", d, first)
		}
	}
}

func (s check) checkAction(key string, a *Action) {
	switch {
	case !s.Has(key) || !s.Fine(key):
		return // missing, wrong, or the default
	case a.MX && s.Has(key+".smarthost"):
		s.Bad(key, "mx and smarthost exclude each other")
	case s.Has(key+".smarthost") && len(a.Smarthost) == 0 && s.Fine(key+".smarthost"):
		s.Bad(key+".smarthost", "is empty: name one host at least")
	case s.Has(key+".mx") && !a.MX && s.Fine(key+".mx"):
		s.Bad(key+".mx", "mx: false does nothing: write mx: true or name a smarthost")
	case !s.Has(key+".mx") && !s.Has(key+".smarthost"):
		s.Bad(key, "says nothing about where to: write mx: true or smarthost: [...]")
	}
	if a.MX && (a.TLS == TLSRequire || a.TLS == TLSVerify) {
		s.Bad(key+".tls", "%s is for smarthosts: towards MX hosts write opportunistic or none", a.TLS)
	}
	if a.MX && a.LMTP {
		s.Bad(key+".lmtp", "LMTP is not spoken to MX hosts: name a smarthost")
	}
	if a.Balance && len(a.Smarthost) < 2 && s.Fine(key+".smarthost") {
		s.Bad(key+".balance", "is between several smarthosts: MX hosts of equal preference are balanced already, and one host needs no balance")
	}
	for i := range a.Smarthost {
		h := &a.Smarthost[i]
		if h.Port == 0 && a.LMTP {
			h.Port = portLMTP
		} else if h.Port == 0 {
			h.Port = portSMTP
		}
		if h.Port == 465 && a.TLS == TLSNone {
			s.Bad(fmt.Sprintf("%s.smarthost[%d]", key, i), "port 465 speaks TLS from the start, and tls is none")
		}
	}
	if a.Auth != nil {
		s.checkAuth(key, a)
	}
}

func (s check) checkAuth(key string, a *Action) {
	if a.MX {
		s.Bad(key+".auth", "is for smarthosts: MX hosts take mail without a login")
	}
	if !a.MX && a.TLS != TLSRequire && a.TLS != TLSVerify && s.Fine(key+".tls") {
		s.Bad(key+".auth", "needs tls: verify (or require), so that the password never travels in the clear")
	}
	file := key + ".auth.password_file"
	text := s.readable(file, a.Auth.PasswordFile, true)
	if line, _, _ := bytes.Cut(text, []byte("\n")); text != nil && len(bytes.TrimSpace(line)) == 0 {
		s.Bad(file, "the first line of %s is empty, and the password stands there", a.Auth.PasswordFile)
	}
}

func (s check) checkQueue(q Queue) {
	if s.Has("queue.retry") && len(q.Retry) == 0 && s.Fine("queue.retry") {
		s.Bad("queue.retry", "is empty: give one waiting time at least")
	}
	if len(q.Retry) > 0 && q.Retry[0] >= q.Expire && q.Retry[0] > 0 {
		s.Warn("queue.expire", "mail expires after %v, before its second attempt", q.Expire)
	}
	if q.DelayWarning >= q.Expire && q.Expire > 0 && q.DelayWarning > 0 {
		s.Bad("queue.delay_warning", "%v is not before expire, %v", q.DelayWarning, q.Expire)
	}
}
