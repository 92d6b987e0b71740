// Package demo shows relays at work on one terminal: a cluster of three nodes
// that can be killed, paused, cut off and drained by keys or by a script, or
// one relay on its own, and beside them the books of what became of the mail.
// The world itself, with all its processes, is package world.
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

	"github.com/clrelay/clrelay/cmd/clrelay/demo/world"
	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
)

// Options say how the demo runs.
type Options struct {
	Binary string        // the clrelay binary to start as the relays
	Nodes  int           // 1 or 3
	For    time.Duration // how long; zero: until ctx ends, or the script does
	Script string        // what happens, one of Scripts; empty: what the keys say
	Plain  bool          // lines instead of a live screen
	Rate   float64       // messages a second
	In     *os.File      // the keys
	Out    *os.File
}

// ErrLost says that the ledger does not add up: mail that the relays accepted
// is neither delivered, nor bounced, nor queued, or came more often than they
// know.
var ErrLost = errors.New("the ledger does not add up")

// errScript says that something in a script did not come about.
var errScript = errors.New("demo: the script failed")

// settleLimit is how long the demo waits at its end for what is under way.
const (
	settleLimit      = 45 * time.Second
	settleLimitAlone = 10 * time.Second
)

// Run plays the demo until ctx ends, o.For has passed or the script is over.
// It gives ErrLost where the ledger shows a loss.
func Run(ctx context.Context, o Options) error {
	play, err := scriptFor(o.Script)
	if err != nil {
		return err
	}
	w, err := world.New(world.Options{Binary: o.Binary, Nodes: o.Nodes, Rate: o.Rate})
	if err != nil {
		return err
	}
	defer w.Close()
	if o.Nodes > 1 {
		fmt.Fprintf(o.Out, "clrelay demo: %d nodes found a cluster ...\n", o.Nodes)
	}
	if err := w.Start(ctx); err != nil {
		return err
	}
	show := newScreen(o, w)
	show.intro()
	defer show.leave()

	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	if o.For > 0 {
		runCtx, stop = context.WithTimeout(ctx, o.For)
		defer stop()
	}
	over := make(chan error, 1)
	switch {
	case play != nil:
		go func() { over <- play(runCtx, &director{World: w}) }()
	case show.live && o.Nodes > 1:
		restore := readKeys(o.In, &keys{w: w, ctx: runCtx, quit: stop})
		defer restore()
	}
	err = watch(runCtx, w, show, over)
	stop()
	if err != nil && !errors.Is(err, errScript) {
		return err
	}
	return errors.Join(err, finish(w, o, show)) // the books of a script that failed are of interest too
}

// watch refreshes the screen until ctx ends or the script is over.
func watch(ctx context.Context, w *world.World, show *screen, over <-chan error) error {
	tick := time.NewTicker(show.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if show.scripted && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w: it was not over in the time of --for", errScript)
			}
			return nil
		case err := <-over:
			show.draw()
			if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("%w: %w", errScript, err)
			}
			return nil
		case err := <-w.Failed():
			return err
		case <-tick.C:
			show.draw()
		}
	}
}

// finish lets what is under way end, draws up the account and stops the nodes.
// The caller's context is over by then, so it takes one of its own.
func finish(w *world.World, o Options, show *screen) error {
	limit := settleLimit
	if o.Nodes == 1 {
		limit = settleLimitAlone
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if o.Nodes > 1 {
		w.Say("the load ends; what is under way is brought to its end")
		for _, n := range w.Nodes() {
			if err := w.Bring(n); err != nil {
				return err
			}
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); w.Settle(ctx) }()
	tick := time.NewTicker(show.every)
	defer tick.Stop()
	for settled := false; !settled; {
		select {
		case <-done:
			settled = true
		case <-tick.C:
			show.draw()
		}
	}
	show.draw()
	show.leave()
	v := verdict{Sums: w.Sums(), counted: w.Counted(), nodes: o.Nodes, waiting: w.Waiting()}
	stopErr := w.Stop()
	v.print(show.out, w)
	switch {
	case !v.pass():
		return ErrLost
	case stopErr != nil:
		return fmt.Errorf("demo: stopping the relays: %w", stopErr)
	}
	return nil
}

// verdict is the last account.
type verdict struct {
	post.Sums
	counted, nodes, waiting int
}

func (v verdict) pass() bool {
	if v.nodes > 1 && (v.Queued > 0 || v.waiting > 0) {
		return false // all mail servers work at the end: nothing is left to wait for
	}
	return v.Even() && v.Twice <= v.counted
}

func (v verdict) print(out io.Writer, w *world.World) {
	word := "PASS"
	if !v.pass() {
		word = "FAIL"
	}
	fmt.Fprintf(out, "%s  accepted %d = delivered %d + bounced %d + queued %d   lost %d   delivered twice %d, %d possible ones were counted   (in recipients)\n",
		word, v.Accepted, v.Delivered, v.Bounced, v.Queued, v.Lost, v.Twice, v.counted)
	if v.waiting > 0 {
		fmt.Fprintf(out, "      the clients still have %d messages that nobody took\n", v.waiting)
	}
	if word == "FAIL" {
		for _, m := range w.Missing() {
			fmt.Fprintf(out, "      in no queue: %s\n", m)
		}
	}
}
