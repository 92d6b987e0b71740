package queue

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// Rule holds back what it picks, before the next attempt.
type Rule struct {
	ID       string
	Selector Selector
	Reason   string
	Until    time.Time // what it held is due then; zero: held until released
}

// SetRules sets the rules, for attempts that start from now on. What others
// held stays held.
func (r *Runner) SetRules(rules []Rule) {
	if len(rules) == 0 {
		r.rules.Store(nil)
		return
	}
	r.rules.Store(&rules)
}

// heldBack lets rules hold recipients back instead of having them tried, and
// gives those that none holds.
func (t *try) heldBack(lane string, send []int) []int {
	rules := t.r.rules.Load()
	if rules == nil {
		return send
	}
	var last []spool.RecipientState // read once, if a rule needs it
	var kept []int
	var rs []spool.Result
	var events []Event
	for _, place := range send {
		rule := t.rule(*rules, lane, place, &last)
		if rule == nil {
			kept = append(kept, place)
			continue
		}
		it := t.items[place]
		res := t.asBefore(it)
		orders := spool.Orders{}
		if all := t.r.sp.Orders(t.m); all != nil {
			orders = all[it.Recipient]
		}
		orders.Rule = rule.ID
		res.State, res.Next, res.Orders = mail.StateHeld, rule.Until, &orders
		rs = append(rs, res)
		t.results[place] = sched.Result{State: mail.StateHeld}
		if !rule.Until.IsZero() {
			t.results[place].Next = t.r.clock.ToSched(rule.Until)
		}
		e := t.r.event(t.m, t.env, int(it.Recipient))
		e.Kind, e.Attempt, e.Reason = Held, int(it.Attempts), "rule "+rule.ID
		if rule.Reason != "" {
			e.Reason += ": " + rule.Reason
		}
		events = append(events, e)
	}
	t.r.settle(t.m, rs)
	for i := range events {
		t.r.o.Observer.Recipient(&events[i])
	}
	return kept
}

// rule gives the first rule that holds a recipient, nil when none does. last is
// filled when a rule needs it.
func (t *try) rule(rules []Rule, lane string, place int, last *[]spool.RecipientState) *Rule {
	it, now := t.items[place], t.r.clock.Wall()
	for i := range rules {
		rule := &rules[i]
		sel := rule.Selector
		if !rule.Until.IsZero() && !rule.Until.After(now) {
			continue
		}
		state := mail.StateActive
		if it.Attempts > 0 {
			state = mail.StateDeferred
		}
		if !sel.MatchMessage(t.m.ID(), t.m.Arrived(), t.m.Size()) || !sel.MatchRecipient(state, it.Attempts, lane) {
			continue
		}
		var reply *mail.Reply
		if _, needs := sel.Needs(); needs {
			if *last == nil && it.Attempts > 0 {
				*last, _ = t.r.sp.States(t.m) // what can't be read matches nothing
			}
			reply = &mail.Reply{}
			if *last != nil {
				reply = &(*last)[it.Recipient].Reply
			}
		}
		if sel.MatchStored(t.env, int(it.Recipient), reply, "") {
			return rule
		}
	}
	return nil
}
