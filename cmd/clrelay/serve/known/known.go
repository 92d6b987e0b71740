// Package known refuses recipients that our own domains do not have: it stands
// behind the server's policy, and has next hops asked where the configuration
// says so.
package known

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/recipients"
)

// Router says where mail goes.
type Router interface {
	Route(sender, domain string) (mail.NextHop, *mail.Reply)
}

// Hosts finds and asks next hops; delivery's Agent.
type Hosts interface {
	Candidates(ctx context.Context, hop mail.NextHop) ([]delivery.Candidate, []mail.Reply)
	Probe(ctx context.Context, hop mail.NextHop, c delivery.Candidate, env *mail.Envelope) (delivery.Probed, error)
}

// Options are what the Part works with.
type Options struct {
	Router  Router
	Hosts   Hosts
	Metrics *metrics.SMTP
	Log     *slog.Logger
}

// Part is what a relay knows of the recipients of our domains.
type Part struct {
	book  *recipients.Book
	o     Options
	stop  context.CancelFunc
	group sync.WaitGroup
	// Guessed hears of each recipient that was refused because it is unknown:
	// who asks for many guesses addresses. nil: nobody listens. It must not
	// block, and is set before there are sessions.
	Guessed func(c *mail.Client, to mail.Address)
}

// New makes it, with the domains of a configuration.
func New(o Options, c *config.Cluster) *Part {
	ctx, stop := context.WithCancel(context.Background())
	p := &Part{o: o, stop: stop, book: recipients.New(recipients.Options{Ask: &asker{o}, Log: o.Log})}
	p.Configure(c)
	p.group.Go(func() { p.book.Run(ctx) })
	return p
}

// Close ends the looking after files.
func (p *Part) Close() {
	p.stop()
	p.group.Wait()
}

// Configure puts the domains of a configuration in force, and reads the lists
// that it names.
func (p *Part) Configure(c *config.Cluster) {
	var list []recipients.Domain
	for _, d := range c.Domains {
		list = append(list, recipients.Domain{
			Name: string(d.Name), List: string(d.List), Subaddress: string(d.Subaddress),
			Mode: map[string]recipients.Mode{"list": recipients.Listed, "verify": recipients.Asked}[d.Recipients],
			Verify: recipients.Verify{
				Defer: d.Verify.OnError == "defer", Taken: time.Duration(d.Verify.Known), Absent: time.Duration(d.Verify.Unknown),
				Timeout: time.Duration(d.Verify.Timeout), Probes: d.Verify.Probes,
			},
		})
	}
	p.book.Configure(list)
}

// Problems says what an operator should know.
func (p *Part) Problems() []string { return p.book.Problems() }

// Policy is a server's policy with the recipients behind it.
func (p *Part) Policy(next smtpd.Policy) smtpd.Policy { return &door{next, p, true} }

// Trial is Policy for questions that are no mail: nobody is told of them.
func (p *Part) Trial(next smtpd.Policy) smtpd.Policy { return &door{next, p, false} }

type door struct {
	smtpd.Policy
	part *Part
	real bool
}

// Recipient is of smtpd.Policy.
func (d *door) Recipient(c *mail.Client, from mail.Address, to *mail.Recipient) mail.Verdict {
	if v := d.Policy.Recipient(c, from, to); v != nil {
		return v
	}
	reply, unknown := d.part.book.Check(context.Background(), to.Addr) // it bounds itself
	if unknown && d.real {
		d.part.o.Metrics.Unknown.Inc()
		if d.part.Guessed != nil {
			d.part.Guessed(c, to.Addr)
		}
	}
	return reply
}

// maxHosts is how many hosts are asked one after the other.
const maxHosts = 3

// asker asks the hosts that mail for the recipient would go to.
type asker struct{ o Options }

// Ask is of recipients.Asker.
func (a *asker) Ask(ctx context.Context, to mail.Address) (recipients.Answer, error) {
	hop, reply := a.o.Router.Route("", to.Domain)
	if reply != nil {
		return recipients.NoAnswer, reply
	}
	hosts, notes := a.o.Hosts.Candidates(ctx, hop)
	err := errors.New("there is no host to ask")
	if len(notes) > 0 {
		err = fmt.Errorf("there is no host to ask: %w", &notes[0])
	}
	env := &mail.Envelope{Recipients: []mail.Recipient{{Addr: to}}, SMTPUTF8: to.NeedsUTF8()}
	for i, h := range hosts {
		if i == maxHosts || ctx.Err() != nil {
			break
		}
		var said delivery.Probed
		if said, err = a.o.Hosts.Probe(ctx, hop, h, env); err != nil {
			continue
		}
		switch {
		case said.Rcpt == nil:
			return recipients.Taken, nil
		case said.AtRcpt && isUnknown(said.Rcpt):
			return recipients.Unknown, nil
		}
		if err = fmt.Errorf("%s says %w", said.Remote, said.Rcpt); said.Rcpt.Permanent() {
			return recipients.NoAnswer, err // another host would say the same of us
		}
	}
	return recipients.NoAnswer, err
}

// isUnknown tells whether a refusal is about the recipient, and not about us or
// the way we ask: 5yz with an enhanced code of an address or a disabled mailbox
// (RFC 3463 3.2, 3.3), or without one.
func isUnknown(r *mail.Reply) bool {
	if !r.Permanent() {
		return false
	}
	e := r.Enhanced
	return e == (mail.EnhancedCode{}) && (r.Code == 550 || r.Code == 551 || r.Code == 553) ||
		e[0] == 5 && e[1] == 1 && e[2] != 7 && e[2] != 8 || e == mail.EnhancedCode{5, 2, 1}
}
