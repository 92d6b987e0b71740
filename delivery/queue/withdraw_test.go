package queue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// bySegment sorts the messages that are still in the spool.
func (w *world) bySegment(ms []*spool.Message) map[uint64][]*spool.Message {
	out := map[uint64][]*spool.Message{}
	for _, m := range ms {
		if _, ok := w.sp.Find(m.ID()); ok {
			id := m.Header(0).Segment
			out[id] = append(out[id], m)
		}
	}
	return out
}

// TestWithdraw: a withdrawn segment is gone from the queue and as it was in
// the spool; the rest goes on; and it can come back.
func TestWithdraw(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		var sent []*spool.Message
		for range 6 {
			sent = append(sent, w.send(envelope("a@b", "later@x.org", "later@y.org")))
		}
		synctest.Wait()
		all := w.bySegment(sent)
		if len(all) < 2 {
			t.Fatalf("%d segments: this proves nothing", len(all))
		}
		var gone uint64
		for gone = range all {
			break
		}
		if err := w.r.Withdraw(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		if got, want := w.r.Counts().Messages, 6-len(all[gone]); got != want {
			t.Errorf("%d messages are queued, want %d", got, want)
		}
		if got := len(w.bySegment(sent)[gone]); got != len(all[gone]) {
			t.Errorf("the spool has %d messages of the segment, had %d", got, len(all[gone]))
		}
		tried := w.tried()
		time.Sleep(3 * time.Minute) // of the bubble
		if got, want := w.tried()-tried, 2*(6-len(all[gone])); got != want {
			t.Errorf("%d tries after the first retry time, want %d", got, want)
		}
		for _, m := range all[gone] {
			env, err := w.sp.Envelope(m)
			if err != nil {
				t.Fatal(err)
			}
			st, err := w.sp.States(m)
			if err != nil {
				t.Fatal(err)
			}
			w.r.Resume(m, env, st)
		}
		synctest.Wait()
		if got := w.r.Counts(); got.Messages != 6 || got.Recipients != 12 {
			t.Errorf("after it came back: %+v", got)
		}
	})
}

// TestWithdrawAborts: a delivery before its final dot is aborted, one behind
// it ends by itself, and what it says counts.
func TestWithdrawAborts(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		behind := make(chan struct{})
		w.behave(func(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			out := mail.Outcome{Recipient: at.Recipients[0], Remote: "mx"}
			if hop.Domain == "before.test" {
				<-ctx.Done()
				out.Reply = *mail.NewReply(451, "4.4.2", "aborted").WithCause(ctx.Err())
				return []mail.Outcome{out}
			}
			if err := at.BeforeDot(); err != nil {
				t.Error(err)
			}
			<-behind
			out.Reply = *mail.NewReply(250, "2.0.0", "ok")
			return []mail.Outcome{out}
		})
		sent := []*spool.Message{w.send(envelope("a@b", "x@before.test")), w.send(envelope("a@b", "x@behind.test"))}
		synctest.Wait()
		for id := range w.bySegment(sent) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := w.r.Withdraw(ctx, id); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
		}
		if c := w.r.Counts(); c.Messages != 1 {
			t.Errorf("%d messages are queued, want the one behind its dot", c.Messages)
		}
		close(behind)
		synctest.Wait()
		if c := w.r.Counts(); c.Messages != 0 {
			t.Errorf("queued at the end: %+v", c)
		}
		for _, ms := range w.bySegment(sent) {
			if len(ms) != 1 || ms[0] != sent[0] {
				t.Errorf("the spool has %d messages, want the one that was not sent", len(ms))
			}
		}
	})
}

// TestFinalElsewhere: recipients that another node's late results have settled
// are not tried, and the others are.
func TestFinalElsewhere(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		m := w.send(envelope("a@b", "later.1@x.org", "later.2@x.org"))
		synctest.Wait()
		err := w.sp.SettleDurable(m, []spool.Result{{Recipient: 0, State: mail.StateDelivered, Attempts: 1, At: time.Now(), Reply: *mail.NewReply(250, "2.0.0", "ok")}})
		if err != nil {
			t.Fatal(err)
		}
		var tried []int
		w.behave(func(_ context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			tried = append(tried, at.Recipients...)
			return nil
		})
		time.Sleep(2 * time.Minute) // of the bubble
		synctest.Wait()
		if len(tried) != 1 || tried[0] != 1 {
			t.Errorf("recipients %v were tried, want 1 alone", tried)
		}
		if c := w.r.Counts(); c.Recipients != 1 {
			t.Errorf("%d recipients are queued, want 1", c.Recipients)
		}
	})
}
