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
	"github.com/clrelay/clrelay/delivery/allow/node"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/limits"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// keeper is the limits of a test.
type keeper struct {
	mu    sync.Mutex
	deny  func(s *limit.Subject) *allow.Denied
	asked []string

	byDomain bool
}

func (k *keeper) Admit(_ context.Context, hop *mail.NextHop, at *delivery.Attempt) *allow.Denied {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, fmt.Sprintf("%s for %s to %s", at.Subject.Sender, at.Subject.Domain, hop.Key))
	return k.deny(&at.Subject)
}

func (k *keeper) ByDomain(string) bool { return k.byDomain }

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

// TestLimitOfOneOfAlike: what a limit keeps of one sender is not in the way of
// another whose name begins the same.
func TestLimitOfOneOfAlike(t *testing.T) {
	k := &keeper{deny: func(s *limit.Subject) *allow.Denied {
		if s.Sender != "acme-news-weekly@home.test" {
			return nil
		}
		return &allow.Denied{Limit: "news", Kind: limit.KindSuspended, Wait: time.Minute, Left: time.Hour, Sender: true}
	}}
	play(t, queue.Options{Limits: k}, func(t *testing.T, w *world) {
		w.send(envelope("acme-news-weekly@home.test", "ok.1@x.org"))
		synctest.Wait()
		w.send(envelope("acme-news-alerts@home.test", "ok.2@x.org"))
		time.Sleep(20 * time.Minute)
		w.want("sent", &w.sent, "ok.2@x.org")
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

// TestLimitedDomainOfASmarthost: of a smarthost that all mail goes to, one domain
// is suspended while it has thousands of messages in front. The others' mail goes
// within a second, that of the same messages too; the suspended one's is asked
// about once a message and then once a minute in all, says what it waits for, and
// goes when the suspension has ended.
func TestLimitedDomainOfASmarthost(t *testing.T) {
	const many = 3000
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		lim := local.New(local.Options{Now: func() time.Duration { return time.Since(start) }, Wall: time.Now})
		lim.Apply(limit.Update{Full: true, Seats: 1, Leased: true})
		agent := delivery.New(delivery.Options{Hostname: "relay.test", Limiter: node.Limits{Local: lim}})
		w := newWorld(t, queue.Options{Limits: agent})
		defer w.stop(time.Minute)
		for _, d := range []string{"st.example", "ok.example", "other.example", "busy.example"} {
			w.route.set(d, "smarthost:hub.test:25")
		}
		hang := make(chan struct{})
		var mu sync.Mutex
		var sent []string // the domains of each transaction
		w.behave(func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			<-hang
			var to []string
			for _, rc := range at.Recipients {
				to = append(to, at.Envelope.Recipients[rc].Addr.Domain)
			}
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, strings.Join(to, " "))
			return nil
		})
		for range many {
			w.send(envelope("news@home.test", "ok@st.example"))
		}
		st := limit.Definition{Name: "stp", Suspended: true, Until: time.Now().Add(10 * time.Minute)}
		st.Match[limit.RecipientDomain] = []string{"st.example"}
		busy := limit.Definition{Name: "busy", Rate: limit.Rate{N: 1000, Per: time.Second}, Burst: 1000}
		busy.Match[limit.RecipientDomain] = []string{"busy.example"}
		if err := lim.Override([]limit.Definition{st, busy}); err != nil {
			t.Fatal(err)
		}
		w.r.LimitsChanged()
		w.send(envelope("news@home.test", "ok.2@st.example", "ok@ok.example", "ok@busy.example", "ok@other.example"))
		w.send(envelope("a@home.test", "ok@ok.example"))
		synctest.Wait()
		mu.Lock()
		began := len(sent)
		mu.Unlock()
		close(hang)
		time.Sleep(time.Second) // of the bubble
		synctest.Wait()
		took := func() (st, others []string) {
			mu.Lock()
			defer mu.Unlock()
			for _, d := range sent[began:] {
				if d == "st.example" {
					st = append(st, d)
				} else {
					others = append(others, d)
				}
			}
			slices.Sort(others)
			return st, others
		}
		early, others := took()
		if want := []string{"busy.example", "ok.example", "ok.example other.example"}; !slices.Equal(others, want) {
			t.Errorf("a second later %q went to the other domains, want %q", others, want)
		}
		var lane queue.Lane
		w.r.Destinations(func(l *queue.Lane) { lane = *l })
		if lane.State != "proven" || lane.Why == nil || lane.Why.Text != "suspended by stp" || lane.Ready != many+1-len(early) {
			t.Errorf("the lane is %+v, %d of %d had begun before", lane, len(early), many)
		}
		const row = "ok@st.example active #0 in 10m0s: 451 4.3.2 suspended by stp"
		if rows := w.rows(); len(rows) != lane.Ready || rows[1] != row {
			t.Errorf("%d rows, one is %q, want %q", len(rows), rows[1], row)
		}
		time.Sleep(9*time.Minute + 58*time.Second)
		w.send(envelope("a@home.test", "ok@other.example"))
		synctest.Wait()
		if now, others := took(); len(now) != len(early) || len(others) != 4 {
			t.Errorf("before the end %d went to the suspended domain and %q to others", len(now)-len(early), others)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if now, _ := took(); len(now) != many+1 {
			t.Errorf("%d went to the suspended domain, want all %d", len(now), many+1)
		}
	})
}

// TestLimitedDomainOfItsOwnLane: where all mail of a lane is to one domain, the
// lane waits, and nobody asks message by message.
func TestLimitedDomainOfItsOwnLane(t *testing.T) {
	k := &keeper{byDomain: true, deny: func(*limit.Subject) *allow.Denied {
		return &allow.Denied{Limit: "d", Key: "domain=x.org", Wait: time.Minute, Left: time.Minute, Domain: true}
	}}
	play(t, queue.Options{Limits: k}, func(t *testing.T, w *world) {
		for range 100 {
			w.send(envelope("a@b", "ok@x.org"))
		}
		synctest.Wait()
		if n := k.count(); n > 4 {
			t.Errorf("asked %d times for one lane", n)
		}
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
