package smtpc

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// Content is the message as it goes over the wire, without dot-stuffing. A
// reader that is an io.WriterTo should hand out large slices; they are not
// kept. Size is what the readers give to the octet.
type Content interface {
	Size() int64
	Open() (io.ReadCloser, error)
}

// Transaction is one message for some of its recipients.
type Transaction struct {
	Envelope   *mail.Envelope
	Recipients []int // indexes into Envelope.Recipients
	Content    Content
	// BeforeDot is called right before what ends the content is written; an
	// error closes the connection instead. It may be nil.
	BeforeDot    func() error
	EightBitFail bool // refuse 8-bit content where the host lacks 8BITMIME
	// Ask sends no message: MAIL and RCPT are said, and nothing more. A
	// recipient that the host takes has no Result then.
	Ask bool
}

// Result is what became of one recipient.
type Result struct {
	Reply     mail.Reply
	Done      bool  // Reply is the answer; false: nothing was decided, and it was not delivered
	DSNPassed bool  // the host took the DSN parameters
	Unsure    bool  // the content was sent and no answer came (RFC 1047); Reply is temporary
	Again     bool  // too many recipients: another transaction may take it at once; not Done
	Elsewhere bool  // this host cannot have it, another may; not Done, Reply says why
	Stage     Stage // what Reply is the host's answer to; empty: it is the relay's own word

	accepted bool
}

// How far the content may be behind its limit: a host that reads less than
// minRate octets a second is not worth a session.
const (
	contentGrace = 10 * time.Minute
	minRate      = 16 << 10
)

// txn is a transaction under way.
type txn struct {
	c   *Conn
	tx  *Transaction
	res []Result

	from     mail.Address
	utf8     bool // SMTPUTF8 is said
	bdat     bool
	refused  bool // MAIL was
	accepted int  // recipients
	ready    bool // 354 came
}

// Send does one transaction and fills in res, one Result for each of
// tx.Recipients. A nil Failure means that every one has a Result (Done, Again
// or Elsewhere). After a Failure, and after some results too, the connection
// is of no more use; Put knows.
func (c *Conn) Send(ctx context.Context, tx *Transaction, res []Result) *Failure {
	clear(res)
	stop := context.AfterFunc(ctx, c.w.Abort)
	t := txn{c: c, tx: tx, res: res}
	f := t.run()
	c.sent++
	c.w.Limit = time.Time{}
	stop()
	if f != nil {
		c.w.Broken = true
		if ctx.Err() != nil {
			f = interrupted(f.Stage, ctx.Err())
		}
	}
	return f
}

func (t *txn) run() *Failure {
	if t.c.w.Broken || t.c.w.Buffered() > 0 {
		return broken(StageMail, errStray)
	}
	if t.plan(); t.left() == 0 {
		return nil
	}
	start := time.Now()
	to := &t.c.pool.o.Timeouts
	t.c.w.Limit = start.Add(to.Hello + to.Mail + 2*to.Rcpt + to.Data)
	t.bdat = t.bdat || t.tx.Ask // the envelope ends without DATA
	f := t.envelope()
	t.c.pool.o.Metrics.AttemptDuration.Observe("mail", time.Since(start))
	switch {
	case f != nil:
		return f
	case t.refused:
		t.c.w.Broken = t.c.w.Broken || t.ready // it waits for content of a message that it refused
		return nil
	case t.accepted == 0:
		t.nobody()
		return nil
	case t.tx.Ask:
		t.c.w.Broken = true // a transaction is open
		return nil
	case !t.bdat && !t.ready:
		return nil
	case t.c.w.Buffered() > 0:
		return broken(StageData, errStray)
	}
	start = time.Now()
	f = t.content()
	t.c.pool.o.Metrics.AttemptDuration.Observe("data", time.Since(start))
	return f
}

// left counts the recipients without a result.
func (t *txn) left() int {
	n := 0
	for i := range t.res {
		if !t.res[i].Done && !t.res[i].Elsewhere {
			n++
		}
	}
	return n
}

// settle gives every recipient without a result this one.
func (t *txn) settle(r mail.Reply, s Stage) {
	for i := range t.res {
		if !t.res[i].Done {
			t.res[i] = Result{Reply: r, Stage: s, Done: true, accepted: t.res[i].accepted}
		}
	}
}

// settleAccepted gives it to those that the host has taken.
func (t *txn) settleAccepted(r Result) {
	r.Done = true
	for i := range t.res {
		if t.res[i].accepted && !t.res[i].Done {
			t.res[i] = r
		}
	}
}

// plan holds the message against what the host offers, and settles what
// cannot be sent to it.
func (t *txn) plan() {
	env, ext := t.tx.Envelope, &t.c.ext
	size := t.tx.Content.Size()
	t.bdat = ext.Chunking && (env.Body == mail.BodyBinaryMIME || !t.c.target.NoChunking && !t.c.target.LMTP)
	switch {
	case env.RequireTLS && !(t.c.verified && ext.RequireTLS):
		// RFC 8689 4.2.1: the other hosts are asked before it bounces.
		r := Result{Elsewhere: true, Reply: *mail.NewReply(550, "5.7.30", "REQUIRETLS support required")}
		for i := range t.res {
			t.res[i] = r
		}
		return
	case ext.MaxSize > 0 && size > ext.MaxSize:
		t.settle(*mail.NewReply(552, "5.3.4", "message of "+strconv.FormatInt(size, 10)+
			" octets is over the next hop's limit of "+strconv.FormatInt(ext.MaxSize, 10)), "")
		return
	case env.Body == mail.BodyBinaryMIME && !(ext.BinaryMIME && ext.Chunking):
		t.settle(*mail.NewReply(554, "5.6.1", "the next hop does not take binary messages"), "")
		return
	case t.tx.EightBitFail && !ext.EightBitMIME && env.Body != mail.BodyBinaryMIME:
		if t.scan(false) {
			t.settle(*mail.NewReply(554, "5.6.3", "the next hop does not take 8-bit messages"), "")
			return
		}
	}
	t.planUTF8()
}

// planUTF8 decides what RFC 6531 asks: SMTPUTF8 is passed on where it was
// given and the host has it. Where the host lacks it, a message that can do
// without goes out without: one whose addresses and header are ASCII.
func (t *txn) planUTF8() {
	env := t.tx.Envelope
	t.from = env.From
	if t.c.ext.SMTPUTF8 {
		t.utf8 = env.SMTPUTF8 || env.From.NeedsUTF8()
		for _, i := range t.tx.Recipients {
			t.utf8 = t.utf8 || env.Recipients[i].Addr.NeedsUTF8()
		}
		return
	}
	var ok bool
	if t.from, ok = downgrade(env.From); !ok {
		t.settle(noUTF8(), "")
		return
	}
	for i, r := range t.tx.Recipients {
		if _, ok := downgrade(env.Recipients[r].Addr); !ok {
			t.res[i] = Result{Reply: noUTF8(), Done: true}
		}
	}
	if env.SMTPUTF8 && t.left() > 0 && t.scan(true) {
		t.settle(noUTF8(), "")
	}
}

func noUTF8() mail.Reply {
	return *mail.NewReply(550, "5.6.7", "the next hop does not take internationalized mail (SMTPUTF8)")
}

// downgrade gives an ASCII form of the same mailbox: a domain name has one
// (RFC 5890), a local part has none.
func downgrade(a mail.Address) (mail.Address, bool) {
	if !a.NeedsUTF8() {
		return a, true
	}
	domain, err := idna.Lookup.ToASCII(a.Domain)
	if err != nil {
		return a, false
	}
	a.Domain = domain
	return a, !a.NeedsUTF8()
}

// scan looks for an octet beyond ASCII in the content, or in its header alone.
// Content that cannot be read will fail again, and be dealt with, where it is
// sent.
func (t *txn) scan(header bool) bool {
	rd, err := t.tx.Content.Open()
	if err != nil {
		return false
	}
	s := &wire.Scanner{HeaderOnly: header}
	_, _ = io.Copy(s, rd)
	_ = rd.Close() // it was only read
	return s.Found
}

// params gives what follows MAIL FROM:<...>.
func (t *txn) params(b []byte) []byte {
	env, ext := t.tx.Envelope, &t.c.ext
	if ext.Size {
		b = strconv.AppendInt(append(b, " SIZE="...), t.tx.Content.Size(), 10)
	}
	switch {
	case env.Body == mail.BodyBinaryMIME:
		b = append(b, " BODY=BINARYMIME"...)
	case env.Body == mail.Body8BitMIME && ext.EightBitMIME:
		b = append(b, " BODY=8BITMIME"...)
	}
	if t.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	if env.RequireTLS {
		b = append(b, " REQUIRETLS"...)
	}
	if now := time.Now(); ext.TakesBy(&env.By, now) {
		b = append(append(b, " BY="...), env.By.Value(now)...)
	}
	if ext.DSN {
		if ret := env.Ret.String(); ret != "" {
			b = append(append(b, " RET="...), ret...)
		}
		if env.EnvID != "" {
			b = append(append(b, " ENVID="...), mail.XText(env.EnvID)...)
		}
	}
	return b
}

// rcptParams gives what follows RCPT TO:<...>.
func (t *txn) rcptParams(b []byte, r *mail.Recipient) []byte {
	if !t.c.ext.DSN {
		return b
	}
	if n := r.Notify.String(); n != "" {
		b = append(append(b, " NOTIFY="...), n...)
	}
	if o := mail.FormatORcpt(r.ORcptType, r.ORcpt, t.utf8); o != "" && !strings.HasSuffix(o, ";") {
		b = append(append(b, " ORCPT="...), o...)
	}
	return b
}
