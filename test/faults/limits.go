package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// What the fleet of Limits is held to.
const (
	limitRate  = 100 // messages a second
	limitBurst = 100
	limitConns = 10
	// limitSlack is how much later than it was counted a message may come.
	limitSlack = 100 * time.Millisecond
	// limitFor is how long the rate is measured, limitBegins when it has had
	// time to settle, and limitFaults when the first fault comes.
	limitFor, limitBegins, limitFaults = 60 * time.Second, 8 * time.Second, 18 * time.Second
)

// limitText limits the sink. Without it all is sent at once.
var limitText = fmt.Sprintf("limits:\n  - {name: sink, match: {domains: [sink.test]}, rate: %d/s, burst: %d, connections: %d}\n", limitRate, limitBurst, limitConns)

// gauge is what the far end sees of a limit.
type gauge struct {
	mu    sync.Mutex
	times []time.Time // MAIL
	most  int         // connections at a time
}

func (g *gauge) began(t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times = append(g.times, t)
}

func (g *gauge) open(conns int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most = max(g.most, conns)
}

// seen gives the messages, in their order, and the most connections there were.
func (g *gauge) seen() ([]time.Time, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	times := slices.Clone(g.times)
	slices.SortFunc(times, time.Time.Compare)
	return times, g.most
}

// excess is by how many messages the worst window of all was above the limit:
// in no window of length t may there be more than rate*(t+slack)+burst. It is
// negative where there was room left.
func excess(times []time.Time) float64 {
	worst, lowest := -float64(limitBurst), 0.0
	for i, t := range times {
		// The messages less what the rate gives until then: a window is what
		// this grows by.
		above := float64(i) - limitRate*t.Sub(times[0]).Seconds()
		if i == 0 || above < lowest {
			lowest = above
		}
		worst = max(worst, above-lowest+1-limitBurst-limitRate*limitSlack.Seconds())
	}
	return worst
}

// count tells how many of the times are between two moments.
func count(times []time.Time, from, to time.Time) (n int) {
	for _, t := range times {
		if !t.Before(from) && t.Before(to) {
			n++
		}
	}
	return n
}

// Used is which parts of a limit are to be used: while nothing is wrong, and of
// all the time.
type Used struct{ Steady, Overall float64 }

// Limits lets a fleet with uneven load and a limit for its only destination run
// for a minute, in which the busiest node is killed, then the leader, and then
// a node is cut off, and judges what the destination sees. Its report is
// printed by Options.Log.
func Limits(ctx context.Context, o Options, seed uint64, least Used) (err error) {
	g := &gauge{}
	o.more, o.load = limitText, []time.Duration{25 * time.Millisecond, 160 * time.Millisecond, 800 * time.Millisecond}
	o.sink = &peers.Sink{Hash: true, Delay: 5 * time.Millisecond, Began: g.began, Open: g.open}
	o.Log("seed %d", seed)
	f, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	rng := rand.New(rand.NewPCG(seed, 0x6c696d697473))
	r := &run{fleet: f, judge: newJudge(f), ctx: ctx, rng: rng, figures: newFigures()}
	began := time.Now()
	if err := r.limited(&nemesis{fleet: f, ctx: ctx, rng: rng}, began); err != nil {
		return fmt.Errorf("%w (logs: %s)", err, strings.Join(f.keepLogs(), " "))
	}
	r.limits(g, began, least)
	if err := r.unlimited(); err != nil {
		return err
	}
	return r.end(time.Since(began))
}

// limited is the minute.
func (r *run) limited(n *nemesis, began time.Time) error {
	n.hold(time.Until(began.Add(limitFaults)))
	r.o.Log("%s is killed, which has most of the load", name(0))
	if err := n.killAndStart(0, takenOver); err != nil {
		return err
	}
	n.hold(time.Until(began.Add(limitFaults + 14*time.Second)))
	leader := n.leader()
	r.o.Log("%s is killed, the leader", name(leader))
	if err := n.killAndStart(leader, takenOver); err != nil {
		return err
	}
	n.hold(time.Until(began.Add(limitFaults + 28*time.Second)))
	if r.lab != nil {
		if err := n.isolate(n.any(), 10*time.Second); err != nil {
			return err
		}
	} else {
		r.o.Log("without namespaces nobody can be cut off: %s is stopped instead", name(1))
		if err := n.pause(1); err != nil {
			return err
		}
	}
	n.hold(time.Until(began.Add(limitFor)))
	return r.ctx.Err()
}

// limits judges what the sink saw of the minute.
func (r *run) limits(g *gauge, began time.Time, least Used) {
	times, most := g.seen()
	over := excess(times)
	steady := float64(count(times, began.Add(limitBegins), began.Add(limitFaults))) / (limitRate * (limitFaults - limitBegins).Seconds())
	overall := float64(count(times, began, began.Add(limitFor))) / (limitRate * limitFor.Seconds())
	r.o.Log("the sink saw %d messages: %.1f %% of the limit before the first fault, %.1f %% of it in all; the fullest window had %.1f messages to spare; at most %d connections at a time",
		len(times), 100*steady, 100*overall, -over, most)
	for at := began; at.Before(began.Add(limitFor)); at = at.Add(5 * time.Second) {
		r.o.Log("  %4.0f s  %5.1f messages a second", at.Sub(began).Seconds(), float64(count(times, at, at.Add(5*time.Second)))/5)
	}
	if over > 0 {
		r.judge.fail("the sink saw %.1f messages more than the limit allows", over)
	}
	if most > limitConns {
		r.judge.fail("the sink saw %d connections at a time, and %d are allowed", most, limitConns)
	}
	if steady < least.Steady || overall < least.Overall {
		r.judge.fail("too little of the limit was used: %.3f before the first fault, %.3f in all", steady, overall)
	}
}

// unlimited takes the limit away, so that what is queued arrives before long.
func (r *run) unlimited() error {
	file := filepath.Join(r.o.Dir, "unlimited.yaml")
	if err := os.WriteFile(file, []byte(r.text("")), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, settleWithin)
	defer cancel()
	return await(ctx, func() error {
		if _, errs, code := r.cluster.Nodes[0].CLI("config", "apply", "-f", file, "--reason", "no limit any more"); code != 0 {
			return fmt.Errorf("config apply: %d %s", code, strings.TrimSpace(errs))
		}
		return nil
	})
}
