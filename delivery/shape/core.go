package shape

import (
	"cmp"
	"container/list"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

// Space is where the records are: "shaping/google.com".
const Space = "shaping/"

const (
	settle     = 100 * time.Millisecond // words that are so near are written together
	between    = time.Second            // least time between two records of a site
	again      = 2 * time.Second        // after a record could not be written
	perSecond  = 10                     // records that a node writes, in the long run
	atOnce     = 20                     // likewise, after a pause
	remembered = 20_000                 // sites of which something is remembered in memory
	lately     = 30 * time.Second       // how long what was open counts as open
	fine       = 2 * time.Second        // an answer within it is not slow
)

// Word is what a host said, or that it said nothing.
type Word struct {
	Site   string
	Domain string // of the recipients
	Source string // own address
	Stage  string // as package delivery/smtpc calls them
	Reply  mail.Reply
	OK     bool
	Took   time.Duration
	Open   int // connections of this node to the site, with the one it was said on
}

// Action is what a Core wants done: a record to be written, or deleted where
// Value is nil, by compare-and-swap. Wrote tells what came of it.
type Action struct {
	Site    string
	Value   []byte
	Version uint64 // that the record has; 0: there is none
}

// Note is something that was learned, for the log.
type Note struct {
	Site string
	Kind Kind // Connections also for what was learned
	Text string
}

// Options set up a Core.
type Options struct {
	Node     string
	Max      int          // sites that records are kept of; 5,000
	Nodes    func() int   // how many there are
	Ceiling  func() int   // connections to a site above which nothing need be learned, all nodes together
	Defaults func() *Book // what is known of the sites; nil: nothing
}

// Core learns. It is not safe for concurrent use.
type Core struct {
	o     Options
	sites map[string]*memory
	busy  map[string]*memory // those of them that have a State, a record, or something to write
	order *list.List         // of the others, most recently used first
	seen  map[string]*ring

	changed bool // the definitions are others than those that were last given out
	notes   []Note
	kept    int     // records
	dying   int     // of them, being deleted to make room
	tokens  float64 // records that may be written now
	filled  time.Time
}

// memory is what is remembered of a site.
type memory struct {
	site    string
	elem    *list.Element // in order; nil while there is a State
	state   State         // as it is in force: the record and what is not written yet
	version uint64        // of the record
	sent    []op          // being written
	pending []op
	due     time.Time // before which nothing is written
	flying  bool
	dying   bool // to make room
	refused int  // writes that failed in a row

	open         int // at the last word
	openAt       time.Time
	messages     float64 // a second, over the last minute or so
	messageAt    time.Time
	quick, usual float64 // seconds that an answer takes: lately, and in the long run
}

// New makes a Core that knows nothing.
func New(o Options) *Core {
	o.Max = cmp.Or(o.Max, 5000)
	if o.Nodes == nil {
		o.Nodes = func() int { return 1 }
	}
	if o.Ceiling == nil {
		o.Ceiling = func() int { return 100 }
	}
	if o.Defaults == nil {
		o.Defaults = func() *Book { return &Book{} }
	}
	return &Core{o: o, sites: map[string]*memory{}, busy: map[string]*memory{}, order: list.New(), seen: map[string]*ring{}, tokens: atOnce}
}

func (c *Core) memory(site string) *memory {
	m := c.sites[site]
	if m == nil {
		m = &memory{site: site}
		c.sites[site] = m
		m.elem = c.order.PushFront(m)
		if c.order.Len() > remembered {
			last := c.order.Back()
			c.order.Remove(last)
			delete(c.sites, last.Value.(*memory).site)
		}
	} else if m.elem != nil {
		c.order.MoveToFront(m.elem)
	}
	return m
}

// pin keeps a site that has a State from being forgotten, and lets go of one
// that has none.
func (c *Core) pin(m *memory) {
	busy := !m.state.empty() || m.version != 0 || m.flying || len(m.pending)+len(m.sent) > 0
	switch {
	case busy && m.elem != nil:
		c.order.Remove(m.elem)
		m.elem = nil
		c.busy[m.site] = m
	case !busy && m.elem == nil:
		m.elem = c.order.PushFront(m)
		delete(c.busy, m.site)
	}
}

// Heard takes a word, and the rule that matches it, or nil.
func (c *Core) Heard(now time.Time, w *Word, r *Rule) {
	if w.Site == "" {
		return
	}
	m := c.memory(w.Site)
	if w.OK {
		m.heardWell(now, w)
		return
	}
	if r == nil || w.Open < r.Open || !c.fires(now, w, r) {
		return
	}
	reply := w.Reply.Line()
	reply = reply[:min(len(reply), maxReason)]
	if r.Learn {
		c.do(now, m, complaint{at: now, node: c.o.Node, good: w.Open - 1, rule: r.Name, reply: reply})
	}
	for _, e := range r.Effects {
		h := held{Hold: Hold{Rule: r.Name, Kind: e.Kind, Scope: e.Scope, N: e.N, Rate: e.Rate, At: now, Until: now.Add(r.For), Reply: reply, By: c.o.Node}, halve: e.Halve}
		switch {
		case e.Scope == Source && w.Source != "":
			h.Of = w.Source
		case e.Scope == Domain && w.Domain != "":
			h.Of = w.Domain
		default:
			h.Scope = Site
		}
		if e.Halve {
			c.halve(now, m, &h.Hold)
		}
		if i := m.state.find(&h.Hold); i >= 0 && !e.Halve && m.state.Held[i].Until.Sub(now) > r.For*9/10 {
			continue // nothing new
		}
		c.do(now, m, h)
	}
}

// heardWell counts what went well.
func (m *memory) heardWell(now time.Time, w *Word) {
	m.open, m.openAt = w.Open, now
	since := now.Sub(m.messageAt).Seconds()
	const window = 60.0
	m.messages = m.messages*max(0, 1-since/window) + 1/window
	m.messageAt = now
	took := w.Took.Seconds()
	if m.usual == 0 {
		m.quick, m.usual = took, took
	}
	m.quick += (took - m.quick) / 5
	if took < m.usual {
		m.usual += (took - m.usual) / 20
	} else {
		m.usual += (took - m.usual) / 1000 // a bad hour is not what is usual
	}
}

// slow tells whether a site takes much longer than it used to.
func (m *memory) slow() bool { return m.quick > fine.Seconds() && m.quick > 3*m.usual }

// halve finds half of what is in force.
func (c *Core) halve(now time.Time, m *memory, h *Hold) {
	d := c.o.Defaults().Default(m.site)
	switch h.Kind {
	case Connections, ConnMessages:
		is := 0
		if h.Kind == Connections {
			if l := m.state.Learned; l != nil {
				is = l.Connections
			}
			is = least(is, d.Connections)
			if is == 0 && now.Sub(m.openAt) < lately {
				is = m.open * c.o.Nodes()
			}
		} else {
			is = d.ConnMessages
		}
		for i := range m.state.Held {
			if m.state.Held[i].Kind == h.Kind {
				is = least(is, m.state.Held[i].N)
			}
		}
		h.N = max(1, is/2)
	case Rate:
		// In messages an hour, so that halves of little are still something.
		is := hourly(d.Rate)
		for i := range m.state.Held {
			if m.state.Held[i].Kind == Rate {
				is = least(is, hourly(m.state.Held[i].Rate))
			}
		}
		if is == 0 {
			is = int64(m.messages * 3600 * float64(c.o.Nodes()))
		}
		h.Rate = limit.Rate{N: max(60, is/2), Per: time.Hour}
	}
}

func hourly(r limit.Rate) int64 {
	if r.N == 0 {
		return 0
	}
	return max(1, int64(float64(r.N)*float64(time.Hour)/float64(r.Per)))
}

// least gives the smaller of two numbers, of which 0 is none.
func least[T int | int64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// do makes a change, and has it written.
func (c *Core) do(now time.Time, m *memory, o op) {
	before := m.state.clone()
	o.apply(&m.state)
	if !c.differs(m.site, &before, &m.state, now) {
		return
	}
	if len(m.pending) == 0 {
		if first := now.Add(settle); first.After(m.due) {
			m.due = first
		}
	}
	m.pending = append(m.pending, o)
	if len(m.pending) > maxHolds { // they all went into the state; the oldest are in it most surely
		m.pending = m.pending[1:]
	}
	c.changed = true
	c.pin(m)
}

// differs notes what a change made of a State. What only lasts longer is no
// news, and what changed but a burst's count is written all the same.
func (c *Core) differs(site string, a, b *State, now time.Time) bool {
	changed := string(a.Record()) != string(b.Record())
	if l := b.Learned; l != nil && (a.Learned == nil || a.Learned.Connections != l.Connections) {
		was := "no limit"
		if a.Learned != nil {
			was = fmt.Sprint(a.Learned.Connections)
		}
		why := reason(l.Rule, l.Reply)
		if l.Grown.After(l.Told) {
			why = "no complaint for a while" // the reply is what they were made fewer for
		}
		c.notes = append(c.notes, Note{site, Connections, fmt.Sprintf("connections %s -> %d: %s", was, l.Connections, why)})
	} else if l == nil && a.Learned != nil {
		c.notes = append(c.notes, Note{site, Connections, fmt.Sprintf("connections %d -> no limit", a.Learned.Connections)})
	}
	for i := range b.Held {
		h := &b.Held[i]
		if j := a.find(h); j >= 0 && a.Held[j].N == h.N && a.Held[j].Rate == h.Rate && a.Held[j].Until.After(h.At) {
			continue
		}
		c.notes = append(c.notes, Note{site, h.Kind, h.String() + " for " + h.Until.Sub(now).Round(time.Second).String() + ": " + reason(h.Rule, h.Reply)})
	}
	return changed
}

// String says what is done, in words.
func (h *Hold) String() string {
	of := ""
	switch h.Scope {
	case Source:
		of = " from " + h.Of
	case Domain:
		of = " for " + h.Of
	}
	switch h.Kind {
	case Suspend:
		return "suspended" + of
	case Rate:
		return fmt.Sprintf("at most %d messages in %v", h.Rate.N, h.Rate.Per) + of
	case ConnMessages:
		return fmt.Sprintf("at most %d messages a connection", h.N) + of
	}
	return fmt.Sprintf("at most %d connections", h.N) + of
}

// Record is a record of Space as the store holds it.
type Record struct {
	Site    string
	Value   []byte
	Version uint64
}

// Records takes all records that there are.
func (c *Core) Records(now time.Time, all []Record) {
	there := make(map[string]bool, len(all))
	c.kept = len(all)
	for i := range all {
		r := &all[i]
		there[r.Site] = true
		m := c.memory(r.Site)
		if m.version == r.Version {
			continue
		}
		state, err := ParseState(r.Value)
		if err != nil {
			state = State{} // what cannot be read is written anew or swept
		}
		c.rebase(now, m, state, r.Version)
	}
	for site, m := range c.busy {
		if m.version != 0 && !there[site] {
			m.pending, m.sent = nil, nil // an operator has undone it, or it has ended
			c.rebase(now, m, State{}, 0)
		}
	}
}

// rebase puts a record into force, and on it what is not written yet.
func (c *Core) rebase(now time.Time, m *memory, state State, version uint64) {
	state.expire(now)
	m.version = version
	before := m.state
	m.state = state
	for _, o := range slices.Concat(m.sent, m.pending) {
		o.apply(&m.state)
	}
	if string(before.Record()) != string(m.state.Record()) {
		c.changed = true
	}
	if l := m.state.Learned; l != nil && l.First && now.Sub(l.Told) < burstFor {
		if _, told := l.Bids[c.o.Node]; !told && m.open > 0 && l.Told.Sub(m.openAt) < lately {
			c.do(now, m, bid{told: l.Told, node: c.o.Node, good: m.open})
		}
	}
	c.pin(m)
}

// Wrote tells what came of an Action: the version that the record has now, or
// that it was not written.
func (c *Core) Wrote(now time.Time, a *Action, version uint64, ok bool) {
	m := c.memory(a.Site)
	m.flying = false
	if m.dying {
		m.dying = false
		c.dying--
	}
	if !ok {
		m.pending, m.sent = slices.Concat(m.sent, m.pending), nil
		m.refused++
		m.due = now.Add(again * time.Duration(min(m.refused, 15)))
		c.pin(m)
		return
	}
	m.refused, m.sent = 0, nil
	if a.Value == nil {
		c.kept--
	}
	if version > m.version || a.Value == nil {
		m.version = version
	}
	c.pin(m)
}

// Tick looks after what time does. leads is true at one node of the cluster: it
// removes records that have ended.
func (c *Core) Tick(now time.Time, leads bool) {
	for _, m := range c.byName() {
		if m.state.expire(now) {
			c.changed = true
		}
		if l := m.state.Learned; l != nil && len(m.pending) == 0 && !m.flying && c.mayGrow(now, m, l) {
			c.do(now, m, growth{at: now, from: l.Connections, ceiling: c.o.Ceiling()})
		}
		if leads && m.version != 0 && m.state.empty() && len(m.pending) == 0 && !m.flying {
			m.pending = append(m.pending, sweep{})
			m.due = now
		}
		c.pin(m)
	}
	for key, r := range c.seen {
		if now.After(r.ends) {
			delete(c.seen, key)
		}
	}
}

// sweep has an empty record deleted.
type sweep struct{}

func (sweep) apply(*State) {}

// mayGrow tells whether a connection more is worth a try: the site was calm for
// long enough, is used, and answers as quickly as ever. The nodes do not all
// try at the same moment.
func (c *Core) mayGrow(now time.Time, m *memory, l *Learned) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.o.Node + "/" + m.site)) // a hash takes everything
	wait := l.Step + time.Duration(h.Sum32()%5000)*time.Millisecond
	return now.Sub(l.Grown) >= wait && now.Sub(l.Told) >= wait && now.Sub(m.openAt) < lately && !m.slow()
}

// fires counts a rule's matches.
func (c *Core) fires(now time.Time, w *Word, r *Rule) bool {
	if r.After.N <= 1 {
		return true
	}
	key := r.Name + "\x00" + w.Site
	t := c.seen[key]
	if t == nil {
		if len(c.seen) >= remembered {
			return false // a flood of sites that all refuse: nothing of it can be kept
		}
		t = &ring{}
		c.seen[key] = t
	}
	t.ends = now.Add(r.After.Per)
	t.at = append(t.at, now)
	t.at = slices.DeleteFunc(t.at, func(at time.Time) bool { return now.Sub(at) >= r.After.Per })
	if len(t.at) < r.After.N {
		return false
	}
	t.at = t.at[:0]
	return true
}

// ring is when a rule matched.
type ring struct {
	at   []time.Time
	ends time.Time
}

// Due gives the records that are to be written now.
func (c *Core) Due(now time.Time) (out []Action) {
	c.tokens = min(atOnce, c.tokens+now.Sub(c.filled).Seconds()*perSecond)
	c.filled = now
	var ready []*memory
	for _, m := range c.busy {
		if len(m.pending) > 0 && !m.flying && !m.due.After(now) {
			ready = append(ready, m)
		}
	}
	slices.SortFunc(ready, func(a, b *memory) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.site, b.site))
	})
	for _, m := range ready {
		if c.tokens < 1 {
			break
		}
		a := Action{Site: m.site, Value: m.state.Record(), Version: m.version}
		if !control.ValidRecordKey(Space+m.site) || a.Value == nil && a.Version == 0 {
			m.pending = nil // it is for this node alone
			c.pin(m)
			continue
		}
		if a.Version == 0 && c.kept >= c.o.Max {
			if victim := c.victim(); victim != nil && c.kept-c.dying >= c.o.Max {
				c.tokens--
				c.dying++
				victim.flying, victim.dying, victim.state, c.changed = true, true, State{}, true
				out = append(out, Action{Site: victim.site, Version: victim.version})
			}
			continue // it is written once there is room
		}
		c.tokens--
		m.sent, m.pending, m.flying = m.pending, nil, true
		m.due = now.Add(between)
		if a.Version == 0 {
			c.kept++
		}
		out = append(out, a)
	}
	return out
}

// writes tells whether there is anything to be written.
func (c *Core) writes() bool {
	for _, m := range c.busy {
		if len(m.pending) > 0 {
			return true
		}
	}
	return false
}

// victim finds the site whose record ends first.
func (c *Core) victim() (v *memory) {
	var least time.Time
	for _, m := range c.busy {
		if m.version == 0 || m.flying || len(m.pending) > 0 {
			continue
		}
		if u := m.state.Until(); v == nil || u.Before(least) || u.Equal(least) && m.site < v.site {
			v, least = m, u
		}
	}
	return v
}

// Definitions gives all limits, if they are others than last time.
func (c *Core) Definitions() (list []limit.Definition, changed bool) {
	if !c.changed {
		return nil, false
	}
	c.changed = false
	for _, m := range c.byName() {
		for _, e := range m.state.Definitions(m.site) {
			if e.ConnMessages == 0 {
				list = append(list, e.Definition)
			}
		}
	}
	return list, true
}

// byName gives the sites of which there is more than a memory.
func (c *Core) byName() []*memory {
	return slices.SortedFunc(maps.Values(c.busy), func(a, b *memory) int { return cmp.Compare(a.site, b.site) })
}

// Notes gives what was learned since the last call.
func (c *Core) Notes() []Note {
	n := c.notes
	c.notes = nil
	return n
}

// State gives what is in force for a site.
func (c *Core) State(site string) State {
	if m := c.sites[site]; m != nil {
		return m.state.clone()
	}
	return State{}
}

// Listed is a site and what is in force for it.
type Listed struct {
	Site string
	State
}

// List gives all sites with a State, by name.
func (c *Core) List() (list []Listed) {
	for _, m := range c.byName() {
		if !m.state.empty() {
			list = append(list, Listed{m.site, m.state.clone()})
		}
	}
	return list
}

// Suspended counts sites that nothing goes to.
func (c *Core) Suspended() (n int) {
	for _, m := range c.busy {
		if m.state.Suspended() {
			n++
		}
	}
	return n
}

// ConnMessages is how many messages a connection to a site may carry; 0: the
// configuration says it.
func (c *Core) ConnMessages(site string) int {
	n := c.o.Defaults().Default(site).ConnMessages
	if m := c.sites[site]; m != nil {
		for i := range m.state.Held {
			if m.state.Held[i].Kind == ConnMessages {
				n = least(n, m.state.Held[i].N)
			}
		}
	}
	return n
}
