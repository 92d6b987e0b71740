package delivery

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/mail"
)

// sources gives the own addresses that mail may leave from, best first. What
// is said of them is temporary: another node may have one, or this one again.
func (a *Agent) sources(hop *mail.NextHop, env *mail.Envelope) ([]source.Source, *mail.Reply) {
	if hop.Pool == "" || a.o.Sources == nil {
		return []source.Source{{}}, nil
	}
	message, domain := env.ID.String(), ""
	if hop.Kind == mail.HopMX {
		domain = hop.Domain
	}
	list, err := a.o.Sources.Order(hop.Pool, message, domain)
	if err != nil {
		return nil, mail.NewReply(451, "4.3.5", err.Error())
	}
	return list, nil
}

// from gives the source to go to a host from; ok is false where none fits that
// this machine has.
func (d *attempt) from(host netip.Addr) (s source.Source, ok bool) {
	for _, s := range d.sources {
		if s.Fits(host) && !d.a.lost.has(netip.AddrPortFrom(s.Addr, 0)) {
			return s, true
		}
	}
	return source.Source{}, false
}

// leave settles from where to speak to a host. Where that is not the source
// that the limits have granted, they are asked about it; ok is false where none
// of those that fit may be used.
func (d *attempt) leave(host netip.Addr) (s source.Source, ok bool) {
	sub := &d.at.Subject
	for {
		if s, ok = d.from(host); !ok || s.Name == sub.Source || d.a.o.Limiter == nil {
			return s, ok
		}
		other := *sub
		other.Source = s.Name
		ticket, denied := d.a.o.Limiter.Reserve(&other, min(len(d.open), d.a.o.Limits.Recipients), d.at.Content.Size())
		if denied == nil {
			d.at.Permit.Drop()
			d.at.Permit.granted.ticket, *sub = ticket, other
			return s, true
		}
		if !elsewhere(denied) {
			d.limited = d.a.denied(denied)
			return s, false
		}
		d.spent = denied
		d.sources = slices.DeleteFunc(slices.Clone(d.sources), func(o source.Source) bool { return o == s })
	}
}

// unfit is what is said where no host could be tried for want of a source.
func (d *attempt) unfit(host netip.Addr) mail.Reply {
	family := "IPv4"
	if host.Unmap().Is6() {
		family = "IPv6"
	}
	return *mail.NewReply(451, "4.3.5", fmt.Sprintf("no source of the pool %s with an %s address is to be had on this node", d.hop.Pool, family))
}

// fits tells whether there is a source to go to a host from.
func (d *attempt) fits(h host) bool {
	_, ok := d.from(h.addr.Addr())
	if !ok {
		reply := d.unfit(h.addr.Addr())
		d.misfit = &reply
	}
	return ok
}
