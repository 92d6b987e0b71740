package shape

import (
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// Book is what is known before anything is learned: rules, and what providers
// are given. It does not change.
type Book struct {
	rules    *Rules
	defaults map[string]Default
	list     []Default
}

// NewBook makes a Book. Of two Defaults of a site the first counts.
func NewBook(rules []Rule, defaults []Default) *Book {
	b := &Book{rules: NewRules(rules), defaults: map[string]Default{}}
	for _, d := range defaults {
		if _, twice := b.defaults[d.Site]; !twice {
			b.defaults[d.Site] = d
			b.list = append(b.list, d)
		}
	}
	return b
}

// Match gives the first rule for a reply; nil: there is none.
func (b *Book) Match(site, stage string, reply *mail.Reply) *Rule {
	if b.rules == nil {
		return nil
	}
	return b.rules.Match(site, stage, reply)
}

// Rule gives a rule by its name; nil: there is none.
func (b *Book) Rule(name string) *Rule {
	if b.rules == nil {
		return nil
	}
	return b.rules.Named(name)
}

// Default gives what a site is given.
func (b *Book) Default(site string) Default { return b.defaults[site] }

// Defaults gives what all sites are given.
func (b *Book) Defaults() []Default { return b.list }

// Definitions gives the limits that hold before anything is learned.
func (b *Book) Definitions() (list []limit.Definition) {
	for i := range b.list {
		if d, ok := b.list[i].Definition(); ok {
			list = append(list, d)
		}
	}
	return list
}

// Wait is how long a message that was told this is not tried again; 0: as long
// as any other.
func (b *Book) Wait(site, stage string, reply *mail.Reply) time.Duration {
	if r := b.Match(site, stage, reply); r != nil {
		return r.Wait
	}
	return 0
}
