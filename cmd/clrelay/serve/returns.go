package serve

import (
	"context"
	"io"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/back"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/observe"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/admin/trace"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog"
)

// makeReturns puts return paths in front of delivery. They are used when the
// queue runs, and so when spool and traces are there; the connections to other
// nodes must be there by then too.
func (r *relay) makeReturns() error {
	if m := r.parts.member; m != nil {
		r.parts.conns = m.Conns()
	}
	s, err := back.Settings(r.conf().cluster)
	if err != nil {
		return err
	}
	r.parts.returns = returns.New(returns.Options{
		Next:  r.parts.delivery,
		Route: func(domain string) (mail.NextHop, *mail.Reply) { return r.routes.Route("", domain) },
		Accept: func(ctx context.Context, env *mail.Envelope, body io.Reader) error {
			return observe.Acceptor{Spool: r.parts.spool, Traces: r.parts.traces.Log}.Accept(ctx, env, body)
		},
		Suppress:   r.parts.suppress.Suppressor(),
		Origins:    back.Origins{Search: r.origin},
		Observer:   &back.Observer{Log: r.maillog, Traces: func() *tracelog.Log { return r.parts.traces.Log }, Metrics: r.metrics.Queue},
		Postmaster: func() mail.Address { return r.conf().postmaster() },
		Now:        time.Now,
		Log:        r.log,
	})
	r.parts.returns.Set(s)
	return nil
}

// origin looks a message up in the traces of all nodes.
func (r *relay) origin(ctx context.Context, id mail.ID) (from string, rcpts []string, err error) {
	service := trace.Service{Sources: r.parts.traces}
	if m := r.parts.member; m != nil {
		c := &clusterOperator{node: m, conns: r.parts.conns}
		service.All = c.All
	}
	return service.Origin(ctx, id)
}
