// Package sources brings the pools of cluster.yaml and the sources of node.yaml
// together: what mail may leave from on this node.
package sources

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/limit"
)

// Pools are those in force. The zero value has none; Configure sets them.
type Pools struct{ set atomic.Pointer[source.Set] }

// Configure puts the pools of a configuration into force, and warns of
// addresses that this machine does not have.
func (p *Pools) Configure(n *config.Node, c *config.Cluster, log *slog.Logger) {
	for _, o := range n.Sources {
		if err := own(n, o.Name).Check(); err != nil {
			log.Warn("a source is left out until this machine has its address", "source", string(o.Name), "address", o.Address.String(), "error", err)
		}
	}
	p.set.Store(source.New(Make(n, c)))
}

// Order is of delivery.Sources.
func (p *Pools) Order(pool, message, domain string) ([]source.Source, error) {
	return p.set.Load().Order(pool, message, domain)
}

// own is a source of the node.
func own(n *config.Node, name config.Name) source.Source {
	i := slices.IndexFunc(n.Sources, func(o config.Source) bool { return o.Name == name })
	if i < 0 {
		return source.Source{}
	}
	o := n.Sources[i]
	return source.Source{Name: string(o.Name), Addr: o.Address.Addr, Hello: string(o.Hostname)}
}

// Make gives the pools with what the node has of them.
func Make(n *config.Node, c *config.Cluster) (out []source.Pool) {
	for _, p := range c.Pools {
		one := source.Pool{Name: string(p.Name), ByMessage: p.Spread == "message", Wait: p.OnMissing == "wait"}
		for _, m := range p.Sources {
			if s := own(n, m.Name); !s.IsZero() {
				one.Members = append(one.Members, source.Member{Source: s, Weight: m.Weight})
			}
		}
		out = append(out, one)
	}
	return out
}

// Limits are those of a configuration: the section limits, and what the
// warm-ups come to at a moment.
func Limits(c *config.Cluster, now time.Time) []limit.Definition {
	return append(limits.Definitions(c.Limits), warmup.Definitions(WarmUps(c), now)...)
}

// Daily calls what puts Limits into force, each time that they change with the
// day, until ctx ends.
func Daily(ctx context.Context, renew func()) {
	for {
		// By the clock on the wall, which may be set: a wait of a minute at most
		// sees that.
		now := time.Now()
		next := warmup.Next(now)
		timer := time.NewTimer(min(next.Sub(now), time.Minute))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if !time.Now().Before(next) {
			renew()
		}
	}
}

// WarmUps are the ramps of all pools.
func WarmUps(c *config.Cluster) (out []warmup.Ramp) {
	for _, p := range c.Pools {
		for _, m := range p.Sources {
			w := m.WarmUp
			if w == nil {
				continue
			}
			r := warmup.Ramp{Source: string(m.Name), Since: w.Since.Time, PerSite: w.Per == "site"}
			for _, n := range w.Ramp {
				r.Days = append(r.Days, int64(n))
			}
			switch w.Preset {
			case config.WarmUpGentle:
				r.Days = warmup.Gentle()
			case config.WarmUpNormal:
				r.Days = warmup.Normal()
			}
			out = append(out, r)
		}
	}
	return out
}
