package system

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

var largeQueue = flag.Int("queued", 3000, "messages that TestLargeQueue queues")

// TestLargeQueue asks and changes a queue of three nodes while mail flows, and
// tells how long that took. -queued 200000 makes it large.
func TestLargeQueue(t *testing.T) {
	t.Parallel()
	f := openFleetWith(t, 3, strings.Replace(toSink, "1s, 2s, 5s", "1h", 1))
	f.away.Store(true)
	n := *largeQueue / 3
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, r := range f.Nodes {
		wg.Go(func() {
			src := &peers.Source{Addr: r.SMTP, Sessions: 30, Reuse: true, Size: 1 << 10, Timeout: 40 * time.Second,
				Rcpt: func(seq int64) string { return fmt.Sprintf("u@d%d.sink.test", seq%2000) }}
			for left, base := n, int64(i+1)*1_000_000_000; left > 0 && t.Context().Err() == nil; {
				sent := src.Run(t.Context(), base, left)
				base += int64(left)
				mu.Lock()
				f.accepted = append(f.accepted, sent.Accepted...)
				mu.Unlock()
				left -= len(sent.Accepted)
			}
		})
	}
	wg.Wait()
	asked := f.Nodes[0]
	timed := func(args ...string) string {
		t.Helper()
		began := time.Now()
		out, errs, code := asked.CLI(args...)
		if code != 0 {
			t.Fatalf("%v: %d %s%s", args, code, out, errs)
		}
		t.Logf("%-55s %v", strings.Join(args, " "), time.Since(began).Round(time.Millisecond))
		return out
	}
	timed("version")
	for range 3 {
		timed("queue", "summary", "-o", "json")
		timed("queue", "list", "--domain", "d7.sink.test", "--limit", "100", "-o", "json")
		timed("queue", "shape", "-o", "json")
		timed("queue", "reasons", "-o", "json")
	}
	before := summaryOf(t, asked)
	wg.Go(func() { f.takes(t, f.Nodes[1], 300) })
	timed("queue", "hold", "--everything", "-o", "json")
	if s := summaryOf(t, asked); s.Held < before.Recipients {
		t.Errorf("%d are held of %d", s.Held, before.Recipients)
	}
	f.away.Store(false)
	wg.Go(func() { f.takes(t, f.Nodes[2], 300) })
	timed("queue", "release", "--everything", "-o", "json")
	timed("queue", "retry", "--everything", "-o", "json")
	if s := summaryOf(t, asked); s.Held != 0 {
		t.Errorf("%d are still held", s.Held)
	}
	wg.Wait()
	f.settle(t, 5*time.Minute)
}
