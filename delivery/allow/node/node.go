// Package node lets attempts ask the limits of a node.
package node

import (
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/limit/local"
)

// Limits is an allow.Limiter over a node's limits on delivery.
type Limits struct{ Local *local.Limiter }

// Reserve is of allow.Limiter.
func (l Limits) Reserve(s *limit.Subject, recipients int, octets int64) (allow.Ticket, *allow.Denied) {
	t, denied := l.Local.Reserve(limit.Deliver, s, limit.Amount{Messages: 1, Recipients: recipients, Octets: octets})
	if denied != nil {
		return nil, told(denied)
	}
	return &t, nil
}

// Open is of allow.Limiter.
func (l Limits) Open(s *limit.Subject, revoke func(now bool)) (allow.Slot, *allow.Denied) {
	slot, denied := l.Local.Open(limit.Deliver, s, revoke)
	if denied != nil {
		return nil, told(denied)
	}
	return &slot, nil
}

// ByDomain is of allow.Limiter.
func (l Limits) ByDomain(domain string) bool { return l.Local.ByDomain(domain) }

func told(d *limit.Denied) *allow.Denied {
	return &allow.Denied{
		Limit: d.Limit, Key: d.Key, Kind: d.Kind, Wait: d.Wait, Left: max(d.Wait, d.Left), Reason: d.Reason, Sender: d.Sender, Domain: d.Domain,
	}
}
