package smtpd

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/guard"
	"github.com/clrelay/clrelay/smtpd/wire"
)

// ending says how a session ends after the reply in hand.
type ending uint8

const (
	endNot  ending = iota
	endHang        // write the reply, throw input away for a while, close
	endQuit        // write the reply and close
	endDrop        // close
)

// session is one connection and where its conversation stands.
type session struct {
	srv     *Server
	lis     *Listener
	wire    *wire.Conn
	remote  string // the other end of the transport, for the log
	limits  *Limits
	log     *slog.Logger
	client  mail.Client
	visit   guard.Visit       // nil until it was let in
	said    *dialogue.Session // nil while nobody listens
	network netip.Prefix      // what it is counted under, when it is
	begun   time.Time
	expires time.Time // when it has lived long enough; zero: never
	begins  int       // transactions that were begun

	greeted  bool           // HELO or EHLO was said
	ehlo     bool           // it was EHLO
	env      *mail.Envelope // the open transaction
	declared int64          // its SIZE
	held     int64          // octets that its recipients take
	body     *body          // the content that is being read
	pushed   string         // a command that ended an open content and is still to be run
	wary     bool           // DATA was just refused: the next line had better be a command

	end     ending
	endWord string
	sum     Summary
	errs    int // since the last accepted message
	idles   int // commands since the last accepted message that brought no message forward
}

func newSession(srv *Server, conn net.Conn, lis *Listener, limits *Limits) *session {
	now := time.Now()
	return &session{
		srv: srv, lis: lis, limits: limits, log: srv.log,
		wire:   wire.New(conn, &srv.pool, limits.Write),
		remote: conn.RemoteAddr().String(), begun: now, expires: limits.Expiry(now),
	}
}

// serve is the life of a session.
func (s *session) serve() {
	defer s.srv.leave(s)
	defer s.leave()
	defer s.wire.Close()
	defer s.reset()
	defer s.survive()
	if !s.open() {
		return
	}
	for s.end == endNot {
		line, err := s.nextLine()
		if err != nil {
			s.broken(err)
			continue
		}
		r := s.command(line)
		if r.Code != 0 {
			s.answer(&r)
		}
	}
	switch s.end {
	case endHang:
		s.wire.HangUp(s.limits.Discard)
	case endQuit:
		if s.wire.Flush() == nil && len(s.wire.Buffered()) > 0 {
			s.wire.HangUp(s.limits.Discard)
		}
	}
	s.wire.Release()
	s.said.End(s.endWord)
	s.sum.Duration, s.sum.End = time.Since(s.begun), s.endWord
	s.srv.observer.Closed(&s.client, s.sum)
}

// leave tells the guard.
func (s *session) leave() {
	if s.visit != nil {
		s.visit.Leave()
	}
}

// rest keeps a client waiting. The end of the server is not held up by it.
func (s *session) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.srv.ctx.Done():
	}
}

// survive keeps a fault in one session from ending all of them. While a
// message is being stored a panic goes on and ends the process: what the store
// holds in memory could be wrong then, and a restart reads it from the disk.
func (s *session) survive() {
	if s.body != nil {
		return
	}
	if p := recover(); p != nil {
		s.log.Error("a session broke", "remote", s.remote, "panic", p, "stack", string(debug.Stack()))
	}
}

// finish ends the session after the reply in hand. The first reason stays.
func (s *session) finish(how ending, word string) {
	if s.end == endNot {
		s.end, s.endWord = how, word
	}
}

// nextLine gives the next command line.
func (s *session) nextLine() (string, error) {
	if line := s.pushed; line != "" {
		s.pushed = ""
		return line, nil
	}
	return s.lineUntil(s.patience(time.Now()))
}

func (s *session) lineUntil(deadline time.Time) (string, error) {
	line, err := s.wire.Line(deadline, s.env == nil)
	s.sum.Commands++
	text := string(line)
	if err == nil {
		s.said.Command(text)
	}
	return text, err
}

// broken ends the session after a line that is none.
func (s *session) broken(err error) {
	switch {
	case errors.Is(err, wire.ErrLineEnd):
		s.refuseAll(say(521, 5, 2, "Lines end in CRLF, and hold neither a bare CR or LF nor a NUL"), "line end")
	case errors.Is(err, wire.ErrNoLine):
		s.refuseAll(say(500, 5, 2, "Line too long"), "line too long")
	case errors.Is(err, wire.ErrLineLong):
		r := say(500, 5, 2, "Line too long")
		s.answer(&r)
	case errors.Is(err, wire.ErrInterrupted):
		r := goingDown()
		s.write(&r)
		s.finish(endHang, "draining")
	case wire.IsTimeout(err) && s.env == nil && s.aged(time.Now()):
		r := s.moveOn()
		s.write(&r)
	case wire.IsTimeout(err):
		s.timeout()
	default:
		s.lost(err)
	}
}

// refuseAll says why nothing more is read, and ends the session.
func (s *session) refuseAll(r mail.Reply, word string) {
	s.rejected("", &r)
	s.write(&r)
	s.finish(endHang, word)
}

func (s *session) timeout() {
	r := say(421, 4, 2, "Timeout, closing")
	s.write(&r)
	s.finish(endHang, "timeout")
}

// lost ends a session whose client is gone.
func (s *session) lost(err error) {
	s.log.Debug("connection lost", "remote", s.remote, "error", err)
	s.finish(endDrop, "lost")
}

// command runs one command line.
func (s *session) command(line string) mail.Reply {
	verb, arg := wire.SplitVerb(line)
	if limit := wire.LineLimit(verb); len(line)+2 > limit {
		return s.bad(500, 2, "Line too long")
	}
	wary := s.wary
	s.wary = false
	s.idles++
	switch verb {
	case "HELO":
		return s.HELO(arg)
	case "EHLO":
		return s.EHLO(arg)
	case "MAIL":
		return s.MAIL(arg)
	case "RCPT":
		return s.RCPT(arg)
	case "DATA":
		return s.DATA(arg)
	case "BDAT":
		return s.BDAT(arg)
	case "RSET":
		return s.RSET(arg)
	case "NOOP":
		return say(250, 0, 0, "Ok")
	case "QUIT":
		return s.QUIT(arg)
	case "STARTTLS":
		return s.STARTTLS(arg)
	case "VRFY":
		return s.VRFY(arg)
	case "EXPN":
		return say(502, 5, 1, "Not implemented")
	case "HELP":
		return say(214, 0, 0, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT STARTTLS VRFY\nSee RFC 5321")
	}
	return s.unknown(verb, wary)
}

// unknown answers what is no command. What a browser says, or a mail's header
// or body, is not followed by SMTP: nothing more is read.
func (s *session) unknown(verb string, wary bool) mail.Reply {
	switch verb {
	case "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI":
		s.finish(endHang, "not smtp")
		return say(521, 7, 0, "This is no web server")
	}
	if strings.HasSuffix(verb, ":") || wary {
		s.finish(endHang, "not smtp")
		return say(521, 5, 1, "Not a command, and what follows would be none either")
	}
	return s.bad(500, 1, "Unknown command")
}

// answer counts a reply, queues it, and ends the session that made too many
// errors.
func (s *session) answer(r *mail.Reply) {
	if d := s.visit.Answered(r); d > 0 {
		s.rest(d)
		s.visit.Rested()
	}
	s.write(r)
	if isMistake(r) {
		s.errs++
		s.sum.Errors++
	}
	switch {
	case s.end != endNot:
	case s.errs >= s.limits.Errors:
		s.overdone(say(421, 7, 0, "Too many errors"))
	case s.idles > s.limits.Commands:
		s.overdone(say(421, 7, 0, "Too many commands without a message"))
	}
}

// isMistake tells whether a reply is to a mistake in form or order. Addresses
// (x.1.x) are not counted as such: a long list may hold many bad ones.
func isMistake(r *mail.Reply) bool {
	switch r.Code {
	case 500, 501, 502, 503, 555:
		return r.Enhanced[1] != 1
	}
	return false
}

func (s *session) overdone(r mail.Reply) {
	s.rejected("", &r)
	s.write(&r)
	s.finish(endHang, "overdone")
}

func (s *session) write(r *mail.Reply) {
	if s.said != nil {
		s.said.Reply(string(wire.AppendReply(nil, r)))
	}
	if err := s.wire.Reply(r); err != nil {
		s.lost(err)
	}
}

// bad builds the refusal of a command for its form (501 5.5.4 ...).
func (s *session) bad(code, detail int, text string) mail.Reply { return say(code, 5, detail, text) }

// rejected tells the observer of a refusal.
func (s *session) rejected(to string, r *mail.Reply) {
	from := ""
	if s.env != nil {
		from = s.env.From.String()
	}
	s.srv.observer.Rejected(&s.client, from, to, r)
}

// reset forgets the transaction (RFC 5321 4.1.1.5).
func (s *session) reset() {
	s.srv.held.Add(-s.held)
	s.env, s.body, s.declared, s.held = nil, nil, 0, 0
}
