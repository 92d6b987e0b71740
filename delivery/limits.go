package delivery

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// useWait is how long an attempt waits at most for what it has reserved, and
// askAgain after how long it asks again at the latest.
const (
	useWait  = time.Second
	askAgain = 250 * time.Millisecond
)

// cutWait is how long a node that was cut off waits before it asks again.
const cutWait = time.Second

// maxRoom is how many idle connections one attempt ends to make one of its own.
const maxRoom = 4

// Permit is what the limits have granted an attempt; copies are the same
// Permit. The zero value is nothing. It belongs to the Attempt's goroutine.
type Permit struct{ granted *granted }

type granted struct {
	sources []source.Source // that are left to go out from, first the one that was granted
	none    *mail.Reply     // there is no source
	ticket  allow.Ticket    // for the first transaction
	place   *place          // for the first connection; nil: one is kept
}

// Drop gives back what was not used. It may be called again.
func (p Permit) Drop() {
	if p.granted == nil {
		return
	}
	if t := p.ticket(); t != nil {
		t.Cancel()
	}
	if at := p.place(); at != nil {
		at.over()
	}
}

// ticket takes the ticket, place the place; nil when there is none any more.
func (p Permit) ticket() allow.Ticket {
	t := p.granted.ticket
	p.granted.ticket = nil
	return t
}

func (p Permit) place() *place {
	at := p.granted.place
	p.granted.place = nil
	return at
}

// Admit asks the limits whether an attempt may begin, and fills in what of its
// Subject the hop decides. When it returns nil, Deliver or Permit.Drop must
// follow. Deliver asks by itself what nobody has asked before.
func (a *Agent) Admit(ctx context.Context, hop *mail.NextHop, at *Attempt) *allow.Denied {
	g := &granted{}
	at.Permit = Permit{g}
	if a.o.Sites != nil {
		at.Subject.Site = a.o.Sites.Site(ctx, *hop)
	}
	if g.sources, g.none = a.sources(hop, at.Envelope); g.none != nil {
		return nil // Deliver says so
	}
	at.Subject.Source = g.sources[0].Name
	if a.o.Limiter == nil {
		return nil
	}
	denied := a.reserve(at)
	if denied != nil {
		return a.denied(denied)
	}
	if !a.pool.HasIdle(tag(hop, at)) {
		if g.place, denied = a.place(at); denied != nil && (denied.Key != "" || !a.pool.HasIdle("")) {
			at.Permit.Drop()
			return a.denied(denied)
		}
	}
	return nil
}

// ByDomain tells whether a limit may look at this domain of recipients. Then
// Admit is to be asked about them by themselves.
func (a *Agent) ByDomain(domain string) bool {
	return a.o.Limiter != nil && a.o.Limiter.ByDomain(domain)
}

// reserve finds the first source from which a message may go out now.
func (a *Agent) reserve(at *Attempt) (least *allow.Denied) {
	p := at.Permit.granted
	for i, s := range p.sources {
		at.Subject.Source = s.Name
		ticket, denied := a.o.Limiter.Reserve(&at.Subject, min(len(at.Recipients), a.o.Limits.Recipients), at.Content.Size())
		if denied == nil {
			p.ticket, p.sources = ticket, p.sources[i:]
			return nil
		}
		if least == nil || denied.Wait < least.Wait {
			least = denied
		}
		if !elsewhere(denied) {
			break
		}
	}
	return least
}

// elsewhere tells whether another source is to stand in. What is used up for
// hours goes from there; a rate is waited for, since a receiver is to see the
// same address.
func elsewhere(d *allow.Denied) bool {
	return d.Kind == limit.KindBudget || d.Kind == limit.KindSuspended
}

// tag is what connections count together by.
func tag(hop *mail.NextHop, at *Attempt) string { return cmp.Or(at.Subject.Site, hop.Key) }

func (a *Agent) denied(d *allow.Denied) *allow.Denied {
	a.o.Metrics.Limited.Inc(d.Word())
	return d
}

// place is where a connection counts, from before it is made until it has
// ended.
type place struct {
	slot allow.Slot

	mu     sync.Mutex
	conn   *smtpc.Conn
	cancel context.CancelFunc // of the dialing
	retire bool
	kill   bool
	ended  bool
}

// place asks for a connection.
func (a *Agent) place(at *Attempt) (*place, *allow.Denied) {
	p := &place{}
	slot, denied := a.o.Limiter.Open(&at.Subject, p.revoke)
	if denied != nil {
		return nil, denied
	}
	p.slot = slot
	return p, nil
}

// revoke is told that the connection belongs to others from now on.
func (p *place) revoke(now bool) {
	p.mu.Lock()
	p.retire = true
	p.kill = p.kill || now
	c, cancel := p.conn, p.cancel
	p.mu.Unlock()
	switch {
	case c != nil && now:
		c.Kill()
	case c != nil:
		c.Retire()
	case cancel != nil && now:
		cancel()
	}
}

// dialing notes what ends the dialing. It gives false when there is to be
// none.
func (p *place) dialing(cancel context.CancelFunc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel = cancel
	return !p.retire
}

// made notes the connection.
func (p *place) made(c *smtpc.Conn) {
	p.mu.Lock()
	p.conn = c
	retire, kill := p.retire, p.kill
	p.mu.Unlock()
	switch {
	case kill:
		c.Kill()
	case retire:
		c.Retire()
	}
}

func (p *place) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill
}

// over gives the place back.
func (p *place) over() {
	p.mu.Lock()
	ended := p.ended
	p.ended = true
	p.mu.Unlock()
	if !ended {
		p.slot.Close()
	}
}

// cut is what became of an attempt whose connection was taken away.
func (d *attempt) cut() {
	d.limited = d.a.denied(&allow.Denied{Limit: "for site " + d.at.Subject.Site, Key: d.hop.Key, Wait: cutWait, Left: cutWait, Cut: true})
}

// connect opens a connection when the limits have a place for it. Where an
// idle one to another host of the site is in the way, that goes. Both results
// are nil when they have none, which limited says.
func (d *attempt) connect(ctx context.Context, t smtpc.Target) (*smtpc.Conn, *smtpc.Failure) {
	tag := tag(d.hop, d.at)
	if d.a.o.Limiter == nil {
		return d.a.pool.Dial(ctx, t, smtpc.Counted{Tag: tag})
	}
	p := d.at.Permit.place()
	for n := 0; p == nil; n++ {
		var denied *allow.Denied
		if p, denied = d.a.place(d.at); denied == nil {
			break
		}
		// A limit of all connections may be used up by those of other sites.
		if n == maxRoom || !d.a.pool.MakeRoom(tag) && (denied.Key != "" || !d.a.pool.MakeRoom("")) {
			d.limited = d.a.denied(denied)
			return nil, nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.dialing(cancel) {
		p.over()
		d.cut()
		return nil, nil
	}
	c, f := d.a.pool.Dial(ctx, t, smtpc.Counted{Tag: tag, Over: p.over})
	switch {
	case f != nil && p.killed():
		p.over()
		d.cut()
		return nil, nil
	case f != nil && !f.Connected():
		d.at.Permit.granted.place = p // for the next host
	case f == nil:
		p.made(c)
	}
	return c, f
}

// spend counts a message of n recipients that is about to go out. It gives
// false when that has to wait for too long, which limited says.
func (d *attempt) spend(ctx context.Context, n int) bool {
	if d.a.o.Limiter == nil {
		return true
	}
	ticket := d.at.Permit.ticket()
	if ticket == nil {
		var denied *allow.Denied
		if ticket, denied = d.a.o.Limiter.Reserve(&d.at.Subject, n, d.at.Content.Size()); denied != nil {
			d.limited = d.a.denied(denied)
			return false
		}
	}
	defer ticket.Cancel()
	for end := time.Now().Add(useWait); ; {
		wait := ticket.Use()
		if wait <= 0 {
			return true
		}
		if time.Now().Add(wait).After(end) {
			d.limited = d.a.denied(&allow.Denied{
				Limit: "of " + d.hop.Key, Key: d.hop.Key, Wait: wait, Left: wait, Domain: d.a.ByDomain(d.at.Subject.Domain),
			})
			return false
		}
		timer := time.NewTimer(min(wait, askAgain)) // the node's part may have grown by then
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
