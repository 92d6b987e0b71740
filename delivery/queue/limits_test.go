package queue_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/limits"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// keeper is the limits of a test.
type keeper struct {
	mu    sync.Mutex
	deny  func(s *limit.Subject) *allow.Denied
	asked []string
}

func (k *keeper) Admit(_ context.Context, hop *mail.NextHop, at *delivery.Attempt) *allow.Denied {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, fmt.Sprintf("%s for %s to %s", at.Subject.Sender, at.Subject.Domain, hop.Key))
	return k.deny(&at.Subject)
}

func (k *keeper) set(deny func(*limit.Subject) *allow.Denied) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deny = deny
}

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.asked)
}

// TestLimitIsNoFailure: what a limit keeps is as it was: no attempt counts,
// nobody is told, the destination is as good as before, and it goes out by
// itself when the time has come.
func TestLimitIsNoFailure(t *testing.T) {
	k := &keeper{deny: func(*limit.Subject) *allow.Denied {
		return &allow.Denied{Limit: "slow", Key: "site=x.org", Wait: 10 * time.Minute, Left: 20 * time.Minute}
	}}
	play(t, queue.Options{Limits: k}, func(t *testing.T, w *world) {
		w.send(envelope("News@Home.test", "ok.1@X.org", "ok.2@x.org"))
		w.send(envelope("a@b", "ok.3@x.org"))
		synctest.Wait()
		w.want("sent", &w.sent)
		w.want("events", &w.events)
		const slow = " active #0 in 20m0s: 451 4.3.2 rate of limit slow for site=x.org"
		w.wantRows("ok.1@X.org"+slow, "ok.2@x.org"+slow, "ok.3@x.org"+slow)
		if err := w.r.Scan(t.Context(), &picks.Selector{}, func(r *queue.Row) error {
			if r.Limit == nil || r.Limit.Text != "rate of limit slow for site=x.org" || limits.Of(r.Limit) == nil {
				t.Errorf("%v waits for %v", r.To, r.Limit)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		var lane queue.Lane
		w.r.Destinations(func(l *queue.Lane) { lane = *l })
		if lane.State != "limited" || lane.Why == nil || lane.Why.Text != "rate of limit slow for site=x.org" {
			t.Errorf("the lane is %+v", lane)
		}
		if k.asked[0] != "news@home.test for x.org to mx:X.org" && k.asked[0] != "news@home.test for x.org to mx:x.org" {
			t.Errorf("the limit was asked about %q", k.asked[0])
		}
		asked := k.count()
		time.Sleep(4 * time.Minute) // of the bubble
		if n := k.count(); n != asked {
			t.Errorf("asked %d times before its time", n-asked)
		}
		k.set(func(*limit.Subject) *allow.Denied { return nil })
		time.Sleep(2 * time.Minute)
		w.want("sent", &w.sent, "ok.1@X.org", "ok.2@x.org", "ok.3@x.org")
		w.want("events", &w.events, "delivered ok.1@X.org #1", "delivered ok.2@x.org #1", "delivered ok.3@x.org #1")
	})
}

// TestLimitsChanged: who waits for a limit asks at once when it has changed.
func TestLimitsChanged(t *testing.T) {
	k := &keeper{deny: func(s *limit.Subject) *allow.Denied {
		if s.Sender != "bulk@home.test" {
			return nil
		}
		return &allow.Denied{Limit: "bulk", Key: "sender=" + s.Sender, Wait: time.Hour, Sender: true}
	}}
	play(t, queue.Options{Limits: k}, func(t *testing.T, w *world) {
		w.send(envelope("bulk@home.test", "ok.1@x.org"))
		synctest.Wait()
		w.send(envelope("a@b", "ok.2@x.org"))
		synctest.Wait()
		w.want("sent", &w.sent, "ok.2@x.org") // others are not concerned
		k.set(func(*limit.Subject) *allow.Denied { return nil })
		w.r.LimitsChanged()
		synctest.Wait()
		w.want("sent", &w.sent, "ok.1@x.org")
	})
}

// TestLimitDuringTheAttempt: one that is kept later, when some have their answer
// already, has nothing recorded for the others.
func TestLimitDuringTheAttempt(t *testing.T) {
	kept := true
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.special = func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			if !kept || len(at.Recipients) < 2 {
				return nil
			}
			kept = false
			denied := &allow.Denied{Limit: "slow", Wait: time.Minute}
			return []mail.Outcome{
				{Recipient: at.Recipients[0], Reply: *mail.NewReply(250, "2.0.0", "ok"), Remote: "x"},
				{Recipient: at.Recipients[1], Reply: *denied.Reply()},
			}
		}
		w.send(envelope("a@b", "ok.1@x.org", "ok.2@x.org"))
		synctest.Wait()
		w.want("events", &w.events, "delivered ok.1@x.org #1")
		w.wantRows("ok.2@x.org active #0 in 1m0s: 451 4.3.2 rate of limit slow")
		time.Sleep(61 * time.Second)
		w.want("events", &w.events, "delivered ok.2@x.org #1")
	})
}

// TestLimitIsNoReply: what a limit says of a recipient is shown, and picked by its
// class alone.
func TestLimitIsNoReply(t *testing.T) {
	k := &keeper{deny: func(*limit.Subject) *allow.Denied { return &allow.Denied{Limit: "spam", Wait: time.Hour} }}
	play(t, queue.Options{Limits: k}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "ok.1@x.org"))
		synctest.Wait()
		w.wantRows("ok.1@x.org active #0 in 1h0m0s: 451 4.3.2 rate of limit spam")
		for want, sel := range map[int64][]*adminv1.Selector{
			0: {{ReasonClasses: []string{"system", "spam", "rate", "none"}}, {Replies: []string{"rate of limit"}}, {Dsns: []string{"4.*"}}, {ReasonClasses: []string{"limit"}, Dsns: []string{"4.*"}}},
			1: {{ReasonClasses: []string{"limit"}}},
		} {
			for _, in := range sel {
				picked, err := picks.New(in)
				if err != nil {
					t.Fatal(err)
				}
				n := int64(0)
				if err := w.r.List(context.Background(), picked, func(*queue.Row) error { n++; return nil }); err != nil || n != want {
					t.Errorf("%v picks %d, %v; want %d", in, n, err, want)
				}
			}
		}
	})
}

// TestOthersReplies: what a destination said to others is shown of those who wait
// for it, and is no reply to them that a selector finds.
func TestOthersReplies(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "dead.1@x.org"))
		synctest.Wait()
		w.send(envelope("a@b", "ok.2@x.org"))
		w.send(envelope("c@d", "ok.3@x.org"))
		synctest.Wait()
		w.do(1, queue.Change{Op: sched.Hold, Selector: selector{from: "c@d"}})
		w.want("events", &w.events, "deferred dead.1@x.org #1", "held ok.3@x.org #0")
		var rows []string
		for _, r := range w.rows() {
			who, _, _ := strings.Cut(r, " in ")
			_, why, _ := strings.Cut(r, ": ")
			rows = append(rows, who+": "+why)
		}
		if want := []string{"dead.1@x.org deferred #1: 451 4.4.1 connection refused", "ok.2@x.org active #0: 451 4.4.1 connection refused", "ok.3@x.org held #0: "}; !slices.Equal(rows, want) {
			t.Errorf("queue: %q, want %q", rows, want)
		}
		w.do(1, queue.Change{Op: sched.Bounce, Selector: selector{reply: "refused"}})
		synctest.Wait()
		w.want("events", &w.events, "bounced dead.1@x.org #1", "delivered a@b #1") // the report
	})
}

// TestClassOfAMessage: it is that of its client's entry of senders.
func TestClassOfAMessage(t *testing.T) {
	one := sched.Config{Running: 1}
	class := func(sender string) sched.Class {
		return map[string]sched.Class{"shop": turns.Transactional, "news": turns.Bulk}[sender]
	}
	play(t, queue.Options{Schedule: one, Class: class}, func(t *testing.T, w *world) {
		var mu sync.Mutex
		var order []string
		w.special = func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			mu.Lock()
			order = append(order, at.Envelope.Client.Sender)
			mu.Unlock()
			<-time.After(time.Second)
			return nil
		}
		for _, from := range []string{"", "news", "news", "staff", "shop"} {
			env := envelope("a@b", "ok@x.org")
			env.Client.Sender = from
			w.send(env)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprintf("%q", order); got != `["" "shop" "staff" "news" "news"]` {
			t.Errorf("delivered in the order %s", got)
		}
	})
}
