package serve

import (
	"context"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/cluster/clock"
	"github.com/clrelay/clrelay/cluster/limit/alone"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/door"
	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/overload"
)

// guarding is what is asked before mail is taken.
type guarding struct {
	door  *door.Door
	abuse *abuse.Table
	gate  *overload.Gate
}

// sinceStart is the process's own monotonic clock.
func (r *relay) sinceStart() time.Duration { return time.Since(r.started) }

// makeLimits makes what holds the node to its part of all limits.
func (r *relay) makeLimits() error {
	r.parts.guard.abuse = abuse.New(r.sinceStart, 0)
	r.parts.limits = local.New(local.Options{Now: clock.Boot, Wall: time.Now})
	if err := r.parts.limits.Configure(limits.Definitions(r.conf().cluster.Limits)); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}

// divideLimits gives a machine that is alone all of them; in a cluster the nodes
// divide them, and tell each other how clients behave. The spool must have found
// data_dir its own.
func (r *relay) divideLimits() error {
	run := func(ctx context.Context) { door.Share(ctx, r.parts.guard.abuse, r.parts.member.Whisper) }
	if r.parts.member == nil {
		m, err := alone.Open(string(r.conf().node.DataDir), r.parts.limits, r.log)
		if err != nil {
			return fmt.Errorf("limits: %w", err)
		}
		run = func(ctx context.Context) {
			if err := m.Run(ctx); err != nil {
				r.log.Warn("limits: the file of budgets was not closed cleanly", "error", err)
			}
		}
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	r.parts.divider = func() { end(); <-done }
	return nil
}

// makeGuard makes what is asked before mail is taken.
func (r *relay) makeGuard() *door.Door {
	g := &r.parts.guard
	g.gate = overload.NewGate(r.sinceStart, func(s *overload.Signals) {
		s.Sessions, s.Max = r.sessions(), r.conf().cluster.Receive.MaxConnections
		disk := r.parts.spool.Stats()
		s.Free, s.Reserve = disk.Free, disk.Reserve
	})
	g.door = door.New(door.Options{
		Limits: r.parts.limits, Abuse: g.abuse, Gate: g.gate, Entry: r.parts.policy.Entry, Log: r.log, Metrics: r.metrics.Door,
	})
	g.configure(r.conf().cluster)
	return g.door
}

// heard takes in what another node has seen of clients.
func (g *guarding) heard(text []byte) { door.Heard(g.abuse, text) }

// configure puts settings into force.
func (g *guarding) configure(c *config.Cluster) {
	g.door.Configure(door.RulesOf(c))
	g.gate.Configure(time.Duration(c.Receive.Overload.Target))
	g.abuse.Configure(door.AbuseOf(c.Receive.Abuse))
}
