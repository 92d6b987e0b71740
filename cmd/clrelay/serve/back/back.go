// Package back joins package delivery/returns with the rest of a running relay:
// the settings, the policy and the routes in front of it, and behind it the
// traces of all nodes, the log and the figures.
package back

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/maillog"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/smtpd"
)

// Settings reads what cluster.yaml says, and the key; nil where return paths
// are not set up.
func Settings(c *config.Cluster) (*returns.Settings, error) {
	r := c.Returns
	if r == nil {
		return nil, nil
	}
	file, err := os.ReadFile(string(r.KeyFile))
	if err != nil {
		return nil, fmt.Errorf("returns.key_file: %w", err)
	}
	keys, err := returns.NewKeys(string(r.Domain), file)
	if err != nil {
		return nil, fmt.Errorf("returns.key_file: %s: %w", r.KeyFile, err)
	}
	s := &returns.Settings{Keys: keys, Forward: r.Forward, MaxAge: time.Duration(r.MaxAge)}
	for _, g := range r.Groups {
		s.Groups = append(s.Groups, string(g))
	}
	for _, f := range r.From {
		s.From = append(s.From, string(f))
	}
	return s, nil
}

// Policy takes return paths from anybody, and asks the other policy about all
// other recipients.
type Policy struct {
	smtpd.Policy
	Returns *returns.Returns
}

// Recipient judges a recipient.
func (p *Policy) Recipient(c *mail.Client, from mail.Address, to *mail.Recipient) mail.Verdict {
	if mine, v := p.Returns.Recipient(to.Addr); mine {
		return v
	}
	return p.Policy.Recipient(c, from, to)
}

// Table says where mail goes.
type Table interface {
	Route(sender, domain string) (mail.NextHop, *mail.Reply)
	Via(to, sender, domain string) (mail.NextHop, *mail.Reply)
}

// Router leads the domain of return paths to them.
type Router struct {
	Table
	Returns *returns.Returns
}

// Route gives the next hop of a sender's mail for a domain.
func (r *Router) Route(sender, domain string) (mail.NextHop, *mail.Reply) {
	if hop, ok := r.Returns.Hop(domain); ok {
		return hop, nil
	}
	return r.Table.Route(sender, domain)
}

// Observer tells log, traces and figures what came back.
type Observer struct {
	Log     *maillog.Log
	Traces  func() *tracelog.Log
	Metrics *metrics.Queue
}

// Returned tells of one.
func (o *Observer) Returned(b *returns.Return) {
	kind := b.Kind.String()
	o.Metrics.Returns.Inc(kind)
	reply := mail.Reply{Code: b.Code, Enhanced: b.Verdict.Status, Text: b.Text}
	o.Log.Returned(maillog.Back{Of: b.Of.ID, ID: b.ID, From: b.From, To: b.To, Kind: kind, Class: b.Class(), Reply: reply})
	o.Traces().Returned(&tracelog.Back{Of: b.Of.ID, ID: b.ID, From: b.From, To: b.To, Kind: kind, Class: b.Class(), Reply: reply})
}

// Origins asks the traces of all nodes.
type Origins struct {
	// Search gives all addresses of a message's first event, and fails while a
	// node that may know it is silent.
	Search func(ctx context.Context, id mail.ID) (from string, rcpts []string, err error)
}

// Origin gives what is remembered of a message.
func (o Origins) Origin(ctx context.Context, id mail.ID) (returns.Origin, error) {
	from, rcpts, err := o.Search(ctx, id)
	if err != nil || from == "" {
		return returns.Origin{}, err
	}
	out := returns.Origin{}
	if out.From, err = mail.ParseMailbox(from, true); err != nil {
		return returns.Origin{}, nil // a trace that is damaged is none
	}
	for _, text := range rcpts {
		a, err := mail.ParseMailbox(text, true)
		if err != nil {
			break // the places of those behind it count
		}
		out.Recipients = append(out.Recipients, a)
	}
	return out, nil
}
