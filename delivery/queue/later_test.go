package queue_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

// TestHeldBySender: what its sender has held is not tried before its time, over
// restarts, and is then delivered by the schedule, which begins with that time.
func TestHeldBySender(t *testing.T) {
	play(t, queue.Options{Schedule: sched.Config{Expire: 4 * time.Hour, Warn: time.Hour}}, func(t *testing.T, w *world) {
		start := time.Now()
		env := envelope("a@b", "ok@x.org", "later@y.org")
		env.Hold = start.Add(24 * time.Hour)
		w.send(env)
		until := " (by its sender until " + env.Hold.UTC().Format(time.RFC3339) + ")"
		w.want("events", &w.events, "held ok@x.org #0"+until, "held later@y.org #0"+until)
		w.wantRows("ok@x.org held #0 in 24h0m0s", "later@y.org held #0 in 24h0m0s")
		if c := w.r.Counts(); c.Held != 2 || !c.Oldest.IsZero() {
			t.Errorf("counted %+v: what is held by its sender is not old", c)
		}
		time.Sleep(5 * time.Hour) // of the bubble; longer than what expires may live
		w.do(0, queue.Change{Op: sched.Retry, Selector: selector{}})
		w.restart()
		w.wantRows("ok@x.org held #0 in 19h0m0s", "later@y.org held #0 in 19h0m0s")
		time.Sleep(time.Until(env.Hold) - time.Second)
		if w.restart(); w.tried() != 0 {
			t.Error("it was tried too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.want("sent", &w.sent, "ok@x.org")
		w.want("events", &w.events, "delivered ok@x.org #1", "deferred later@y.org #1")
		time.Sleep(50 * time.Minute)
		w.want("reports", &w.reports)
		time.Sleep(150 * time.Minute)
		w.want("reports", &w.reports, "delayed")
		time.Sleep(time.Hour)
		if w.want("reports", &w.reports, "failed"); w.doubts != 0 {
			t.Errorf("%d possible duplicates", w.doubts)
		}
	})
}

// TestReleaseBySomebodyElse: an operator's word lets it go at once, for good.
func TestReleaseBySomebodyElse(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		env := envelope("a@b", "later@x.org", "ok@y.org")
		env.Hold = time.Now().Add(24 * time.Hour)
		w.send(env)
		w.do(1, queue.Change{Op: sched.Release, Selector: selector{to: "x.org"}})
		time.Sleep(time.Second)
		w.restart()
		w.want("sent", &w.sent)
		if rows := strings.Join(w.rows(), ", "); !strings.Contains(rows, "later@x.org deferred #1") || !strings.Contains(rows, "ok@y.org held #0 in 24h") {
			t.Errorf("queue: %s", rows)
		}
		w.do(1, queue.Change{Op: sched.Bounce, Selector: selector{to: "y.org"}})
		w.want("reports", &w.reports, "failed")
	})
}

// TestDeliverBy: R gives up at the time to the second, N tells once and goes on.
func TestDeliverBy(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(by(30*time.Minute, true, "later@x.org", "ok@y.org"))
		w.send(by(45*time.Minute, false, "later@z.org"))
		w.send(by(45*time.Minute, false, "ok@z.org"))
		w.send(by(-time.Minute, false, "later@past.org"))
		w.send(by(500*time.Hour, false, "later@never.org"))
		time.Sleep(20 * time.Minute)
		w.restart()
		time.Sleep(10*time.Minute - time.Second)
		w.want("reports", &w.reports)
		time.Sleep(2 * time.Second)
		w.want("reports", &w.reports, "failed")
		var report string
		w.mu.Lock()
		report = w.bodies["a@b"]
		w.mu.Unlock()
		for _, want := range []string{"Status: 5.4.7\r\n", "Deliver-By-Date: ", "Action: failed\r\n", "of no use later"} {
			if !strings.Contains(report, want) {
				t.Errorf("the report has no %q:\n%s", want, report)
			}
		}
		time.Sleep(15*time.Minute - 2*time.Second)
		w.want("reports", &w.reports)
		time.Sleep(2 * time.Second)
		w.want("reports", &w.reports, "delayed")
		w.restart()
		time.Sleep(time.Hour)
		w.want("reports", &w.reports)
		rows := strings.Join(w.rows(), ", ")
		if strings.Contains(rows, "x.org") || !strings.Contains(rows, "later@z.org deferred") {
			t.Errorf("queue: %s", rows)
		}
	})
}

// TestByIsNoLongLife: R makes a life shorter and never longer, and an operator's
// end counts more.
func TestByIsNoLongLife(t *testing.T) {
	play(t, queue.Options{Schedule: sched.Config{Expire: time.Hour, Warn: -1}}, func(t *testing.T, w *world) {
		w.send(by(100*time.Hour, true, "later@x.org"))
		w.send(by(30*time.Minute, true, "later@y.org"))
		w.do(1, queue.Change{Op: sched.Expire, Selector: selector{to: "y.org"}, Until: time.Now().Add(10 * time.Minute)})
		time.Sleep(11 * time.Minute)
		w.want("reports", &w.reports, "failed")
		time.Sleep(50 * time.Minute)
		w.want("reports", &w.reports, "failed")
		w.wantRows()
	})
}

func by(d time.Duration, giveUp bool, to ...string) *mail.Envelope {
	env := envelope("a@b", to...)
	env.By = mail.By{At: time.Now().Add(d), Return: giveUp}
	return env
}
