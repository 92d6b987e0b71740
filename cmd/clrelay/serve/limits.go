package serve

import (
	"context"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/door"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/sources"
	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/overload"
)

// sinceStart is the process's own monotonic clock.
func (r *relay) sinceStart() time.Duration { return time.Since(r.started) }

// makeLimits makes what holds the node to its part of all limits.
func (r *relay) makeLimits() error {
	r.parts.guard.Abuse, r.parts.guard.Log = abuse.New(r.sinceStart, 0), r.log
	r.parts.limits = local.New(local.Options{Now: clock.Boot, Wall: time.Now})
	if err := r.parts.limits.Configure(sources.Limits(r.conf().cluster, time.Now())); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

// renewLimits puts the limits of the day into force.
func (r *relay) renewLimits() {
	r.applying.Lock()
	defer r.applying.Unlock()
	if err := r.parts.limits.Configure(sources.Limits(r.conf().cluster, time.Now())); err != nil {
		r.log.Error("the limits of the day", "error", err)
	}
}

// relaxEvery is how often mail that waits for limits asks again at most because
// there are others: those that are learned may change many times a second.
const relaxEvery = time.Second

// followLimits lets mail that waits for limits ask again when there are others:
// of the configuration, an operator's, learned ones, those of the day.
func (r *relay) followLimits(ctx context.Context) {
	for {
		select {
		case <-r.parts.limits.Changed():
			r.parts.queue.LimitsChanged()
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(relaxEvery):
		case <-ctx.Done():
			return
		}
	}
}

// divideLimits gives a machine that is alone all of them; in a cluster the nodes
// divide them, and tell each other how clients behave. The spool must have found
// data_dir its own.
func (r *relay) divideLimits() (err error) {
	var whisper func([]byte)
	if m := r.parts.member; m != nil {
		whisper = m.Whisper
	}
	r.parts.divider, err = door.Begin(string(r.conf().node.DataDir), r.parts.limits, r.parts.guard.Abuse, whisper, r.log)
	return err
}

// makeGuard makes what is asked before mail is taken.
func (r *relay) makeGuard() *door.Door {
	g := &r.parts.guard
	g.Gate = overload.NewGate(r.sinceStart, func(s *overload.Signals) {
		s.Sessions, s.Max = r.sessions(), r.conf().cluster.Receive.MaxConnections
		disk := r.parts.spool.Stats()
		s.Free, s.Reserve = disk.Free, disk.Reserve
	})
	g.Door = door.New(door.Options{
		Limits: r.parts.limits, Abuse: g.Abuse, Gate: g.Gate, Entry: r.parts.policy.Entry, Log: r.log, Metrics: r.metrics.Door,
	})
	g.Configure(r.conf().cluster)
	return g.Door
}
