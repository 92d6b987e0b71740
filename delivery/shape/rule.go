package shape

import (
	"regexp"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Kind says what is done to a site.
type Kind string

// The kinds. Their words stand in records, logs and metrics.
const (
	Suspend      Kind = "suspend"
	Connections  Kind = "connections"
	Rate         Kind = "rate"
	ConnMessages Kind = "messages_per_connection"
)

// Scope says to whom of a site it is done.
type Scope string

// The scopes.
const (
	Site   Scope = "site"
	Source Scope = "source" // what leaves from the same own address
	Domain Scope = "domain" // mail for the same domain
)

// Effect is one thing that a rule does.
type Effect struct {
	Kind  Kind
	Scope Scope      // of a suspension
	N     int        // connections, or messages of a connection
	Rate  limit.Rate // of messages
	Halve bool       // half of what is in force, instead of N or Rate
}

// Trigger says when a rule acts: at the Nth matching reply within Per; the zero
// value is at once. Each node counts what it is told itself.
type Trigger struct {
	N   int
	Per time.Duration
}

// Rule says what follows from a reply.
type Rule struct {
	Name string // unique

	Sites    []string            // empty: all
	Stages   []string            // as package delivery/smtpc calls them; empty: all
	Codes    []int               // 421, or 4 for 4xx; empty: all that refuse
	Enhanced []mail.EnhancedCode // empty: all
	Text     *regexp.Regexp      // in the reply as one line, codes included; nil: all

	Open    int // only while the node has so many connections to the site
	After   Trigger
	For     time.Duration // how long the effects last
	Effects []Effect      // none: the reply is left alone, and no rule behind it is asked
	Learn   bool          // the host speaks of too many connections: learn how many are right
	Wait    time.Duration // a message with such a reply is not tried again before
}

// maxText bounds what of a reply is read.
const maxText = 1000

// Rules are rules in their order, ready to be asked. They do not change.
type Rules struct {
	list   []Rule
	named  map[string][]int // those that may match at a site
	others []int            // those for all sites
}

// NewRules makes a table of rules.
func NewRules(list []Rule) *Rules {
	t := &Rules{list: list, named: map[string][]int{}}
	for i := range list {
		if len(list[i].Sites) == 0 {
			t.others = append(t.others, i)
		}
		for _, s := range list[i].Sites {
			t.named[s] = nil
		}
	}
	for s := range t.named {
		for i := range list {
			if len(list[i].Sites) == 0 || slices.Contains(list[i].Sites, s) {
				t.named[s] = append(t.named[s], i)
			}
		}
	}
	return t
}

// Match gives the first rule for what a site said at a stage; nil: there is
// none.
func (t *Rules) Match(site, stage string, reply *mail.Reply) *Rule {
	if reply.Positive() {
		return nil
	}
	which, ok := t.named[site]
	if !ok {
		which = t.others
	}
	line := ""
	for _, i := range which {
		r := &t.list[i]
		if !r.about(stage, reply) {
			continue
		}
		if r.Text != nil {
			if line == "" {
				line = reply.Line()
				line = line[:min(len(line), maxText)]
			}
			if !r.Text.MatchString(line) {
				continue
			}
		}
		return r
	}
	return nil
}

// Named gives a rule by its name.
func (t *Rules) Named(name string) *Rule {
	for i := range t.list {
		if t.list[i].Name == name {
			return &t.list[i]
		}
	}
	return nil
}

// about holds everything against a reply but the text.
func (r *Rule) about(stage string, reply *mail.Reply) bool {
	return (len(r.Stages) == 0 || slices.Contains(r.Stages, stage)) &&
		(len(r.Codes) == 0 || slices.Contains(r.Codes, reply.Code) || slices.Contains(r.Codes, reply.Code/100)) &&
		(len(r.Enhanced) == 0 || slices.Contains(r.Enhanced, reply.Enhanced))
}

// Default is what a site is given that says nothing.
type Default struct {
	Site         string
	Connections  int        // of all nodes together; 0: no limit
	Rate         limit.Rate // likewise
	ConnMessages int        // 0: as the configuration says
	Shipped      bool       // comes with the program
}

// Definition gives the limit that it is; ok is false where it limits nothing.
func (d *Default) Definition() (def limit.Definition, ok bool) {
	def = limit.Definition{
		Name: "site:" + d.Site, Connections: d.Connections, Rate: d.Rate, Author: Author,
		Reason: "the setting shaping.sites",
	}
	if d.Shipped {
		def.Reason = "what is known of this provider, as it comes with the program"
	}
	def.Match[limit.Site] = []string{d.Site}
	if d.Rate.N > 0 {
		def.Burst = Burst(d.Rate)
	}
	return def, d.Connections > 0 || d.Rate.N > 0
}

// Burst is that of a rate which gives none: what comes in a second, and at
// least ten where the rate is that much.
func Burst(r limit.Rate) int64 {
	second := int64(float64(r.N) * float64(time.Second) / float64(r.Per))
	return max(1, second, min(r.N, 10))
}
