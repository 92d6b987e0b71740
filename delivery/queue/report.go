package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/delivery/dsn"
	"github.com/clrelay/clrelay/delivery/queue/whole"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// reportFailed sees that somebody is told of recipients that failed for good:
// the sender, where it wants to know. A message without a sender is a report
// itself, or as good as one, and gets none (RFC 5321 4.5.5): the postmaster
// does if so configured. An error means that the report could not be stored.
func (r *Runner) reportFailed(ctx context.Context, m *spool.Message, env *mail.Envelope, failed []dsn.Recipient) error {
	rep := dsn.Report{Kind: dsn.Failed}
	boxes := r.boxes.Load()
	for _, f := range failed {
		to := env.Recipients[f.Outcome.Recipient].Addr
		switch {
		case dsn.Wanted(env, f.Outcome.Recipient, dsn.Failed):
		case env.From.IsNull() && boxes.DoubleBounces && !to.SameMailbox(boxes.Postmaster):
			rep.To = boxes.Postmaster
		default:
			continue
		}
		rep.Recipients = append(rep.Recipients, f)
	}
	if len(rep.Recipients) == 0 {
		return nil
	}
	return r.report(ctx, m, env, rep)
}

// ourPostmaster tells whether an address is postmaster at our own name, whose
// mail the server takes for <postmaster> (RFC 5321 4.5.1).
func (r *Runner) ourPostmaster(a mail.Address) bool {
	return a.IsPostmaster() && (a.Domain == "" || strings.EqualFold(a.Domain, r.o.Hostname))
}

// report stores a report: when it returns nil that is durable. An original
// that can't be read is left out.
func (r *Runner) report(ctx context.Context, m *spool.Message, env *mail.Envelope, rep dsn.Report) error {
	rep.Envelope, rep.ReportingMTA, rep.MaxFull, rep.Now = env, r.o.Hostname, r.o.MaxReturn, r.clock.Wall()
	rep.ID = mail.NewID(rep.Now)
	if box := r.boxes.Load().Postmaster; rep.To.IsNull() && !box.IsNull() && r.ourPostmaster(env.From) {
		rep.To = box
	}
	c := &whole.Content{Content: r.sp.Content(m)}
	err := r.acceptReport(ctx, rep, c)
	if err != nil && c.Damage.Load() != nil {
		err = r.acceptReport(ctx, rep, nil)
	}
	switch {
	case err == nil:
		r.o.Observer.Reported(rep.ID, m.ID(), rep.Kind)
	case errors.Is(err, dsn.ErrReport):
		// Nobody can be told, today or later: that must not keep the message.
		r.o.Log.Error("no report", "id", m.ID().String(), "kind", rep.Kind.String(), "error", err)
		err = nil
	default:
		r.o.Log.Warn("storing a report", "id", m.ID().String(), "kind", rep.Kind.String(), "error", err)
	}
	return err
}

func (r *Runner) acceptReport(ctx context.Context, rep dsn.Report, c *whole.Content) error {
	if c != nil {
		original, err := c.Open()
		if err != nil {
			return fmt.Errorf("queue: reading the original: %w", err)
		}
		defer func() { _ = original.Close() }() // reading is all there was
		rep.Original, rep.Size = original, c.Size()
	}
	env, body, err := dsn.Build(rep)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	_, err = r.sp.Accept(ctx, env, body)
	return err
}
