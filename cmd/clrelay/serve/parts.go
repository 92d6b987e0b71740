package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/back"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/books"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/door"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/enrol"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/holding"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/known"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/later"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/observe"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/pacing"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/routing"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/shaping"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/suppress"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/taking"
	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow/node"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/trace"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/health"
	"github.com/clrelay/clrelay/internal/limit/local"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/policy"
	"github.com/clrelay/clrelay/spool"
)

// parts are what the relay is made of. A part that is not there yet is nil.
type parts struct {
	health   *health.Server
	agent    *health.Agent
	delivery *delivery.Agent
	spool    *spool.Spool
	queue    *queue.Runner
	policy   *policy.Chain
	suppress *suppress.Part // the suppression list
	known    *known.Part    // recipients of our domains
	certs    []*smtpd.Certs
	smtp     *smtpd.Server
	ports    []port
	admin    *admin.Server
	books    *books.Books
	traces   trace.Sources
	identity *pki.Identity  // of the cluster; nil on a single machine
	member   *cluster.Node  // likewise
	conns    *cluster.Conns // likewise: of the admin API to the other nodes
	rules    *holding.Rules // hold rules
	returns  *returns.Returns
	limits   *local.Limiter // what may be sent and taken
	divider  func()         // ends what divideLimits began
	shaping  *shaping.Shaping
	guard    door.Parts   // what is asked before mail is taken
	enrol    *enrol.Enrol // likewise: the nodes' certificates
	undo     []func()     // closes what was bound and is not served yet
}

// port is a bound listener of the SMTP server.
type port struct {
	net.Listener
	how smtpd.Listener
}

func (p *parts) addresses() []string {
	var out []string
	for _, l := range p.ports {
		out = append(out, l.Addr().String())
	}
	return out
}

// routes is the table in force.
type routes struct{ table atomic.Pointer[route.Table] }

func (r *routes) set(t *route.Table) { r.table.Store(t) }

func (r *routes) Route(sender, domain string) (mail.NextHop, *mail.Reply) {
	return r.table.Load().Route(sender, domain)
}

func (r *routes) Via(to, sender, domain string) (mail.NextHop, *mail.Reply) {
	return r.table.Load().Via(to, sender, domain)
}

// start makes all parts, in the order that the package's comment gives.
func (r *relay) start() error {
	for _, step := range []func() error{r.startHealth, r.bindSMTP, r.makeLimits, r.makeShaping, r.makeDelivery, r.makeMember, r.openSpool, r.divideLimits, r.startAdmin, r.startSMTP, r.joinCluster} {
		if err := step(); err != nil {
			return err
		}
	}
	r.parts.undo = nil // everything that was bound is served now
	r.state.Store(serving)
	return nil
}

// background runs a server until it ends, which it does by itself only if
// something is wrong.
func (r *relay) background(what string, serve func() error) {
	go func() {
		if err := serve(); err != nil && r.state.Load() != draining {
			r.failed <- fmt.Errorf("%s: %w", what, err)
		}
	}()
}

func (r *relay) startHealth() error {
	r.parts.health = health.NewServer(health.Options{State: r.health, Metrics: r.metrics.Handler()})
	if addr := r.conf().node.HTTP; !addr.IsZero() {
		l, err := net.Listen("tcp", addr.String())
		switch {
		case err == nil:
			r.background("http", func() error { return r.parts.health.Serve(l) })
		case r.conf().node.HTTPSet:
			return fmt.Errorf("http: %w", err)
		default:
			r.log.Warn("no HTTP: the default address is taken; set http in node.yaml", "address", addr.String(), "error", err)
		}
	}
	if addr := r.conf().node.LBAgent; !addr.IsZero() {
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			return fmt.Errorf("lb_agent: %w", err)
		}
		r.parts.agent = health.NewAgent(r.health)
		r.background("lb_agent", func() error { return r.parts.agent.Serve(l) })
	}
	return nil
}

func (r *relay) bindSMTP() error {
	for i := range r.conf().node.SMTP {
		c := &r.conf().node.SMTP[i]
		how, err := taking.Listener(c)
		if err != nil {
			return fmt.Errorf("smtp listener %s: %w", c.Listen, err)
		}
		l, err := net.Listen("tcp", c.Listen.String())
		if err != nil {
			return fmt.Errorf("smtp: %w", err)
		}
		r.parts.undo = append(r.parts.undo, func() { l.Close() })
		if how.Certs != nil {
			r.parts.certs = append(r.parts.certs, how.Certs)
		}
		r.parts.ports = append(r.parts.ports, port{l, how})
	}
	return nil
}

func (r *relay) makeDelivery() error {
	table, err := routing.Table(r.conf().cluster)
	if err != nil {
		return err
	}
	r.routes.set(table)
	r.pools.Configure(r.conf().node, r.conf().cluster, r.log)
	roots, err := r.conf().roots()
	if err != nil {
		return err
	}
	if r.parts.policy, err = policy.New(r.conf().policy()); err != nil {
		return fmt.Errorf("senders, domains: %w", err)
	}
	r.parts.traces.Tap = trace.NewTap()
	r.parts.delivery = delivery.New(delivery.Options{
		Sites: r.parts.shaping, Heard: r.parts.shaping.Heard, Shape: r.parts.shaping.Shape, Wait: r.parts.shaping.Wait,
		Tap:      r.parts.traces.Tap,
		Sources:  &r.pools,
		Hostname: string(r.conf().node.Hostname),
		Resolver: r.resolver,
		Self:     r.conf().self(),
		RootCAs:  roots,
		MXPort:   r.conf().cluster.Deliver.MXPort,
		Limits:   delivery.Limits{DeadFor: min(time.Minute, time.Duration(r.conf().cluster.Queue.Retry[0]))},
		Log:      r.log,
		Metrics:  r.metrics.Delivery,
		Limiter:  node.Limits{Local: r.parts.limits},
	})
	r.parts.known = known.New(known.Options{Router: &r.routes, Hosts: r.parts.delivery, Metrics: r.metrics.SMTP, Log: r.log}, r.conf().cluster)
	return nil
}

func (r *relay) openSpool() error {
	watch := &observe.Deliveries{Log: r.maillog, Metrics: r.metrics.Queue, Duplicates: &r.metrics.PossibleDuplicates}
	r.parts.suppress = suppress.New(suppress.Options{
		DataDir: string(r.conf().node.DataDir), Member: r.parts.member, Ours: r.parts.policy.Ours, Refusal: refusal,
		Conf: func() *config.Cluster { return r.conf().cluster }, Metrics: r.metrics.SMTP, Log: r.log,
	})
	if err := r.makeReturns(); err != nil {
		return err
	}
	o := queue.Options{
		Router:    &back.Router{Table: &r.routes, Returns: r.parts.returns},
		Deliverer: r.parts.suppress.Deliverer(r.parts.returns),
		Observer:  r.parts.suppress.Observer(r.watch.Queue(watch)),
		Limits:    pacing.Limits{Agent: r.parts.delivery},
		Class:     func(sender string) sched.Class { return pacing.Class(r.conf().cluster, sender) },
		Schedule:  r.conf().schedule(),
		Mailboxes: r.conf().mailboxes(),
		Hostname:  string(r.conf().node.Hostname),
		Log:       r.log,
	}
	if m := r.parts.member; m != nil {
		o.Lease = m
	}
	runner := queue.New(o)
	sp, rec, err := spool.Open(spool.Options{
		Dir:       string(r.conf().node.DataDir),
		Node:      string(r.conf().node.Name),
		Reserve:   uint64(r.conf().cluster.Spool.Reserve),
		Log:       r.log,
		Metrics:   r.metrics.Spool,
		Fatal:     r.fatal,
		Accepted:  runner.Enqueue,
		Placement: r.parts.placement(),
	})
	if err != nil {
		return err
	}
	r.parts.spool = sp
	r.openTraces() // the spool must have found data_dir its own, or empty
	watch.Traces = r.parts.traces.Log
	r.tellDamage(rec.Damage)
	r.log.Info("the spool is open", "messages", rec.Messages, "recipients", rec.Recipients,
		"possible_duplicates", rec.PossibleDuplicates, "damage", len(rec.Damage), "took", rec.Duration.Round(time.Millisecond))
	if err := r.parts.suppress.Open(); err != nil {
		return err
	}
	r.metrics.Watch(r.sources(runner, sp))
	r.parts.books, err = books.Open(books.Options{
		DataDir: string(r.conf().node.DataDir), Node: string(r.conf().node.Name), Member: r.parts.member, Log: r.log,
	})
	if err != nil {
		return err
	}
	r.parts.rules = holding.New(r.parts.books.Records, runner, r.log) // before there is mail to try
	r.parts.shaping.Start(r.parts.books.Records, r.parts.member)
	if err := runner.Start(sp); err != nil {
		return err
	}
	r.parts.queue = runner
	return nil
}

// maxDamage is how many damaged places are named one by one.
const maxDamage = 100

// tellDamage names what cannot be read, so that it can be looked at before it
// is missed. What it hit is lost or held; everything else is as it was.
func (r *relay) tellDamage(damage []*spool.DamageError) {
	for i, d := range damage {
		if i == maxDamage {
			r.log.Error("more damage in the spool: clrelay spool check lists it all", "places", len(damage)-i)
			return
		}
		r.log.Error("damage in the spool", "place", d.Place, "what", d.What, "error", d.Err)
	}
}

func (r *relay) startAdmin() error {
	l, err := admin.Listen(filepath.Join(string(r.conf().node.DataDir), admin.SocketName))
	if err != nil {
		return err
	}
	r.parts.admin = admin.New(r.adminOptions())
	r.background("admin", func() error { return r.parts.admin.Serve(l) })
	return nil
}

func (r *relay) startSMTP() error {
	var err error
	door := r.makeGuard()
	r.parts.smtp, err = smtpd.New(smtpd.Options{
		Hostname: string(r.conf().node.Hostname),
		Limits:   taking.Limits(r.conf().cluster),
		Acceptor: observe.Acceptor{Spool: r.parts.spool, Traces: r.parts.traces.Log},
		Policy:   &back.Policy{Policy: r.parts.suppress.Policy(r.parts.known.Policy(r.parts.policy)), Returns: r.parts.returns},
		Ready:    r.parts.ready,
		Guard:    door,
		Later:    later.Terms{Entry: r.parts.policy.Entry, Longest: func() time.Duration { return time.Duration(r.conf().cluster.Receive.FutureRelease) }, Level: later.Level(r.parts.member)}.Offer,
		Observer: r.watch.Server(&observe.Sessions{Log: r.maillog, Traces: r.parts.traces.Log, Metrics: r.metrics.SMTP, Stored: r.parts.guard.Gate.Stored}),
		Tap:      r.parts.traces.Tap,
		Log:      r.log,
	})
	if err != nil {
		return err
	}
	for _, p := range r.parts.ports {
		r.background("smtp "+p.Addr().String(), func() error { return r.parts.smtp.Serve(p.Listener, p.how) })
	}
	return nil
}

// stop takes down what was started, in the reverse order. Each part ends
// within its limit; what was accepted is on the disk, whatever happens here.
func (r *relay) stop() error {
	r.state.Store(draining)
	r.tell(r.notify.Stopping("finishing sessions and deliveries"))
	r.tell(r.notify.ExtendTimeout(r.wait.sessions + r.wait.deliveries + 10*time.Second))
	p := &r.parts
	for _, undo := range p.undo {
		undo()
	}
	var errs []error
	end := func(limit time.Duration, f func(context.Context) error, late string) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		switch err := f(ctx); {
		case errors.Is(err, context.DeadlineExceeded):
			r.log.Warn(late, "waited", limit) // nothing is lost by it: the end is as clean as another
		case err != nil:
			errs = append(errs, err)
		}
	}
	if p.smtp != nil {
		r.log.Info("the relay ends", "sessions", p.smtp.Sessions())
		end(r.wait.sessions, p.smtp.Shutdown, "sessions were cut off: their clients still have the mail and send it again")
	}
	if p.rules != nil {
		p.rules.Close()
	}
	if p.queue != nil {
		end(r.wait.deliveries, p.queue.Shutdown, "deliveries were cut off: they are tried again after the next start")
	}
	if p.divider != nil {
		p.divider()
	}
	p.shaping.Close()
	if p.known != nil {
		p.known.Close()
	}
	if p.suppress != nil {
		errs = append(errs, p.suppress.Close())
	}
	if p.conns != nil {
		errs = append(errs, p.conns.Close())
	}
	if p.member != nil {
		errs = append(errs, p.member.Close())
	}
	if p.admin != nil {
		end(r.wait.requests, func(ctx context.Context) error { p.admin.Shutdown(ctx); return nil }, "")
	}
	if p.books != nil {
		errs = append(errs, p.books.Close())
	}
	if p.delivery != nil {
		p.delivery.Close()
	}
	if p.spool != nil {
		errs = append(errs, p.spool.Close())
	}
	errs = append(errs, p.traces.Log.Close())
	if p.agent != nil {
		errs = append(errs, p.agent.Close())
	}
	if p.health != nil {
		end(r.wait.requests, func(ctx context.Context) error { p.health.Shutdown(ctx); return nil }, "")
	}
	if len(r.failed) > 0 {
		errs = append(errs, <-r.failed)
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Error("the end was not clean", "error", err)
		return err
	}
	r.log.Info("the relay has ended")
	return nil
}
