package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// try is one message that a client sent, or tried to. Each has a number of its
// own: a client that tries again takes another, so that a copy is a copy.
type try struct {
	seq   int64
	node  int       // from 0
	began time.Time // MAIL
	dot   time.Time // the final dot was sent; zero: it never was
	ended time.Time
	reply string // "" is a 250
}

// load is the clients of all nodes.
type load struct {
	addrs    []string
	sessions int             // a node
	every    []time.Duration // between two messages of a session, by node
	text     peers.Source

	next atomic.Int64
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	done []try
}

func (l *load) start() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for node := range l.addrs {
		for range l.sessions {
			l.wg.Go(func() { (&session{l: l, node: node}).run(ctx) })
		}
	}
}

// end stops the clients; transactions under way are finished.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// since gives what ended since the n-th.
func (l *load) since(n int) []try {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done[n:len(l.done):len(l.done)]
}

type session struct {
	l    *load
	node int
	conn net.Conn
	r    *bufio.Reader
}

// answerWait bounds each answer: longer than a relay may let a client wait.
const answerWait = 40 * time.Second

func (s *session) run(ctx context.Context) {
	defer s.drop()
	for {
		t := time.NewTimer(time.Duration(float64(s.l.every[s.node]) * (0.5 + rand.Float64())))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if s.conn == nil && s.connect(ctx) != nil {
			s.drop()
			continue
		}
		a := try{seq: s.l.next.Add(1), node: s.node, began: time.Now()}
		if err := s.send(&a); err != nil {
			a.reply = err.Error()
			var broken *net.OpError
			if errors.As(err, &broken) { // without the ports, which tell nothing
				a.reply = broken.Err.Error()
			}
			s.drop()
		}
		a.ended = time.Now()
		s.l.mu.Lock()
		s.l.done = append(s.l.done, a)
		s.l.mu.Unlock()
	}
}

func (s *session) connect(ctx context.Context) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "tcp", s.l.addrs[s.node])
	if err != nil {
		return err
	}
	s.conn, s.r = c, bufio.NewReader(c)
	if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	if err := s.expect("220"); err != nil {
		return err
	}
	return s.say("EHLO client.test\r\n", "250")
}

func (s *session) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

func (s *session) send(a *try) error {
	if err := s.conn.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	for _, step := range [][2]string{
		{"MAIL FROM:<" + s.l.text.From + ">\r\n", "250"}, {"RCPT TO:<u@sink.test>\r\n", "250"}, {"DATA\r\n", "354"},
	} {
		if err := s.say(step[0], step[1]); err != nil {
			return err
		}
	}
	a.dot = time.Now()
	return s.say(string(peers.Stuff(s.l.text.Message(a.seq))), "250")
}

func (s *session) say(text, want string) error {
	if _, err := s.conn.Write([]byte(text)); err != nil {
		return err
	}
	return s.expect(want)
}

func (s *session) expect(want string) error {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return err
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, want) {
			return fmt.Errorf("%s", strings.TrimSpace(line))
		}
		return nil
	}
}
