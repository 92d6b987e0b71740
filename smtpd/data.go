package smtpd

import (
	"errors"
	"strconv"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/wire"
)

// usualSize is what a content is thought to have when nobody says: it is read
// at once.
const usualSize = 10 << 10

// DATA takes a message that ends in a line with a dot (RFC 5321 4.1.1.4).
func (s *session) DATA(arg string) mail.Reply {
	r := nothing()
	switch {
	case arg != "":
		r = s.noArgument()
	case s.env == nil:
		r = s.bad(503, 1, "MAIL comes first")
	case s.env.Body == mail.BodyBinaryMIME:
		r = s.bad(503, 1, "BODY=BINARYMIME needs BDAT") // RFC 3030 3
	case len(s.env.Recipients) == 0:
		r = say(554, 5, 1, "No valid recipients")
	}
	if r.Code != 0 {
		// A client that did not wait for 354 has sent the content already.
		// What is seen of it is not read; what is still on its way is told
		// from a command by its first line.
		if s.wary = true; len(s.wire.Buffered()) > 0 {
			s.finish(endHang, "data unasked")
		}
		return r
	}
	go354 := plain(354, "End data with <CR><LF>.<CR><LF>")
	s.write(&go354)
	if err := s.wire.Flush(); err != nil { // Acceptor may take its time before it reads
		s.lost(err)
		return nothing()
	}
	s.wire.Expect(max(s.declared, usualSize))
	return s.accept(s.newBody(s.env))
}

// BDAT takes a chunk of a message (RFC 3030 2).
func (s *session) BDAT(arg string) mail.Reply {
	size, last, ok := wire.ParseChunk(arg)
	if !ok {
		s.finish(endHang, "bad chunk size") // where the chunk ends is not known
		return s.bad(501, 4, "It is BDAT size or BDAT size LAST")
	}
	switch {
	case s.env == nil:
		return s.skipChunk(size, s.bad(503, 1, "MAIL comes first"))
	case len(s.env.Recipients) == 0:
		return s.skipChunk(size, say(554, 5, 1, "No valid recipients"))
	case size > s.limits.Size:
		s.reset()
		return s.skipChunk(size, tooBig())
	}
	b := s.newBody(s.env)
	b.scan = wire.NewScanner(false)
	b.openChunk(size, last)
	return s.accept(b)
}

func (b *body) openChunk(size int64, last bool) {
	b.chunked, b.left, b.last = true, size, last
	if size > 0 {
		b.s.idles--
	}
	b.s.wire.Expect(size)
}

// skipChunk reads over a chunk that is refused, if it is not too long.
func (s *session) skipChunk(size int64, r mail.Reply) mail.Reply {
	s.rejectedContent(&r)
	if size > s.limits.Size {
		s.finish(endHang, "chunk too big")
		return r
	}
	begin := time.Now()
	err := s.wire.Skip(size, func(got int64) time.Time {
		return time.Now().Add(s.limits.Patience(time.Since(begin), got))
	})
	if err != nil {
		return s.interrupted(err, r)
	}
	return r
}

// nextChunk answers a chunk of b that is used up and runs commands until the
// next chunk. Those that end the transaction are put back, and run when
// Acceptor has returned.
func (s *session) nextChunk(b *body) error {
	ok := say(250, 0, 0, strconv.FormatInt(b.got, 10)+" octets so far")
	s.write(&ok)
	for s.end == endNot {
		var line string
		err := b.await(func(deadline time.Time) (err error) {
			line, err = s.lineUntil(deadline)
			return err
		})
		if errors.Is(err, wire.ErrLineEnd) || errors.Is(err, wire.ErrNoLine) || errors.Is(err, wire.ErrLineLong) {
			s.broken(err)
			continue
		}
		if err != nil {
			return err
		}
		verb, arg := wire.SplitVerb(line)
		switch verb {
		case "BDAT":
			size, last, ok := wire.ParseChunk(arg)
			if ok { // what is beyond the limit for messages is noticed while it is read
				b.openChunk(size, last)
				return nil
			}
			s.pushed = line
			return errAborted
		case "RSET", "EHLO", "HELO", "QUIT", "DATA":
			s.pushed = line
			return errAborted
		}
		if r := s.command(line); r.Code != 0 {
			s.answer(&r)
		}
	}
	return errAborted
}

// accept lets Acceptor read a content and gives the reply to it.
func (s *session) accept(b *body) mail.Reply {
	env := s.env
	s.body = b
	err := s.srv.acceptor.Accept(s.srv.ctx, env, b)
	took := time.Since(b.ended)
	s.said.Content(b.got)
	r := s.outcome(b, err)
	if r.Code/100 == 2 {
		s.srv.observer.Accepted(env, b.size, took)
		s.sum.Messages++
		s.errs, s.idles = 0, 0
	} else if r.Code != 0 {
		s.rejectedContent(&r)
	}
	s.reset()
	return r
}

// outcome turns what came of a content into the reply: 250 for one that was
// read to its end and taken, and for no other (RFC 5321 4.2.5).
func (s *session) outcome(b *body, err error) mail.Reply {
	if err == nil && b.done && b.broken == nil && b.refusal == nil {
		return say(250, 0, 0, "Ok: queued as "+s.env.ID.String())
	}
	r := s.acceptError(b, err)
	if b.refusal != nil {
		r = *b.refusal
	}
	if b.broken == nil && !b.done {
		b.broken = b.drain()
	}
	if b.broken != nil {
		return s.interrupted(b.broken, r)
	}
	return r
}

// acceptError gives the reply to an error of Acceptor.
func (s *session) acceptError(b *body, err error) mail.Reply {
	var r *mail.Reply
	switch {
	case err == nil:
		err = errors.New("taken although its content had not come to its end")
	case b.broken != nil || b.refusal != nil:
		return tempFail() // what is wrong is not Acceptor's, and the caller knows it
	case errors.As(err, &r) && (r.Temporary() || r.Permanent()):
		return refusal(r)
	}
	s.log.Error("message not accepted", "id", s.env.ID.String(), "remote", s.remote, "error", err)
	return tempFail()
}

// interrupted gives the reply to a content or chunk that was not read to its
// end, r where there is no better one. The connection does not go on.
func (s *session) interrupted(err error, r mail.Reply) mail.Reply {
	switch {
	case errors.Is(err, errAborted):
		return nothing() // the next command is at hand, or the end is
	case errors.Is(err, wire.ErrLineEnd):
		s.finish(endHang, "line end")
		return say(550, 5, 2, "Lines of a message end in CRLF, and hold neither a bare CR or LF nor a NUL")
	case errors.Is(err, errFlood):
		s.finish(endHang, "content too long")
		return r
	case wire.IsTimeout(err):
		s.finish(endHang, "timeout")
		return say(421, 4, 2, "Timeout within a message, closing")
	}
	s.lost(err)
	return nothing()
}

// rejectedContent tells the observer of a refused content.
func (s *session) rejectedContent(r *mail.Reply) { s.rejected("", r) }
