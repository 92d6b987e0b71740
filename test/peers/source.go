package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Source sends mail to a relay over a number of sessions.
type Source struct {
	Addr     string // the relay's
	Sessions int
	Reuse    bool // keep connections; otherwise one a message
	Size     int  // octets of content a message; less than 256 counts as 256
	From     string
	// Rcpt gives the recipient of a message; nil: u@sink.test.
	Rcpt func(seq int64) string
	// Body makes the content behind the headers; nil: lines of text.
	Body func(seq int64, size int) []byte
	// Pace returns when it is time to send a message; nil: at once.
	Pace func(seq int64)
	// Timeout bounds each answer; zero: a minute.
	Timeout time.Duration
}

// Sent is what a Source did.
type Sent struct {
	Accepted []int64         // numbers that got their 250
	Latency  []time.Duration // final dot to 250 of each, sorted
	Errors   int             // connections or transactions that failed
	LastErr  error
	Took     time.Duration
}

// Quantile gives the latency that a share q of the messages stayed below.
func (s *Sent) Quantile(q float64) time.Duration {
	if len(s.Latency) == 0 {
		return 0
	}
	return s.Latency[min(len(s.Latency)-1, int(q*float64(len(s.Latency))))]
}

// Run sends the messages numbered first to first+n-1, each once whatever
// happens to it, and stops early when ctx ends.
func (s *Source) Run(ctx context.Context, first int64, n int) *Sent {
	start := time.Now()
	var next atomic.Int64
	next.Store(first)
	results := make([]Sent, s.Sessions)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			ss := &session{src: s, res: &results[i]}
			for ctx.Err() == nil {
				seq := next.Add(1) - 1
				if seq >= first+int64(n) {
					break
				}
				if s.Pace != nil {
					s.Pace(seq)
				}
				ss.send(ctx, seq)
			}
			ss.quit()
		})
	}
	wg.Wait()
	all := &Sent{Took: time.Since(start)}
	for _, r := range results {
		all.Accepted = append(all.Accepted, r.Accepted...)
		all.Latency = append(all.Latency, r.Latency...)
		all.Errors += r.Errors
		if r.LastErr != nil {
			all.LastErr = r.LastErr
		}
	}
	slices.Sort(all.Latency)
	return all
}

// Message gives the content of a message as the source sends it, before dot
// stuffing: it begins with SeqHeader and ends in CRLF.
func (s *Source) Message(seq int64) []byte {
	head := fmt.Sprintf("%s%0*d\r\nFrom: <%s>\r\nTo: <%s>\r\nSubject: message %d\r\nMIME-Version: 1.0\r\n\r\n",
		SeqHeader, seqDigits, seq, s.from(), s.rcpt(seq), seq)
	size := max(s.Size, 256) - len(head)
	if s.Body != nil {
		return append([]byte(head), s.Body(seq, size)...)
	}
	const line = "The quick brown fox jumps over the lazy dog, and the relay keeps its word.\r\n"
	body := strings.Repeat(line, size/len(line)+1)[:max(size-2, 0)]
	if cut, ok := strings.CutSuffix(body, "\r"); ok {
		body = cut + "." // a bare CR is refused
	}
	return append([]byte(head), body+"\r\n"...)
}

// Sum is the digest that a Sink with Hash finds for that message.
func (s *Source) Sum(seq int64) [32]byte { return sha256.Sum256(s.Message(seq)) }

func (s *Source) from() string {
	if s.From != "" {
		return s.From
	}
	return "source@load.test"
}

func (s *Source) rcpt(seq int64) string {
	if s.Rcpt != nil {
		return s.Rcpt(seq)
	}
	return "u@sink.test"
}

// session is one connection after another, used by one goroutine.
type session struct {
	src  *Source
	res  *Sent
	conn net.Conn
	r    *bufio.Reader
	text []byte // the last message as it goes over the wire, when all are alike

	moved bool // the last reply that was not wanted is 421
}

// errMoved is a 421 to MAIL on a connection that is kept.
var errMoved = errors.New("the relay wants a new connection")

func (s *session) send(ctx context.Context, seq int64) {
	kept := s.conn != nil
	took, err := s.transaction(ctx, seq)
	if kept && errors.Is(err, errMoved) { // the relay moves long-lived connections on
		s.drop()
		took, err = s.transaction(ctx, seq)
	}
	if err != nil {
		s.res.Errors++
		s.res.LastErr = fmt.Errorf("message %d: %w", seq, err)
		s.drop()
		return
	}
	s.res.Accepted = append(s.res.Accepted, seq)
	s.res.Latency = append(s.res.Latency, took)
	if !s.src.Reuse {
		s.quit()
	}
}

func (s *session) transaction(ctx context.Context, seq int64) (time.Duration, error) {
	if err := s.connect(ctx); err != nil {
		return 0, err
	}
	timeout := s.src.Timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	if err := s.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(s.conn, "MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n", s.src.from(), s.src.rcpt(seq)); err != nil {
		return 0, err
	}
	for i, want := range []byte{'2', '2', '3'} {
		if err := s.expect(want); err != nil {
			if i == 0 && s.moved {
				err = errMoved
			}
			return 0, err
		}
	}
	if _, err := s.conn.Write(s.wire(seq)); err != nil {
		return 0, err
	}
	dot := time.Now()
	if err := s.expect('2'); err != nil {
		return 0, err
	}
	return time.Since(dot), nil
}

// wire gives the stuffed content with the final dot. With the plain body it
// is made once and only the number is put in anew: a generator must be cheap.
func (s *session) wire(seq int64) []byte {
	if s.src.Body == nil && s.src.Rcpt == nil && s.text != nil {
		copy(s.text[len(SeqHeader):], fmt.Sprintf("%0*d", seqDigits, seq))
		return s.text
	}
	s.text = Stuff(s.src.Message(seq))
	return s.text
}

// Stuff doubles the dots at line starts and adds the final dot (RFC 5321
// 4.5.2). The content has to end in CRLF.
func Stuff(content []byte) []byte {
	text := strings.ReplaceAll(string(content), "\r\n.", "\r\n..")
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	return append([]byte(text), ".\r\n"...)
}

func (s *session) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", s.src.Addr)
	if err != nil {
		return err
	}
	s.conn, s.r = c, bufio.NewReader(c)
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if err := s.expect('2'); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "EHLO source.test\r\n"); err != nil {
		return err
	}
	return s.expect('2')
}

// expect reads one reply and wants its code to begin with class.
func (s *session) expect(class byte) error {
	for {
		line, err := s.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if len(line) < 4 || line[0] != class {
			s.moved = bytes.HasPrefix(line, []byte("421"))
			return fmt.Errorf("the relay said %q", strings.TrimSpace(string(line)))
		}
		return nil
	}
}

func (s *session) quit() {
	if s.conn != nil {
		if _, err := s.conn.Write([]byte("QUIT\r\n")); err == nil {
			_ = s.expect('2') // the connection is closed whatever it says
		}
	}
	s.drop()
}

func (s *session) drop() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn, s.text, s.moved = nil, nil, false
}

// RandomBody makes content that is hard on a relay: lines of any length, 8-bit
// octets, dots at line starts. The same seq gives the same octets.
func RandomBody(seq int64, size int) []byte {
	rng := rand.New(rand.NewPCG(uint64(seq), 0x636c72656c6179))
	out := make([]byte, 0, size+64)
	for len(out) < size {
		if rng.IntN(4) == 0 {
			out = append(out, strings.Repeat(".", 1+rng.IntN(3))...)
		}
		for range rng.IntN(120) {
			b := byte(rng.IntN(256))
			if b == 0 || b == '\r' || b == '\n' {
				b = '.'
			}
			out = append(out, b)
		}
		if rng.IntN(20) == 0 {
			out = append(out, strings.Repeat("x", rng.IntN(3000))...)
		}
		out = append(out, "\r\n"...)
	}
	return out
}
