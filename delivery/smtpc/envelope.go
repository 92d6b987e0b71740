package smtpc

import (
	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// Replies that are due, beside those to RCPT, which are the index of the
// recipient.
const (
	dueReset = -1 - iota
	dueMail
	dueData
)

// maxDue is how many commands are written before their replies are read, so
// that neither side can block the other (RFC 2920 3.1).
const maxDue = 100

// envelope says MAIL, RCPT and DATA: in one write with PIPELINING, one by one
// without. Every reply is read before it returns, unless it fails.
func (t *txn) envelope() *Failure {
	c := t.c
	c.expect = c.expect[:0]
	if c.dirty {
		c.w.Out = append(c.w.Out, "RSET\r\n"...)
		if f := t.due(dueReset); f != nil {
			return f
		}
	}
	c.dirty = true
	c.w.Out = append(c.w.Out, "MAIL FROM:<"...)
	c.w.Out = append(t.params(append(t.from.Append(c.w.Out), '>')), '\r', '\n')
	if f := t.due(dueMail); f != nil {
		return f
	}
	for i := range t.res {
		if t.refused {
			break
		}
		if t.res[i].Done {
			continue
		}
		t.rcpt(i)
		if f := t.due(i); f != nil {
			return f
		}
	}
	// With replies still due nobody knows yet whether there is anybody to send
	// the content to: then the dot alone ends it, or the connection.
	if !t.bdat && !t.refused && (t.accepted > 0 || len(c.expect) > 0) {
		c.w.Out = append(c.w.Out, "DATA\r\n"...)
		if f := t.due(dueData); f != nil {
			return f
		}
	}
	return t.drain()
}

func (t *txn) rcpt(i int) {
	r := &t.tx.Envelope.Recipients[t.tx.Recipients[i]]
	addr := r.Addr
	if !t.utf8 {
		addr, _ = downgrade(addr) // plan has settled those that cannot be
	}
	out := append(t.c.w.Out, "RCPT TO:<"...)
	t.c.w.Out = append(t.rcptParams(append(addr.Append(out), '>'), r), '\r', '\n')
}

// due notes that a reply will come, and reads it at once where the host wants
// one command at a time.
func (t *txn) due(what int) *Failure {
	t.c.expect = append(t.c.expect, what)
	if t.c.ext.Pipelining && len(t.c.expect) < maxDue {
		return nil
	}
	return t.drain()
}

// drain writes what is gathered and reads every reply that is due.
func (t *txn) drain() *Failure {
	c := t.c
	c.said.Commands(c.w.Out)
	if err := c.w.Flush(); err != nil {
		if len(c.expect) == 0 {
			return broken(StageMail, err)
		}
		// The host may have said why before it closed the connection.
		if rep, rerr := c.w.Read(c.pool.o.Timeouts.Quit); rerr == nil && rep.Code == 421 {
			return refusal(stageOf(c.expect[0]), rep, err)
		}
		return broken(stageOf(c.expect[0]), err)
	}
	for _, what := range c.expect {
		s := stageOf(what)
		rep, f := c.read(s)
		if f != nil {
			return f
		}
		if rep.Code == 421 {
			return refusal(s, rep, nil)
		}
		if f := t.hear(what, rep); f != nil {
			return f
		}
	}
	c.expect = c.expect[:0]
	return nil
}

func stageOf(what int) Stage {
	switch what {
	case dueReset:
		return StageReset
	case dueMail:
		return StageMail
	case dueData:
		return StageData
	}
	return StageRcpt
}

// hear takes one reply. The replies to RCPT and DATA behind a refused MAIL
// say nothing new.
func (t *txn) hear(what int, rep *wire.Reply) *Failure {
	switch what {
	case dueReset:
		if !rep.Positive() {
			return unexpected(StageReset, rep)
		}
	case dueMail:
		if rep.Positive() {
			return nil
		}
		if !rep.Negative() {
			return unexpected(StageMail, rep)
		}
		t.refused = true
		t.c.dirty = false
		t.settle(rep.Mail(), StageMail)
	case dueData:
		switch {
		case rep.Code == 354: // with any other 3xx, content would be taken for commands
			t.ready = true
		case !rep.Negative():
			return unexpected(StageData, rep)
		case t.accepted > 0:
			t.settleAccepted(Result{Reply: rep.Mail(), Stage: StageData})
		}
	default:
		return t.hearRcpt(what, rep)
	}
	return nil
}

func (t *txn) hearRcpt(i int, rep *wire.Reply) *Failure {
	switch {
	case t.refused:
	case rep.Positive():
		t.res[i].accepted = true
		t.accepted++
	case !rep.Negative():
		return unexpected(StageRcpt, rep)
	default:
		r := rep.Mail()
		again := t.accepted > 0 && tooMany(&r)
		t.res[i] = Result{Reply: r, Stage: StageRcpt, Done: !again, Again: again}
	}
	return nil
}

// tooMany tells whether a recipient was refused for those before it alone:
// 452, or the 552 of older hosts (RFC 5321 4.5.3.1.10), unless the enhanced
// code says that it means something else.
func tooMany(r *mail.Reply) bool {
	if r.Enhanced == (mail.EnhancedCode{}) {
		return r.Code == 452
	}
	return (r.Code == 452 || r.Code == 552) && r.Enhanced[1] == 5 && r.Enhanced[2] == 3
}

// nobody ends a transaction that no recipient is left in. A host that said 354
// all the same gets a dot and nothing else (RFC 2920 3.1).
func (t *txn) nobody() {
	if !t.ready {
		return
	}
	if t.c.target.LMTP {
		t.c.w.Broken = true // RFC 2033 4.2: a reply for each recipient, so none would come
		return
	}
	t.c.w.Out = append(t.c.w.Out, ".\r\n"...)
	if t.c.w.Flush() != nil {
		return // the connection is marked
	}
	if rep, f := t.c.read(StageData); f == nil && rep.Positive() {
		t.c.dirty = false
	}
}
