package queue_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

var inTrash = []mail.State{mail.StateTrashed}

// do carries out a change that meets so many recipients.
func (w *world) do(n int64, c queue.Change) {
	w.t.Helper()
	done, err := w.r.Change(context.Background(), c)
	if err != nil || done.Recipients != n || done.Failed != 0 {
		w.t.Errorf("op %d: %+v, %v; want %d recipients", c.Op, done, err, n)
	}
}

// wantTrash sees what is in the trash.
func (w *world) wantTrash(want ...string) {
	w.t.Helper()
	var got []string
	err := w.r.List(context.Background(), selector{state: inTrash}, func(r *queue.Row) error {
		got = append(got, fmt.Sprintf("%s #%d in %s", r.To.String(), r.Attempts, time.Until(r.Next).Round(time.Minute)))
		return nil
	})
	if err != nil || strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.t.Errorf("trash: %q, %v; want %q", got, err, want)
	}
}

func TestTrash(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "later.1@x.org", "later.2@x.org", "ok@y.org"))
		w.send(envelope("c@d", "later.3@x.org"))
		time.Sleep(30 * time.Second) // of the bubble
		w.do(1, queue.Change{Op: sched.Hold, Selector: selector{from: "c@d"}})
		w.want("events", &w.events, "delivered ok@y.org #1", "deferred later.1@x.org #1", "deferred later.2@x.org #1", "deferred later.3@x.org #1", "held later.3@x.org #1")
		w.do(3, queue.Change{Op: sched.Trash, Selector: selector{to: "x.org"}, Until: time.Now().Add(24 * time.Hour), Reason: "why"})
		w.want("events", &w.events, "trashed later.1@x.org #1 (why)", "trashed later.2@x.org #1 (why)", "trashed later.3@x.org #1 (why)")
		w.restart()
		w.wantRows()
		w.wantTrash("later.1@x.org #1 in 24h0m0s", "later.2@x.org #1 in 24h0m0s", "later.3@x.org #1 in 24h0m0s")
		if c := w.r.Counts(); c.Messages != 0 || c.Recipients != 0 || c.Trashed != 3 || c.Trash != 2 || !c.Oldest.IsZero() {
			t.Errorf("counted %+v", c)
		}
		// Nothing of the trash is tried, expires, or is met by other words.
		before := w.tried()
		time.Sleep(10 * time.Hour)
		for _, op := range []sched.Op{sched.Retry, sched.Hold, sched.Release, sched.Bounce, sched.Reroute, sched.Expire} {
			w.do(0, queue.Change{Op: op, Selector: selector{state: inTrash}})
		}
		w.restart()
		if w.tried() != before {
			t.Error("mail in the trash was tried")
		}
		w.do(1, queue.Change{Op: sched.Undrop, Selector: selector{state: inTrash, from: "c@d"}})
		w.wantRows("later.3@x.org held #1: 450 4.2.0 greylisted") // as it was before
	})
}

// TestTrashEnds: what nobody brings back is destroyed, and only then dropped.
func TestTrashEnds(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		m := w.send(envelope("a@b", "later.1@x.org", "later.2@y.org"))
		time.Sleep(30 * time.Second)
		w.do(1, queue.Change{Op: sched.Trash, Selector: selector{to: "x.org"}, Until: time.Now().Add(2 * time.Hour)})
		w.do(1, queue.Change{Op: sched.Trash, Selector: selector{to: "y.org"}, Until: time.Now().Add(time.Hour)})
		w.look(&w.events)
		w.want("events", &w.events, "deferred later.1@x.org #1", "deferred later.2@y.org #1", "trashed later.1@x.org #1", "trashed later.2@y.org #1")
		time.Sleep(time.Hour + time.Second)
		w.want("events", &w.events, "dropped later.2@y.org #1 (its time in the trash is over)")
		w.wantTrash("later.1@x.org #1 in 1h0m0s")
		// One whose time ended while the relay was down is gone after the start.
		w.stop(time.Minute)
		time.Sleep(time.Hour)
		w.start()
		synctest.Wait()
		w.want("events", &w.events, "dropped later.1@x.org #1 (its time in the trash is over)")
		if _, ok := w.sp.Find(m.ID()); ok {
			t.Error("the message is still in the spool")
		}
		if c := w.r.Counts(); c.Trashed != 0 || c.Trash != 0 {
			t.Errorf("counted %+v", c)
		}
		// Dropped at once, out of the trash as well.
		w.send(envelope("a@b", "later.4@x.org"))
		time.Sleep(30 * time.Second)
		w.do(1, queue.Change{Op: sched.Trash, Selector: selector{to: "x.org"}, Until: time.Now().Add(time.Hour)})
		w.do(0, queue.Change{Op: sched.Drop, Selector: selector{to: "x.org"}})
		w.do(1, queue.Change{Op: sched.Drop, Selector: selector{state: inTrash}})
		w.wantTrash()
	})
}

// TestTrashOfARunningDelivery: the word outlives its command, and what it said
// of the time.
func TestTrashOfARunningDelivery(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		release := make(chan struct{})
		w.behave(func(ctx context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			<-release // behind the final dot: no cancel helps
			return []mail.Outcome{{Recipient: 0, Reply: *mail.NewReply(450, "4.2.0", "greylisted"), At: time.Now(), Unsure: true}}
		})
		w.send(envelope("a@b", "x@x.org"))
		synctest.Wait()
		done, err := w.r.Change(context.Background(), queue.Change{Op: sched.Trash, Selector: selector{}, Until: time.Now().Add(5 * time.Hour), Reason: "late"})
		if err != nil || done.Recipients != 1 || done.Failed != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		close(release)
		synctest.Wait()
		w.wantTrash("x@x.org #1 in 5h0m0s")
		w.want("events", &w.events, "deferred x@x.org #1", "trashed x@x.org #1 (late)")
	})
}

func TestReroute(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		var hops []string
		w.behave(func(_ context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			w.mu.Lock()
			hops = append(hops, hop.Key)
			w.mu.Unlock()
			return nil
		})
		want := func(keys ...string) {
			t.Helper()
			w.mu.Lock()
			defer w.mu.Unlock()
			if strings.Join(hops, " ") != strings.Join(keys, " ") {
				t.Errorf("tried at %q, want %q", hops, keys)
			}
			hops = nil
		}
		w.send(envelope("a@b", "later.1@x.org", "later.2@x.org"))
		time.Sleep(30 * time.Second)
		want("mx:x.org")
		w.do(2, queue.Change{Op: sched.Reroute, Selector: selector{to: "x.org"}, Route: "other:25"})
		synctest.Wait()
		want("smarthost:other:25") // due at once
		w.wantRows("later.1@x.org deferred #2 in 5m0s: 450 4.2.0 greylisted", "later.2@x.org deferred #2 in 5m0s: 450 4.2.0 greylisted")
		w.restart()
		time.Sleep(6 * time.Minute)
		want("smarthost:other:25")
		w.do(2, queue.Change{Op: sched.Hold, Selector: selector{lane: "smarthost:other:25"}})
		w.do(2, queue.Change{Op: sched.Reroute, Selector: selector{to: "x.org"}, Route: "third:25"})
		synctest.Wait()
		want() // held ones stay held
		w.do(2, queue.Change{Op: sched.Release, Selector: selector{lane: "smarthost:third:25"}})
		synctest.Wait()
		want("smarthost:third:25")
		w.do(2, queue.Change{Op: sched.Reroute, Selector: selector{to: "x.org"}})
		synctest.Wait()
		want("mx:x.org")
	})
}

func TestExpireAtAnotherTime(t *testing.T) {
	play(t, queue.Options{Schedule: sched.Config{Expire: 24 * time.Hour}}, func(t *testing.T, w *world) {
		w.send(envelope("ok.sender@home.test", "later.1@x.org", "later.2@y.org", "later.3@z.org"))
		time.Sleep(30 * time.Second)
		w.do(1, queue.Change{Op: sched.Expire, Selector: selector{to: "x.org"}, Until: time.Now().Add(2 * time.Hour)})
		w.do(1, queue.Change{Op: sched.Expire, Selector: selector{to: "y.org"}, Until: time.Now().Add(48 * time.Hour)})
		before := w.tried()
		w.do(1, queue.Change{Op: sched.Expire, Selector: selector{to: "z.org"}, Until: time.Now().Add(-time.Second)})
		time.Sleep(2 * time.Second)
		w.restart()
		ended := func(want string) {
			t.Helper()
			var got []string
			for _, e := range w.look(&w.events) {
				if strings.HasPrefix(e, "expired") {
					got = append(got, strings.Fields(e)[1])
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("expired: %q, want %s", got, want)
			}
		}
		ended("later.3@z.org")
		if w.tried() != before+1 { // the report
			t.Errorf("%d tries, want no more than %d", w.tried(), before)
		}
		time.Sleep(2 * time.Hour)
		ended("later.1@x.org later.3@z.org")
		time.Sleep(30 * time.Hour)
		ended("later.1@x.org later.3@z.org")
		time.Sleep(20 * time.Hour)
		ended("later.1@x.org later.2@y.org later.3@z.org")
	})
}

func TestRules(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "later@x.org"))
		time.Sleep(30 * time.Second)
		w.r.SetRules([]queue.Rule{
			{ID: "r1", Selector: selector{to: "x.org"}, Reason: "INC-1"},
			{ID: "r2", Selector: selector{from: "c@d"}, Until: time.Now().Add(time.Hour)},
			{ID: "r3", Selector: selector{reply: "greylisted"}},
		})
		before := w.tried()
		w.send(envelope("a@b", "ok.1@x.org", "ok.2@y.org"))
		w.send(envelope("c@d", "ok.3@z.org"))
		synctest.Wait()
		w.want("sent", &w.sent, "ok.2@y.org")
		w.wantRows("later@x.org deferred #1 in 1m0s: 450 4.2.0 greylisted", "ok.1@x.org held #0", "ok.3@z.org held #0 in 1h0m0s")
		time.Sleep(2 * time.Minute) // the rule meets what was there before when it is about to be tried
		if w.tried() != before+1 {
			t.Errorf("%d tries", w.tried()-before)
		}
		w.wantRows("later@x.org held #1: 450 4.2.0 greylisted", "ok.1@x.org held #0", "ok.3@z.org held #0 in 58m0s")
		w.restart() // without rules
		w.wantRows("later@x.org held #1: 450 4.2.0 greylisted", "ok.1@x.org held #0", "ok.3@z.org held #0 in 58m0s")
		time.Sleep(time.Hour)
		w.want("sent", &w.sent, "ok.3@z.org")
		w.do(2, queue.Change{Op: sched.Release, Selector: selector{rule: "r1"}})
		synctest.Wait()
		w.want("sent", &w.sent, "ok.1@x.org")
		w.want("events", &w.events, "deferred later@x.org #1", "delivered ok.2@y.org #1", "held ok.1@x.org #0 (rule r1: INC-1)", "held ok.3@z.org #0 (rule r2)",
			"held later@x.org #1 (rule r1: INC-1)", "delivered ok.3@z.org #1", "released later@x.org #1", "released ok.1@x.org #0", "delivered ok.1@x.org #1", "deferred later@x.org #2")
		// By the last reply.
		w.r.SetRules([]queue.Rule{{ID: "r3", Selector: selector{reply: "greylisted"}}})
		w.send(envelope("a@b", "later.2@y.org"))
		time.Sleep(10 * time.Minute)
		w.wantRows("later@x.org held #2: 450 4.2.0 greylisted", "later.2@y.org held #1: 450 4.2.0 greylisted")
	})
}

// TestDomainsAreFoundInEachForm: a walk leaves out by number alone what it
// need not read.
func TestDomainsAreFoundInEachForm(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		for _, d := range []string{"x.org", "X.ORG", "b\u00fccher.example", "xn--bcher-kva.example", "[IPv6:2001:DB8::1]", "[IPv6:2001:db8:0::1]"} {
			w.send(envelope("a@b", "later@"+d))
		}
		time.Sleep(30 * time.Second)
		for to, want := range map[string]int{"x.org": 2, "xn--bcher-kva.example": 2, "[IPv6:2001:db8::1]": 2, "other.example": 0} {
			n := 0
			if err := w.r.Scan(context.Background(), byDomain{to}, func(*queue.Row) error { n++; return nil }); err != nil || n != want {
				t.Errorf("%s: %d, %v", to, n, err)
			}
		}
	})
}

// byDomain is a Selector that says a domain and reads nothing.
type byDomain struct{ name string }

func (byDomain) MatchMessage(mail.ID, time.Time, int64) bool               { return true }
func (byDomain) MatchRecipient(mail.State, uint32, string) bool            { return true }
func (byDomain) Needs() (envelope, reply bool)                             { return false, false }
func (byDomain) MatchStored(*mail.Envelope, int, *mail.Reply, string) bool { return true }
func (b byDomain) Domains() []string                                       { return []string{b.name} }
