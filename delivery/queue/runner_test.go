package queue_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play runs a test in a bubble: time passes only when everybody waits.
func play(t *testing.T, o queue.Options, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, o)
		test(t, w)
		w.stop(time.Minute)
	})
}

func TestDelivered(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		m := w.send(envelope("a@b", "ok.1@x.org", "ok.2@x.org", "ok.3@y.org"))
		synctest.Wait()
		w.want("sent", &w.sent, "ok.1@x.org", "ok.2@x.org", "ok.3@y.org")
		w.want("events", &w.events, "delivered ok.1@x.org #1", "delivered ok.2@x.org #1", "delivered ok.3@y.org #1")
		w.want("reports", &w.reports)
		if w.tried() != 2 {
			t.Errorf("%d transactions, want one for each destination", w.tried())
		}
		if _, ok := w.sp.Find(m.ID()); ok {
			t.Error("the message is still in the spool")
		}
		if c := w.r.Counts(); c.Messages != 0 || c.Recipients != 0 {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestRetrySurvivesRestart(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "later@x.org", "ok@x.org"))
		time.Sleep(30 * time.Second) // of the bubble
		w.wantRows("later@x.org deferred #1 in 1m0s: 450 4.2.0 greylisted")
		w.restart()
		w.wantRows("later@x.org deferred #1 in 1m0s: 450 4.2.0 greylisted")
		before := w.tried()
		time.Sleep(29 * time.Second)
		if w.tried() != before {
			t.Error("tried before its time")
		}
		time.Sleep(8 * time.Second)
		w.wantRows("later@x.org deferred #2 in 5m0s: 450 4.2.0 greylisted")
		w.want("events", &w.events, "deferred later@x.org #1", "delivered ok@x.org #1", "deferred later@x.org #2")
		time.Sleep(6 * time.Minute)
		w.wantRows("later@x.org deferred #3 in 15m0s: 450 4.2.0 greylisted")
	})
}

func TestBounce(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		env := envelope("ok.sender@home.test", "fail.1@x.org", "fail.2@x.org", "fail.3@x.org", "ok@x.org", "x@nowhere.test")
		env.Recipients[2].Notify = mail.NotifyNever
		w.send(env)
		synctest.Wait()
		w.want("sent", &w.sent, "ok@x.org", "ok.sender@home.test", "ok.sender@home.test")
		w.want("reports", &w.reports, "failed", "failed") // one for each next hop
		w.want("events", &w.events, "bounced fail.1@x.org #1", "bounced fail.2@x.org #1", "bounced fail.3@x.org #1",
			"bounced x@nowhere.test #1", "delivered ok@x.org #1", "delivered ok.sender@home.test #1", "delivered ok.sender@home.test #1")
		w.wantRows()
	})
}

// A report is durable before the failure is recorded; while it can't be
// stored, the recipient has not failed.
func TestReportComesFirst(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.behave(func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			if at.Envelope.From.IsNull() {
				return nil
			}
			w.fs.(*vfs.Mem).SetCapacity(1) // the disk is full by the time the answer is there
			time.Sleep(time.Second)
			return nil
		})
		w.send(envelope("ok.sender@home.test", "fail@x.org"))
		time.Sleep(2 * time.Second)
		w.wantRows("fail@x.org deferred #1 in 1m0s: 550 5.1.1 no such user")
		w.behave(nil)
		w.fs.(*vfs.Mem).SetCapacity(1 << 40)
		time.Sleep(2 * time.Minute)
		w.wantRows()
		w.want("sent", &w.sent, "ok.sender@home.test")
		if body := w.body("ok.sender@home.test"); !strings.Contains(body, "no such user") || !strings.Contains(body, "Subject: hello") {
			t.Errorf("report: %s", body)
		}
	})
}

func TestDoubleBounce(t *testing.T) {
	for _, postmaster := range []string{"", "ok.postmaster@home.test", "fail@gone.test"} {
		play(t, queue.Options{Mailboxes: queue.Mailboxes{Postmaster: address(postmaster), DoubleBounces: postmaster != ""}}, func(t *testing.T, w *world) {
			w.send(envelope("fail@gone.test", "fail@x.org"))
			time.Sleep(time.Second)
			events := []string{"bounced fail@x.org #1", "bounced fail@gone.test #1", "double fail@gone.test #1"}
			if postmaster == "ok.postmaster@home.test" {
				events = append(events, "delivered ok.postmaster@home.test #1")
				w.want("sent", &w.sent, postmaster)
			}
			w.want("events", &w.events, events...)
			w.wantRows()
		})
	}
}

// TestReportToOurPostmaster: what the server takes for <postmaster> is the
// configured mailbox to a report, too; another host's postmaster is not.
func TestReportToOurPostmaster(t *testing.T) {
	o := queue.Options{Hostname: "relay.test", Mailboxes: queue.Mailboxes{Postmaster: address("ok.boss@home.test")}}
	play(t, o, func(t *testing.T, w *world) {
		w.send(envelope("Postmaster@Relay.test", "fail@x.org"))
		w.send(envelope("ok.postmaster@other.test", "fail@x.org"))
		time.Sleep(time.Second)
		w.want("sent", &w.sent, "ok.boss@home.test", "ok.postmaster@other.test")
		w.wantRows()
	})
}

func TestSuccessReport(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		env := envelope("ok.sender@home.test", "ok.1@x.org", "dsn.2@x.org", "ok.3@x.org")
		env.Recipients[0].Notify = mail.NotifySuccess
		env.Recipients[1].Notify = mail.NotifySuccess // the next hop's duty
		w.send(env)
		synctest.Wait()
		w.want("reports", &w.reports, "relayed")
		if body := w.body("ok.sender@home.test"); !strings.Contains(body, "ok.1@x.org") || strings.Contains(body, "dsn.2@") || strings.Contains(body, "ok.3@") {
			t.Errorf("report: %s", body)
		}
	})
}

// A next hop that asks for a while is given it: not less at any time, and three
// times not more than that.
func TestWaitAsAsked(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "grey@x.org"))
		time.Sleep(time.Second) // of the bubble
		w.wantRows("grey@x.org deferred #1 in 6m0s: 450 4.7.1 greylisted for 6m")
		time.Sleep(6 * time.Minute)
		w.wantRows("grey@x.org deferred #2 in 6m0s: 450 4.7.1 greylisted for 6m")
		w.restart()
		time.Sleep(6 * time.Minute)
		w.wantRows("grey@x.org deferred #3 in 6m0s: 450 4.7.1 greylisted for 6m")
		time.Sleep(6 * time.Minute)
		before := w.tried()
		time.Sleep(7 * time.Minute)
		if w.tried() != before || before != 4 {
			t.Errorf("%d tries, and %d with the fourth, which waits by the schedule", w.tried(), before)
		}
	})
}

func TestExpiryAndWarning(t *testing.T) {
	o := queue.Options{Schedule: sched.Config{Expire: time.Hour, Warn: 10 * time.Minute}}
	play(t, o, func(t *testing.T, w *world) {
		w.send(envelope("ok.sender@home.test", "later.1@x.org", "dead@y.org"))
		time.Sleep(59 * time.Minute)
		w.want("reports", &w.reports, "delayed")
		time.Sleep(2 * time.Minute)
		w.want("reports", &w.reports, "failed")
		w.wantRows()
		w.want("sent", &w.sent, "ok.sender@home.test", "ok.sender@home.test")
		body := w.body("ok.sender@home.test")
		for _, part := range []string{"greylisted", "connection refused", "later.1@x.org", "dead@y.org"} {
			if !strings.Contains(body, part) {
				t.Errorf("the report does not tell %q:\n%s", part, body)
			}
		}
		got := strings.Join(w.look(&w.events), "; ")
		if !strings.Contains(got, "expired later.1@x.org") || !strings.Contains(got, "expired dead@y.org") {
			t.Errorf("events: %s", got)
		}
	})
}

// Mail behind a destination that can't be reached costs one try, not one each;
// all of it is deferred on disk, with the reason.
func TestDeadDestination(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.behave(func(_ context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			time.Sleep(20 * time.Second) // as long as a connection takes that is not refused
			return nil
		})
		for range 200 {
			w.send(envelope("a@b", "dead@x.org"))
		}
		time.Sleep(40 * time.Second)
		if w.tried() > 4 {
			t.Errorf("%d tries", w.tried())
		}
		rows := w.rows()
		if len(rows) != 200 {
			t.Fatalf("%d rows", len(rows))
		}
		for _, r := range rows {
			if !strings.HasPrefix(r, "dead@x.org deferred #1 in 1m0s: 451 4.4.1 connection refused") {
				t.Fatal(r)
			}
		}
		w.restart()
		if after := w.rows(); strings.Join(after, "\n") != strings.Join(rows, "\n") {
			t.Errorf("after a restart: %s", after[0])
		}
		w.behave(func(_ context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			return []mail.Outcome{{Recipient: 0, Remote: "mx", Reply: *mail.NewReply(250, "2.0.0", "ok")}}
		})
		time.Sleep(time.Minute)
		w.wantRows()
	})
}

func TestDamagedContent(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("ok.sender@home.test", "later@x.org"))
		time.Sleep(time.Second)
		w.spoil("Hello.")
		w.change(sched.Drop, selector{ids: []mail.ID{}}) // no message at all: does nothing
		w.behave(func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			if at.Envelope.From.IsNull() {
				return nil
			}
			_, err := read(at.Content)
			if err == nil {
				t.Error("damage was not noticed")
			}
			return []mail.Outcome{{Recipient: 0, Remote: "mx", Reply: *mail.NewReply(451, "4.3.0", "local error")}}
		})
		time.Sleep(2 * time.Minute)
		w.wantRows()
		w.want("sent", &w.sent, "ok.sender@home.test")
		if body := w.body("ok.sender@home.test"); !strings.Contains(body, "5.3.0") {
			t.Errorf("report: %s", body)
		}
	})
}

// A message whose envelope can't be read waits for the operator, who can drop it.
func TestDamagedEnvelope(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("ok.sender@home.test", "later@x.org"))
		time.Sleep(time.Second)
		w.spoil("home.test")
		time.Sleep(2 * time.Minute)
		w.wantRows(" held #1: 451 4.3.0 envelope damaged in the relay's store")
		w.change(sched.Bounce, selector{}) // nobody knows whom to tell
		w.change(sched.Release, selector{})
		w.wantRows(" held #1: 451 4.3.0 envelope damaged in the relay's store")
		w.change(sched.Drop, selector{})
		w.wantRows()
	})
}

// others is a lease of a node beside others that have copies, or had.
type others struct{ left int }

func (*others) Holds(*spool.Message) bool { return true }

func (o *others) Elsewhere(*spool.Message) bool {
	o.left--
	return o.left >= 0
}

// What is damaged here alone waits for the node that has a good copy; it goes
// back, or is held, only when there is none.
func TestDamagedHereAlone(t *testing.T) {
	for text, end := range map[string]string{"Hello.": "", "home.test": " held #1: 451 4.3.0 envelope damaged in the relay's store"} {
		play(t, queue.Options{Lease: &others{left: 3}}, func(t *testing.T, w *world) {
			w.send(envelope("ok.sender@home.test", "later@x.org"))
			time.Sleep(time.Second)
			w.spoil(text)
			w.behave(func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
				if at.Envelope.From.IsNull() {
					return nil
				}
				_, _ = read(at.Content)
				return []mail.Outcome{{Recipient: 0, Remote: "mx", Reply: *mail.NewReply(451, "4.3.0", "local error")}}
			})
			time.Sleep(2 * time.Minute)
			if rows := w.rows(); len(rows) != 1 || !strings.Contains(rows[0], "#1") || strings.Contains(rows[0], "held") {
				t.Errorf("%s: %q", text, rows)
			}
			w.want("sent", &w.sent)
			time.Sleep(5 * time.Minute) // nobody took it
			if rows := w.rows(); strings.Join(rows, "") != end {
				t.Errorf("%s: in the end %q, want %q", text, rows, end)
			}
		})
	}
}

// spoil flips a bit of a text that stands somewhere in the log.
func (w *world) spoil(text string) {
	w.t.Helper()
	var walk func(dir string) bool
	walk = func(dir string) bool {
		names, err := w.fs.ReadDir(dir)
		if err != nil {
			return false
		}
		for _, n := range names {
			name := dir + "/" + n
			if walk(name) {
				return true
			}
			f, err := w.fs.OpenFile(name, 2, 0)
			if err != nil {
				continue
			}
			size, _ := f.Size()
			buf := make([]byte, size)
			_, _ = f.ReadAt(buf, 0)
			if i := strings.Index(string(buf), text); i >= 0 {
				buf[i] ^= 1
				if _, err := f.WriteAt(buf[i:i+1], int64(i)); err != nil {
					w.t.Fatal(err)
				}
				return true
			}
		}
		return false
	}
	if !walk("/data") {
		w.t.Fatal("the text is not in the log")
	}
}

func TestOperator(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("ok.a@home.test", "later.1@x.org", "later.2@y.org"))
		w.send(envelope("ok.b@home.test", "later.3@x.org"))
		time.Sleep(time.Second)
		w.want("events", &w.events, "deferred later.1@x.org #1", "deferred later.2@y.org #1", "deferred later.3@x.org #1")

		one := int64(1)
		_, err := w.r.Change(context.Background(), queue.Change{Op: sched.Drop, Selector: selector{to: "x.org"}, Expect: &one})
		if e, ok := err.(*queue.ExpectError); !ok || e.Got != 2 {
			t.Errorf("expecting 1 of 2: %v", err)
		}
		if c, err := w.r.Change(context.Background(), queue.Change{Op: sched.Drop, Selector: selector{}, DryRun: true}); err != nil || c.Recipients != 3 || c.Messages != 2 || len(c.Samples) != 2 {
			t.Errorf("dry run: %+v, %v", c, err)
		}
		if c := w.change(sched.Hold, selector{to: "x.org"}); c.Recipients != 2 || c.Failed != 0 {
			t.Errorf("hold: %+v", c)
		}
		held := []string{"later.1@x.org held #1: 450 4.2.0 greylisted", "later.3@x.org held #1: 450 4.2.0 greylisted", "later.2@y.org deferred #1 in 1m0s: 450 4.2.0 greylisted"}
		w.wantRows(held...)

		// What an operator was told is on the disk, whatever happens then.
		w.crash(3)
		w.wantRows(held...)
		w.want("events", &w.events, "held later.1@x.org #1 (why)", "held later.3@x.org #1 (why)")

		if c := w.change(sched.Retry, selector{}); c.Recipients != 1 || c.Failed != 0 {
			t.Errorf("retry: %+v", c)
		}
		synctest.Wait()
		w.want("events", &w.events, "deferred later.2@y.org #2")
		if c := w.change(sched.Release, selector{from: "ok.b@home.test"}); c.Recipients != 1 || c.Failed != 0 {
			t.Errorf("release: %+v", c)
		}
		synctest.Wait()
		w.want("events", &w.events, "released later.3@x.org #1 (why)", "deferred later.3@x.org #2")
		w.change(sched.Drop, selector{from: "ok.b@home.test"})
		w.want("events", &w.events, "dropped later.3@x.org #2 (why)")
		w.change(sched.Bounce, selector{})
		synctest.Wait()
		w.want("sent", &w.sent, "ok.a@home.test")
		if body := w.body("ok.a@home.test"); !strings.Contains(body, "later.1@x.org") || !strings.Contains(body, "later.2@y.org") || !strings.Contains(body, "why") {
			t.Errorf("report: %s", body)
		}
		w.wantRows()
	})
}

// A change that can't be carried out is told of, and changes nothing.
func TestBounceWithoutRoom(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.send(envelope("ok.sender@home.test", "later@x.org"))
		time.Sleep(30 * time.Second)
		w.fs.(*vfs.Mem).SetCapacity(1)
		time.Sleep(time.Second)
		if c := w.change(sched.Bounce, selector{}); c.Recipients != 1 || c.Failed != 1 {
			t.Errorf("bounce: %+v", c)
		}
		w.want("events", &w.events, "deferred later@x.org #1")
		w.fs.(*vfs.Mem).SetCapacity(1 << 40)
		time.Sleep(time.Second)
		if c := w.change(sched.Bounce, selector{}); c.Recipients != 1 || c.Failed != 0 {
			t.Errorf("bounce: %+v", c)
		}
		synctest.Wait()
		w.want("sent", &w.sent, "ok.sender@home.test")
	})
}

// crash replaces the world's disk by what a power failure may leave of it.
func (w *world) crash(seed uint64) {
	w.t.Helper()
	w.mu.Lock()
	w.life++
	w.dead = true
	image := w.fs.(*vfs.Mem).CrashImage(seed)
	w.mu.Unlock()
	w.stop(0)
	w.fs = image
	w.mu.Lock()
	w.dead = false
	w.mu.Unlock()
	w.start()
}

// A recipient that is being delivered is dropped when its delivery ends, and
// that is soon.
func TestDropWhileDelivering(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.behave(func(ctx context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			<-ctx.Done()
			return []mail.Outcome{{Recipient: 0, Reply: *mail.NewReply(451, "4.3.2", "interrupted")}}
		})
		w.send(envelope("a@b", "ok@x.org"))
		synctest.Wait()
		w.wantRows("ok@x.org active #0")
		if c := w.change(sched.Drop, selector{}); c.Recipients != 1 || c.Failed != 0 {
			t.Errorf("drop: %+v", c)
		}
		w.wantRows()
		w.want("events", &w.events, "dropped ok@x.org #0 (why)")

		// One behind its final dot can't be stopped: it is said, and its end wins.
		w.behave(func(ctx context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			time.Sleep(time.Minute)
			return nil
		})
		w.send(envelope("a@b", "ok@x.org"))
		if c := w.change(sched.Hold, selector{}); c.Recipients != 1 || c.Failed != 1 {
			t.Errorf("hold: %+v", c)
		}
		time.Sleep(time.Minute)
		w.want("events", &w.events, "delivered ok@x.org #1")
		w.wantRows()
	})
}

// lease is one that comes and goes.
type lease struct{ held chan bool }

func (l *lease) Elsewhere(*spool.Message) bool { return false }

func (l *lease) Holds(*spool.Message) bool {
	h := <-l.held
	l.held <- h
	return h
}

func TestLease(t *testing.T) {
	l := &lease{make(chan bool, 1)}
	l.held <- false
	play(t, queue.Options{Lease: l}, func(t *testing.T, w *world) {
		w.send(envelope("a@b", "ok@x.org"))
		time.Sleep(10 * time.Second)
		if w.tried() != 0 {
			t.Error("tried without a lease")
		}
		w.behave(func(context.Context, mail.NextHop, *delivery.Attempt) []mail.Outcome {
			<-l.held
			l.held <- false // lost on the way
			w.behave(nil)
			return nil
		})
		<-l.held
		l.held <- true
		time.Sleep(2 * time.Second)
		if w.tried() != 1 || len(w.look(&w.sent)) != 0 {
			t.Errorf("%d tries, sent %q", w.tried(), w.sent)
		}
		<-l.held
		l.held <- true
		time.Sleep(2 * time.Second)
		w.want("sent", &w.sent, "ok@x.org")
		w.want("events", &w.events, "delivered ok@x.org #1")
	})
}

func TestRouteChanges(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		var keys []string
		w.behave(func(_ context.Context, hop mail.NextHop, _ *delivery.Attempt) []mail.Outcome {
			w.mu.Lock()
			defer w.mu.Unlock()
			keys = append(keys, hop.Key)
			return nil
		})
		w.send(envelope("a@b", "later@x.org"))
		synctest.Wait()
		w.route.set("x.org", "smarthost:new:25")
		time.Sleep(2 * time.Minute)
		w.want("keys", &keys, "mx:x.org", "smarthost:new:25")
		w.wantRows("later@x.org deferred #2 in 4m0s: 450 4.2.0 greylisted")
	})
}
