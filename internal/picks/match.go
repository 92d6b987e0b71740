package picks

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// pattern is a pattern for addresses: in lower case, and its domain in the
// form of package names if it has one without * and ?.
type pattern struct {
	text   string
	domain string // that of all that it matches; empty: it may match several
}

func newPattern(text string) pattern {
	p := pattern{text: strings.ToLower(text)}
	at := strings.LastIndexByte(p.text, '@')
	if at < 0 {
		return p
	}
	if name := p.text[at+1:]; name != "" && !strings.ContainsAny(name, "*?") {
		p.domain = domain(name)
		p.text = p.text[:at+1] + p.domain
	}
	return p
}

// domain brings a name into the form of package names; one that is none stays
// as it is, in lower case.
func domain(name string) string {
	if n, err := names.Normalize(name); err == nil {
		return n
	}
	return strings.ToLower(name)
}

// Given tells whether the selector says anything: the whole queue must be
// asked for by name before it is changed.
func (s *Selector) Given() bool { return s.everything || s.narrows() }

// Needs tells whether a match depends on the envelope and on the last reply,
// so that a queue can leave out what it would have to read from disk.
func (s *Selector) Needs() (envelope, reply bool) { return s.needsEnvelope(), s.needsReply() }

// MatchNode tells whether recipients at that node may match.
func (s *Selector) MatchNode(node string) bool {
	return len(s.Nodes) == 0 || slices.Contains(s.Nodes, node)
}

// MatchMessage tells whether a message may have recipients that match.
func (s *Selector) MatchMessage(id mail.ID, arrived time.Time, size int64) bool {
	if len(s.IDs) > 0 && !slices.Contains(s.IDs, id) {
		return false
	}
	return (s.Before.IsZero() || arrived.Before(s.Before)) && (s.After.IsZero() || !arrived.Before(s.After)) && (s.sizeOver == nil || size > *s.sizeOver)
}

// MatchRecipient tells whether a recipient in that state, after so many
// attempts and on that lane may match. The trash has to be asked for.
func (s *Selector) MatchRecipient(st mail.State, attempts uint32, lane string) bool {
	if len(s.States) == 0 && st == mail.StateTrashed || len(s.States) > 0 && !slices.Contains(s.States, st) {
		return false
	}
	if s.triesOver != nil && attempts <= *s.triesOver {
		return false
	}
	return len(s.routes) == 0 || slices.ContainsFunc(s.routes, func(r string) bool { return onRoute(lane, r) })
}

// MatchStored tells whether a recipient matches by what Needs says that it may
// depend on: env and the reply may be nil where it does not. rule is the ID of
// the hold rule that keeps it, empty where none does.
func (s *Selector) MatchStored(env *mail.Envelope, rcpt int, last *mail.Reply, rule string) bool {
	if len(s.rules) > 0 && !slices.Contains(s.rules, rule) {
		return false
	}
	if s.needsEnvelope() && (env == nil || !s.matchAddress(env.From, env.Recipients[rcpt].Addr) || !s.matchClient(&env.Client)) {
		return false
	}
	return !s.needsReply() || last != nil && s.matchReply(last)
}

// Domains gives the domains, in the form of package names, of which one is that
// of each recipient that matches; nil where it can be any.
func (s *Selector) Domains() []string {
	var out []string
	for _, d := range s.domains {
		if d[0] == '*' {
			out = nil
			break
		}
		out = append(out, d)
	}
	if out != nil {
		return out
	}
	for _, p := range s.rcpts {
		if p.domain == "" {
			return nil
		}
		out = append(out, p.domain)
	}
	return out
}

// Match tells whether a recipient is picked.
func (s *Selector) Match(e *Entry) bool {
	env := &mail.Envelope{From: e.From, Recipients: []mail.Recipient{{Addr: e.To}}, Client: e.Client}
	return s.MatchNode(e.Node) && s.MatchMessage(e.ID, e.Arrived, e.Size) && s.MatchRecipient(e.State, e.Attempts, e.Lane) &&
		s.MatchStored(env, 0, &e.LastReply, e.Rule)
}

func (s *Selector) matchAddress(from, to mail.Address) bool {
	return s.matchDomain(to.Domain) && matchAny(s.rcpts, to) && matchAny(s.froms, from)
}

func (s *Selector) matchDomain(name string) bool {
	if len(s.domains) == 0 {
		return true
	}
	name = domain(name)
	for _, d := range s.domains {
		if below, ok := strings.CutPrefix(d, "*"); d == name || ok && strings.HasSuffix(name, below) {
			return true
		}
	}
	return false
}

// matchAny holds an address against patterns: as it is written, and with its
// domain in the form of package names.
func matchAny(patterns []pattern, a mail.Address) bool {
	if len(patterns) == 0 {
		return true
	}
	written := "<>"
	if !a.IsNull() {
		written = strings.ToLower(a.String())
	}
	normal := written
	if a.Domain != "" {
		normal = strings.ToLower(mail.Address{Local: a.Local, Domain: domain(a.Domain)}.String())
	}
	for _, p := range patterns {
		if match(p.text, written) || normal != written && match(p.text, normal) {
			return true
		}
	}
	return false
}

func (s *Selector) matchClient(c *mail.Client) bool {
	if len(s.senders) > 0 && !slices.Contains(s.senders, c.Sender) {
		return false
	}
	addr := c.Addr.Unmap().WithZone("")
	return len(s.clients) == 0 || slices.ContainsFunc(s.clients, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (s *Selector) matchReply(r *mail.Reply) bool {
	class := bounce.Of(r).Class
	if len(s.classes) > 0 && !slices.Contains(s.classes, class) {
		return false
	}
	if class == bounce.Limit && len(s.dsns)+len(s.replies) > 0 {
		return false // it is no reply
	}
	if len(s.dsns) > 0 && !slices.ContainsFunc(s.dsns, func(d [3]int) bool {
		return r.Enhanced != mail.EnhancedCode{} && fits(d[0], r.Enhanced[0]) && fits(d[1], r.Enhanced[1]) && fits(d[2], r.Enhanced[2])
	}) {
		return false
	}
	if len(s.replies) == 0 {
		return true
	}
	line := strings.ToLower(r.Text)
	if r.Code != 0 {
		line = strings.ToLower(r.Line())
	}
	return slices.ContainsFunc(s.replies, func(part string) bool { return strings.Contains(line, part) })
}

func fits(want, have int) bool { return want < 0 || want == have }

// onRoute tells whether a lane is what an operator calls a route: the lane's
// own name, its kind (mx, smarthost, lmtp, unroutable), the hosts that it leads
// to, or one of these, with or without the port; for mx, the domain.
func onRoute(lane, route string) bool {
	lane = strings.ToLower(lane)
	if lane == route {
		return true
	}
	target, _, _ := strings.Cut(lane, ";")
	kind, hosts, _ := strings.Cut(target, ":")
	if route == kind || route == target || route == hosts {
		return true
	}
	for host := range strings.SplitSeq(hosts, ",") {
		colon := strings.LastIndexByte(host, ':')
		if host == route || colon > 0 && strings.Trim(host[:colon], "[]") == strings.Trim(route, "[]") {
			return true
		}
	}
	return false
}

// older gives the classes that are behind a name which earlier versions used;
// jobs of theirs may still have it.
func older(name string) []string {
	switch name {
	case "address":
		return []string{bounce.NoMailbox.String(), bounce.NoDomain.String(), bounce.Relocated.String(), bounce.Sender.String()}
	case "mailbox":
		return []string{bounce.Inactive.String(), bounce.TooBig.String()}
	}
	return nil
}

// match holds text against a pattern of characters, ? and *. It goes back to
// the last * alone, so its cost is bounded by the product of the lengths.
func match(pattern, text string) bool {
	p, t := 0, 0
	star, from := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
