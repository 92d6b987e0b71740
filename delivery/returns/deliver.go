package returns

import (
	"context"
	"strings"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/internal/mail"
)

// Deliver works on what came to return paths, gives other mail a return path
// where the settings say so, and hands all of it on.
func (r *Returns) Deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	s := r.now.Load()
	switch {
	case strings.HasPrefix(hop.Key, Lane):
		return r.back(ctx, s, at)
	case s == nil || !s.covers(at.Envelope):
		return r.o.Next.Deliver(ctx, hop, at)
	}
	return r.away(ctx, s, hop, at)
}

// away sends a message with a return path for each recipient, a transaction
// each: with one for all of them, what comes back would have to name the
// recipient, and complaints name none.
func (r *Returns) away(ctx context.Context, s *Settings, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome {
	out := make([]mail.Outcome, 0, len(at.Recipients))
	for i, rcpt := range at.Recipients {
		env := *at.Envelope
		env.From = s.Keys.Address(Ref{env.ID, rcpt})
		one := *at
		one.Envelope, one.Recipients = &env, []int{rcpt}
		out = append(out, r.o.Next.Deliver(ctx, hop, &one)...)
		if len(out) == 0 {
			continue
		}
		if last := &out[len(out)-1]; last.Remote == "" && last.Reply.Temporary() {
			// Nobody was reached: the others need not wait for the same.
			for _, rest := range at.Recipients[i+1:] {
				o := *last
				o.Recipient = rest
				out = append(out, o)
			}
			return out
		}
	}
	return out
}
