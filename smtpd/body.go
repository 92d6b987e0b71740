package smtpd

import (
	"errors"
	"io"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/guard"
	"github.com/clrelay/clrelay/smtpd/wire"
)

var (
	errCutOff  = errors.New("the client went away within a message")
	errAborted = errors.New("the client gave the message up")
	errRefused = errors.New("the content was refused")
	errFlood   = errors.New("a refused content went on for too long")
)

// drainSlack is how many octets more than the greatest message are drained
// when a content is refused.
const drainSlack = 64 << 10

// body is the content of a message on its way from the wire to Acceptor, as
// an io.Reader: our Received line, then what the client sends by DATA or in
// the chunks of BDAT. It belongs to the session's goroutine. Between two
// chunks it runs the commands that come there (see session.nextChunk), so
// that a content in many chunks needs no second goroutine and no copy.
//
// Two things can go wrong, apart. broken: the wire is at odds (a bare CR, a
// timeout, the client gone) and nothing more is read. refusal: the content is
// not wanted, yet its end can be found.
type body struct {
	s     *session
	trace []byte // our Received line, what of it is still to be handed out
	size  int64  // octets handed out, with the trace

	scan   wire.Scanner
	clean  int           // octets at the front of the wire's buffer that are judged to be content
	next   wire.Event    // what follows them
	got    int64         // octets of content
	waited time.Duration // for the client
	header wire.Header

	chunked bool
	binary  bool  // BINARYMIME: no rule for line ends
	left    int64 // octets of the chunk that are not used
	last    bool  // it is the last chunk

	unwanted bool // drain has it
	done     bool
	ended    time.Time
	broken   error
	refusal  *mail.Reply
}

func (s *session) newBody(env *mail.Envelope) *body {
	now := time.Now()
	env.ID, env.Arrived = mail.NewID(now), now
	s.client.Protocol = protocol(s, env)
	env.Client = s.client
	return &body{
		s: s, trace: s.receivedLine(env, now),
		scan: wire.NewScanner(true), binary: env.Body == mail.BodyBinaryMIME,
	}
}

// await runs one wait for the client, which has to end until the deadline, and
// puts its time on the client's account.
func (b *body) await(wait func(deadline time.Time) error) error {
	begin := time.Now()
	err := wait(begin.Add(b.s.limits.Patience(b.waited, b.got)))
	b.waited += time.Since(begin)
	return err
}

// Read hands the content out. It waits for the client only with empty hands.
func (b *body) Read(p []byte) (n int, err error) {
	for n < len(p) && b.refusal == nil {
		var k int
		if len(b.trace) > 0 {
			k = copy(p[n:], b.trace)
			b.trace = b.trace[k:]
		} else {
			if n > 0 && (b.clean == 0 && len(b.s.wire.Buffered()) == 0 || b.chunked && b.left == 0) {
				break
			}
			span, err := b.span()
			if err != nil {
				b.size += int64(n)
				switch {
				case n > 0:
					return n, nil // the error stays, and comes again
				case b.refusal != nil:
					return 0, errRefused // the end was reached, and not wanted
				}
				return 0, err
			}
			k = copy(p[n:], span)
			b.inspect(p[n : n+k])
			b.use(k)
		}
		n += k
	}
	b.size += int64(n)
	if b.refusal != nil {
		return 0, errRefused
	}
	return n, nil
}

// inspect counts what is bounded in a content.
func (b *body) inspect(p []byte) {
	b.got += int64(len(p))
	limits := b.s.limits
	if b.got > limits.Size {
		b.refuse(tooBig())
		return
	}
	if b.header.Done {
		return
	}
	b.header.Feed(p)
	switch h := &b.header; {
	case h.Hops >= limits.Hops:
		b.refuse(say(554, 4, 6, "Too many hops, this looks like a mail loop"))
	case h.Size > limits.HeaderSize || h.Fields > limits.HeaderFields:
		b.refuse(say(554, 6, 0, "Header too big"))
	}
}

func (b *body) refuse(r mail.Reply) {
	if b.refusal == nil {
		b.refusal = &r
	}
}

// span gives the next octets of content, where they lie in the wire's buffer.
// The error is io.EOF at the end.
func (b *body) span() ([]byte, error) {
	for b.clean == 0 {
		if b.broken != nil {
			return nil, b.broken
		}
		if b.done {
			return nil, io.EOF
		}
		if err := b.advance(); err != nil {
			if errors.Is(err, io.EOF) {
				// The client's end is not the content's. Acceptor must never
				// mistake one for the other.
				err = errCutOff
			}
			b.broken = err
		}
	}
	return b.s.wire.Buffered()[:b.clean], nil
}

// use takes n octets of the span off.
func (b *body) use(n int) {
	b.s.wire.Use(n)
	b.clean -= n
	b.left -= int64(n)
}

// advance judges what is in the buffer, reads on when there is nothing, and
// goes over dots and the ends of chunks.
func (b *body) advance() error {
	if b.chunked && b.left == 0 {
		return b.endChunk()
	}
	w := b.s.wire
	switch b.next {
	case wire.Dot:
		w.Use(1)
		b.next = wire.More
	case wire.End:
		w.Use(len(".\r\n"))
		b.finish()
		return nil
	}
	buf := w.Buffered()
	if b.chunked && int64(len(buf)) > b.left {
		buf = buf[:b.left]
	}
	if b.binary {
		b.clean = len(buf)
	} else {
		b.clean, b.next = b.scan.Scan(buf)
	}
	if b.next == wire.Bad {
		return wire.ErrLineEnd
	}
	if b.clean == 0 && b.next == wire.More {
		return b.await(w.Fill)
	}
	return nil
}

// endChunk goes on to the next chunk, or to the end.
func (b *body) endChunk() error {
	if !b.last {
		return b.s.nextChunk(b)
	}
	if b.scan.Open() && !b.binary && !b.unwanted {
		return wire.ErrLineEnd
	}
	b.finish()
	return nil
}

// finish ends a content that came whole. Its message counts now, before it is
// stored: what is refused later for trouble of the store has counted.
func (b *body) finish() {
	b.done, b.ended = true, time.Now()
	if b.refusal == nil && !b.unwanted && b.s.env != nil {
		if v := b.s.visit.Ask(guard.Content, &guard.Question{From: b.s.env.From, Size: b.got}); v != nil {
			b.refuse(refusal(v))
		}
	}
	if env := b.s.env; env != nil {
		env.Arrived, env.MessageID = b.ended, b.header.MessageID
	}
}

// drain reads on to the end of a content that nobody wants, or of the chunk
// it is in. Its octets are judged as before: they are content, never
// commands.
func (b *body) drain() error {
	b.last, b.unwanted = true, true
	for budget := b.s.limits.Size + drainSlack; ; {
		span, err := b.span()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if budget -= int64(len(span)); budget < 0 {
			return errFlood
		}
		b.got += int64(len(span))
		b.use(len(span))
	}
}
