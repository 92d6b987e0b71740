package serve

import (
	"net/netip"

	"github.com/clrelay/clrelay/internal/dnsx"
)

func (r *relay) makeResolver() *dnsx.Resolver {
	var servers []netip.AddrPort
	for _, s := range r.conf().cluster.DNS.Servers {
		servers = append(servers, s.AddrPort)
	}
	return dnsx.New(dnsx.Options{Servers: servers, Observe: r.observeLookup})
}

// observeLookup counts a lookup.
func (r *relay) observeLookup(l dnsx.Lookup) {
	if l.Cached {
		r.metrics.CacheHits.Inc()
		return
	}
	r.metrics.Lookups.Inc(l.Type.String(), l.Result)
	r.metrics.LookupDuration.Observe(l.Duration)
}
