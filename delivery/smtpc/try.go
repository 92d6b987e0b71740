package smtpc

import (
	"context"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// Try asks the host about a sender and recipients and sends no message: MAIL
// and RCPT as Send would say them, and nothing more. The error of a recipient
// that the host takes is nil. The connection is of no more use, for a
// transaction is open.
func (c *Conn) Try(ctx context.Context, tx *Transaction) ([]*mail.Reply, *Failure) {
	stop := context.AfterFunc(ctx, c.w.Abort)
	defer stop()
	defer func() { c.w.Broken = true }()
	t := txn{c: c, tx: tx, res: make([]Result, len(tx.Recipients))}
	if t.plan(); t.left() > 0 {
		t.bdat = true // so that the envelope ends without DATA
		to := &c.pool.o.Timeouts
		c.w.Limit = time.Now().Add(to.Mail + 2*to.Rcpt)
		if f := t.envelope(); f != nil {
			if ctx.Err() != nil {
				f = interrupted(f.Stage, ctx.Err())
			}
			return nil, f
		}
	}
	out := make([]*mail.Reply, len(t.res))
	for i := range t.res {
		if !t.res[i].accepted || t.res[i].Done {
			out[i] = &t.res[i].Reply
		}
	}
	return out, nil
}

// Offers is what a host offers in its reply to EHLO.
type Offers = wire.Extensions
