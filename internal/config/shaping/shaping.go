// Package shaping is the section of cluster.yaml about what destinations bear,
// and the rules that come with the program, which are written in the same way.
package shaping

import (
	_ "embed"
	"fmt"
	"reflect"

	"github.com/clrelay/clrelay/internal/config/strict"
	"github.com/clrelay/clrelay/internal/config/words"
)

// Shaping says what is done about what mail hosts say. A destination is a site:
// all domains whose mail goes to the same hosts, by the registrable domain of
// the most preferred ones. "clrelay limit explain DOMAIN" shows it.
type Shaping struct {
	// Whether what comes with the program is used, too, behind what stands here:
	// limits and rules for large providers, and rules for everybody.
	Shipped bool `key:"shipped" default:"true"`
	// What sites are given before they have said anything, and which hosts they
	// have.
	Sites []ShapingSite `key:"sites"`
	// What follows from a reply. Of the rules, these first and then those of the
	// program, the first that matches counts; a rule that does nothing has the
	// reply left alone.
	Rules []ShapingRule `key:"rules"`
}

// ShapingSite is what is known of a site.
type ShapingSite struct {
	// The site, "google.com" for gmail.com and all domains with the same hosts.
	Site Site `key:"site" required:"yes" example:"google.com"`
	// Domains of MX hosts that belong to it as well.
	Hosts []Site `key:"hosts" example:"[googlemail.com]"`
	// Most connections to it at a time, of all nodes together.
	Connections int `key:"connections" default:"unlimited" off:"unlimited" min:"1" max:"100000"`
	// Most messages to it, of all nodes together: 60/s, 1000/m, 5000/h.
	Rate Pace `key:"rate" default:"unlimited" off:"unlimited" example:"100/s"`
	// Most messages of one connection.
	MessagesPerConnection int `key:"messages_per_connection" default:"unlimited" off:"unlimited" min:"1" max:"100000"`
}

// ShapingRule says what follows from a reply that refuses.
type ShapingRule struct {
	// Name of the rule, as limits and the log show it.
	Name words.Name `key:"name" required:"yes" example:"gmail-rate"`
	// Sites it is for. Left out: all.
	Sites []Site `key:"sites" example:"[google.com]"`
	// What the reply is to. Left out: anything.
	Stages []string `key:"stages" enum:"connect|greeting|ehlo|starttls|auth|mail|rcpt|data|content|end" example:"[greeting, mail]"`
	// Codes of the reply: 421, or 4xx for all that are temporary. Left out: all.
	Codes []Code `key:"codes" example:"[421, 4xx]"`
	// Enhanced codes of the reply. Left out: all.
	Enhanced []Enhanced `key:"enhanced" example:"[4.7.28]"`
	// A regular expression (RE2) for the reply as one line, codes included. It may
	// be anywhere in it, in any case.
	Text Expression `key:"text" example:"unusual rate"`
	// Only while a node has at least so many connections to the site.
	Open int `key:"open" default:"0" min:"0" max:"100000"`
	// How often such a reply must come, on one node, before anything is done: "3 in
	// 10m". Left out: at once.
	After Trigger `key:"after" example:"3 in 10m"`
	// How long what is done lasts.
	For words.Duration `key:"for" default:"0" off:"0" min:"1s" max:"7d" example:"30m"`
	// Send nothing: to the site; to it from the same own address (source); or to
	// the recipients' domain.
	Suspend string `key:"suspend" enum:"none|site|source|domain" default:"none"`
	// Open no more connections, of all nodes together, than so many; than half of
	// what is in force (halve); or than the site turns out to bear (learn).
	Connections Amount `key:"connections" default:"unlimited" off:"unlimited"`
	// Send no more messages than so many in a time, or than half of what is in
	// force (halve).
	Rate Slowing `key:"rate" default:"unlimited" off:"unlimited" example:"10/m"`
	// Send no more messages over one connection.
	MessagesPerConnection Amount `key:"messages_per_connection" default:"unlimited" off:"unlimited"`
	// Try the message that was told so again after this time, as for greylisting:
	// never sooner, and the first three times not later, whatever queue.retry says.
	Wait words.Duration `key:"wait" default:"0" off:"0" min:"1s" max:"1d"`
	// A reply that the rule is for. It is held against the rule when the file is
	// read.
	Example Line `key:"example" example:"\"421 4.7.28 Our system has detected an unusual rate of mail\""`
}

//go:embed shipped.yaml
var shipped []byte

// Shipped gives what comes with the program.
func Shipped() (*Shaping, error) { return Read("shipped.yaml", shipped) }

// Read reads a file that holds a section Shaping and nothing else.
func Read(name string, text []byte) (*Shaping, error) {
	f := strict.Parse(name, "", text)
	s := &Shaping{}
	f.Fill(s, strict.Doc{Name: name, Type: reflect.TypeFor[Shaping]()})
	if f.Parsed() {
		Check(f, "", s)
	}
	if errs := f.Errors(); len(errs) > 0 {
		return nil, fmt.Errorf("config: %w", errs)
	}
	return s, nil
}
