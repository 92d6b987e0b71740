package delivery

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/mail"
)

// Deliver makes one attempt and gives exactly one outcome for each of
// at.Recipients, in that order.
func (a *Agent) Deliver(ctx context.Context, hop mail.NextHop, at *Attempt) []mail.Outcome {
	d := &attempt{a: a, hop: &hop, at: at,
		out:  make([]mail.Outcome, len(at.Recipients)),
		open: make([]int, 0, len(at.Recipients))}
	for i, r := range at.Recipients {
		if r < 0 || r >= len(at.Envelope.Recipients) {
			d.out[i] = mail.Outcome{Recipient: r, At: time.Now(),
				Reply: *mail.NewReply(451, "4.3.0", "local error").WithCause(errIndex)}
			continue
		}
		d.open = append(d.open, i)
	}
	if at.Envelope.RequireTLS && hop.TLS == mail.TLSNone {
		d.note(failure{reply: *mail.NewReply(550, "5.7.30", "REQUIRETLS support required")})
	} else if at.Permit.granted == nil {
		d.limited = a.Admit(ctx, &hop, at)
	}
	if d.worst.reply.Code == 0 && d.limited == nil {
		d.run(ctx)
	}
	at.Permit.Drop()
	d.giveUp(ctx)
	return d.out
}

var errIndex = errors.New("recipient that the envelope does not have")

// attempt is one call of Deliver.
type attempt struct {
	a     *Agent
	hop   *mail.NextHop
	at    *Attempt
	out   []mail.Outcome
	open  []int // positions in out that have no outcome yet
	tried int   // hosts that cost something
	worst failure
	// limited says why nothing more may be done now; nil: nothing keeps it.
	limited *allow.Denied
	left    bool // a host was reached and left behind

	sources []source.Source // to leave from, best first
	addr    netip.AddrPort  // of the host at hand
	source  string          // name of where it is spoken to from
	misfit  *mail.Reply     // a host was left out for want of a source
	spent   *allow.Denied   // a source was left out because of this

	rcpts []int // memory of the transactions
	res   []smtpc.Result
}

// failure is why hosts were left behind: what recipients without an outcome
// are told in the end.
type failure struct {
	reply  mail.Reply
	remote string // empty when nobody was reached
	tls    string
	source string
	wait   time.Duration
}

// rank orders failures by what they tell: one temporary failure leaves hope
// for the next attempt, and the word of a host is worth more than our own.
func (f *failure) rank() int {
	n := 0
	if f.reply.Code != 0 {
		n++
	}
	if f.reply.Temporary() {
		n += 2
	}
	if f.remote != "" {
		n++
	}
	return n
}

func (d *attempt) note(f failure) {
	if f.rank() >= d.worst.rank() {
		d.worst = f
	}
}

func (d *attempt) run(ctx context.Context) {
	g := d.at.Permit.granted
	if g.none != nil {
		d.note(failure{reply: *g.none})
		return
	}
	d.sources = g.sources
	w := walk{a: d.a, hop: d.hop, fits: d.fits,
		note:  func(r mail.Reply) { d.note(failure{reply: r}) },
		again: func() bool { return !d.worst.reply.Temporary() }}
	start := time.Now()
	for len(d.open) > 0 && d.tried < d.a.o.Limits.Hosts && time.Since(start) < d.a.o.Limits.HostsFor {
		h, ok := w.next(ctx)
		if !ok {
			return
		}
		d.tried++
		if d.host(ctx, h); d.limited != nil {
			return
		}
	}
}

// target says how to speak to a host of the hop, from one of our addresses.
func (d *attempt) target(h host, from source.Source) smtpc.Target {
	t := smtpc.Target{
		Name: h.name, Addr: h.addr,
		LMTP:       d.hop.Kind == mail.HopLMTP,
		TLS:        d.hop.TLS,
		Implicit:   h.addr.Port() == 465 && d.hop.Kind == mail.HopSmarthost && d.hop.TLS != mail.TLSNone,
		NoChunking: d.a.unchunked.has(h.addr),
		Source:     from,
	}
	if c := d.hop.Auth; c != nil {
		t.User, t.PasswordFile = c.User, c.PasswordFile
	}
	switch {
	case d.at.Envelope.RequireTLS:
		t.TLS = mail.TLSVerify // RFC 8689 4.2.1
	case t.TLS == mail.TLSOpportunistic && t.User == "":
		t.Plain = d.a.plain.has(h.addr)
	}
	return t
}

// host speaks to one host, over as many connections as it takes: a kept one
// may turn out to be dead, and a fresh one may show that TLS or BDAT is not to
// be used here.
func (d *attempt) host(ctx context.Context, h host) {
	fresh := false
	for n := 0; n < 4 && len(d.open) > 0; n++ { // kept, fresh, without TLS, without BDAT
		from, ok := d.leave(h.addr.Addr())
		if !ok {
			return // lost or used up since the host was chosen, which is noted
		}
		t := d.target(h, from)
		d.addr, d.source = h.addr, from.Name
		said := d.said(&t)
		var c *smtpc.Conn
		if !fresh {
			if c = d.a.pool.Idle(t); c != nil {
				c.Listen(said)
			}
		}
		if c == nil {
			var f *smtpc.Failure
			start := time.Now()
			if c, f = d.connect(dialogue.With(ctx, said), t); f != nil {
				if ctx.Err() == nil {
					d.hear(&t, f.Stage, &f.Reply, time.Since(start))
				}
				if d.refused(&t, f) {
					fresh = true
					continue
				}
				return
			}
			if c == nil {
				return
			}
			d.a.dead.remove(h.addr)
			if d.a.o.Shape != nil {
				most, _ := d.a.o.Shape(d.at.Subject.Site)
				c.Limit(most)
			}
			d.a.answers.Greeted(h.addr, c.Greeted())
		}
		kept := c.Reused()
		moved, f := d.converse(ctx, c, &t)
		killed := c.Killed()
		d.a.pool.Put(c)
		switch {
		case ctx.Err() != nil || d.limited != nil:
			return
		case f != nil && killed:
			d.cut()
			return
		case f == nil && moved:
			n = 0 // the host closes the connection between transactions: on to the next one
		case f == nil:
			return
		case kept && f.Lost:
			d.a.pool.Forget(t)
			fresh = true
		case errors.Is(f, smtpc.ErrNoChunking):
			d.a.o.Log.Info("delivery: BDAT does not work, DATA is used", "host", t.Label(), "reply", f.Reply.Line())
			d.a.unchunked.add(h.addr)
		default:
			d.fail(&t, f, c.TLS())
			return
		}
	}
}

// said gives who listens to what is said to a host; nil: nobody.
func (d *attempt) said(t *smtpc.Target) *dialogue.Session {
	if !d.a.o.Tap.On() {
		return nil
	}
	return d.a.o.Tap.Client(t.Label(), t.Name, func(yield func(string) bool) {
		for _, r := range d.at.Recipients {
			if r >= 0 && r < len(d.at.Envelope.Recipients) && !yield(d.at.Envelope.Recipients[r].Addr.Domain) {
				return
			}
		}
	})
}

// refused deals with a session that did not come about. It tells whether to
// try again at once, in the clear.
func (d *attempt) refused(t *smtpc.Target, f *smtpc.Failure) bool {
	addr := t.Addr
	if errors.Is(f, source.ErrAddress) {
		d.a.o.Log.Warn("delivery: a source has no address on this machine", "source", t.Source.Name, "address", t.Source.Addr, "error", f.Error())
		d.a.lost.add(netip.AddrPortFrom(t.Source.Addr, 0))
		d.fail(t, f, "")
		return true
	}
	if errors.Is(f, smtpc.ErrHandshake) && t.TLS == mail.TLSOpportunistic && !t.Implicit && t.User == "" {
		d.a.o.Log.Info("delivery: TLS does not work, going on in the clear", "host", t.Label(), "error", f.Error())
		d.a.plain.add(addr)
		return true
	}
	switch f.Stage {
	case smtpc.StageConnect:
		if unrouted(addr, f) {
			d.tried-- // it cost nothing
		}
		d.a.dead.add(addr)
	case smtpc.StageGreeting, smtpc.StageHello:
		d.a.dead.add(addr)
	}
	d.fail(t, f, "")
	return false
}

// unrouted tells whether this machine has no way to the address family at all.
func unrouted(a netip.AddrPort, f *smtpc.Failure) bool {
	return a.Addr().Is6() && (errors.Is(f, syscall.ENETUNREACH) || errors.Is(f, syscall.EADDRNOTAVAIL) || errors.Is(f, syscall.EAFNOSUPPORT))
}

// fail notes why a host was left.
func (d *attempt) fail(t *smtpc.Target, f *smtpc.Failure, tls string) {
	n := failure{reply: f.Reply, tls: tls, source: t.Source.Name, wait: d.wait(f.Stage, &f.Reply)}
	if f.Connected() {
		d.a.answers.Refused(t.Addr)
		n.remote = t.Label()
		d.left = true
	}
	if f.Stage == smtpc.StageGreeting || f.Stage == smtpc.StageHello {
		n.reply = d.sessionReply(f.Reply)
	}
	if d.at.Envelope.RequireTLS && (errors.Is(f, smtpc.ErrNoTLS) || errors.Is(f, smtpc.ErrCertificate)) {
		n.reply = *mail.NewReply(550, "5.7.30", "REQUIRETLS support required").WithCause(f)
	}
	d.note(n)
	d.a.o.Log.Debug("delivery: host failed", "id", d.at.Envelope.ID.String(), "host", t.Label(), "error", f.Error())
}

// sessionReply is what a host's refusal of the whole session means. From a
// recipient's own host it is the answer; from a smarthost it is a matter
// between the relay and its operator, and no reason to bounce.
func (d *attempt) sessionReply(r mail.Reply) mail.Reply {
	if d.hop.Kind == mail.HopMX || !r.Permanent() {
		return r
	}
	return *mail.NewReply(451, "4.3.5", "the next hop refuses the session: "+r.Line()).WithCause(r.Cause)
}

// converse does transactions until everybody who may be sent to this host has
// an answer. moved tells whether the last one has settled anybody.
func (d *attempt) converse(ctx context.Context, c *smtpc.Conn, t *smtpc.Target) (moved bool, f *smtpc.Failure) {
	most := d.a.o.Limits.Recipients
	if n := c.Extensions().MaxRcpt; n > 0 {
		most = min(most, n)
	}
	for len(d.open) > 0 {
		batch := d.open[:min(len(d.open), most)]
		d.rcpts = d.rcpts[:0]
		for _, pos := range batch {
			d.rcpts = append(d.rcpts, d.at.Recipients[pos])
		}
		if cap(d.res) < len(batch) {
			d.res = make([]smtpc.Result, len(batch))
		}
		d.res = d.res[:len(batch)]
		tx := smtpc.Transaction{Envelope: d.at.Envelope, Recipients: d.rcpts, Content: d.at.Content,
			BeforeDot: d.at.BeforeDot, EightBitFail: d.hop.EightBitFail}
		if !d.spend(ctx, len(batch)) {
			return moved, nil
		}
		start := time.Now()
		if f = c.Send(ctx, &tx, d.res); f != nil && ctx.Err() == nil && !c.Killed() {
			d.hear(t, f.Stage, &f.Reply, time.Since(start))
		}
		d.hearResults(t, time.Since(start))
		d.rate()
		moved = d.take(c, len(batch))
		if f != nil || !moved || !c.Usable() {
			break
		}
	}
	return moved, f
}

// rate remembers how a host took a transaction. What it says of recipients for
// good is no word about itself.
func (d *attempt) rate() {
	turned := false
	for i := range d.res {
		switch r := &d.res[i]; {
		case !r.Done:
		case r.Reply.Positive():
			d.a.answers.Took(d.addr)
			return
		case r.Reply.Temporary():
			turned = true
		}
	}
	if turned {
		d.a.answers.Refused(d.addr)
	}
}

// take turns the results of the first n open recipients into outcomes. It
// tells whether it makes sense to offer the others to the same host: with
// Again somebody has been taken, so that ends.
func (d *attempt) take(c *smtpc.Conn, n int) (moved bool) {
	now := time.Now()
	remote := c.Remote()
	left := d.open[:0]
	for i, pos := range d.open[:n] {
		r := &d.res[i]
		switch {
		case r.Done:
			moved = true
			d.out[pos] = mail.Outcome{Recipient: d.at.Recipients[pos], Reply: r.Reply, Remote: remote,
				TLS: c.TLS(), Source: d.source, DSNPassed: r.DSNPassed, Unsure: r.Unsure, OfMail: r.Stage == smtpc.StageMail, Wait: d.wait(r.Stage, &r.Reply), At: now}
			continue
		case r.Again, r.Elsewhere:
			d.note(failure{reply: r.Reply, remote: remote, tls: c.TLS(), source: d.source, wait: d.wait(r.Stage, &r.Reply)})
		}
		left = append(left, pos)
	}
	d.open = append(left, d.open[n:]...) // within the same memory, always behind what is read
	return moved
}

// giveUp tells the recipients that no host has decided about.
func (d *attempt) giveUp(ctx context.Context) {
	if len(d.open) == 0 {
		return
	}
	f := d.worst
	switch {
	case d.limited != nil && !d.left:
		f = failure{reply: *d.limited.Reply()}
	case ctx.Err() != nil:
		f.reply, f.wait = *mail.NewReply(451, "4.3.2", "delivery was interrupted").WithCause(ctx.Err()), 0
	case f.reply.Code == 0 && d.spent != nil:
		f.reply = *d.a.denied(d.spent).Reply()
	case f.reply.Code == 0 && d.misfit != nil:
		f.reply = *d.misfit
	case f.reply.Code == 0:
		f.reply = *mail.NewReply(451, "4.4.4", "no host could be tried")
	}
	now := time.Now()
	for _, pos := range d.open {
		d.out[pos] = mail.Outcome{Recipient: d.at.Recipients[pos], Reply: f.reply, Remote: f.remote, TLS: f.tls, Source: f.source, Wait: f.wait, At: now}
	}
}
