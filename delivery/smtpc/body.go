package smtpc

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// maxChunks is how many BDAT commands may be without their replies.
const maxChunks = 4

// keptBack is how much of long content waits for BDAT LAST.
const keptBack = 4 << 10

var (
	errSize    = errors.New("content is not of the size it was said to be")
	errRefused = errors.New("the host refuses the content")
)

// body sends content as it is written to it. It keeps something back until
// finish, so that the end goes out in one packet with it, and only after
// BeforeDot.
type body struct {
	t    *txn
	left int64 // octets that are still to come
	last byte  // the last octet; '\n' before the first
	pend []byte
	due  int         // replies to BDAT that did not come yet
	took bool        // a BDAT was answered 250
	no   *mail.Reply // what the host said instead
	lost error       // what happened to the connection

	ending bool // BDAT LAST may be on the wire
}

// content sends it and reads what the host says to it.
func (t *txn) content() *Failure {
	c := t.c
	size := t.tx.Content.Size()
	c.w.Limit = time.Now().Add(contentGrace + time.Duration(size/minRate)*time.Second)
	b := &body{t: t, left: size, last: '\n'}
	err := b.send()
	c.said.Content(size - max(0, b.left))
	switch {
	case err != nil && b.ending:
		// All of it may be there but for some octets at the end, and there are
		// servers that take a chunk cut short for a whole one.
		t.unsure(err)
		return nil
	case err != nil:
		return b.failed(err)
	}
	return b.answer()
}

// send writes all of it, in memory that is given back before the host is
// waited for.
func (b *body) send() error {
	c := b.t.c
	c.w.Lend(c.pool.buffer())
	defer func() { c.pool.release(c.w.Reclaim()) }()
	if b.t.bdat {
		b.pend = c.pool.buffer()
		defer func() { c.pool.release(b.pend) }()
	}
	if err := b.copy(); err != nil {
		return err
	}
	if b.t.tx.BeforeDot != nil {
		if err := b.t.tx.BeforeDot(); err != nil {
			return fmt.Errorf("smtpc: note the attempt: %w", err)
		}
	}
	return b.finish()
}

// copy reads the content and sends all of it but the tail.
func (b *body) copy() error {
	rd, err := b.t.tx.Content.Open()
	if err != nil {
		return err
	}
	if wt, ok := rd.(io.WriterTo); ok {
		_, err = wt.WriteTo(b)
	} else {
		buf := b.t.c.pool.buffer()
		_, err = io.CopyBuffer(struct{ io.Writer }{b}, struct{ io.Reader }{rd}, buf[:cap(buf)])
		b.t.c.pool.release(buf)
	}
	if cerr := rd.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return err
	case b.left != 0:
		return errSize
	case b.last == '\r' && !b.binary():
		return wire.ErrBareCR
	}
	return nil
}

func (b *body) binary() bool { return b.t.tx.Envelope.Body == mail.BodyBinaryMIME }

// Write sends a slice of content. It is the io.Writer that the content's
// reader writes to.
func (b *body) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errSize
	}
	dots := false
	if !b.binary() {
		var err error
		if dots, err = wire.CheckLines(p, b.last); err != nil {
			return 0, err
		}
	}
	var err error
	switch {
	case b.t.bdat:
		err = b.chunk(p)
	case dots || b.last == '\n' && p[0] == '.':
		err = b.stuff(p)
	default:
		err = b.emit(p)
	}
	b.last = p[len(p)-1]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// stuff doubles the dots that begin a line (RFC 5321 4.5.2).
func (b *body) stuff(p []byte) error {
	if b.last == '\n' && p[0] == '.' {
		if err := b.emit([]byte{'.'}); err != nil {
			return err
		}
	}
	for {
		i := wire.NextDot(p)
		if i < 0 {
			return b.emit(p)
		}
		if err := b.emit(p[:i]); err != nil {
			return err
		}
		if err := b.emit([]byte{'.'}); err != nil {
			return err
		}
		p = p[i:]
	}
}

// emit sends octets but for the last of them, which wait for the end.
func (b *body) emit(p []byte) error { return b.noted(b.t.c.w.Emit(p)) }

func (b *body) flush() error { return b.noted(b.t.c.w.Flush()) }

// noted keeps what happened to the connection apart from what may be wrong
// with the content.
func (b *body) noted(err error) error {
	if err != nil {
		b.lost = err
	}
	return err
}

// chunk gathers content for BDAT, and sends it when a buffer is full. The
// last octets are kept for BDAT LAST.
func (b *body) chunk(p []byte) error {
	if len(b.pend)+len(p) <= cap(b.pend) {
		b.pend = append(b.pend, p...)
		return nil
	}
	n := max(len(p)-keptBack, 0)
	if err := b.bdat(p[:n], false); err != nil {
		return err
	}
	b.pend = append(b.pend[:0], p[n:]...)
	return b.hear(maxChunks)
}

// bdat writes one BDAT command with what is pending and p (RFC 3030 2).
func (b *body) bdat(p []byte, last bool) error {
	c := b.t.c
	c.w.Out = append(c.w.Out, "BDAT "...)
	c.w.Out = strconv.AppendInt(c.w.Out, int64(len(b.pend)+len(p)), 10)
	if last {
		c.w.Out = append(c.w.Out, " LAST"...)
	}
	c.w.Out = append(c.w.Out, "\r\n"...)
	if err := b.emit(b.pend); err != nil {
		return err
	}
	if err := b.emit(p); err != nil {
		return err
	}
	b.due++
	if c.said != nil {
		c.said.Command("BDAT " + strconv.Itoa(len(b.pend)+len(p)))
	}
	return b.flush()
}

// hear reads replies to BDAT until fewer than most are due. A refusal ends
// the transaction.
func (b *body) hear(most int) error {
	if !b.t.c.ext.Pipelining {
		most = 1
	}
	for b.due >= most {
		rep, f := b.t.c.read(StageContent)
		if f != nil {
			b.lost = f.Reply.Cause
			return b.lost
		}
		b.due--
		if !rep.Positive() {
			b.refuse(rep)
			return errRefused
		}
		b.took = true
	}
	return nil
}

// refuse notes the first reply that was not 250.
func (b *body) refuse(rep *wire.Reply) {
	if b.no != nil {
		return
	}
	r := rep.Mail()
	if !rep.Negative() {
		r = unexpected(StageContent, rep).Reply
	}
	b.no = &r
}

// finish writes the end of the content.
func (b *body) finish() error {
	c := b.t.c
	if b.t.bdat {
		b.ending = true
		return b.bdat(nil, true)
	}
	if b.last != '\n' {
		// DATA can carry whole lines alone: the one octet-for-octet difference.
		c.w.Out = append(c.w.Out, '\r', '\n')
	}
	c.w.Out = append(c.w.Out, ".\r\n"...)
	return b.flush()
}

// failed deals with content that could not be sent to its end: the host has
// no whole message, so nothing was delivered. The connection is lost to us.
func (b *body) failed(err error) *Failure {
	t, c := b.t, b.t.c
	c.w.Broken, c.w.Limit = true, time.Time{}
	if b.no == nil && b.lost != nil && !c.w.Aborted() {
		// A host that has had enough of a message may have said so first.
		if rep, rerr := c.w.Read(c.pool.o.Timeouts.Quit); rerr == nil && rep.Negative() {
			b.refuse(rep)
		}
	}
	switch {
	case b.no != nil:
		return b.refused()
	case b.lost != nil || c.w.Aborted():
		return broken(StageContent, err)
	case errors.Is(err, wire.ErrBareCR), errors.Is(err, wire.ErrBareLF):
		t.settleAccepted(Result{Reply: *mail.NewReply(554, "5.6.0", "message has lines that do not end in CRLF").WithCause(err)})
	default:
		t.settleAccepted(Result{Reply: *mail.NewReply(451, "4.3.0", "message is not available now").WithCause(err)})
	}
	return nil
}

// refused passes on why the host does not want the content.
func (b *body) refused() *Failure {
	switch {
	case b.no.Code == 421:
		return &Failure{Stage: StageContent, Reply: *b.no, Lost: true}
	case b.no.Code >= 500 && b.no.Code <= 504 && b.t.bdat && !b.took && !b.binary():
		// A complaint about the command, not about the message: it is known to
		// the host by its name alone. What stands behind it in the connection
		// may be taken for commands.
		b.t.c.w.Broken = true
		return &Failure{Stage: StageContent, Reply: *mail.NewReply(451, "4.5.0",
			"the next hop offers CHUNKING and refuses BDAT: "+b.no.Line()).WithCause(ErrNoChunking)}
	}
	b.t.settleAccepted(Result{Reply: *b.no, Stage: StageDone})
	return nil
}

// answer reads what the host says to the whole message.
func (b *body) answer() *Failure {
	t, c := b.t, b.t.c
	c.w.Limit = time.Now().Add(2 * c.pool.o.Timeouts.Done)
	for ; b.due > 1; b.due-- { // to the chunks before the last
		rep, err := c.w.Read(c.pool.o.Timeouts.Done)
		if err != nil {
			return b.unanswered(err)
		}
		if !rep.Positive() {
			b.refuse(rep)
		}
		b.took = b.took || rep.Positive()
	}
	if t.c.target.LMTP && b.no == nil {
		b.answerEach()
		return nil
	}
	rep, err := c.w.Read(c.pool.o.Timeouts.Done)
	switch {
	case err != nil:
		return b.unanswered(err)
	case b.no != nil && rep.Positive():
		t.unsure(errUnexpected) // it refused a chunk, then took the message
	case b.no != nil:
		c.w.Broken = c.w.Broken || c.target.LMTP // whose other replies nobody waits for
		return b.refused()
	case rep.Negative() && t.bdat:
		b.refuse(rep)
		if rep.Code == 421 {
			t.settleAccepted(Result{Reply: *b.no, Stage: StageDone})
			return nil
		}
		return b.refused()
	default:
		t.take(rep)
	}
	return nil
}

// unanswered is a connection that broke before the reply came.
func (b *body) unanswered(err error) *Failure {
	if b.no != nil {
		return b.refused()
	}
	b.t.unsure(err)
	return nil
}

// answerEach reads one reply for each recipient that was taken (RFC 2033 4.2).
func (b *body) answerEach() {
	t, c := b.t, b.t.c
	for i := range t.res {
		if !t.res[i].accepted || t.res[i].Done {
			continue
		}
		rep, err := c.w.Read(c.pool.o.Timeouts.Done)
		if err != nil {
			t.unsure(err)
			return
		}
		t.res[i] = t.result(rep)
	}
	c.dirty = c.w.Broken
}

// take gives everybody the reply to the whole message.
func (t *txn) take(rep *wire.Reply) {
	t.c.dirty = !rep.Positive()
	t.settleAccepted(t.result(rep))
}

// result is the Result for a reply to the end of the content. One without a
// meaning there leaves it open what became of the message.
func (t *txn) result(rep *wire.Reply) Result {
	r := Result{Reply: rep.Mail(), Stage: StageDone, Done: true, DSNPassed: t.c.ext.DSN && rep.Positive()}
	if !rep.Positive() && !rep.Negative() {
		t.c.w.Broken = true
		r.Reply, r.Unsure = unexpected(StageDone, rep).Reply, true
	}
	return r
}

// unsure settles those whose message the host may have or not (RFC 1047).
func (t *txn) unsure(err error) {
	t.c.w.Broken = true
	r := broken(StageDone, err).Reply
	if t.c.w.Aborted() {
		r = interrupted(StageDone, err).Reply
	}
	t.settleAccepted(Result{Reply: r, Stage: StageDone, Unsure: true})
}
