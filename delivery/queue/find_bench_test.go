package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// BenchmarkFind lists up to 100 recipients of one domain of 2,000, of one
// sender, and all, of a queue of 200,000 messages.
func BenchmarkFind(b *testing.B) {
	const messages, domains = 200_000, 2000
	var sp *spool.Spool
	r := queue.New(queue.Options{Router: hopKeys(1), Deliverer: deliverFunc(instant)})
	sp, _, err := spool.Open(spool.Options{FS: vfs.NewMem(), Dir: "/data", Node: "mx1", Boot: "b", Reserve: 1, HangLimit: time.Hour, Accepted: func(m *spool.Message, env *mail.Envelope) {
		if err := sp.Settle(m, []spool.Result{{State: mail.StateDeferred, Attempts: 1, Next: time.Now().Add(time.Hour), At: time.Now(), Reply: mail.Reply{Code: 450, Text: "try again later"}}}); err != nil {
			b.Error(err)
		}
		r.Resume(m, env, []spool.RecipientState{{State: mail.StateDeferred, Attempts: 1, Next: time.Now().Add(time.Hour)}})
	}})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.Start(sp); err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var senders sync.WaitGroup
	for range 256 {
		senders.Go(func() {
			for n := next.Add(1); n <= messages; n = next.Add(1) {
				env := envelope(fmt.Sprintf("user%d@here.test", n%5000), fmt.Sprintf("someone%d@domain%d.example.org", n, n%domains))
				if _, err := sp.Accept(context.Background(), env, bytes.NewReader([]byte(text))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	senders.Wait()
	full := errors.New("full")
	for name, sel := range map[string]selector{"domain": {to: "domain7.example.org"}, "sender": {from: "user7@here.test"}, "all": {}} {
		b.Run(name, func(b *testing.B) {
			began := cpu()
			for b.Loop() {
				n := 0
				err := r.List(context.Background(), sel, func(*queue.Row) error {
					if n++; n == 100 && name != "all" {
						return full
					}
					return nil
				})
				if err != nil && !errors.Is(err, full) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
	if err := r.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
	if err := sp.Close(); err != nil {
		b.Fatal(err)
	}
}
