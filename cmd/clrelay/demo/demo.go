// Package demo shows a relay at work on one terminal: the relay itself as a
// child process, a DNS server that knows a few invented domains, an inbox that
// plays their mail servers, a stream of mail, and a ledger that checks the
// relay's word from outside: what it accepted is delivered, bounced or still
// queued, and nothing is lost.
//
// Nothing leaves the machine: every address is on loopback. It needs neither
// root nor a well-known port. cmd/clrelay calls Run; nobody else does.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options say how the demo runs.
type Options struct {
	Binary string        // the clrelay binary to start as the relay
	For    time.Duration // how long; zero: until ctx ends
	Plain  bool          // one line a second instead of a live screen
	Rate   float64       // messages a second
	Out    *os.File
}

// ErrLost says that the ledger does not add up: mail that the relay accepted
// is neither delivered, nor bounced, nor queued.
var ErrLost = errors.New("the ledger does not add up")

// settleLimit is how long the demo waits at its end for what is under way.
const settleLimit = 10 * time.Second

// Run plays the demo until ctx ends or o.For has passed. It gives ErrLost
// where the ledger shows a loss.
func Run(ctx context.Context, o Options) error {
	w, err := newWorld(o)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.relay.start(ctx); err != nil {
		return err
	}
	show := newScreen(o, w)
	show.intro()

	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	if o.For > 0 {
		loadCtx, stop = context.WithTimeout(ctx, o.For)
		defer stop()
	}
	loadDone := make(chan struct{})
	go func() { defer close(loadDone); w.load.run(loadCtx, o.Rate) }()

	err = w.watch(loadCtx, show)
	stop()
	<-loadDone
	if err != nil {
		show.leave()
		return err
	}
	return w.finish(show)
}

// watch refreshes the screen and checks the ledger until ctx ends.
func (w *world) watch(ctx context.Context, show *screen) error {
	tick := time.NewTicker(show.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.relay.exited:
			return fmt.Errorf("demo: the relay ended by itself: %w", w.relay.err)
		case now := <-tick.C:
			w.check(ctx, now)
			show.draw()
		}
	}
}

// finish lets what is under way end, draws up the account and stops the relay.
// The caller's context is over by then, so it takes one of its own.
func (w *world) finish(show *screen) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for w.check(ctx, time.Now().Add(grace)) && ctx.Err() == nil {
		<-tick.C
		if s := w.ledger.sum(); s.open == s.queued && s.lost == 0 {
			break
		}
	}
	show.leave()
	sum := w.ledger.sum()
	stopErr := w.relay.stop()
	printVerdict(show.out, sum)
	if stopErr != nil {
		return fmt.Errorf("demo: stopping the relay: %w", stopErr)
	}
	if sum.lost > 0 || sum.accepted != sum.delivered+sum.bounced+sum.queued {
		return ErrLost
	}
	return nil
}

func printVerdict(out io.Writer, s sums) {
	word := "PASS"
	if s.lost > 0 || s.accepted != s.delivered+s.bounced+s.queued {
		word = "FAIL"
	}
	fmt.Fprintf(out, "%s  accepted %d = delivered %d + bounced %d + queued %d   lost %d   delivered twice %d   (counted in recipients)\n",
		word, s.accepted, s.delivered, s.bounced, s.queued, s.lost, s.twice)
}
