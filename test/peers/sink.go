// Package peers holds the far ends that tests and benchmarks put around a
// relay: a sink that takes mail and keeps the books, and a source that sends
// it. Both scan in bulk, so that they are not what a benchmark measures, and
// both speak to loopback alone.
package peers

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// SeqHeader is the header field by which a Sink knows a message of a Source
// again. The Source writes it first, with a fixed number of digits.
const SeqHeader = "X-Clrelay-Seq: "

const seqDigits = 12

// Sink is an SMTP server that accepts everything and counts.
//
// It offers PIPELINING, 8BITMIME and SIZE, answers a batch of commands in one
// write, and looks at a body only to find its end, its sequence number and,
// with Hash, its digest.
type Sink struct {
	// Hash keeps the SHA-256 of every message from its first header field
	// named SeqHeader on, so that what a relay put in front does not count.
	Hash bool
	// Seen is called for each message before its 250 is sent; a non-empty
	// answer is sent in place of the 250. It may be nil.
	Seen func(seq int64, rcpts []string) string
	// Delay holds back each 250 for that long.
	Delay time.Duration
	// Refused is called for each connection beyond what Narrow allows. It may be
	// nil.
	Refused func(time.Time)
	// Began is called when a MAIL was read; Open once a connection was opened,
	// with how many there are. Both may be nil.
	Began func(time.Time)
	Open  func(conns int)

	messages atomic.Int64
	octets   atomic.Int64
	conns    atomic.Int64
	most     atomic.Int64

	ln     net.Listener
	wg     sync.WaitGroup
	closed atomic.Bool

	mu    sync.Mutex
	live  map[net.Conn]bool
	times map[int64][]time.Time
	sums  map[int64][32]byte
}

// Listen starts the sink on addr ("127.0.0.1:0").
func (s *Sink) Listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("peers: sink: %w", err)
	}
	s.ln = ln
	s.live = map[net.Conn]bool{}
	s.times = map[int64][]time.Time{}
	s.sums = map[int64][32]byte{}
	s.wg.Go(s.accept)
	return nil
}

// Addr is where the sink listens, "127.0.0.1:PORT".
func (s *Sink) Addr() string { return s.ln.Addr().String() }

// Close ends the sink and all its connections.
func (s *Sink) Close() {
	s.closed.Store(true)
	s.ln.Close()
	s.mu.Lock()
	for c := range s.live {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Messages tells how many messages got a 250, Octets how long they were in
// all, Conns how many connections there were.
func (s *Sink) Messages() int64 { return s.messages.Load() }

// Octets is the sum of the lengths of all messages.
func (s *Sink) Octets() int64 { return s.octets.Load() }

// Conns is the number of connections taken so far.
func (s *Sink) Conns() int64 { return s.conns.Load() }

// Times gives when the message with that number came, once for each copy.
func (s *Sink) Times(seq int64) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.times[seq]...)
}

// Near tells whether two copies of a message came within d of each other, both
// between from and to.
func (s *Sink) Near(d time.Duration, from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, times := range s.times {
		var last time.Time
		for _, t := range times { // in their order
			if seq < 0 || t.Before(from) || t.After(to) {
				continue
			}
			if !last.IsZero() && t.Sub(last) < d {
				return true
			}
			last = t
		}
	}
	return false
}

// Distinct tells how many different numbers came, and how many copies more
// than one of a number. Messages without a number are left out.
func (s *Sink) Distinct() (distinct, duplicates int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, t := range s.times {
		if seq >= 0 {
			distinct++
			duplicates += len(t) - 1
		}
	}
	return distinct, duplicates
}

// Sum gives the digest of the message with that number.
func (s *Sink) Sum(seq int64) ([32]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, ok := s.sums[seq]
	return sum, ok
}

// Narrow has it serve so many connections at a time from now on; those beyond are
// told 421 4.7.0, those that are open at their next MAIL.
func (s *Sink) Narrow(most int) { s.most.Store(int64(most)) }

// Reset forgets all messages and counts.
func (s *Sink) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times, s.sums = map[int64][]time.Time{}, map[int64][32]byte{}
	s.messages.Store(0)
	s.octets.Store(0)
	s.conns.Store(0)
}

func (s *Sink) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		s.mu.Lock()
		s.live[c] = true
		open := len(s.live)
		s.mu.Unlock()
		if s.Open != nil {
			s.Open(open)
		}
		if s.narrow(open) {
			s.refuse(c)
			continue
		}
		s.wg.Go(func() {
			(&sinkConn{sink: s, conn: c, buf: make([]byte, 0, 64<<10)}).serve()
			// Whoever sees the end of a connection may open the next one at once.
			s.mu.Lock()
			delete(s.live, c)
			s.mu.Unlock()
			c.Close()
		})
	}
}

// tooMany is what a connection is told that is one too many.
const tooMany = "421 4.7.0 Too many concurrent connections from this network\r\n"

// narrow tells whether so many connections are too many, and that one of them is
// refused.
func (s *Sink) narrow(open int) bool {
	most := s.most.Load()
	if most == 0 || int64(open) <= most {
		return false
	}
	if s.Refused != nil {
		s.Refused(time.Now())
	}
	return true
}

// refuse turns a connection away that is one too many.
func (s *Sink) refuse(c net.Conn) {
	s.wg.Go(func() {
		_, _ = c.Write([]byte(tooMany))
		s.mu.Lock()
		delete(s.live, c)
		s.mu.Unlock()
		c.Close()
	})
}

// sinkConn is one connection: buf holds what was read and not yet used.
type sinkConn struct {
	sink  *Sink
	conn  net.Conn
	buf   []byte
	out   []byte
	rcpts []string
}

var errQuit = errors.New("quit")

func (c *sinkConn) serve() {
	c.out = append(c.out, "220 sink ESMTP\r\n"...)
	for {
		line, err := c.line()
		if err != nil {
			return
		}
		if err := c.command(line); err != nil {
			c.flush()
			return
		}
	}
}

func (c *sinkConn) command(line []byte) error {
	verb := line
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		verb = line[:i]
	}
	switch string(bytes.ToUpper(verb)) {
	case "EHLO":
		c.out = append(c.out, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n"...)
	case "RCPT":
		if c.sink.Seen != nil {
			c.rcpts = append(c.rcpts, string(line))
		}
		c.out = append(c.out, "250 ok\r\n"...)
	case "MAIL", "RSET":
		c.sink.mu.Lock()
		open := len(c.sink.live)
		c.sink.mu.Unlock()
		if c.sink.narrow(open) {
			c.out = append(c.out, tooMany...)
			return errQuit
		}
		if verb[0] == 'M' && c.sink.Began != nil {
			c.sink.Began(time.Now())
		}
		c.rcpts = c.rcpts[:0]
		c.out = append(c.out, "250 ok\r\n"...)
	case "DATA":
		c.out = append(c.out, "354 go\r\n"...)
		return c.data()
	case "QUIT":
		c.out = append(c.out, "221 bye\r\n"...)
		return errQuit
	case "HELO", "NOOP":
		c.out = append(c.out, "250 ok\r\n"...)
	default:
		c.out = append(c.out, "500 what\r\n"...)
	}
	return nil
}

func (c *sinkConn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// fill reads more, after having sent what is to be sent.
func (c *sinkConn) fill() error {
	if err := c.flush(); err != nil {
		return err
	}
	if len(c.buf) == cap(c.buf) {
		return io.ErrShortBuffer
	}
	n, err := c.conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

func (c *sinkConn) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(c.buf, '\n'); i >= 0 {
			line := bytes.TrimRight(c.buf[:i], "\r")
			line = append([]byte(nil), line...)
			c.use(i + 1)
			return line, nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

func (c *sinkConn) use(n int) {
	rest := copy(c.buf, c.buf[n:])
	c.buf = c.buf[:rest]
}

var endOfData = []byte("\r\n.\r\n")

// data reads a body to its end. The last four octets of what was looked at
// stay in the buffer, so that an end that is cut in two is found.
func (c *sinkConn) data() error {
	var b bodyBooks
	b.hash = c.sink.Hash
	for {
		if i := bytes.Index(c.buf, endOfData); i >= 0 {
			b.take(c.buf[:i+2])
			c.use(i + len(endOfData))
			break
		}
		if n := len(c.buf) - (len(endOfData) - 1); n > 4096 || len(c.buf) == cap(c.buf) {
			b.take(c.buf[:n])
			c.use(n)
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
	return c.finish(&b)
}

func (c *sinkConn) finish(b *bodyBooks) error {
	s := c.sink
	if s.Delay > 0 {
		t := time.NewTimer(s.Delay)
		<-t.C
	}
	seq := b.seq()
	if s.Seen != nil {
		if reply := s.Seen(seq, c.rcpts); reply != "" {
			c.out = append(append(c.out, reply...), "\r\n"...)
			return nil
		}
	}
	var sum [32]byte
	if b.hash {
		sum = b.sum()
	}
	s.mu.Lock()
	s.times[seq] = append(s.times[seq], time.Now())
	if b.hash {
		s.sums[seq] = sum
	}
	s.mu.Unlock()
	s.messages.Add(1) // last: who sees the count finds the books complete
	s.octets.Add(b.octets)
	c.out = append(c.out, "250 2.0.0 Ok\r\n"...)
	return nil
}

// bodyBooks sees a body pass by. The head is kept until the number is found
// or 16 KB went by; with hash everything is kept.
type bodyBooks struct {
	octets int64
	hash   bool
	found  bool
	head   []byte
	full   []byte
}

func (b *bodyBooks) take(p []byte) {
	b.octets += int64(len(p))
	if b.hash {
		b.full = append(b.full, p...)
	}
	if b.found {
		return
	}
	if len(b.head) < 16<<10 {
		b.head = append(b.head, p...)
	}
	i := bytes.Index(b.head, []byte(SeqHeader))
	if i < 0 || len(b.head) < i+len(SeqHeader)+seqDigits {
		return
	}
	b.found = true
	b.head = b.head[i+len(SeqHeader) : i+len(SeqHeader)+seqDigits]
}

// sum is the digest of what the sender meant, from the number on: the dots of
// RFC 5321 4.5.2 are taken off.
func (b *bodyBooks) sum() [32]byte {
	text := bytes.ReplaceAll(b.full, []byte("\r\n."), []byte("\r\n"))
	i := max(bytes.Index(text, []byte(SeqHeader)), 0)
	return sha256.Sum256(text[i:])
}

// seq gives the message's number, or -1.
func (b *bodyBooks) seq() int64 {
	if !b.found {
		return -1
	}
	n, err := strconv.ParseInt(string(b.head), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
