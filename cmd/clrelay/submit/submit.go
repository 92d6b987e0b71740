// Package submit hands a message to a relay over SMTP, for commands that are
// clients of their own relay. It queues for all recipients of a transaction or
// for none: a command that failed can be tried again as it was.
package submit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
)

// DefaultAddr is where a relay is looked for that nobody named.
const DefaultAddr = "127.0.0.1:25"

// Server is the relay's door.
type Server struct {
	Addr     string // host:port
	Hostname string // what the client calls itself
}

// Queued is a message that a relay took.
type Queued struct {
	ID         string           // empty where the relay names none
	Recipients []mail.Recipient // of this message: there is more than one where the relay takes only so many at once
	Reply      string
}

// Error is why nothing, or not all, was queued.
type Error struct {
	Reply  mail.Reply
	Rcpt   string // whom it is about; empty for the message as a whole
	Unsure bool   // the content was sent and no answer came
	Done   []Queued
}

// Error says what happened and what was queued.
func (e *Error) Error() string {
	text := e.Reply.Error()
	if e.Rcpt != "" {
		text = "<" + e.Rcpt + ">: " + text
	}
	switch {
	case e.Unsure:
		return text + "; the relay did not answer after the message was sent: it may have queued it"
	case len(e.Done) > 0:
		n := 0
		for _, q := range e.Done {
			n += len(q.Recipients)
		}
		return fmt.Sprintf("%s; queued for the first %d recipients as %s, for the others nothing was queued", text, n, e.Done[0].ID)
	}
	return text + "; nothing was queued"
}

// timeouts are those of a client next door.
func timeouts() smtpc.Timeouts {
	const wait = time.Minute
	return smtpc.Timeouts{Connect: 10 * time.Second, Greeting: wait, Hello: wait, Mail: wait, Rcpt: wait, Data: wait}
}

// Send hands over one message. The error is an *Error, but for an address that
// means nothing.
func Send(ctx context.Context, s Server, env *mail.Envelope, content smtpc.Content) ([]Queued, error) {
	target, err := s.target(ctx)
	if err != nil {
		return nil, err
	}
	pool := smtpc.NewPool(smtpc.Options{Hostname: s.Hostname, Timeouts: timeouts()})
	defer pool.Close()
	conn, failed := pool.Dial(ctx, target, smtpc.Counted{})
	if failed != nil {
		return nil, &Error{Reply: failed.Reply}
	}
	defer func() { pool.Put(conn) }()
	left := make([]int, len(env.Recipients))
	for i := range left {
		left[i] = i
	}
	var done []Queued
	for len(left) > 0 {
		q, again, err := once(ctx, conn, &smtpc.Transaction{Envelope: env, Recipients: left, Content: content})
		if err != nil {
			err.Done = done
			return done, err
		}
		done = append(done, *q)
		left = again
	}
	return done, nil
}

// errSome ends a transaction of which not all recipients were taken.
var errSome = errors.New("not every recipient was taken")

// once does one transaction, and says for whom another is needed.
func once(ctx context.Context, conn *smtpc.Conn, tx *smtpc.Transaction) (*Queued, []int, *Error) {
	res := make([]smtpc.Result, len(tx.Recipients))
	var refused *Error
	tx.BeforeDot = func() error {
		for i := range res {
			if res[i].Done || res[i].Elsewhere {
				refused = &Error{Reply: res[i].Reply, Rcpt: tx.Envelope.Recipients[tx.Recipients[i]].Addr.String()}
				return errSome // nobody gets it
			}
		}
		return nil
	}
	failed := conn.Send(ctx, tx, res)
	if refused != nil {
		return nil, nil, refused
	}
	q := &Queued{}
	var again []int
	for i := range res {
		r, rcpt := &res[i], &tx.Envelope.Recipients[tx.Recipients[i]]
		switch {
		case r.Done && r.Reply.Positive():
			q.Recipients = append(q.Recipients, *rcpt)
			q.Reply = r.Reply.Line()
		case r.Again && failed == nil:
			again = append(again, tx.Recipients[i])
		case r.Done || r.Elsewhere:
			e := &Error{Reply: r.Reply, Rcpt: rcpt.Addr.String(), Unsure: r.Unsure}
			if len(res) > 1 && r.Reply.Line() == res[0].Reply.Line() && r.Reply.Line() == res[len(res)-1].Reply.Line() {
				e.Rcpt = "" // it is about the sender, or the content
			}
			return nil, nil, e
		}
	}
	switch {
	case failed != nil:
		return nil, nil, &Error{Reply: failed.Reply}
	case len(q.Recipients) == 0: // all of them "again" would go on for ever
		return nil, nil, &Error{Reply: res[0].Reply}
	}
	if m := queuedAs.FindStringSubmatch(q.Reply); m != nil {
		q.ID = m[1]
	}
	return q, again, nil
}

var queuedAs = regexp.MustCompile(`queued as ([0-9A-Za-z]+)`)

// target finds the address of the relay.
func (s *Server) target(ctx context.Context) (smtpc.Target, error) {
	addr := s.Addr
	if !strings.Contains(addr, ":") {
		addr += ":25"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return smtpc.Target{}, fmt.Errorf("%q is no host:port of a relay, such as %s", s.Addr, DefaultAddr)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return smtpc.Target{}, fmt.Errorf("%q has no port that means anything", s.Addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return smtpc.Target{}, &Error{Reply: *mail.NewReply(451, "4.4.3", "the relay "+host+" has no address: "+err.Error())}
	}
	t := smtpc.Target{Name: host, Addr: netip.AddrPortFrom(ips[0].Unmap(), uint16(n))}
	if t.Addr.Addr().IsLoopback() {
		t.TLS = mail.TLSNone
	}
	return t, nil
}

// Door is the address at which the relay of this machine takes mail from its
// own programs, as its node.yaml says: the first listener that speaks SMTP
// from the start, without the header of a proxy.
func Door(node *config.Node) string {
	loop4, loop6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for i := range node.SMTP {
		l := &node.SMTP[i]
		to := l.Listen.Addr
		switch {
		case !to.IsValid(), to == netip.IPv4Unspecified():
			to = loop4
		case to == netip.IPv6Unspecified():
			to = loop6
		}
		if l.Mode != config.ModeRelay && l.Mode != "" || l.TLS != nil && l.TLS.Implicit || within(l.ProxyFrom, to) || l.Listen.Port == 0 {
			continue
		}
		return netip.AddrPortFrom(to, l.Listen.Port).String()
	}
	return DefaultAddr
}

// within tells whether a connection from addr would have to begin with the
// header of a proxy: one to an address of this machine comes from it.
func within(proxies []config.Network, addr netip.Addr) bool {
	for _, p := range config.Prefixes(proxies) {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
