package delivery

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/ranking"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
)

// Content is what an attempt sends. A reader that is an io.WriterTo should
// hand out large slices. Open is called once for each transaction, and once
// more where a host makes it needed to look before.
type Content = smtpc.Content

// Attempt is a message for some of its recipients, all with the same next
// hop.
type Attempt struct {
	Envelope   *mail.Envelope
	Recipients []int // indexes into Envelope.Recipients
	Content    Content
	// BeforeDot is called right before the final dot or BDAT LAST is written:
	// behind it lies the chance of a duplicate. It is called again for each
	// further transaction; an error aborts the one at hand. It may be nil.
	BeforeDot func() error
	// Subject is what the limits look at; Site and Source are the agent's
	// matter.
	Subject limit.Subject
	Permit  Permit // from Agent.Admit
}

// Resolver finds hosts in the DNS.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]dnsx.MX, error)
	LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error)
}

// Sources choose the own address that mail leaves from.
type Sources interface {
	// Order gives the sources of a pool for a message to a domain, best first;
	// domain is empty where mail for several goes to the same host. An error
	// says why there is none now.
	Order(pool, message, domain string) ([]source.Source, error)
}

// Limits bound what an agent does. Zero fields get their defaults.
type Limits struct {
	Timeouts      smtpc.Timeouts
	Recipients    int           // of one transaction; 100
	Hosts         int           // addresses that one attempt tries; 5
	HostsFor      time.Duration // after this long an attempt begins with no further host; 10 min
	DeadFor       time.Duration // how long others are preferred to a host that did not answer; 1 min. Not longer than the first retry
	FallbackFor   time.Duration // how long TLS or BDAT that failed is left alone; 10 min
	ConnMessages  int           // transactions of a connection; 500
	ConnAge       time.Duration // 5 min
	ConnIdle      time.Duration // 10 s
	IdleConns     int           // 500
	RememberHosts int           // entries of each memory; 10000
	RankFor       time.Duration // how long it counts how a host answered; 5 min
}

// Options set up an Agent. Hostname and Resolver are needed.
type Options struct {
	Hostname string // what EHLO says
	Resolver Resolver
	Self     []netip.AddrPort // own listeners; an unspecified address stands for all of this machine's
	Limits   Limits
	RootCAs  *x509.CertPool // nil: the system's
	MXPort   uint16         // 25
	Sources  Sources        // nil: the system chooses all
	// Dial connects where the system chooses the source.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	Tap     *dialogue.Tap // who listens to sessions; may be nil
	Log     *slog.Logger
	Metrics *metrics.Delivery

	Limiter allow.Limiter // nil: there are no limits
	Sites   allow.Sites   // nil: there are no sites
	// Heard is told what hosts say, from many goroutines; it must not block.
	// The Word belongs to the call. It may be nil.
	Heard func(*Word)
	// Shape gives how many messages a connection to a site is used for; ok is
	// false where Limits say it. It may be nil.
	Shape func(site string) (messages int, ok bool)
	// Wait gives how long a message that was told this is not to be tried again;
	// 0: that is not known. It may be nil.
	Wait func(site string, at smtpc.Stage, reply *mail.Reply) time.Duration
}

const (
	lostFor = 30 * time.Second // how long an address that this machine did not have is left alone
	probe   = 0.08             // part of the mail that shows whether a worse host is well again
)

// Agent delivers.
type Agent struct {
	o    Options
	pool *smtpc.Pool
	self *self

	dead      *memory // did not answer
	plain     *memory // failed in the TLS handshake
	lost      *memory // addresses of sources, with port 0, that this machine does not have
	answers   *ranking.Memory
	unchunked *memory // offered CHUNKING and did not know BDAT
}

// New makes an agent without connections.
func New(o Options) *Agent {
	l := &o.Limits
	l.Recipients = cmp.Or(l.Recipients, 100)
	l.Hosts = cmp.Or(l.Hosts, 5)
	l.HostsFor = cmp.Or(l.HostsFor, 10*time.Minute)
	l.DeadFor = cmp.Or(l.DeadFor, time.Minute)
	l.FallbackFor = cmp.Or(l.FallbackFor, 10*time.Minute)
	l.RankFor = cmp.Or(l.RankFor, 5*time.Minute)
	l.RememberHosts = cmp.Or(l.RememberHosts, 10000)
	o.MXPort = cmp.Or(o.MXPort, 25)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New().Delivery
	}
	return &Agent{
		o: o,
		pool: smtpc.NewPool(smtpc.Options{
			Hostname: o.Hostname, Timeouts: l.Timeouts, RootCAs: o.RootCAs, Dial: o.Dial,
			MaxMessages: l.ConnMessages, MaxAge: l.ConnAge, MaxIdle: l.ConnIdle, IdleConns: l.IdleConns,
			Metrics: o.Metrics,
		}),
		self:  newSelf(o.Hostname, o.Self),
		dead:  newMemory(l.DeadFor, l.RememberHosts),
		plain: newMemory(l.FallbackFor, l.RememberHosts),
		lost:  newMemory(lostFor, l.RememberHosts),
		answers: ranking.New(ranking.Options{Size: l.RememberHosts, Keep: l.RankFor, Probe: probe,
			Now: time.Now, Rand: rand.Float64}),
		unchunked: newMemory(l.FallbackFor, l.RememberHosts),
	}
}

// Close ends idle connections. Attempts under way go on until their contexts
// end; their connections are closed when they are done.
func (a *Agent) Close() { a.pool.Close() }
