package dnsx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// LookupMX gives the MX records of a domain, the most preferred first, at most
// 100 of them. A null MX (RFC 7505) is given as it is: one MX with IsNull.
// Without any the error is a NotFoundError: if NXDomain is false, the domain
// itself may take mail (RFC 5321 5.1).
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]MX, error) {
	a, err := r.Query(ctx, name, TypeMX)
	if err != nil {
		return nil, err
	}
	return slices.Clone(a.MX), nil
}

// LookupTXT gives the TXT records of a name, the strings of each joined.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.Query(ctx, name, TypeTXT)
	if err != nil {
		return nil, err
	}
	return slices.Clone(a.TXT), nil
}

// LookupPTR gives the names of an address.
func (r *Resolver) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	name, err := dns.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return nil, fmt.Errorf("dnsx: %v: %w", addr, ErrName)
	}
	a, err := r.Query(ctx, name, TypePTR)
	if err != nil {
		return nil, err
	}
	return slices.Clone(a.Names), nil
}

// LookupAddrs gives the addresses of a host, IPv6 first, each family in the
// order of the DNS. A and AAAA are asked for at the same time. When only one of
// the two questions was answered, what it gave is returned; when that is
// nothing, the error is temporary. An IP address is its own answer.
func (r *Resolver) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	type outcome struct {
		ans *Answer
		err error
	}
	six := make(chan outcome, 1)
	go func() {
		ans, err := r.Query(ctx, name, TypeAAAA)
		six <- outcome{ans, err}
	}()
	ans4, err4 := r.Query(ctx, name, TypeA)
	o := <-six

	var addrs []netip.Addr
	if o.err == nil {
		addrs = append(addrs, o.ans.Addrs...)
	}
	if err4 == nil {
		addrs = append(addrs, ans4.Addrs...)
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case !errors.Is(err4, ErrNotFound):
		return nil, err4
	}
	return nil, o.err
}
