package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/ranking"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/mail"
)

const (
	maxNames = 20 // host names that one attempt resolves
	perHost  = 2  // addresses of a host that are tried where there are more hosts
)

var errLoop = errors.New("the next hop is this relay")

// host is one address that an attempt may go to.
type host struct {
	name string
	addr netip.AddrPort
}

// walk finds the hosts of a next hop, one after another, and resolves no more
// of them than are asked for. Hosts that did not answer lately come last.
type walk struct {
	a     *Agent
	hop   *mail.NextHop
	note  func(mail.Reply) // what went wrong on the way
	fits  func(host) bool  // whether there is a way to a host from here
	again func() bool      // whether a host that is remembered dead may know better

	began  bool
	groups [][]mail.HostPort // of equal rank, best first
	bare   bool              // there is no MX: the only host is the domain itself (RFC 5321 5.1)
	names  int               // resolved so far
	ready  []host
	dead   []host // remembered so; tried when there is no other
	live   bool   // there was another
}

// next gives a host; ok is false when there is none left.
func (w *walk) next(ctx context.Context) (h host, ok bool) {
	if !w.began {
		w.began = true
		w.start(ctx)
	}
	for ctx.Err() == nil {
		switch {
		case len(w.ready) > 0:
			h, w.ready = w.ready[0], w.ready[1:]
			if !w.fits(h) {
				continue
			}
			if !w.a.dead.has(h.addr) {
				w.live = true
				return h, true
			}
			w.dead = append(w.dead, h)
		case len(w.groups) > 0:
			group := w.groups[0]
			w.groups = w.groups[1:]
			w.resolve(ctx, group)
		case len(w.dead) > 0 && (!w.live || w.again()):
			h, w.dead = w.dead[0], w.dead[1:]
			return h, true
		default:
			return host{}, false
		}
	}
	return host{}, false
}

// start finds the names of the hosts.
func (w *walk) start(ctx context.Context) {
	if w.hop.Kind != mail.HopMX {
		if w.hop.Balance {
			equal := slices.Clone(w.hop.Hosts)
			rand.Shuffle(len(equal), func(i, j int) { equal[i], equal[j] = equal[j], equal[i] })
			w.groups = [][]mail.HostPort{equal}
			return
		}
		for _, hp := range w.hop.Hosts {
			w.groups = append(w.groups, []mail.HostPort{hp})
		}
		return
	}
	if ip, ok := (mail.Address{Local: "x", Domain: w.hop.Domain}).IP(); ok {
		w.groups = [][]mail.HostPort{{{Name: ip.String(), Port: w.a.o.MXPort}}}
		return
	}
	if w.hop.Domain == "" || w.hop.Domain[0] == '[' {
		w.note(*mail.NewReply(550, "5.1.2", "domain "+w.hop.Domain+" cannot be reached from here"))
		return
	}
	start := time.Now()
	set, err := w.a.o.Resolver.LookupMX(ctx, w.hop.Domain)
	w.a.o.Metrics.AttemptDuration.Observe("dns", time.Since(start))
	switch {
	case err == nil && len(set) > 0:
		w.rank(set)
	case err == nil || absent(err):
		w.bare = true
		w.groups = [][]mail.HostPort{{{Name: w.hop.Domain, Port: w.a.o.MXPort}}}
	default:
		w.note(*mail.NewReply(451, "4.4.3", "MX lookup of "+w.hop.Domain+" failed").WithCause(err))
	}
}

// rank sorts an MX set into groups of equal preference, each in random order
// (RFC 5321 5.1).
func (w *walk) rank(set []dnsx.MX) {
	set = slices.DeleteFunc(slices.Clone(set), func(m dnsx.MX) bool { return m.Host == "." || m.Host == "" })
	if len(set) == 0 { // RFC 7505 3
		w.note(*mail.NewReply(556, "5.1.10", "domain "+w.hop.Domain+" does not accept mail"))
		return
	}
	rand.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
	slices.SortStableFunc(set, func(a, b dnsx.MX) int { return int(a.Pref) - int(b.Pref) })
	for i, m := range set {
		if i == 0 || m.Pref != set[i-1].Pref {
			w.groups = append(w.groups, nil)
		}
		g := &w.groups[len(w.groups)-1]
		*g = append(*g, mail.HostPort{Name: strings.ToLower(strings.TrimSuffix(m.Host, ".")), Port: w.a.o.MXPort})
	}
}

// resolve finds the addresses of a group. Where one of them is this relay,
// that group and all behind it are no way on (RFC 5321 5.1): the mail would
// come back.
func (w *walk) resolve(ctx context.Context, group []mail.HostPort) {
	lists := make([][]netip.Addr, len(group))
	widest := 0
	for i, hp := range group {
		if w.a.self.named(hp.Name, hp.Port) {
			w.loop()
			return
		}
		if w.names++; w.names > maxNames {
			break
		}
		lists[i] = w.lookup(ctx, hp.Name)
		for _, ip := range lists[i] {
			if w.a.self.is(netip.AddrPortFrom(ip, hp.Port)) {
				w.loop()
				return
			}
		}
		if len(group)+len(w.groups) > 1 && len(lists[i]) > perHost {
			lists[i] = lists[i][:perHost]
		}
		widest = max(widest, len(lists[i]))
	}
	// One address of each host, then the second of each; and of all of them
	// first what answers well.
	for n := range widest {
		for i, l := range lists {
			if n < len(l) {
				w.ready = append(w.ready, host{name: group[i].Name, addr: netip.AddrPortFrom(l[n], group[i].Port)})
			}
		}
	}
	ranking.Order(w.a.answers, w.ready, func(h *host) netip.AddrPort { return h.addr })
}

// absent tells that there is certainly nothing, from not knowing.
func absent(err error) bool {
	return errors.Is(err, dnsx.ErrNotFound) || errors.Is(err, dnsx.ErrName)
}

// loop ends the walk before a host that is this relay.
func (w *walk) loop() {
	w.groups, w.ready = nil, nil
	w.note(*mail.NewReply(554, "5.4.6", "mail for this destination loops back to this relay").WithCause(errLoop))
}

// lookup finds the addresses of a name.
func (w *walk) lookup(ctx context.Context, name string) []netip.Addr {
	if ip, err := netip.ParseAddr(name); err == nil {
		if w.hop.Kind == mail.HopMX && !strings.HasPrefix(w.hop.Domain, "[") {
			// RFC 5321 5.1: an MX record names a host.
			w.note(*mail.NewReply(550, "5.4.4", "the MX record "+name+" is not a host name"))
			return nil
		}
		return []netip.Addr{ip.Unmap()}
	}
	start := time.Now()
	addrs, err := w.a.o.Resolver.LookupAddrs(ctx, name)
	w.a.o.Metrics.AttemptDuration.Observe("dns", time.Since(start))
	switch {
	case err == nil && len(addrs) > 0:
		return interleave(addrs)
	case err != nil && !absent(err):
		w.note(*mail.NewReply(451, "4.4.3", "address lookup of "+name+" failed").WithCause(err))
	case w.hop.Kind != mail.HopMX:
		// What the operator has named wrong, or unnamed for now, is no reason
		// to bounce.
		w.note(*mail.NewReply(451, "4.3.5", "next hop "+name+" has no address").WithCause(err))
	case w.bare:
		w.note(*mail.NewReply(550, "5.1.2", "domain "+name+" does not exist or has no mail host").WithCause(err))
	default:
		w.note(*mail.NewReply(550, "5.4.4", "mail host "+name+" has no address").WithCause(err))
	}
	return nil
}

// interleave orders addresses by turns IPv6 and IPv4, each in random order, so
// that one family that leads nowhere costs one try (RFC 8305 4).
func interleave(addrs []netip.Addr) []netip.Addr {
	var six, four []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for _, l := range [][]netip.Addr{six, four} {
		rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
	}
	for len(six)+len(four) > 0 {
		if len(six) > 0 {
			out, six = append(out, six[0]), six[1:]
		}
		if len(four) > 0 {
			out, four = append(out, four[0]), four[1:]
		}
	}
	return out
}
