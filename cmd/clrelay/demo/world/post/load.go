package post

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
)

// seqHeader is the header field by which the inbox knows a message again.
const seqHeader = "X-Demo-Seq"

// Load writes mail as an office would and hands it to the relays. A message
// that is not taken is tried again until it is.
type Load struct {
	Addr   string // of the relays, or of what stands before them
	ledger *Ledger
	rate   float64
	work   chan *letter
	seq    atomic.Int64
	// waiting counts the messages that the clients still have.
	waiting atomic.Int64
}

// letter is a message that a client wants to hand over.
type letter struct {
	from  string
	rcpts []string
}

// sender is one client, which keeps its connection.
type sender struct {
	*Load
	rng    *rand.Rand
	client *smtp.Client
	sent   int // on this connection
}

const (
	// waitingMax is how many messages the clients hold back; beyond it they
	// write no more.
	waitingMax = 10_000
	// clientPatience is how long a client waits for an answer.
	clientPatience = 12 * time.Second
	// perConnection is how many messages a client sends before it connects anew.
	perConnection = 10
	// againAfter is how long it waits before it tries again.
	againAfter = 300 * time.Millisecond
)

var queuedAs = regexp.MustCompile(`queued as ([0-9A-Z]+)`)

// NewLoad prepares clients that hand rate messages a second to addr.
func NewLoad(addr string, l *Ledger, rate float64) *Load {
	return &Load{Addr: addr, ledger: l, rate: rate, work: make(chan *letter, waitingMax)}
}

// Run sends rate messages a second until ctx ends, and then what is left of
// them until drain ends.
func (l *Load) Run(ctx, drain context.Context, sessions int) {
	var group sync.WaitGroup
	for i := range sessions {
		s := &sender{Load: l, rng: newRand(uint64(i))}
		group.Go(func() { s.run(drain) })
	}
	rng := newRand(1 << 32)
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			w := &letter{from: pick(rng, people) + "@" + HomeDomain, rcpts: recipients(rng)}
			select {
			case l.work <- w:
				l.waiting.Add(1)
			default:
			}
		}
	}
	close(l.work)
	group.Wait()
}

// Waiting counts the messages that the clients still have.
func (l *Load) Waiting() int { return int(l.waiting.Load()) }

func newRand(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, uint64(time.Now().UnixNano()))) }

// run hands over one letter after the other.
func (s *sender) run(ctx context.Context) {
	defer s.drop()
	for w := range s.work {
		for {
			err := s.send(w)
			if err == nil {
				break
			}
			s.ledger.unanswered()
			s.drop()
			select {
			case <-time.After(againAfter):
				continue
			case <-ctx.Done():
			}
			return
		}
		s.waiting.Add(-1)
	}
}

func (s *sender) drop() {
	if c := s.client; c != nil {
		c.Close()
	}
	s.client, s.sent = nil, 0
}

func (s *sender) dial() error {
	conn, err := net.DialTimeout("tcp", s.Addr, clientPatience)
	if err != nil {
		return err
	}
	c := smtp.NewClient(conn)
	c.CommandTimeout, c.SubmissionTimeout = clientPatience, clientPatience
	s.client = c
	return c.Hello("office." + HomeDomain)
}

func (s *sender) send(w *letter) error {
	if s.client == nil {
		if err := s.dial(); err != nil {
			return err
		}
	}
	seq := s.seq.Add(1)
	if err := s.client.Mail(w.from, nil); err != nil {
		return err
	}
	for _, r := range w.rcpts {
		if err := s.client.Rcpt(r, nil); err != nil {
			return err
		}
	}
	data, err := s.client.Data()
	if err != nil {
		return err
	}
	if _, err := data.Write(s.message(seq, w)); err != nil {
		return err
	}
	res, err := data.CloseWithResponse()
	if err != nil {
		return err
	}
	m := queuedAs.FindStringSubmatch(res.StatusText)
	if m == nil {
		return fmt.Errorf("demo: the relay's 250 names no ID: %q", res.StatusText)
	}
	s.ledger.accepted(seq, w.rcpts, m[1], time.Now())
	if s.sent++; s.sent >= perConnection {
		s.drop()
	}
	return nil
}

// recipients picks one recipient, sometimes two, among the invented domains.
func recipients(rng *rand.Rand) []string {
	out := []string{recipient(rng)}
	if rng.IntN(8) == 0 {
		if r := recipient(rng); r != out[0] {
			out = append(out, r)
		}
	}
	return out
}

func recipient(rng *rand.Rand) string {
	n := rng.IntN(100)
	for _, d := range Domains {
		if n -= d.share; n < 0 {
			user := pick(rng, people)
			if d.unknown > 0 && rng.IntN(100) < d.unknown {
				user = unknownPrefix + user
			}
			return user + "@" + d.Name
		}
	}
	return pick(rng, people) + "@" + Domains[0].Name
}

func (s *sender) message(seq int64, w *letter) []byte {
	var b strings.Builder
	now := time.Now()
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d.%d@%s>\r\n%s: %d\r\n",
		w.from, strings.Join(w.rcpts, ">, <"), pick(s.rng, subjects), now.Format(time.RFC1123Z), now.UnixNano(), seq, HomeDomain, seqHeader, seq)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nHello,\r\n\r\n")
	lines := 3 + s.rng.IntN(30)
	if s.rng.IntN(10) == 0 {
		lines *= 50 // somebody pastes a report
	}
	for range lines {
		b.WriteString(pick(s.rng, sentences))
		b.WriteString("\r\n")
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", strings.SplitN(w.from, "@", 2)[0])
	return []byte(b.String())
}

func pick(rng *rand.Rand, from []string) string { return from[rng.IntN(len(from))] }
