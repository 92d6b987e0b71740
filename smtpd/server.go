package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/bounds"
	"github.com/clrelay/clrelay/smtpd/guard"
	"github.com/clrelay/clrelay/smtpd/later"
	"github.com/clrelay/clrelay/smtpd/wire"
)

// Acceptor takes messages. Accept is called in the session's goroutine with
// the envelope of one transaction and its content, our Received line in
// front. It reads body to io.EOF, and returns nil when the message is safe:
// the client is told 250 then. An error of body is to be returned, nothing is
// kept then. env.Arrived is set anew when body comes to its end. A *mail.Reply
// in the error reaches the client; any other error is 451 to it. ctx ends when
// the server closes hard.
type Acceptor interface {
	Accept(ctx context.Context, env *mail.Envelope, body io.Reader) error
}

// Policy says who may do what. Its methods are called in many sessions at
// once; nil lets pass, a reply of 4yz or 5yz refuses.
type Policy interface {
	// Connect is asked before the greeting.
	Connect(c *mail.Client) mail.Verdict
	// Sender is asked at MAIL, with the null address for "<>". It sets c.Sender.
	Sender(c *mail.Client, from mail.Address) mail.Verdict
	// Recipient is asked at RCPT. It may rewrite to, and sets c.Sender.
	Recipient(c *mail.Client, from mail.Address, to *mail.Recipient) mail.Verdict
}

// Observer is told what happened, for the operator's log and the metrics. It
// is called in the sessions' goroutines and must not block.
type Observer interface {
	// Accepted comes after Acceptor's nil and before the client is told. size
	// is that of the stored message; took is the time from its last octet on.
	Accepted(env *mail.Envelope, size int64, took time.Duration)
	// Rejected comes for each refusal of a connection (from and to empty), a
	// sender, a recipient or a content (to empty).
	Rejected(c *mail.Client, from, to string, r *mail.Reply)
	// Closed comes at the end of each session that got a greeting.
	Closed(c *mail.Client, sum Summary)
}

// Summary is what a session did.
type Summary struct {
	Duration time.Duration
	Messages int    // accepted
	Commands int    // read
	Errors   int    // commands refused for their form or order
	End      string // why it ended, one of a few words
}

// Limits bound what clients can take from the relay.
type Limits = bounds.Limits

// Options are the parts of a Server. Acceptor and Policy must be there.
type Options struct {
	Hostname string // in the greeting and the Received line
	Limits   Limits
	Acceptor Acceptor
	Policy   Policy
	// Ready says at each MAIL whether the relay can take mail: nil, or the
	// reply to give instead (451 4.3.0). A nil Ready is always ready.
	Ready func() *mail.Reply
	Guard guard.Guard // who may do how much; nil: everybody
	// Later says what a client may say of when its mail is to be delivered; nil:
	// nothing.
	Later    func(*mail.Client) later.Offer
	Observer Observer
	Tap      *dialogue.Tap // who listens to sessions; may be nil
	Log      *slog.Logger
}

// Listener is what may differ from one listening socket to the next.
type Listener struct {
	Certs     *Certs         // STARTTLS is offered when there are any
	Implicit  bool           // TLS from the start (RFC 8314 3.3); needs Certs
	ProxyFrom []netip.Prefix // proxies, which must send a PROXY header; nobody else may
	Binary    bool           // BINARYMIME is offered (RFC 3030)
}

// Server runs sessions. Its methods may be called by any goroutine.
type Server struct {
	hostname string
	acceptor Acceptor
	policy   Policy
	ready    func() *mail.Reply
	guard    guard.Guard
	later    func(*mail.Client) later.Offer
	observer Observer
	tap      *dialogue.Tap
	log      *slog.Logger
	limits   atomic.Pointer[Limits]
	pool     wire.Pool
	held     atomic.Int64    // octets that the recipients of open transactions take
	ctx      context.Context // ends when connections are closed hard
	cancel   context.CancelFunc

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	clients   map[netip.Prefix]int
	draining  bool
	closing   bool
	empty     chan struct{} // closed when closing and without sessions
}

// New builds a server that listens nowhere yet.
func New(o Options) (*Server, error) {
	if o.Acceptor == nil || o.Policy == nil || o.Hostname == "" {
		return nil, errors.New("smtpd: a server needs an acceptor, a policy and a host name")
	}
	s := &Server{
		hostname: o.Hostname, acceptor: o.Acceptor, policy: o.Policy, ready: o.Ready, guard: o.Guard, later: o.Later,
		observer: o.Observer, tap: o.Tap, log: o.Log,
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
		clients:   map[netip.Prefix]int{},
		empty:     make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observer == nil {
		s.observer = unobserved{}
	}
	if s.guard == nil {
		s.guard = guard.Nobody{}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.Reload(o.Limits)
	return s, nil
}

// Reload sets the limits of sessions to come. Policies and certificates are
// reloaded by themselves.
func (s *Server) Reload(l Limits) {
	l = l.WithDefaults()
	s.limits.Store(&l)
}

// Serve takes connections from l until Shutdown closes it, which gives nil,
// or until l fails.
func (s *Server) Serve(l net.Listener, o Listener) error {
	if o.Implicit && o.Certs == nil {
		return fmt.Errorf("smtpd: %s: TLS from the start needs a certificate", l.Addr())
	}
	if !s.add(l) {
		return l.Close()
	}
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || !s.has(l) {
				return nil
			}
			var ne net.Error
			if errors.Is(err, net.ErrClosed) || !errors.As(err, &ne) {
				return fmt.Errorf("smtpd: accept on %s: %w", l.Addr(), err)
			}
			// Out of descriptors, most likely: what is open has to end first.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Error("accept", "listener", l.Addr().String(), "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			continue
		}
		pause = 0
		s.start(conn, &o)
	}
}

func (s *Server) add(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) has(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.listeners[l]
	return ok
}

// start begins a session, or refuses one that is too many: that costs no
// goroutine, and a fresh socket takes a short line without blocking.
func (s *Server) start(conn net.Conn, o *Listener) {
	limits := s.limits.Load()
	ses := newSession(s, conn, o, limits)
	s.mu.Lock()
	draining, many := s.draining, len(s.sessions) >= limits.Connections
	if !draining && !many {
		s.sessions[ses] = struct{}{}
	}
	s.mu.Unlock()
	if !draining && !many {
		go ses.serve()
		return
	}
	r := tooMany()
	if draining {
		r = goingDown()
	}
	if !o.Implicit {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write(wire.AppendReply(nil, &r)) // it is closed in any case
	}
	_ = conn.Close()
	s.log.Debug("connection refused", "remote", conn.RemoteAddr().String(), "reply", r.Line())
}

// enter counts a client in, unless it has too many connections already.
func (s *Server) enter(ses *session, n netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[n] >= ses.limits.PerClient {
		return false
	}
	s.clients[n]++
	ses.network = n
	return true
}

// leave takes a session off the books.
func (s *Server) leave(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
	if n := ses.network; n.IsValid() {
		if s.clients[n]--; s.clients[n] <= 0 {
			delete(s.clients, n)
		}
	}
	s.checkEmpty()
}

func (s *Server) checkEmpty() {
	if s.closing && len(s.sessions) == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// network is what connections are counted by: an IPv4 address, or the /64
// that one IPv6 site has at least.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // invalid for an invalid address, which is not counted
	return p
}

// Drain makes the server take no more mail: idle sessions and new connections
// are told 421, transactions that are open may finish. Ports stay open.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for ses := range s.sessions {
		ses.wire.Interrupt()
	}
}

// Resume takes Drain back for new connections.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = s.closing
}

// Sessions tells how many connections are open.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Shutdown drains, waits for the open sessions until ctx ends, then closes
// what is left and the listeners. The error is that of ctx when connections
// had to be closed hard.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.checkEmpty()
	s.mu.Unlock()
	s.Drain()
	var err error
	select {
	case <-s.empty:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for ses := range s.sessions {
		_ = ses.wire.Close() // its session sees it
	}
	for l := range s.listeners {
		delete(s.listeners, l)
		_ = l.Close() // Serve sees it
	}
	return err
}

func tooMany() mail.Reply {
	return say(421, 7, 0, "Too many connections, please try again later")
}

func goingDown() mail.Reply {
	return say(421, 3, 2, "Not taking mail at the moment, please try again later")
}

// unobserved is the Observer of a server without one.
type unobserved struct{}

func (unobserved) Accepted(*mail.Envelope, int64, time.Duration)      {}
func (unobserved) Rejected(*mail.Client, string, string, *mail.Reply) {}
func (unobserved) Closed(*mail.Client, Summary)                       {}
