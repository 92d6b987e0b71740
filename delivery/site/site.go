// Package site tells who runs the mail hosts of a destination. Mail for
// gmail.com and for each domain that Google hosts goes to the same hosts: what
// these say about one domain is true of all, and a limit for them must count
// them together. Such a destination is a site.
//
// The site of an MX set is the registrable domain of its most preferred hosts,
// by the list of public suffixes that comes with the program, or the name that
// a provider with several such domains is known by (Options.Names). The site of
// a smarthost or an LMTP server is its name. What cannot be looked up is its
// own site: the domain, or the site that it was found to be of before.
package site

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

// Resolver finds mail hosts in the DNS.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]dnsx.MX, error)
}

const (
	keepFor   = 10 * time.Minute // an answer
	keepWrong = time.Minute      // that there was none
	maxSites  = 100_000          // domains that are remembered
	patience  = 10 * time.Second // for a lookup, whoever waits for it
)

// Options set up Sites. Resolver is needed.
type Options struct {
	Resolver Resolver
	Names    Names
	Now      func() time.Time // time.Now
	Max      int              // domains that are remembered; 100,000
}

// Sites finds sites and remembers them. It is safe for concurrent use.
type Sites struct {
	o Options

	mu     sync.Mutex
	names  Names
	known  map[string]*list.Element // of *entry, by domain
	recent *list.List               // most recently used first
	flying map[string]*flight
}

type entry struct {
	domain, site string
	until        time.Time
}

// flight is a lookup that others wait for, too.
type flight struct {
	done chan struct{}
	site string
}

// New makes Sites that know nothing yet.
func New(o Options) *Sites {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Max == 0 {
		o.Max = maxSites
	}
	return &Sites{o: o, names: o.Names, known: map[string]*list.Element{}, recent: list.New(), flying: map[string]*flight{}}
}

// Rename puts other names into force.
func (s *Sites) Rename(n Names) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = n
	clear(s.known)
	s.recent.Init()
}

// Site gives the site of a next hop. It asks the DNS for MX sets that it does
// not know, once however many ask; where ctx ends first, or nothing is found,
// the site is the domain.
func (s *Sites) Site(ctx context.Context, hop mail.NextHop) string {
	if hop.Kind != mail.HopMX {
		if len(hop.Hosts) == 0 {
			return hop.Domain
		}
		return Host(hop.Hosts[0])
	}
	domain := hop.Domain
	if domain == "" || domain[0] == '[' {
		return domain
	}
	s.mu.Lock()
	if e, ok := s.known[domain]; ok && s.o.Now().Before(e.Value.(*entry).until) {
		s.recent.MoveToFront(e)
		defer s.mu.Unlock()
		return e.Value.(*entry).site
	}
	f := s.flying[domain]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flying[domain] = f
		go s.look(domain, f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.site
	case <-ctx.Done():
		return domain
	}
}

// Host is the site of a host that is named. Behind a port of its own there is
// another server, which has nothing to do with the others.
func Host(h mail.HostPort) string {
	name := strings.ToLower(h.Name)
	switch h.Port {
	case 0, 24, 25, 465, 587:
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(int(h.Port)))
}

// Known gives the site of a domain as far as it is remembered.
func (s *Sites) Known(domain string) (site string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.known[domain]
	if !ok {
		return "", false
	}
	return e.Value.(*entry).site, true
}

// look asks for one domain. It does not end with who asked first: others wait.
func (s *Sites) look(domain string, f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	set, err := s.o.Resolver.LookupMX(ctx, domain)
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := keepFor
	if err != nil {
		set, keep = nil, keepWrong
	}
	f.site = s.names.Of(domain, set)
	delete(s.flying, domain)
	defer close(f.done)
	if e, ok := s.known[domain]; ok {
		if err != nil && !absent(err) {
			f.site = e.Value.(*entry).site
		}
		s.recent.Remove(e)
	}
	s.known[domain] = s.recent.PushFront(&entry{domain, f.site, s.o.Now().Add(keep)})
	if len(s.known) > s.o.Max {
		last := s.recent.Back()
		s.recent.Remove(last)
		delete(s.known, last.Value.(*entry).domain)
	}
}

// absent tells that there are no mail hosts from not knowing.
func absent(err error) bool {
	return errors.Is(err, dnsx.ErrNotFound) || errors.Is(err, dnsx.ErrName)
}

// Names are the names of sites, by the domains that their hosts are in.
type Names map[string]string

// Of gives the site of a domain with an MX set; an empty set is that of a
// domain that is its own host. Where the most preferred hosts belong to
// several, it is the one with the most of them, by name among equals: the same
// on all nodes.
func (n Names) Of(domain string, set []dnsx.MX) string {
	set = slices.DeleteFunc(slices.Clone(set), func(m dnsx.MX) bool { return m.Host == "" || m.IsNull() })
	if len(set) == 0 {
		return n.owner(domain)
	}
	best := slices.MinFunc(set, func(a, b dnsx.MX) int { return int(a.Pref) - int(b.Pref) }).Pref
	count := map[string]int{}
	site := ""
	for _, m := range set {
		if m.Pref != best {
			continue
		}
		o := n.owner(strings.ToLower(strings.TrimSuffix(m.Host, ".")))
		if count[o]++; site == "" || count[o] > count[site] || count[o] == count[site] && o < site {
			site = o
		}
	}
	return site
}

// owner gives the site of a host: the name that the longest domain above it
// stands for, else its registrable domain, else itself.
func (n Names) owner(host string) string {
	for d := host; d != ""; {
		if name, ok := n[d]; ok {
			return name
		}
		_, rest, ok := strings.Cut(d, ".")
		if !ok {
			break
		}
		d = rest
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	if d, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return d
	}
	return host
}
