package queue_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
)

func TestShutdownLosesNothing(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.behave(func(ctx context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			if at.Envelope.Recipients[at.Recipients[0]].Addr.Domain == "slow.org" {
				select {
				case <-ctx.Done():
					return []mail.Outcome{{Recipient: 0, Reply: *mail.NewReply(451, "4.3.2", "interrupted")}}
				case <-time.After(time.Hour):
				}
			}
			time.Sleep(10 * time.Second)
			return nil
		})
		w.send(envelope("a@b", "ok@slow.org"))
		w.send(envelope("a@b", "ok@x.org"))
		synctest.Wait()
		began := time.Now()
		w.stop(30 * time.Second)
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("shutdown took %s", took)
		}
		w.want("sent", &w.sent, "ok@x.org")
		w.behave(nil)
		w.start()
		synctest.Wait()
		w.want("sent", &w.sent, "ok@slow.org")
		w.want("events", &w.events, "delivered ok@x.org #1", "delivered ok@slow.org #1")
	})
}

// TestShutdownAfterTheDot: a delivery that was cut off between its final dot
// and the answer counts as a possible duplicate at the next start.
func TestShutdownAfterTheDot(t *testing.T) {
	play(t, queue.Options{}, func(t *testing.T, w *world) {
		w.behave(func(ctx context.Context, _ mail.NextHop, at *delivery.Attempt) []mail.Outcome {
			if err := at.BeforeDot(); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			return []mail.Outcome{{Recipient: 0, Reply: *mail.NewReply(451, "4.4.2", "interrupted"), Unsure: true}}
		})
		w.send(envelope("a@b", "ok@slow.org"))
		synctest.Wait()
		w.stop(30 * time.Second)
		w.behave(nil)
		w.start()
		synctest.Wait()
		if w.doubts != 1 {
			t.Errorf("%d possible duplicates were counted", w.doubts)
		}
		w.want("events", &w.events, "delivered ok@slow.org #1")
	})
}
