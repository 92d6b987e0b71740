package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestKill kills the relay at random moments under load, again and again, and
// starts it anew: every message that got its 250 arrives, and where one
// arrives twice, the relay had said that it might.
func TestKill(t *testing.T) {
	rounds := envInt("CLRELAY_KILLS", 50)
	rng := rand.New(rand.NewPCG(seed(t), 1))
	b := openBooks(t, relayproc.Options{})
	for range rounds {
		b.away.Store(rng.IntN(2) == 0)
		b.load(t, time.Duration(50+rng.IntN(600))*time.Millisecond, b.relay.Kill)
		b.restart(t)
	}
	b.check(t, rounds*10)
}

// books holds what was answered 250 over all the relay's lives against what
// came out at the sink.
type books struct {
	relay *relayproc.Relay
	sink  *peers.Sink
	src   *peers.Source

	accepted []int64
	next     int64
	counted  float64 // clrelay_possible_duplicates_total of all lives
	lives    int

	away atomic.Bool // the sink takes nothing
}

// openBooks starts a relay in front of a sink.
func openBooks(t testing.TB, o relayproc.Options) *books {
	t.Helper()
	b := &books{}
	b.sink = startSink(t, &peers.Sink{Hash: true, Seen: func(int64, []string) string {
		if b.away.Load() {
			return "451 4.3.2 Not now"
		}
		return ""
	}})
	o.Cluster = fmt.Sprintf(toSink, b.sink.Addr())
	b.relay = startRelay(t, o)
	b.src = &peers.Source{Addr: b.relay.SMTP, Sessions: 20, Reuse: true, Size: 4 << 10, Body: peers.RandomBody, Timeout: 10 * time.Second}
	return b
}

// load sends until cut has ended the relay, after the given time.
func (b *books) load(t testing.TB, after time.Duration, cut func()) {
	t.Helper()
	const each = 1_000_000 // more than can be sent: the cut ends it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan *peers.Sent, 1)
	go func() { done <- b.src.Run(ctx, b.next, each) }()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.relay.Exited():
		t.Fatalf("the relay ended by itself\n%s", b.relay.Tail())
	}
	cut()
	cancel()
	b.accepted = append(b.accepted, (<-done).Accepted...)
	b.next += each
}

// restart starts the relay and reads what it says it may send twice.
func (b *books) restart(t testing.TB) {
	t.Helper()
	if err := b.relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.reborn(t)
}

// reborn reads what only a new process tells.
func (b *books) reborn(t testing.TB) {
	t.Helper()
	n, err := b.relay.Metric("clrelay_possible_duplicates_total")
	if err != nil {
		t.Fatal(err)
	}
	b.counted += n // the process is new: so is its counter
	b.lives++
}

// check waits until all is delivered and closes the books.
func (b *books) check(t testing.TB, atLeast int) {
	t.Helper()
	b.away.Store(false)
	missing := func() (n int) {
		for _, seq := range b.accepted {
			if len(b.sink.Times(seq)) == 0 {
				n++
			}
		}
		return n
	}
	end := time.Now().Add(2 * time.Minute)
	eventually(t, time.Until(end), "every accepted message is at the sink", func() bool {
		if n := missing(); n > 0 {
			if s := summary(t, b.relay); s.Messages == 0 && missing() > 0 {
				t.Fatalf("lost: %d of %d accepted messages are neither at the sink nor in the queue", missing(), len(b.accepted))
			}
			return false
		}
		return true
	})
	for _, seq := range b.accepted {
		if sum, _ := b.sink.Sum(seq); sum != b.src.Sum(seq) {
			t.Errorf("message %d came out different", seq)
		}
	}
	emptyQueue(t, b.relay, time.Minute)
	balanced(t, b.relay)
	_, dup := b.sink.Distinct()
	t.Logf("%d restarts, %d accepted, lost 0, %d duplicates, %.0f counted as possible", b.lives, len(b.accepted), dup, b.counted)
	if float64(dup) > b.counted {
		t.Errorf("%d duplicates, but only %.0f were counted as possible", dup, b.counted)
	}
	if len(b.accepted) < atLeast {
		t.Errorf("only %d messages were accepted: this proves little", len(b.accepted))
	}
}

// seed gives the seed of a random test and prints it; CLRELAY_SEED repeats one.
func seed(t testing.TB) uint64 {
	t.Helper()
	n := envInt("CLRELAY_SEED", int(time.Now().UnixNano()&0xffffff))
	t.Logf("CLRELAY_SEED=%d", n)
	return uint64(n)
}

func envInt(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}
