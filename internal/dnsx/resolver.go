package dnsx

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Options of a Resolver. The zero value asks the system's resolvers.
type Options struct {
	Servers    []netip.AddrPort // default: those of ResolvConf
	ResolvConf string           // default: /etc/resolv.conf; read again when it changes
	// TrustAD believes the AD flag of all Servers. Those on loopback are
	// believed anyway; those of ResolvConf if it says "options trust-ad".
	TrustAD bool
	Timeout time.Duration // of one try at one server; default 3 s
	Rounds  int           // how often all servers are tried; default 2

	MaxEntries int // bounds of the cache; default 100,000 and 32 MiB
	MaxBytes   int
	MinTTL     time.Duration // for any entry; default 5 s
	MaxTTL     time.Duration // for data; default 1 h
	MaxNegTTL  time.Duration // for "there is none"; default 15 min

	// Observe is told of every lookup. It must not block; it is called by many
	// goroutines at a time.
	Observe func(Lookup)
	// Dial replaces net.Dialer.DialContext, for tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Lookup is one lookup as Options.Observe sees it.
type Lookup struct {
	Type     Type
	Result   string // found, nodata, nxdomain, temporary, canceled or badname
	Cached   bool
	Duration time.Duration
}

// Resolver looks names up. Make one with New.
type Resolver struct {
	servers                   *servers
	cache                     *cache
	flights                   flights
	timeout                   time.Duration
	rounds                    int
	minTTL, maxTTL, maxNegTTL time.Duration
	observe                   func(Lookup)
	dial                      func(ctx context.Context, network, addr string) (net.Conn, error)
}

// New makes a Resolver. Nothing is asked or read before the first lookup.
func New(o Options) *Resolver {
	o.ResolvConf = cmp.Or(o.ResolvConf, "/etc/resolv.conf")
	r := &Resolver{
		servers:   newServers(o),
		cache:     newCache(cmp.Or(o.MaxEntries, 100_000), cmp.Or(o.MaxBytes, 32<<20)),
		timeout:   cmp.Or(o.Timeout, 3*time.Second),
		rounds:    cmp.Or(o.Rounds, 2),
		minTTL:    cmp.Or(o.MinTTL, 5*time.Second),
		maxTTL:    cmp.Or(o.MaxTTL, time.Hour),
		maxNegTTL: cmp.Or(o.MaxNegTTL, 15*time.Minute),
		observe:   o.Observe,
		dial:      o.Dial,
	}
	if r.dial == nil {
		r.dial = (&net.Dialer{}).DialContext
	}
	if r.observe == nil {
		r.observe = func(Lookup) {}
	}
	r.flights.slots = make(chan struct{}, maxFlights)
	r.flights.m = map[question]*flight{}
	return r
}

// Query looks up the records of one type, for those that need TTL and AD. The
// answer is shared with other callers and must not be changed.
func (r *Resolver) Query(ctx context.Context, name string, t Type) (*Answer, error) {
	start := time.Now()
	ans, cached, err := r.query(ctx, name, t)
	r.observe(Lookup{Type: t, Result: result(err), Cached: cached, Duration: time.Since(start)})
	return ans, err
}

func result(err error) string {
	var nf *NotFoundError
	switch {
	case err == nil:
		return "found"
	case errors.As(err, &nf) && nf.NXDomain:
		return "nxdomain"
	case nf != nil:
		return "nodata"
	case errors.Is(err, ErrName):
		return "badname"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	}
	return "temporary"
}

func (r *Resolver) query(ctx context.Context, name string, t Type) (ans *Answer, cached bool, err error) {
	q := question{typ: t}
	if q.name, err = canonical(name); err != nil {
		return nil, false, err
	}
	if !t.known() {
		return nil, false, &TempError{Name: q.name, Type: t, Err: errors.ErrUnsupported}
	}
	if isLocalhost(q.name) {
		return localhost(q)
	}
	if e, ok := r.cache.get(q, time.Now()); ok {
		ans, err := e.result()
		return ans, true, err
	}
	e, err := r.flights.do(ctx, q, r.resolve)
	if err != nil {
		if ctx.Err() != nil {
			err = &TempError{Name: q.name, Type: t, Err: context.Cause(ctx)}
		}
		return nil, false, err
	}
	ans, err = e.result()
	return ans, false, err
}

// result is what a lookup returns for an entry, with the TTL that is left.
func (e entry) result() (*Answer, error) {
	if e.missing != nil {
		return nil, e.missing
	}
	a := *e.ans
	a.TTL = time.Until(e.expires)
	return &a, nil
}

func localhost(q question) (*Answer, bool, error) {
	a := &Answer{Name: q.name, TTL: time.Hour}
	switch q.typ {
	case TypeA:
		a.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	case TypeAAAA:
		a.Addrs = []netip.Addr{netip.IPv6Loopback()}
	default:
		return nil, true, &NotFoundError{Name: q.name, Type: q.typ}
	}
	return a, true, nil
}

// resolve asks the servers, follows CNAMEs that they did not follow, and puts
// what it found into the cache.
func (r *Resolver) resolve(ctx context.Context, q question) (entry, error) {
	name, ad, ttl := q.name, true, noTTL
	for range maxChain + 1 {
		rd, sv, err := r.ask(ctx, question{name, q.typ})
		if err != nil {
			return entry{}, err
		}
		ad = ad && rd.ans.AD && sv.trusted
		ttl = min(ttl, rd.ttl)
		switch rd.kind {
		case found:
			rd.ans.AD = ad
			return r.keep(q, entry{ans: &rd.ans}, ttl, r.maxTTL), nil
		case noData, noName:
			return r.keep(q, entry{missing: &NotFoundError{q.name, q.typ, rd.kind == noName}}, ttl, r.maxNegTTL), nil
		}
		if name, err = canonical(rd.ans.Name); err != nil {
			return entry{}, &TempError{sv.addr.String(), q.name, q.typ, err}
		}
	}
	return entry{}, &TempError{Name: q.name, Type: q.typ, Err: errChain}
}

func (r *Resolver) keep(q question, e entry, ttl uint32, limit time.Duration) entry {
	if ttl > 1<<31-1 {
		ttl = 0 // RFC 2181 8: the sign bit means zero
	}
	e.expires = time.Now().Add(min(max(time.Duration(ttl)*time.Second, r.minTTL), max(limit, r.minTTL)))
	r.cache.put(q, e)
	return e
}

// ask asks the servers in turn until one says something about the question.
func (r *Resolver) ask(ctx context.Context, q question) (reading, *server, error) {
	var last error
	for range r.rounds {
		silent := false
		for _, sv := range r.servers.inTurn(time.Now()) {
			m, err := r.exchange(ctx, sv, q)
			if ctx.Err() != nil {
				return reading{}, nil, &TempError{sv.addr.String(), q.name, q.typ, ctx.Err()}
			}
			var rd reading
			switch {
			case err == nil:
				r.servers.answered(sv)
				if rd = read(m, q.name, q.typ); rd.kind != unusable {
					return rd, sv, nil
				}
				err = rd.err
			case errors.Is(err, errMalformed):
				r.servers.answered(sv)
			default:
				silent = true
				r.servers.silent(sv, time.Now())
			}
			last = &TempError{sv.addr.String(), q.name, q.typ, err}
		}
		if !silent {
			break // all of them answered: asking again would get the same
		}
	}
	return reading{}, nil, last
}
