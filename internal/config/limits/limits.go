// Package limits is the section limits of cluster.yaml.
package limits

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/clrelay/clrelay/internal/config/strict"
	"github.com/clrelay/clrelay/internal/config/words"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Limit says how much of something may be sent or taken, by all nodes together.
type Limit struct {
	// Name of the limit, as replies, the log and limit usage show it.
	Name words.Name `key:"name" required:"yes" example:"big-site"`
	// Where it is asked about: delivery, where mail waits in the queue, or
	// receiving, where the client is told to come back later.
	On string `key:"on" enum:"delivery|receiving" default:"delivery"`
	// What it is for: of each key that is there one value must match. Left out,
	// everything.
	Match LimitMatch `key:"match"`
	// What is counted by itself: each value of these, or each combination, has
	// the whole limit. Left out, all that matches is counted together. A client is
	// an IPv4 address or an IPv6 /64; a site is whoever runs the mail hosts of a
	// domain; a group is an entry of senders; a source is an own address to send from, by
	// its name in sources of node.yaml.
	Per []string `key:"per" enum:"site|domain|sender|sender_domain|user|group|client|source|route" example:"[site]"`
	// What rate and budget count. Recipients of one message count when it goes
	// out, or at RCPT; octets are those of the message.
	Count string `key:"count" enum:"messages|recipients|octets" default:"messages"`
	// How many in a second, minute, hour or day: 60/s, 1000/m, 5000/h. With count:
	// octets it may be a size: 10MiB/s.
	Rate Rate `key:"rate" example:"60/s"`
	// How many at once after a pause, in the form of a number or of a size. It is
	// also into how many pieces the rate can be divided between the nodes.
	Burst words.Size `key:"burst" derived:"what the rate gives in a second, or 10 if that is more, or the number of the rate if 10 is more than it" min:"1" max:"1TiB" example:"60"`
	// Connections at a time.
	Connections int `key:"connections" derived:"no limit" min:"1" max:"1000000" example:"10"`
	// How many in an hour or a day, which begin by UTC: 1000/d, 50000/h. Unlike a
	// rate it may be used up at once.
	Budget Rate `key:"budget" example:"1000/d"`
	// What a node does that is cut off from the others: floor, a small part that
	// is kept for it, a tenth of the limit for all nodes; stop, nothing; full, what
	// it had, so that the limit may be exceeded.
	OnPartition string `key:"on_partition" enum:"floor|stop|full" default:"floor"`
}

// LimitMatch says what a limit is for.
type LimitMatch struct {
	// Domains of recipients: "example.org" that one, "*.example.org" all below it.
	Domains []words.Pattern `key:"domains" example:"[example.org]"`
	// Sites: the domain under which the mail hosts of recipients' domains are.
	Sites []words.Site `key:"sites" example:"[google.com]"`
	// Envelope senders. "<>" is the sender of bounces.
	Senders []Originator `key:"senders" example:"[news@example.edu]"`
	// Domains of envelope senders, in the same forms as domains.
	SenderDomains []words.Pattern `key:"sender_domains" example:"[example.edu]"`
	// Names that clients logged in with.
	Users []words.Text `key:"users" example:"[shop]"`
	// Names of entries of senders.
	Groups []words.Name `key:"groups" example:"[campus]"`
	// Networks of clients.
	Clients []words.Network `key:"clients" example:"[192.0.2.0/24]"`
	// Names of sources (node.yaml): own addresses that mail leaves from. Mail whose
	// address the system chooses has none.
	Sources []words.Name `key:"sources" example:"[out1]"`
	// Names of routes.
	Routes []words.Name `key:"routes" example:"[big]"`
}

// Rate is so much in a second, minute, hour or day; the zero value is none.
type Rate struct {
	limit.Rate
	sized bool // it was written as a size
}

// Parse reads what stands in a file.
func (r *Rate) Parse(text string) error {
	n, per, cut := strings.Cut(text, "/")
	var size words.Size
	if cut && n != "" && !unicode.IsDigit(rune(n[len(n)-1])) && size.Parse(n) == nil {
		got, err := limit.ParseRate(strconv.FormatInt(int64(size), 10) + "/" + per)
		*r = Rate{got, true}
		return err
	}
	got, err := limit.ParseRate(text)
	if err != nil && !cut && text != "" {
		return fmt.Errorf("%w; per second it is %q", err, text+"/s")
	}
	*r = Rate{Rate: got}
	return err
}

// String writes it as a file would.
func (r Rate) String() string {
	if !r.sized {
		return r.Rate.String()
	}
	_, per, _ := strings.Cut(r.Rate.String(), "/")
	return words.Size(r.N).String() + "/" + per
}

// Measures says what is wrong with a size where something else than octets is
// counted.
func (r Rate) Measures(u limit.Unit) error {
	if r.sized && u != limit.Octets {
		return fmt.Errorf("%v is a size, and %v are counted: write count: octets, or a number", r, u)
	}
	return nil
}

// Kind names the type.
func (*Rate) Kind() string { return "rate" }

// Originator is an envelope sender in small letters, with its domain in
// A-labels; "<>" is the null one.
type Originator string

// Parse reads what stands in a file.
func (o *Originator) Parse(text string) error {
	if text == "<>" {
		*o = "<>"
		return nil
	}
	var m words.Mailbox
	if err := m.Parse(text); err != nil {
		return fmt.Errorf("%w, or <> for the sender of bounces", err)
	}
	domain, err := words.DomainName(m.Domain)
	if err != nil {
		return err
	}
	if err := NoPattern(m.Address); err != nil {
		return err
	}
	*o = Originator(mail.Address{Local: strings.ToLower(m.Local), Domain: domain}.String())
	return nil
}

// Kind names the type.
func (*Originator) Kind() string { return "mail address" }

// NoPattern refuses the address of a sender with an asterisk, which would be
// compared as it is: patterns are for domains.
func NoPattern(a mail.Address) error {
	if !strings.Contains(a.Local, "*") {
		return nil
	}
	return fmt.Errorf("%q is the address of one sender, and an asterisk in it stands for nothing else: for all senders of a domain there is sender_domains: [%s], or --sender-domain %s", a, a.Domain, a.Domain)
}

// Definitions are the limits as package limit has them.
func Definitions(list []Limit) []limit.Definition {
	out := make([]limit.Definition, len(list))
	for i := range list {
		out[i] = list[i].definition()
	}
	return out
}

func (l *Limit) definition() limit.Definition {
	m := &l.Match
	d := limit.Definition{
		Name: string(l.Name), Rate: l.Rate.Rate, Burst: l.burst(), Connections: l.Connections, Budget: l.Budget.Rate,
		Match: [limit.Fields][]string{
			limit.RecipientDomain: texts(m.Domains), limit.Site: texts(m.Sites), limit.Sender: texts(m.Senders),
			limit.SenderDomain: texts(m.SenderDomains), limit.User: texts(m.Users), limit.Group: texts(m.Groups),
			limit.Source: texts(m.Sources), limit.Route: texts(m.Routes),
		},
	}
	for _, n := range m.Clients {
		d.Match[limit.Client] = append(d.Match[limit.Client], n.String())
	}
	for _, name := range l.Per {
		if f, ok := limit.ParseField(name); ok {
			d.Per = append(d.Per, f)
		}
	}
	if l.On == limit.Receive.String() {
		d.Side = limit.Receive
	}
	for _, u := range []limit.Unit{limit.Recipients, limit.Octets} {
		if l.Count == u.String() {
			d.Count = u
		}
	}
	for _, p := range []limit.Partition{limit.Stop, limit.Full} {
		if l.OnPartition == p.String() {
			d.OnPartition = p
		}
	}
	return d
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, w := range list {
		out = append(out, string(w))
	}
	return out
}

// leastBurst is how much of a slow rate may go at once: so that it can be divided
// between nodes, and that mail which comes in a batch is not told to wait for
// each single message.
const leastBurst = 10

// burst is what is written, or derived from the rate; 0 without a rate.
func (l *Limit) burst() int64 {
	switch {
	case l.Rate.N == 0:
		return 0
	case l.Burst > 0:
		return int64(l.Burst)
	}
	per := int64(l.Rate.Per.Seconds())
	return max((l.Rate.N+per-1)/per, min(l.Rate.N, leastBurst))
}

// Names are what limits may name elsewhere in the file.
type Names struct {
	Groups  []string // entries of senders
	Routes  []string
	Sources []string // of pools
}

// Check says what is wrong with the limits together, and what is likely wrong.
func Check(f *strict.File, list []Limit, names Names) {
	s := check{f}
	lines := map[words.Name]int{}
	for i := range list {
		l := &list[i]
		key := fmt.Sprintf("limits[%d]", i)
		if first, dup := lines[l.Name]; dup && l.Name != "" {
			s.Bad(key+".name", "%q is already used in line %d", l.Name, first)
		} else {
			lines[l.Name] = s.Line(key + ".name")
		}
		s.checkLimit(key, l)
		s.checkUseful(key, l)
		s.checkNamed(key+".match.groups", l.Match.Groups, names.Groups, "entry of senders")
		s.checkNamed(key+".match.routes", l.Match.Routes, names.Routes, "route with this name")
		s.checkSources(key+".match.sources", l.Match.Sources, names.Sources)
	}
}

// check is a file that is being checked.
type check struct{ *strict.File }

func (s check) checkLimit(key string, l *Limit) {
	if l.Rate.N == 0 && l.Connections == 0 && l.Budget.N == 0 && s.Fine(key) && s.Fine(key+".rate") && s.Fine(key+".budget") && s.Fine(key+".connections") {
		s.Bad(key, "limits nothing: it needs one of rate, connections and budget")
	}
	if l.Burst > 0 && l.Rate.N == 0 && s.Fine(key+".rate") {
		s.Bad(key+".burst", "belongs to a rate, and there is none")
	}
	if l.Budget.N > 0 && l.Budget.Per < time.Hour {
		s.Bad(key+".budget", "%v: a budget is for an hour or a day, as in 1000/d; for less there is rate", l.Budget)
	}
	for _, r := range []struct {
		key  string
		rate Rate
	}{{key + ".rate", l.Rate}, {key + ".budget", l.Budget}} {
		if err := r.rate.Measures(l.definition().Count); err != nil && s.Fine(key+".count") {
			s.Bad(r.key, "%v", err)
		}
	}
	seen := map[string]bool{}
	for j, p := range l.Per {
		if seen[p] {
			s.Bad(fmt.Sprintf("%s.per[%d]", key, j), "%q is already in the list", p)
		}
		seen[p] = true
	}
	m := &l.Match
	for _, list := range []struct {
		name string
		n    int
	}{
		{"domains", len(m.Domains)}, {"sites", len(m.Sites)}, {"senders", len(m.Senders)}, {"sender_domains", len(m.SenderDomains)},
		{"users", len(m.Users)}, {"groups", len(m.Groups)}, {"clients", len(m.Clients)}, {"sources", len(m.Sources)}, {"routes", len(m.Routes)},
	} {
		if at := key + ".match." + list.name; list.n == 0 && s.Has(at) && s.Fine(at) {
			s.Bad(at, "is empty: leave it out for all of them")
		}
	}
}

func (s check) checkNamed(key string, names []words.Name, known []string, what string) {
	for j, n := range names {
		for _, k := range known {
			if k == string(n) {
				n = ""
			}
		}
		if at := fmt.Sprintf("%s[%d]", key, j); n != "" && s.Fine(at) {
			s.Bad(at, "there is no %s: %q%s", what, n, strict.DidYouMean(string(n), known))
		}
	}
}

// checkSources warns of names that no pool has: which sources there are is said
// in node.yaml of each node.
func (s check) checkSources(key string, names []words.Name, known []string) {
	for j, n := range names {
		if !slices.Contains(known, string(n)) {
			s.Warn(fmt.Sprintf("%s[%d]", key, j), "no pool has a source %q: it never matches%s", n, strict.DidYouMean(string(n), known))
		}
	}
}

// few is how many nodes a small cluster has: what cannot be divided among them
// is given to one after the other.
const few = 3

// checkUseful warns of limits that do less than one would think.
func (s check) checkUseful(key string, l *Limit) {
	if b := l.burst(); l.Rate.N > 0 && b < few {
		s.Warn(key, "with a burst of %d a cluster lets only so many nodes at a time use the rate, in turns of some seconds; a burst of %d or more is divided", b, few)
	}
	if l.Connections > 0 && l.Connections < few {
		s.Warn(key+".connections", "%d: a cluster lets only so many nodes at a time have one, in turns of some seconds", l.Connections)
	}
	d := l.definition()
	for _, doubt := range Doubts(&d) {
		at := key
		if doubt.Part != "" {
			at += "." + doubt.Part
		}
		s.Warn(at, "%s", doubt.Text)
	}
}
