package shape

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Author is that of all definitions that are made here.
const Author = "shaping"

const (
	burstFor  = 5 * time.Second  // complaints that are so near are one
	early     = 15 * time.Second // after which one connection more is tried, until that was too much once
	calm      = time.Minute      // likewise, afterwards
	calmMost  = time.Hour        // likewise, where that was too much again and again
	learnFor  = 6 * time.Hour    // how long it is kept what a site bears
	halveWait = 30 * time.Second
	maxHolds  = 20 // of a site
	maxBids   = 64 // nodes that are counted
	strikes   = 3  // complaints about one connection before there is none
	pauseMost = 30 * time.Minute
	maxReason = 300       // octets of a reply that are kept
	ahead     = time.Hour // what was learned so far in the future was learned by a wrong clock
)

// State is what is known of a site, as its record holds it.
type State struct {
	Learned *Learned `json:"learned,omitempty"`
	Held    []Hold   `json:"held,omitempty"`
}

// Learned is how many connections a site bears.
type Learned struct {
	Connections int            `json:"connections"`       // of all nodes together
	Good        int            `json:"good"`              // that were borne for sure
	Step        time.Duration  `json:"step"`              // how long it is calm before it grows
	First       bool           `json:"first,omitempty"`   // the nodes are still telling what they had
	Bids        map[string]int `json:"bids,omitempty"`    // what they told
	Strikes     int            `json:"strikes,omitempty"` // complaints about a single connection
	Told        time.Time      `json:"told"`              // the last complaint
	Grown       time.Time      `json:"grown"`             // the last change
	Until       time.Time      `json:"until"`
	Rule        string         `json:"rule"`
	Reply       string         `json:"reply"`
	By          string         `json:"by"` // node that was told
}

// Hold is an effect in force.
type Hold struct {
	Rule  string     `json:"rule"`
	Kind  Kind       `json:"kind"`
	Scope Scope      `json:"scope,omitempty"`
	Of    string     `json:"of,omitempty"` // the source or the domain
	N     int        `json:"n,omitempty"`
	Rate  limit.Rate `json:"rate,omitzero"`
	At    time.Time  `json:"at"` // the reply
	Until time.Time  `json:"until"`
	Reply string     `json:"reply"`
	By    string     `json:"by"` // node that was told
}

// ParseState reads a record. Fields that a later version added are skipped.
func ParseState(value []byte) (s State, err error) {
	if err := json.Unmarshal(value, &s); err != nil {
		return State{}, fmt.Errorf("shape: a record that is none: %w", err)
	}
	if l := s.Learned; l != nil && (l.Connections < 1 || l.Step < 0) {
		return State{}, fmt.Errorf("shape: a record of %d connections", l.Connections)
	}
	return s, nil
}

// Record writes what ParseState reads; nil for a State that says nothing.
func (s *State) Record() []byte {
	if s.empty() {
		return nil
	}
	b, _ := json.Marshal(s) // numbers, texts and times can be written
	return b
}

func (s *State) empty() bool { return s.Learned == nil && len(s.Held) == 0 }

func (s *State) clone() State {
	out := State{Held: slices.Clone(s.Held)}
	if s.Learned != nil {
		l := *s.Learned
		l.Bids = maps.Clone(l.Bids)
		out.Learned = &l
	}
	return out
}

// Until is when the last of it ends.
func (s *State) Until() (t time.Time) {
	if s.Learned != nil {
		t = s.Learned.Until
	}
	for i := range s.Held {
		if s.Held[i].Until.After(t) {
			t = s.Held[i].Until
		}
	}
	return t
}

// expire drops what has ended, or was learned by a clock that has been put right
// since and would hold for as long as that was wrong. It tells whether that was
// anything.
func (s *State) expire(now time.Time) bool {
	n := len(s.Held)
	s.Held = slices.DeleteFunc(s.Held, func(h Hold) bool { return !h.Until.After(now) || h.At.Sub(now) > ahead })
	changed := len(s.Held) != n
	if l := s.Learned; l != nil && (!l.Until.After(now) || l.Told.Sub(now) > ahead || l.Grown.Sub(now) > ahead) {
		s.Learned, changed = nil, true
	}
	return changed
}

// Suspended tells whether nothing at all goes to the site.
func (s *State) Suspended() bool {
	return slices.ContainsFunc(s.Held, func(h Hold) bool { return h.Kind == Suspend && h.Scope == Site })
}

// op is a change of a State that can be made again on another version of it:
// twice is as good as once.
type op interface{ apply(*State) }

// complaint is a host's word that there are too many connections.
type complaint struct {
	at          time.Time
	node        string
	good        int // connections of the node that the host has not refused
	rule, reply string
}

func (c complaint) apply(s *State) {
	l := s.Learned
	switch {
	case l == nil:
		s.Learned = &Learned{Step: early, First: true, Told: c.at, Bids: map[string]int{}}
		l = s.Learned
		l.bid(c.node, c.good)
	case c.at.Sub(l.Told).Abs() < burstFor:
		l.bid(c.node, c.good)
		return
	case c.at.Before(l.Told):
		return
	case l.Connections > l.Good: // it was tried, and is too much
		l.Connections, l.Step = max(1, l.Good), max(calm, min(2*l.Step, calmMost))
		l.told(c.at)
	case l.Connections == 1:
		l.Step = max(calm, l.Step)
		l.told(c.at)
		if l.Strikes++; l.Strikes >= strikes {
			pause := min(time.Minute<<min(l.Strikes-strikes, 10), pauseMost)
			s.hold(Hold{Rule: c.rule, Kind: Suspend, Scope: Site, At: c.at, Until: c.at.Add(pause), Reply: c.reply, By: c.node})
		}
	default:
		l.Connections /= 2
		l.Good = l.Connections
		l.told(c.at)
	}
	l.Rule, l.Reply, l.By, l.Until = c.rule, c.reply, c.node, c.at.Add(learnFor)
}

// told begins a burst of complaints.
func (l *Learned) told(at time.Time) { l.First, l.Bids, l.Told, l.Grown = false, nil, at, at }

// bid counts a node's good connections.
func (l *Learned) bid(node string, good int) {
	has, there := l.Bids[node]
	if !l.First || there && has <= good || !there && len(l.Bids) >= maxBids {
		return
	}
	if l.Bids == nil {
		l.Bids = map[string]int{}
	}
	l.Bids[node] = max(0, good)
	sum := 0
	for _, n := range l.Bids {
		sum += n
	}
	l.Connections = max(1, sum)
	l.Good, l.Grown = l.Connections, l.Told
}

// bid tells of the good connections of a node that heard no complaint.
type bid struct {
	told time.Time // which burst
	node string
	good int
}

func (b bid) apply(s *State) {
	if l := s.Learned; l != nil && l.Told.Equal(b.told) {
		l.bid(b.node, b.good)
	}
}

// growth tries some connections more; from is how many there are.
type growth struct {
	at      time.Time
	from    int
	ceiling int // beyond it nothing need be learned
}

func (g growth) apply(s *State) {
	l := s.Learned
	if l == nil || l.Connections != g.from || g.at.Sub(l.Grown) < l.Step {
		return
	}
	if l.Good != l.Connections && l.Step > calm {
		l.Step = max(calm, l.Step/2) // what was tried is borne
	}
	l.Good = l.Connections
	l.Connections += 1 + l.Connections/20
	l.First, l.Bids, l.Strikes, l.Grown, l.Until = false, nil, 0, g.at, g.at.Add(learnFor)
	if l.Connections > g.ceiling {
		s.Learned = nil
	}
}

// held puts an effect into force.
type held struct {
	Hold
	halve bool
}

func (h held) apply(s *State) {
	if h.halve {
		if i := s.find(&h.Hold); i >= 0 && h.At.Sub(s.Held[i].At) < halveWait {
			return // it has not shown yet what the last time did
		}
	}
	s.hold(h.Hold)
}

func (s *State) find(h *Hold) int {
	return slices.IndexFunc(s.Held, func(o Hold) bool { return o.Rule == h.Rule && o.Kind == h.Kind && o.Scope == h.Scope && o.Of == h.Of })
}

// hold replaces the same effect, and never makes it end sooner.
func (s *State) hold(h Hold) {
	if i := s.find(&h); i >= 0 {
		if h.At.Before(s.Held[i].At) {
			return
		}
		if s.Held[i].Until.After(h.Until) {
			h.Until = s.Held[i].Until
		}
		s.Held[i] = h
		return
	}
	if len(s.Held) >= maxHolds {
		i := 0
		for j := range s.Held {
			if s.Held[j].Until.Before(s.Held[i].Until) {
				i = j
			}
		}
		s.Held = slices.Delete(s.Held, i, i+1)
	}
	s.Held = append(s.Held, h)
}

// Effected is a limit that a State is, or a number of messages of a connection,
// which is none.
type Effected struct {
	limit.Definition
	ConnMessages int
}

// Definitions gives what a State of a site is, in limits.
func (s *State) Definitions(site string) (list []Effected) {
	if l := s.Learned; l != nil {
		d := limit.Definition{Name: LearnedName(site), Connections: l.Connections, Reason: reason(l.Rule, l.Reply), Author: Author, Until: l.Until}
		d.Match[limit.Site] = []string{site}
		list = append(list, Effected{Definition: d})
	}
	for i := range s.Held {
		h := &s.Held[i]
		e := Effected{Definition: limit.Definition{Name: h.name(site), Reason: reason(h.Rule, h.Reply), Author: Author, Until: h.Until}}
		e.Match[limit.Site] = []string{site}
		switch h.Scope {
		case Source:
			e.Match[limit.Source] = []string{h.Of}
		case Domain:
			e.Match[limit.RecipientDomain] = []string{h.Of}
		}
		switch h.Kind {
		case Suspend:
			e.Suspended = true
		case Connections:
			e.Connections = h.N
		case Rate:
			e.Rate, e.Burst = h.Rate, Burst(h.Rate)
		case ConnMessages:
			e.ConnMessages = h.N
		}
		list = append(list, e)
	}
	return list
}

// Without gives a State without the effect whose limit is called so, and tells
// whether there was one.
func (s *State) Without(site, name string) (out State, ok bool) {
	out = s.clone()
	out.Held = slices.DeleteFunc(out.Held, func(h Hold) bool { return h.name(site) == name })
	return out, len(out.Held) != len(s.Held)
}

// LearnedName is the name of the limit that is learned of a site, and stands
// for all that is known of it.
func LearnedName(site string) string { return "shaping:" + site }

// name is that of the definition which a Hold is.
func (h *Hold) name(site string) string {
	n := "shaping:" + site + ":" + h.Rule + ":" + string(h.Kind)
	if h.Of != "" {
		n += ":" + h.Of
	}
	return short(n)
}

// short makes a name one that limits may have: what is too long is told apart
// by its end.
func short(name string) string {
	if len(name) <= limit.MaxName {
		return name
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return fmt.Sprintf("%s...%016x", name[:limit.MaxName-20], h.Sum64())
}

func reason(rule, reply string) string { return reply + " (rule " + rule + ")" }
