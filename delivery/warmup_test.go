package delivery_test

import (
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// daily lets so many messages out of each source that has a number.
type daily struct {
	mu   sync.Mutex
	left map[string]int
}

type day struct {
	d    *daily
	name string
}

func (d *daily) Reserve(s *limit.Subject, _ int, _ int64) (allow.Ticket, *allow.Denied) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.left[s.Source]; ok && n == 0 {
		return nil, &allow.Denied{Limit: "warm-up:" + s.Source, Kind: limit.KindBudget, Wait: time.Hour, Left: time.Hour}
	}
	return day{d, s.Source}, nil
}

func (d *daily) ByDomain(string) bool { return false }

func (d *daily) Open(*limit.Subject, func(bool)) (allow.Slot, *allow.Denied) { return day{}, nil }

func (t day) Use() time.Duration {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if _, ok := t.d.left[t.name]; ok {
		t.d.left[t.name]--
	}
	return 0
}
func (day) Cancel() {}
func (day) Close()  {}

// TestWarmUp: what is beyond the day of a source leaves from the others of its
// pool, and waits when all are used up.
func TestWarmUp(t *testing.T) {
	s := &seen{}
	hop := via("bulk", smarthost(s.start(t)))
	new1, old := own("new1", "127.0.0.2", ""), own("old", "127.0.0.3", "")
	new1.Weight = 1_000_000 // it comes first for practically every message
	d := &daily{left: map[string]int{"new1": 3, "old": 4}}
	a := agent(t, delivery.Options{Limiter: d, Sources: source.New([]source.Pool{{Name: "bulk", Members: []source.Member{new1, old}}})})
	got := map[string]int{}
	for range 7 {
		at := message(hello, "a")
		at.Envelope.ID = mail.NewID(time.Now())
		o := a.Deliver(t.Context(), hop, at)[0]
		if o.Reply.Code != 250 {
			t.Fatalf("%v: %s", got, o.Reply.Error())
		}
		got[o.Source]++
	}
	if got["new1"] != 3 || got["old"] != 4 {
		t.Errorf("messages by source: %v", got)
	}
	o := a.Deliver(t.Context(), hop, message(hello, "a"))[0]
	if cause, ok := o.Reply.Cause.(*allow.Denied); !ok || cause.Kind != limit.KindBudget || o.Reply.Code != 451 {
		t.Errorf("the eighth: %s", o.Reply.Error())
	}
}

// TestWarmUpOfAnotherFamily: the limits are asked about the source that the
// host can be reached from, and not held against one that it cannot.
func TestWarmUpOfAnotherFamily(t *testing.T) {
	s := &seen{}
	addr := s.start(t)
	hop := mail.NextHop{Kind: mail.HopMX, Domain: "example.net", Pool: "both"}
	z := zone{"MX example.net": "10 a", "A a": "::1 127.0.0.1"}
	six := source.Member{Source: own("six", "::1", "").Source, Weight: 1_000_000}
	d := &daily{left: map[string]int{"six": 0}}
	a := agent(t, delivery.Options{Limiter: d, Resolver: z, MXPort: addr.Port(), Sources: source.New([]source.Pool{
		{Name: "both", Members: []source.Member{six, own("four", "127.0.0.2", "")}},
	})})
	if o := a.Deliver(t.Context(), hop, message(hello, "a"))[0]; o.Reply.Code != 250 || o.Source != "four" {
		t.Errorf("%s from %s", o.Reply.Error(), o.Source)
	}
	// Admitted from IPv6, reached by IPv4 alone, which is used up: it waits.
	d.left = map[string]int{"four": 0}
	z["A a"] = "127.0.0.1"
	o := a.Deliver(t.Context(), hop, message(hello, "a"))[0]
	if cause, ok := o.Reply.Cause.(*allow.Denied); !ok || cause.Limit != "warm-up:four" {
		t.Errorf("%s from %s", o.Reply.Error(), o.Source)
	}
}
