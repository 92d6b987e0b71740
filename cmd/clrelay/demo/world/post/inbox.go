package post

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Inbox plays the mail servers of all invented domains on one listener.
type Inbox struct {
	server *smtp.Server
	addr   string
	ledger *Ledger

	mu     sync.Mutex
	counts map[string]*Tally
	grey   map[string]bool // recipients that were turned away once
}

// Tally counts what a domain's server said, in recipients.
type Tally struct{ Taken, Later, Never int }

// NewInbox listens on a free port of loopback.
func NewInbox(l *Ledger) (*Inbox, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: inbox: %w", err)
	}
	in := &Inbox{addr: ln.Addr().String(), ledger: l, counts: map[string]*Tally{}, grey: map[string]bool{}}
	in.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &inboxSession{inbox: in, conn: c}, nil }))
	in.server.Domain = "inbox.demo.test"
	in.server.ErrorLog = log.New(io.Discard, "", 0)
	go func() { _ = in.server.Serve(ln) }() // ends with an error when it is closed
	return in, nil
}

// Close ends it.
func (in *Inbox) Close() { in.server.Close() }

// Also serves at another address, on the same port: the lighthouse is repaired.
func (in *Inbox) Also(host string) error {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, in.Port()))
	if err != nil {
		return fmt.Errorf("demo: inbox: %w", err)
	}
	go func() { _ = in.server.Serve(ln) }() // ends with an error when it is closed
	return nil
}

// Port is the port of all its addresses.
func (in *Inbox) Port() string {
	_, port, _ := net.SplitHostPort(in.addr) // it came from a listener
	return port
}

func (in *Inbox) count(domain string) *Tally {
	t := in.counts[domain]
	if t == nil {
		t = &Tally{}
		in.counts[domain] = t
	}
	return t
}

// Tally gives a domain's counts.
func (in *Inbox) Tally(domain string) Tally {
	in.mu.Lock()
	defer in.mu.Unlock()
	return *in.count(domain)
}

// judge says what the server of a recipient's domain says to RCPT.
func (in *Inbox) judge(rcpt string) error {
	user, domain, _ := strings.Cut(rcpt, "@")
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.count(domain)
	if strings.HasPrefix(user, unknownPrefix) {
		t.Never++
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "there is no " + user + " here"}
	}
	if d := find(domain); d != nil && d.grey && !in.grey[rcpt] {
		in.grey[rcpt] = true
		t.Later++
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "greylisted, come back later"}
	}
	return nil
}

type inboxSession struct {
	inbox *Inbox
	conn  *smtp.Conn
	from  string
	rcpts []string
}

func (s *inboxSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *inboxSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.inbox.judge(to); err != nil {
		return err
	}
	s.rcpts = append(s.rcpts, to)
	return nil
}

var finalRecipient = regexp.MustCompile(`(?im)^Final-Recipient: *rfc822; *(\S+)`)

func (s *inboxSession) Data(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, 16<<20))
	if err != nil {
		return err
	}
	seq := findSeq(text)
	if s.from != "" {
		s.inbox.ledger.passedOn(acceptedBy(text), nodeOf(s.conn.Hostname()), time.Now())
	}
	for _, rcpt := range s.rcpts {
		_, domain, _ := strings.Cut(rcpt, "@")
		s.inbox.mu.Lock()
		s.inbox.count(domain).Taken++
		s.inbox.mu.Unlock()
		if s.from != "" {
			s.inbox.ledger.deliveredTo(seq, rcpt)
		}
	}
	if s.from == "" {
		for _, m := range finalRecipient.FindAllSubmatch(text, -1) {
			s.inbox.ledger.bouncedFor(seq, string(m[1]))
		}
	}
	return nil
}

func (s *inboxSession) Reset()        { s.from, s.rcpts = "", nil }
func (s *inboxSession) Logout() error { return nil }

// findSeq finds the number of a message of the load, also of one that a
// report returns.
func findSeq(text []byte) int64 {
	sc := bufio.NewScanner(bytes.NewReader(text))
	for sc.Scan() {
		if rest, ok := strings.CutPrefix(sc.Text(), seqHeader+": "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return -1
}

var receivedBy = regexp.MustCompile(`(?is)^Received: .*?\bby (\S+)`)

// acceptedBy finds the node that took a message from the client: it wrote the
// first line.
func acceptedBy(text []byte) string {
	m := receivedBy.FindSubmatch(text[:min(len(text), 1000)])
	if m == nil {
		return ""
	}
	return nodeOf(string(m[1]))
}

// nodeOf is a node's name from that of its host.
func nodeOf(host string) string {
	name, _, _ := strings.Cut(host, ".")
	return name
}
