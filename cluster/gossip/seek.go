package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// How often others are looked for.
const (
	seekMin       = 250 * time.Millisecond
	seekMax       = 5 * time.Second
	seekAtOnce    = 8  // addresses tried at the same time
	maxSeek       = 64 // addresses tried in one round
	lookupTimeout = 3 * time.Second
)

// seek looks for members, for ever: at the seeds, whose names are looked up
// anew each time, and where members were that seem dead. After a long
// partition both sides have given each other up, and nobody else would bring
// them together again.
func (g *Gossip) seek() {
	wait := seekMin
	for {
		g.join(g.missing())
		timer := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-g.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			wait = min(2*wait, seekMax)
		case <-g.table.peopled:
			// Where one comes or goes there are others, but never more than one
			// round in seekMin.
			wait = seekMin
			pause(g.ctx, seekMin)
		}
	}
}

// pause waits, or until it is all over.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// target is where somebody might be.
type target struct {
	node string // empty: whoever is there
	addr netip.AddrPort
}

// missing gives the addresses at which somebody might be that we do not know
// of: seeds, the dead, and who talks to us from elsewhere than we think.
func (g *Gossip) missing() []target {
	skip := map[netip.AddrPort]bool{g.wire.advertise: true}
	var out []target
	add := func(t target) {
		if !skip[t.addr] && len(out) < maxSeek {
			skip[t.addr] = true
			out = append(out, t)
		}
	}
	members := g.Members()
	for _, m := range members {
		if m.State != Dead {
			skip[m.Addr] = true
		}
	}
	for _, c := range g.wire.callers() {
		add(c)
	}
	ctx, cancel := context.WithTimeout(g.ctx, lookupTimeout)
	defer cancel()
	for _, s := range g.opts.Seeds {
		found, err := resolve(ctx, g.opts, s)
		if err != nil {
			g.opts.Log.Debug("gossip: a seed is not found", "seed", s, "err", err)
		}
		for _, a := range found {
			add(target{"", a})
		}
	}
	for _, m := range members {
		add(target{m.Node, m.Addr})
	}
	return out
}

// join exchanges what is known with whoever is at these addresses.
func (g *Gossip) join(targets []target) {
	slots := make(chan struct{}, seekAtOnce)
	var wg sync.WaitGroup
	for _, t := range targets {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if g.ctx.Err() != nil {
				return
			}
			where := t.addr.String()
			if t.node != "" {
				where = t.node + "/" + where // and nobody else
			}
			if _, err := g.list.Join([]string{where}); err != nil {
				g.opts.Log.Debug("gossip: nobody joined", "addr", where, "err", err)
			}
		})
	}
	wg.Wait()
}

// resolve gives the addresses of host:port, at least one.
func resolve(ctx context.Context, o Options, hostPort string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s: port %q: %w", hostPort, service, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(port))}, nil
	}
	ips, err := o.Resolve(ctx, host)
	if err != nil || len(ips) == 0 {
		return nil, errors.Join(fmt.Errorf("%s: no address: %w", host, errAddr), err)
	}
	out := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return out, nil
}
