package returns

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/dsn/received"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
)

// Settings say which mail gets a return path, and what becomes of what comes
// back.
type Settings struct {
	Keys    *Keys
	Groups  []string      // entries of the setting senders; with From empty as well: all mail
	From    []string      // "jane@example.org", "example.org", "*.example.org": lower case
	Forward bool          // hand on what comes back to the sender of the original
	MaxAge  time.Duration // of the original, from when on nothing is taken any more
}

// covers tells whether a message gets a return path. Reports do not, and what
// has a return path of ours already keeps it.
func (s *Settings) covers(env *mail.Envelope) bool {
	if env.From.IsNull() || strings.EqualFold(env.From.Domain, s.Keys.domain) {
		return false
	}
	if len(s.Groups)+len(s.From) == 0 {
		return true
	}
	for _, g := range s.Groups {
		if g == env.Client.Sender {
			return true
		}
	}
	domain := strings.ToLower(env.From.Domain)
	for _, f := range s.From {
		if parent, wild := strings.CutPrefix(f, "*"); wild && strings.HasSuffix(domain, parent) ||
			f == domain || strings.EqualFold(f, env.From.String()) {
			return true
		}
	}
	return false
}

// Deliverer tries to deliver: delivery's Agent.
type Deliverer interface {
	Deliver(ctx context.Context, hop mail.NextHop, at *delivery.Attempt) []mail.Outcome
}

// Origin is what is remembered of a message: nothing, where From is null.
type Origin struct {
	From       mail.Address
	Recipients []mail.Address // in the order of its envelope, of very many the first
}

// Origins know where messages came from.
type Origins interface {
	// Origin gives what is remembered of a message. An error means that a node
	// which may know cannot be asked now.
	Origin(ctx context.Context, id mail.ID) (Origin, error)
}

// Suppression is an address to which nothing should be sent any more.
type Suppression struct {
	Of        mail.ID // the message that was sent to it
	Address   mail.Address
	Sender    mail.Address // of that message
	Reason    string       // the reply with its codes, or the kind of complaint
	Complaint bool         // it bounced otherwise
}

// Suppressor keeps such addresses. Adding one twice does no harm.
type Suppressor interface {
	Add(ctx context.Context, s Suppression) error
}

// Return is something that came back.
type Return struct {
	ID       mail.ID // of what came back
	Of       Ref     // what it came back for
	Kind     received.Kind
	From, To mail.Address // sender and recipient of the original; null where nobody remembers
	Verdict  bounce.Verdict
	Code     int
	Text     string // the diagnostic, or the kind of complaint
}

// Observer is told of what came back. It must not block.
type Observer interface{ Returned(r *Return) }

// Options say what Returns works with.
type Options struct {
	Next       Deliverer
	Route      func(domain string) (mail.NextHop, *mail.Reply) // where the domain's other mail goes
	Accept     func(ctx context.Context, env *mail.Envelope, body io.Reader) error
	Origins    Origins
	Suppress   Suppressor // nil: there is no list
	Observer   Observer
	Postmaster func() mail.Address // gets what nobody remembers the sender of
	Now        func() time.Time
	Log        *slog.Logger
}

// Returns is the one for a node.
type Returns struct {
	o   Options
	now atomic.Pointer[Settings]
}

// New makes one without settings: it hands everything on.
func New(o Options) *Returns { return &Returns{o: o} }

// Set puts settings into force; nil are none.
func (r *Returns) Set(s *Settings) { r.now.Store(s) }

// Lane is the name of the next hop of return paths.
const Lane = "returns:"

// Hop gives the next hop of the domain of return paths.
func (r *Returns) Hop(domain string) (mail.NextHop, bool) {
	s := r.now.Load()
	if s == nil || !strings.EqualFold(domain, s.Keys.domain) {
		return mail.NextHop{}, false
	}
	return mail.NextHop{Key: Lane + s.Keys.domain, Kind: mail.HopSmarthost, Domain: s.Keys.domain}, true
}

// Recipient judges a recipient that is of the form of a return path; mine is
// false for all others. A forged one, and one of a message that is too old, are
// refused.
func (r *Returns) Recipient(to mail.Address) (mine bool, v mail.Verdict) {
	s := r.now.Load()
	if s == nil || !s.Keys.Has(to) {
		return false, nil
	}
	_, v = r.open(s, to)
	return true, v
}

func (r *Returns) open(s *Settings, to mail.Address) (Ref, *mail.Reply) {
	ref, err := s.Keys.Open(to)
	switch {
	case err != nil:
		return ref, mail.NewReply(550, "5.7.1", "This return path was not made here").WithCause(err)
	case r.o.Now().Sub(ref.ID.Time()) > s.MaxAge:
		return ref, mail.NewReply(550, "5.7.1", "The message of this return path is too old for reports about it")
	}
	return ref, nil
}
