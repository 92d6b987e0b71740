package shape_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

var start = time.Unix(1e9, 0)

// one is a Core with a store of its own.
type one struct {
	*shape.Core
	t     *testing.T
	now   time.Time
	store *store
	book  *shape.Book
}

func newOne(t *testing.T, o shape.Options, d ...shape.Default) *one {
	c := &one{t: t, now: start, store: &store{byKey: map[string]shape.Record{}, writes: map[string][]time.Time{}}, book: shape.NewBook(nil, d)}
	o.Node, o.Defaults = "node-1", func() *shape.Book { return c.book }
	c.Core = shape.New(o)
	return c
}

// after lets time go by, and writes what is to be written.
func (c *one) after(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(min(100*time.Millisecond, end.Sub(c.now)))
		c.Tick(c.now, true)
		for _, a := range c.Due(c.now) {
			version, ok := c.store.put(c.now, &a)
			c.Wrote(c.now, &a, version, ok)
		}
		c.Records(c.now, c.store.all())
	}
}

func (c *one) says(r *shape.Rule, w shape.Word) {
	if w.Reply.Code == 0 {
		w.Reply = *mail.NewReply(421, "4.7.28", "unusual rate")
	}
	if w.Site == "" {
		w.Site = "a.example"
	}
	c.Heard(c.now, &w, r)
}

// What lasts longer is told once; what begins again after its end is told again.
func TestBeginsAgain(t *testing.T) {
	c := newOne(t, shape.Options{})
	told := func(want int, when string) {
		t.Helper()
		if n := len(c.Notes()); n != want {
			t.Errorf("%s: told %d times, want %d", when, n, want)
		}
	}
	c.says(&suspend, shape.Word{})
	told(1, "at first")
	c.after(suspend.For - time.Second)
	c.says(&suspend, shape.Word{})
	told(0, "a moment before its end")
	c.now = c.now.Add(suspend.For + 10*time.Millisecond) // and nothing has looked since
	c.says(&suspend, shape.Word{})
	told(1, "a moment after it")
	c.want("suspended")
}

// limits gives what is in force, in short.
func (c *one) limits() string {
	s := c.State("a.example")
	var out []string
	if s.Learned != nil {
		out = append(out, fmt.Sprintf("learned %d", s.Learned.Connections))
	}
	for _, h := range s.Held {
		out = append(out, h.String())
	}
	return strings.Join(out, "; ")
}

func (c *one) want(want string) {
	c.t.Helper()
	if got := c.limits(); got != want {
		c.t.Errorf("after %v: %q, want %q", c.now.Sub(start), got, want)
	}
}

func TestEffects(t *testing.T) {
	for _, test := range []struct {
		name   string
		effect shape.Effect
		word   shape.Word
		want   string
	}{
		{"suspend", shape.Effect{Kind: shape.Suspend, Scope: shape.Site}, shape.Word{}, "suspended"},
		{"a source", shape.Effect{Kind: shape.Suspend, Scope: shape.Source}, shape.Word{Source: "192.0.2.9"}, "suspended from 192.0.2.9"},
		{"no source", shape.Effect{Kind: shape.Suspend, Scope: shape.Source}, shape.Word{}, "suspended"},
		{"a domain", shape.Effect{Kind: shape.Suspend, Scope: shape.Domain}, shape.Word{Domain: "b.example"}, "suspended for b.example"},
		{"connections", shape.Effect{Kind: shape.Connections, Scope: shape.Site, N: 2}, shape.Word{}, "at most 2 connections"},
		{"half of the connections", shape.Effect{Kind: shape.Connections, Scope: shape.Site, Halve: true}, shape.Word{}, "at most 10 connections"},
		{"rate", shape.Effect{Kind: shape.Rate, Scope: shape.Site, Rate: limit.Rate{N: 10, Per: time.Minute}}, shape.Word{}, "at most 10 messages in 1m0s"},
		{"half of the rate", shape.Effect{Kind: shape.Rate, Scope: shape.Site, Halve: true}, shape.Word{}, "at most 180000 messages in 1h0m0s"},
		{"half of the messages", shape.Effect{Kind: shape.ConnMessages, Scope: shape.Site, Halve: true}, shape.Word{}, "at most 25 messages a connection"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newOne(t, shape.Options{}, shape.Default{Site: "a.example", Connections: 20, Rate: limit.Rate{N: 100, Per: time.Second}, ConnMessages: 50})
			r := &shape.Rule{Name: "r", For: 10 * time.Minute, Effects: []shape.Effect{test.effect}}
			c.says(r, test.word)
			c.want(test.want) // at once, before anything was written
			c.after(9*time.Minute + 59*time.Second)
			c.want(test.want)
			if n := len(c.store.byKey); n != 1 {
				t.Errorf("%d records", n)
			}
			c.after(2 * time.Second)
			c.want("")
			if n := len(c.store.byKey); n != 0 {
				t.Errorf("%d records are left of what has ended", n)
			}
		})
	}
}

// A rate that was never set is halved from what was sent of late.
func TestHalvesWhatWasSent(t *testing.T) {
	c := newOne(t, shape.Options{Nodes: func() int { return 3 }})
	for range 3000 { // ten a second, for five minutes
		c.now = c.now.Add(100 * time.Millisecond)
		c.says(nil, shape.Word{OK: true, Open: 1})
	}
	r := &shape.Rule{Name: "r", For: time.Hour, Effects: []shape.Effect{{Kind: shape.Rate, Scope: shape.Site, Halve: true}}}
	c.says(r, shape.Word{})
	first := c.State("a.example").Held[0].Rate
	if hourly := int64(10 * 3600 * 3 / 2); first.N < hourly*8/10 || first.N > hourly*12/10 {
		t.Errorf("half of ten a second at three nodes: %v", first)
	}
	for range 20 { // the same burst
		c.says(r, shape.Word{})
	}
	if got := c.State("a.example").Held[0].Rate; got != first {
		t.Errorf("one burst of replies halves more than once: %v", got)
	}
	c.after(31 * time.Second)
	c.says(r, shape.Word{})
	if got := c.State("a.example").Held[0].Rate; got.N != first.N/2 {
		t.Errorf("after half a minute more: %v, first %v", got, first)
	}
}

func TestTrigger(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", For: time.Hour, After: shape.Trigger{N: 3, Per: time.Minute}, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}
	c.says(r, shape.Word{})
	c.says(r, shape.Word{Site: "b.example"})
	c.after(31 * time.Second)
	c.says(r, shape.Word{})
	c.after(30 * time.Second)
	c.says(r, shape.Word{}) // the first is too old by now
	c.want("")
	c.after(10 * time.Second)
	c.says(r, shape.Word{})
	c.want("suspended")
}

// A storm of replies is written about once a second.
func TestStorm(t *testing.T) {
	c := newOne(t, shape.Options{})
	for i := range 1000 {
		r := &shape.Rule{Name: fmt.Sprintf("r%d", i%7), For: time.Hour, Learn: true, Effects: []shape.Effect{{Kind: shape.Connections, Scope: shape.Site, N: 1 + i%5}}}
		c.says(r, shape.Word{Open: 1000 - i})
		if i%10 == 0 {
			c.after(100 * time.Millisecond)
		}
	}
	if n := len(c.store.writes["a.example"]); n > 11 {
		t.Errorf("%d records in ten seconds", n)
	}
}

// However many sites refuse, a node writes some ten records a second.
func TestWritesAreBounded(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", For: time.Hour, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}
	for i := range 1000 {
		c.says(r, shape.Word{Site: fmt.Sprintf("s%d.example", i)})
	}
	c.after(10 * time.Second)
	if n := len(c.store.byKey); n < 100 || n > 125 {
		t.Errorf("%d records in ten seconds", n)
	}
	defs, _ := c.Definitions()
	c.after(100 * time.Second)
	if n := len(c.store.byKey); n != 1000 || len(defs) != 1000 {
		t.Errorf("%d records, %d limits, of 1000 sites", n, len(defs))
	}
}

// With as many sites as there may be, the one that ends first makes room.
func TestMakesRoom(t *testing.T) {
	c := newOne(t, shape.Options{Max: 10})
	for i := range 10 {
		r := &shape.Rule{Name: "r", For: time.Duration(i+1) * time.Hour, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}
		c.says(r, shape.Word{Site: fmt.Sprintf("s%d.example", i)})
	}
	c.after(5 * time.Second)
	r := &shape.Rule{Name: "r", For: 90 * time.Minute, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}
	c.says(r, shape.Word{Site: "new.example"})
	c.after(5 * time.Second)
	var sites []string
	for _, s := range c.List() {
		sites = append(sites, s.Site)
	}
	if len(c.store.byKey) != 10 || slices.Contains(sites, "s0.example") || !slices.Contains(sites, "new.example") {
		t.Errorf("%d records; %v", len(c.store.byKey), sites)
	}
}

// What an operator deletes is undone at once, also what was not written yet,
// and what is heard later counts.
func TestUndone(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", For: time.Hour, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}
	c.says(r, shape.Word{})
	c.after(5 * time.Second)
	c.want("suspended")
	delete(c.store.byKey, "a.example")
	c.Records(c.now, c.store.all())
	c.want("")
	c.after(5 * time.Second)
	if len(c.store.byKey) != 0 {
		t.Error("it is written again")
	}
	c.says(r, shape.Word{})
	c.after(time.Second)
	c.want("suspended")
	if len(c.store.byKey) != 1 {
		t.Error("it is not written")
	}
}

// A host that does not even bear one connection is left alone for a while, longer
// each time, and never for good.
func TestNotEvenOne(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", Learn: true}
	longest := time.Duration(0)
	for range 40 {
		c.says(r, shape.Word{Open: 1})
		if l := c.State("a.example").Learned; l.Connections != 1 {
			t.Fatalf("%d connections are learned", l.Connections)
		}
		for began := c.now; ; c.after(time.Second) {
			if s := c.State("a.example"); !s.Suspended() {
				longest = max(longest, c.now.Sub(began))
				break
			}
		}
		c.after(6 * time.Second)
	}
	if longest < 29*time.Minute || longest > 31*time.Minute {
		t.Errorf("it was left alone for %v at most", longest)
	}
}

// A host that closes many connections at once is taken to bear less than it
// does. It gets more back soon, until one is too much; from then on it is asked
// once a minute at most.
func TestLessThanItBears(t *testing.T) {
	c := newOne(t, shape.Options{})
	works := func(open int, d time.Duration) {
		for end := c.now.Add(d); c.now.Before(end); c.after(time.Second) {
			c.says(nil, shape.Word{OK: true, Open: open, Took: 100 * time.Millisecond})
		}
	}
	r := &shape.Rule{Name: "r", Learn: true}
	c.says(r, shape.Word{Open: 4})
	c.says(r, shape.Word{Open: 3})
	c.says(r, shape.Word{Open: 2})
	c.want("learned 1")
	for n := range 3 {
		works(n+1, 17*time.Second)
	}
	c.want("learned 4")
	c.says(r, shape.Word{Open: 4})
	c.want("learned 3")
	works(3, 50*time.Second)
	c.want("learned 3")
	works(3, 15*time.Second)
	c.want("learned 4")
}

// What had been borne and is refused is halved, and comes back soon as far as it
// is borne.
func TestHalfMayBeTooLittle(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", Learn: true}
	c.says(r, shape.Word{Open: 5})
	c.want("learned 4")
	c.after(6 * time.Second)
	c.says(r, shape.Word{Open: 4})
	c.want("learned 2")
	for range 17 {
		c.says(nil, shape.Word{OK: true, Open: 2, Took: 100 * time.Millisecond})
		c.after(time.Second)
	}
	c.want("learned 3")
	c.says(r, shape.Word{Open: 3})
	var notes []string
	for _, n := range c.Notes() {
		notes = append(notes, n.Text)
	}
	const said = "421 4.7.28 unusual rate (rule r)"
	want := []string{"connections no limit -> 4: " + said, "connections 4 -> 2: " + said, "connections 2 -> 3: no complaint for a while", "connections 3 -> 2: " + said}
	if !slices.Equal(notes, want) {
		t.Errorf("told: %q, want %q", notes, want)
	}
}

// A host that refuses for some seconds after one connection too many is not made
// to do so every quarter of a minute.
func TestAngryForAMoment(t *testing.T) {
	c := newOne(t, shape.Options{})
	r := &shape.Rule{Name: "r", Learn: true}
	c.says(r, shape.Word{Open: 6})
	c.after(6 * time.Second)
	angry, times := c.now, 0
	for end := c.now.Add(time.Hour); c.now.Before(end); c.after(time.Second) {
		open := c.State("a.example").Learned.Connections
		switch {
		case c.now.Before(angry):
			c.says(r, shape.Word{Open: open})
		case open > 5:
			times++
			angry = c.now.Add(7 * time.Second)
			c.says(r, shape.Word{Open: open})
		default:
			c.says(nil, shape.Word{OK: true, Open: open, Took: 100 * time.Millisecond})
		}
	}
	if times > 15 {
		t.Errorf("it was made angry %d times in an hour", times)
	}
}

// A host that has become slow gets no more connections.
func TestSlowDoesNotGrow(t *testing.T) {
	c := newOne(t, shape.Options{})
	works := func(took, d time.Duration) {
		for end := c.now.Add(d); c.now.Before(end); c.after(time.Second) {
			c.says(nil, shape.Word{OK: true, Open: 3, Took: took})
		}
	}
	works(100*time.Millisecond, time.Minute)
	c.says(&shape.Rule{Name: "r", Learn: true}, shape.Word{Open: 4})
	works(5*time.Second, 3*time.Minute)
	c.want("learned 3")
	works(100*time.Millisecond, 2*time.Minute)
	if got := c.State("a.example").Learned.Connections; got < 4 {
		t.Errorf("it is quick again, and has %d connections", got)
	}
}

// An idle destination is tried no harder, and is forgotten after six hours.
func TestForgotten(t *testing.T) {
	c := newOne(t, shape.Options{})
	c.says(&shape.Rule{Name: "r", Learn: true}, shape.Word{Open: 4})
	c.after(5 * time.Minute)
	c.want("learned 3")
	c.now = c.now.Add(6 * time.Hour)
	c.after(2 * time.Second)
	c.want("")
	if len(c.store.byKey) != 0 {
		t.Error("the record is there")
	}
}

func TestMatch(t *testing.T) {
	rules := shape.NewRules([]shape.Rule{
		{Name: "left alone", Sites: []string{"a.example"}, Codes: []int{450}},
		{Name: "by text", Text: regexp.MustCompile("(?i)slow down"), Codes: []int{4}},
		{Name: "by enhanced code", Sites: []string{"a.example", "b.example"}, Enhanced: []mail.EnhancedCode{{4, 7, 28}}},
		{Name: "by stage", Stages: []string{"greeting"}, Codes: []int{421}},
	})
	for _, test := range []struct {
		site, stage, line string
		code              int
		enhanced          string
		want              string
	}{
		{"a.example", "MAIL", "slow down", 450, "", "left alone"},
		{"b.example", "MAIL", "Slow\nDown", 450, "", "by text"},
		{"b.example", "MAIL", "slow down", 550, "", ""},
		{"b.example", "RCPT", "x", 421, "4.7.28", "by enhanced code"},
		{"c.example", "RCPT", "x", 421, "4.7.28", ""},
		{"c.example", "greeting", "x", 421, "", "by stage"},
		{"c.example", "greeting", "slow down", 250, "", ""},
		{"c.example", "MAIL", strings.Repeat("x", 5000) + "slow down", 450, "", ""},
	} {
		got := rules.Match(test.site, test.stage, mail.NewReply(test.code, test.enhanced, test.line))
		if name := nameOf(got); name != test.want {
			t.Errorf("%s, %s: %d %s %.20q: %q, want %q", test.site, test.stage, test.code, test.enhanced, test.line, name, test.want)
		}
	}
}

func nameOf(r *shape.Rule) string {
	if r == nil {
		return ""
	}
	return r.Name
}

func TestParseState(t *testing.T) {
	for _, bad := range []string{"", "[]", `{"learned":{"connections":0}}`, `{"learned":{"connections":-1}}`, `{"learned":{"connections":1,"step":-1}}`} {
		if _, err := shape.ParseState([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if s, err := shape.ParseState([]byte(`{"learned":{"connections":3,"later":1},"later":true}`)); err != nil || s.Learned.Connections != 3 {
		t.Errorf("a record of a later version: %+v, %v", s, err)
	}
}

func TestOrders(t *testing.T) {
	d := limit.Definition{
		Name: "black-friday", Side: limit.Receive, Rate: limit.Rate{N: 10, Per: time.Minute}, Burst: 5, Connections: 2, OnPartition: limit.Stop, Suspended: true, Budget: limit.Rate{N: 1000, Per: 24 * time.Hour},
		Per: []limit.Field{limit.RecipientDomain}, Reason: "they asked", Author: "jane", Until: start.UTC(),
	}
	d.Match[limit.Site] = []string{"google.com"}
	d.Match[limit.Sender] = []string{"a@b.example"}
	got, err := shape.ParseOrder(d.Name, shape.WriteOrder(&d))
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", d) {
		t.Errorf("%v\n%+v\n%+v", err, got, d)
	}
	for _, bad := range []string{"{}", "", `{"match":{"planet":["x"]},"connections":1}`, `{"per":["planet"],"connections":1}`, `{"rate":{"N":1}}`} {
		if _, err := shape.ParseOrder("x", []byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func BenchmarkHeardWell(b *testing.B) {
	c := shape.New(shape.Options{Node: "n"})
	w := shape.Word{Site: "a.example", OK: true, Open: 3, Took: time.Millisecond}
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		c.Heard(now, &w, nil)
	}
}

// A clock that was a year ahead and is put right leaves nothing in the records that
// holds for a year.
func TestClockPutRight(t *testing.T) {
	c := newOne(t, shape.Options{})
	c.now = start.Add(365 * 24 * time.Hour)
	c.says(&shape.Rule{Name: "many", Learn: true, For: time.Minute}, shape.Word{Open: 2})
	c.says(&shape.Rule{Name: "r", For: 10 * time.Minute, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}, shape.Word{})
	c.after(time.Second)
	c.want("learned 1; suspended")
	before := c.store
	c = newOne(t, shape.Options{}) // after a restart
	c.store = before
	c.after(2 * time.Second)
	c.want("")
	if n := len(c.store.byKey); n != 0 {
		t.Errorf("%d records are left of it", n)
	}
	c.says(&shape.Rule{Name: "many", Learn: true, For: time.Minute}, shape.Word{Open: 4})
	c.want("learned 3") // what is said from now on counts
	c.now = c.now.Add(-59 * time.Minute)
	c.after(time.Second)
	c.want("learned 3") // nodes' clocks differ a little
}
