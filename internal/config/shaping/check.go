package shaping

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Check holds the settings of a section against each other. key is where it
// stands in the file: "shaping", or "" for a file of its own.
func Check(f *strict.File, key string, s *Shaping) {
	checkSites(f, key, s.Sites)
	names := map[string]int{}
	for i := range s.Rules {
		at := fmt.Sprintf("%s[%d]", strict.Join(key, "rules"), i)
		r := &s.Rules[i]
		if first, dup := names[string(r.Name)]; dup && r.Name != "" {
			f.Bad(at+".name", "%q is already used in line %d", r.Name, first)
		} else {
			names[string(r.Name)] = f.Line(at + ".name")
		}
		checkRule(f, at, r)
	}
}

func checkSites(f *strict.File, key string, sites []ShapingSite) {
	seen, hosts := map[Site]int{}, map[Site]int{}
	for i := range sites {
		at := fmt.Sprintf("%s[%d]", strict.Join(key, "sites"), i)
		s := &sites[i]
		if first, dup := seen[s.Site]; dup && s.Site != "" {
			f.Bad(at+".site", "%q is already there in line %d", s.Site, first)
		} else {
			seen[s.Site] = f.Line(at + ".site")
		}
		for j, h := range s.Hosts {
			where := fmt.Sprintf("%s.hosts[%d]", at, j)
			if first, dup := hosts[h]; dup && h != "" {
				f.Bad(where, "%q belongs to a site in line %d already", h, first)
			} else {
				hosts[h] = f.Line(where)
			}
		}
		if len(s.Hosts) == 0 && s.Connections == 0 && s.Rate.N == 0 && s.MessagesPerConnection == 0 && f.Fine(at) {
			f.Bad(at, "says nothing of the site: give hosts, connections, rate or messages_per_connection")
		}
	}
}

// acts tells whether a rule does anything that lasts.
func (r *ShapingRule) acts() bool {
	return r.Suspend != "none" || r.Connections.N > 0 || r.Connections.Halve || r.Rate.N > 0 || r.Rate.Halve ||
		r.MessagesPerConnection != Amount{}
}

func checkRule(f *strict.File, at string, r *ShapingRule) {
	fine := true
	for _, k := range []string{"for", "suspend", "connections", "rate", "messages_per_connection", "text", "codes", "enhanced", "example"} {
		fine = fine && f.Fine(at+"."+k)
	}
	if !fine {
		return // what is wrong with it was said
	}
	switch {
	case r.acts() && r.For == 0:
		f.Bad(at, "how long is missing: add for, as in for: 30m")
	case !r.acts() && r.For != 0 && r.Connections.Learn:
		f.Bad(at+".for", "what is learned lasts as long as it is of use: leave for out")
	case !r.acts() && r.For != 0:
		f.Bad(at+".for", "nothing is done that could last: add suspend, connections, rate or messages_per_connection")
	}
	if r.MessagesPerConnection.Learn {
		f.Bad(at+".messages_per_connection", "is a number or halve: learn is for connections")
	}
	if len(r.Sites) == 0 && len(r.Stages) == 0 && len(r.Codes) == 0 && len(r.Enhanced) == 0 && r.Text.Regexp == nil {
		f.Warn(at, "matches every refusal of every destination: give sites, codes, enhanced, stages or text")
	}
	if r.Example != "" && !r.about(string(r.Example)) {
		f.Bad(at+".example", "the rule does not match it: compare codes, enhanced and text")
	}
}

// about tells whether codes and text of a rule match a line.
func (r *ShapingRule) about(line string) bool {
	code, _ := strconv.Atoi(line[:3]) // a Line begins with a code
	_, rest, _ := strings.Cut(line, " ")
	enhanced, _, _ := strings.Cut(rest, " ")
	return (len(r.Codes) == 0 || slices.Contains(r.Codes, Code(code)) || slices.Contains(r.Codes, Code(code/100))) &&
		(len(r.Enhanced) == 0 || slices.Contains(r.Enhanced, Enhanced(enhanced))) &&
		(r.Text.Regexp == nil || r.Text.MatchString(line))
}
