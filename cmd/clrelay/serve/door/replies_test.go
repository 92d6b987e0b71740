package door

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/smtpd/guard"
)

// A sender's first message of the day waits for the node's part of its budget,
// which comes within a moment. One whose budget is used up is told so.
func TestFirstPartOfABudget(t *testing.T) {
	h := newHouse(t, limit.Definition{Name: "day", Side: limit.Receive, Per: []limit.Field{limit.Sender}, Budget: limit.Rate{N: 2, Per: 24 * time.Hour}})
	pauses := 0
	ends := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	h.Pause = func(d time.Duration) {
		h.now += d
		if pauses++; pauses == 2 {
			h.Limits.Apply(limit.Update{Seats: 1, Leased: true, Grants: []limit.Grant{{Key: "day#budget,sender=a@x.example", Window: 7, Ends: ends, Granted: 2}}})
		}
	}
	v := h.in("192.0.2.1")
	h.expect(message(v, from("a")), "ok")
	if pauses != 2 {
		t.Errorf("it has waited %d times, want 2", pauses)
	}
	h.expect(message(v, from("a")), "ok")
	pauses = 2
	h.expect(message(v, from("a")), "450 4.7.1 limit day of sender=a@x.example: 2 messages a day; try again in 1 s")
	if pauses != 2+partTries {
		t.Errorf("it has waited %d times for what does not come", pauses-2)
	}
	h.now += 10 * time.Second
	pauses = 2
	h.expect(message(v, from("a")), "450 4.7.1 limit day of sender=a@x.example: 2 messages a day; try again in 10 h")
	if pauses != 2 {
		t.Error("it has waited for a budget that is used up")
	}
	h.held.Store(maxHeld)
	h.expect(message(v, from("b")), "450 4.7.1 limit day of sender=b@x.example")
	if pauses != 2 {
		t.Error("more sessions wait than may")
	}
}

// What docs/shaping.md says that clients are told is what they are told.
func TestRepliesAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/shaping.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "### What a client is told\n")
	table, _, _ := strings.Cut(rest, "\n##")
	var want []string
	for _, m := range regexp.MustCompile("(?m)^\\|[^|]*\\| `([45][^`]*)` \\|").FindAllStringSubmatch(table, -1) {
		want = append(want, m[1])
	}
	got := told(t)
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("no client is told %q", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("the page lacks %q", g)
		}
	}
}

// told has clients refused in every way there is, and gives the replies.
func told(t *testing.T) (replies []string) {
	conns := limit.Definition{Name: "strangers", Side: limit.Receive, Per: []limit.Field{limit.Client}, Connections: 1}
	rcpts := minutely("campus", 1, limit.RecipientDomain)
	rcpts.Count = limit.Recipients
	octets := limit.Definition{Name: "line", Side: limit.Receive, Count: limit.Octets, Rate: limit.Rate{N: 1000, Per: time.Second}, Burst: 1000}
	budget := limit.Definition{Name: "students", Side: limit.Receive, Per: []limit.Field{limit.Sender}, Budget: limit.Rate{N: 2000, Per: 24 * time.Hour}}
	stop := limit.Definition{Name: "stop", Side: limit.Receive, Suspended: true, Reason: "INC-4411"}
	ask := func(def limit.Definition, from *guard.Question, to ...string) {
		h := newHouse(t, def)
		h.Pause = func(d time.Duration) { h.now += 10 * d }
		v := h.in("192.0.2.7")
		for range 3 {
			if r := message(v, from, to...); r != nil {
				replies = append(replies, r.Line())
				return
			}
		}
		t.Errorf("%s refuses nothing", def.Name)
	}
	h := newHouse(t, conns)
	h.in("192.0.2.7")
	_, r := h.enter("192.0.2.7")
	replies = append(replies, r.Line())
	ask(minutely("senders", 1, limit.Sender), from("a"))
	ask(rcpts, from("a"), "y.example")
	big := from("a")
	big.Size = 1000
	ask(octets, big)
	ask(budget, from("a"))
	_, r = newHouse(t, stop).enter("192.0.2.7")
	replies = append(replies, r.Line())

	h = newHouse(t)
	v := h.in("192.0.2.7")
	for range 9 {
		v.Answered(unknown())
	}
	_, r = h.enter("192.0.2.7")
	replies = append(replies, r.Line(), v.Ask(guard.Mail, from("a")).Line())
	for range 3 {
		h.now += time.Second
		h.Gate.Stored(5 * time.Second)
		r = message(h.in("10.0.0.1"), from("a"))
	}
	return append(replies, r.Line())
}
