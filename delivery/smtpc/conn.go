package smtpc

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/mail"
)

// Conn is a session that is ready for a transaction.
type Conn struct {
	pool   *Pool
	target Target
	tag    string // what it counts with
	over   func() // told when it has ended; may be nil
	w      *wire.Conn

	ext      wire.Extensions
	label    string // the host, for Outcome.Remote
	tls      string // facts for Outcome.TLS
	verified bool

	born   time.Time
	sent   int  // transactions
	reused bool // it was idle before
	dirty  bool // a transaction may be open: RSET before the next
	gone   bool // closed
	most   int  // transactions; 0: as the pool says

	greeted time.Duration // from born to the greeting

	retired atomic.Bool // it ends after the transaction at hand
	killed  atomic.Bool // it was ended from outside

	said   *dialogue.Session // nil while nobody listens
	secret bool              // AUTH is under way
	idle   *time.Timer
	expect []int // kept between transactions for its memory
}

// Extensions tells what the host offers.
func (c *Conn) Extensions() *wire.Extensions { return &c.ext }

// Remote names the host: "mx.example.org[192.0.2.1]:25".
func (c *Conn) Remote() string { return c.label }

// TLS gives the facts: "TLSv1.3 TLS_AES_128_GCM_SHA256 verified", or "".
func (c *Conn) TLS() string { return c.tls }

// Greeted tells how long it took from the start of the connection to the
// greeting.
func (c *Conn) Greeted() time.Duration { return c.greeted }

// Reused tells whether an earlier caller left the connection open.
func (c *Conn) Reused() bool { return c.reused }

// Usable tells whether another transaction may be begun.
func (c *Conn) Usable() bool { return !c.w.Broken && !c.w.Aborted() && !c.spent() }

// spent tells whether the host allows no more transactions (RFC 9422).
func (c *Conn) spent() bool { return c.ext.MaxMails > 0 && c.sent >= c.ext.MaxMails }

// Listen lets an operator listen to what is said from now on; nil changes
// nothing.
func (c *Conn) Listen(s *dialogue.Session) {
	if s != nil && c.said == nil {
		c.said, c.w.Heard = s, c.heard
		s.Note("a connection that was open already, " + c.label + " " + c.tls)
	}
}

// Limit sets for how many transactions the connection is used; 0: as many as
// the pool says.
func (c *Conn) Limit(most int) { c.most = most }

// Retire ends the connection as soon as nobody uses it. It may be called at
// any time, by anybody.
func (c *Conn) Retire() {
	c.retired.Store(true)
	c.pool.expire(c)
}

// Kill ends it at once, whatever is under way. It may be called as Retire.
func (c *Conn) Kill() {
	c.killed.Store(true)
	c.w.Abort()
	c.Retire()
}

// Killed tells whether Kill was called.
func (c *Conn) Killed() bool { return c.killed.Load() }

// Counted says how a connection counts.
type Counted struct {
	Tag  string // connections of equal tag count together; empty: it does not count
	Over func() // called once, when the connection has ended and the host knows; may be nil
}

// Dial opens a session with a host: connection, greeting, EHLO, and TLS and
// AUTH as the target asks for. A failure has closed the connection; the host was
// connected to, and Over has been called, unless it is of StageConnect.
func (p *Pool) Dial(ctx context.Context, t Target, n Counted) (*Conn, *Failure) {
	start := time.Now()
	said := dialogue.From(ctx)
	dctx, cancel := context.WithTimeout(ctx, p.o.Timeouts.Connect)
	dial := p.o.Dial
	if t.Source.Addr.IsValid() {
		dial = t.Source.Dial
	}
	raw, err := dial(dctx, "tcp", t.Addr.String())
	cancel()
	if err != nil {
		f := unreachable(&t, err)
		if ctx.Err() != nil {
			f = interrupted(StageConnect, ctx.Err())
		}
		p.o.Metrics.ConnectErrors.Inc(f.reason())
		said.End(f.Error())
		return nil, f
	}
	said.Note("connected")
	p.o.Metrics.AttemptDuration.Observe("connect", time.Since(start))
	p.o.Metrics.Outbound.Inc()
	c := &Conn{pool: p, target: t, label: t.Label(), w: wire.New(raw, p.o.Timeouts.Block), born: start, tag: n.Tag, over: n.Over}
	p.count(n.Tag, 1)
	if said != nil {
		c.said, c.w.Heard = said, c.heard
	}
	stop := context.AfterFunc(ctx, c.w.Abort)
	f := c.start()
	if !stop() {
		f = interrupted(StageHello, ctx.Err())
	}
	if f != nil {
		p.o.Metrics.ConnectErrors.Inc(f.reason())
		if c.said != nil {
			c.said.Note(f.Error())
		}
		c.leave(f)
		return nil, f
	}
	p.o.Metrics.OutboundTotal.Inc(c.tlsKind())
	return c, nil
}

// close ends the connection without a word.
func (c *Conn) close() {
	if !c.gone {
		c.gone = true
		c.w.Close()
		c.pool.o.Metrics.Outbound.Dec()
		c.said.End("by us, or lost")
		c.pool.count(c.tag, -1)
		if c.over != nil {
			c.over()
		}
	}
}

// quit says QUIT, and closes when the host has.
func (c *Conn) quit() {
	if !c.w.Quit(c.pool.o.Timeouts.Quit) && !c.killed.Load() {
		c.pool.o.Metrics.QuitTimeouts.Inc()
	}
	c.close()
}

// hangUp ends a connection on which nothing can be said any more. Where it
// counts, until the host has seen that.
func (c *Conn) hangUp() {
	if c.over != nil && !c.w.Aborted() && !c.w.HangUp(c.pool.o.Timeouts.Quit) {
		c.pool.o.Metrics.QuitTimeouts.Inc()
	}
	c.close()
}

// count counts connections of a tag.
func (p *Pool) count(tag string, n int) {
	if tag == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[tag] += n; p.open[tag] == 0 {
		delete(p.open, tag)
	}
}

// leave closes a connection whose session could not be set up. A host that
// answered in SMTP is told QUIT; its reply is not waited for, unless somebody
// wants to know when the connection has ended.
func (c *Conn) leave(f *Failure) {
	switch {
	case c.w.Broken || f.Reply.Cause != nil:
		c.hangUp()
	case c.over != nil:
		c.quit()
	default:
		c.w.Farewell(c.pool.o.Timeouts.Quit)
	}
	c.close()
}

// start brings a new connection to where a transaction may begin.
func (c *Conn) start() *Failure {
	to := &c.pool.o.Timeouts
	c.w.Limit = time.Now().Add(to.Greeting + 2*to.Hello + to.TLS)
	if c.target.Implicit && c.target.TLS != mail.TLSNone {
		if f := c.handshake(); f != nil {
			return f
		}
	}
	rep, f := c.read(StageGreeting)
	if f != nil {
		return f
	}
	if !rep.Positive() {
		if !rep.Negative() {
			return unexpected(StageGreeting, rep)
		}
		return refusal(StageGreeting, rep, nil)
	}
	c.greeted = time.Since(c.born)
	if f := c.hello(); f != nil {
		return f
	}
	if f := c.secure(); f != nil {
		return f
	}
	if f := c.auth(); f != nil {
		return f
	}
	if c.w.Buffered() > 0 {
		return broken(StageHello, errStray)
	}
	return nil
}

// hello says EHLO, or HELO to a host that does not know EHLO (RFC 5321
// 4.1.4), or LHLO.
func (c *Conn) hello() *Failure {
	verb, name := "EHLO ", cmp.Or(c.target.Source.Hello, c.pool.o.Hostname)
	if c.target.LMTP {
		verb = "LHLO "
	}
	rep, f := c.cmd(StageHello, verb+name)
	if f != nil {
		return f
	}
	if rep.Positive() {
		c.ext = wire.ParseExtensions(rep.Text)
		return nil
	}
	if rep.Code/100 == 5 && !c.target.LMTP {
		if rep, f = c.cmd(StageHello, "HELO "+name); f != nil {
			return f
		}
		if rep.Positive() {
			c.ext = wire.Extensions{}
			return nil
		}
	}
	if !rep.Negative() {
		return unexpected(StageHello, rep)
	}
	return refusal(StageHello, rep, nil)
}

// cmd sends one command and reads its reply.
func (c *Conn) cmd(s Stage, line string) (*wire.Reply, *Failure) {
	c.w.Out = append(append(c.w.Out, line...), '\r', '\n')
	c.saying(line)
	if err := c.w.Flush(); err != nil {
		return nil, broken(s, err)
	}
	return c.read(s)
}

// read takes a reply within the patience of its stage.
func (c *Conn) read(s Stage) (*wire.Reply, *Failure) {
	rep, err := c.w.Read(c.pool.o.Timeouts.Of(s))
	if err != nil {
		return nil, broken(s, err)
	}
	return rep, nil
}

// saying tells who listens of a command.
func (c *Conn) saying(line string) {
	switch {
	case c.said == nil:
	case c.secret && !strings.HasPrefix(line, "AUTH "):
		c.said.Secret(true, "", len(line))
	default:
		c.said.Command(line)
	}
}

// heard tells who listens of a reply.
func (c *Conn) heard(rep *wire.Reply) {
	code := strconv.Itoa(rep.Code) + " "
	if c.secret && !rep.Negative() { // it may hold a part of the mechanism
		c.said.Secret(false, code, len(rep.Text))
		return
	}
	for line := range strings.Lines(string(rep.Text)) {
		c.said.Reply(code + line)
	}
	if len(rep.Text) == 0 {
		c.said.Reply(code)
	}
}
