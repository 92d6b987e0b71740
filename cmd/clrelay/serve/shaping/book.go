// Package shaping runs delivery/shape in a relay: it makes rules of the
// configuration, takes words from delivery, and hands the limits out.
package shaping

import (
	"fmt"

	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/delivery/site"
	"github.com/clrelay/clrelay/delivery/smtpc"
	config "github.com/clrelay/clrelay/internal/config/shaping"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Rules makes rules, and the names of sites, of the settings: those of the
// configuration first, then those that come with the program.
func Rules(own *config.Shaping) (*shape.Book, site.Names, error) {
	sections := []*config.Shaping{own}
	if own.Shipped {
		shipped, err := config.Shipped()
		if err != nil {
			return nil, nil, fmt.Errorf("shaping: the rules of this program: %w", err)
		}
		sections = append(sections, shipped)
	}
	var rules []shape.Rule
	var defaults []shape.Default
	names := site.Names{}
	taken := map[string]bool{}
	for i, s := range sections {
		for j := range s.Rules {
			r := rule(&s.Rules[j])
			if taken[r.Name] {
				continue // the operator's of that name stands for it
			}
			taken[r.Name] = true
			rules = append(rules, r)
		}
		for j := range s.Sites {
			c := &s.Sites[j]
			defaults = append(defaults, shape.Default{
				Site: string(c.Site), Connections: c.Connections, Rate: limit.Rate(c.Rate), ConnMessages: c.MessagesPerConnection, Shipped: i > 0,
			})
			for _, h := range append(c.Hosts, c.Site) {
				if _, there := names[string(h)]; !there {
					names[string(h)] = string(c.Site)
				}
			}
		}
	}
	return shape.NewBook(rules, defaults), names, nil
}

// stage makes a word of the configuration one of the sessions.
func stage(word string) string {
	switch word {
	case "ehlo":
		return string(smtpc.StageHello)
	case "starttls":
		return string(smtpc.StageTLS)
	case "auth":
		return string(smtpc.StageAuth)
	case "mail":
		return string(smtpc.StageMail)
	case "rcpt":
		return string(smtpc.StageRcpt)
	case "data":
		return string(smtpc.StageData)
	case "end":
		return string(smtpc.StageDone)
	}
	return word // connect, greeting, content
}

func rule(c *config.ShapingRule) shape.Rule {
	r := shape.Rule{
		Name: string(c.Name), Text: c.Text.Regexp, Open: c.Open, After: shape.Trigger(c.After), For: c.For.Span(),
		Learn: c.Connections.Learn, Wait: c.Wait.Span(),
	}
	for _, s := range c.Sites {
		r.Sites = append(r.Sites, string(s))
	}
	for _, s := range c.Stages {
		r.Stages = append(r.Stages, stage(s))
	}
	for _, n := range c.Codes {
		r.Codes = append(r.Codes, int(n))
	}
	for _, e := range c.Enhanced {
		r.Enhanced = append(r.Enhanced, mail.ParseEnhancedCode(string(e)))
	}
	if c.Suspend != "none" {
		r.Effects = append(r.Effects, shape.Effect{Kind: shape.Suspend, Scope: shape.Scope(c.Suspend)})
	}
	if a := c.Connections; a.N > 0 || a.Halve {
		r.Effects = append(r.Effects, shape.Effect{Kind: shape.Connections, Scope: shape.Site, N: a.N, Halve: a.Halve})
	}
	if p := c.Rate; p.N > 0 || p.Halve {
		r.Effects = append(r.Effects, shape.Effect{Kind: shape.Rate, Scope: shape.Site, Rate: limit.Rate(p.Pace), Halve: p.Halve})
	}
	if a := c.MessagesPerConnection; a.N > 0 || a.Halve {
		r.Effects = append(r.Effects, shape.Effect{Kind: shape.ConnMessages, Scope: shape.Site, N: a.N, Halve: a.Halve})
	}
	return r
}
