// Package smtpctest is a scripted SMTP and LMTP server for the tests of
// delivery and of what stands on it. It is no server for mail: it says what the
// script says, at any stage, right or wrong, and writes down all it is told.
//
// Only tests import it. A Server may serve any number of connections at the
// same time; what it has written down may be read once they have ended, or
// through its methods at any time.
package smtpctest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// What a script may say instead of a reply.
const (
	Close   = "<close>"   // end the connection
	Reset   = "<reset>"   // end it with a RST
	Stall   = "<stall>"   // say nothing more until the client closes
	Silence = "<silence>" // say nothing to this one
	Drip    = "<drip>"    // one octet after another, without an end
	Flood   = "<flood>"   // continuation lines without an end
)

// Connect and Dot are the verbs of a script for the moments that have none.
const (
	Connect = "CONNECT"
	Dot     = "DOT"
)

// Message is what was sent in one transaction.
type Message struct {
	From, Mail string   // the address, and the whole command
	To, Rcpt   []string // accepted ones
	Data       []byte   // without dot-stuffing
	BDAT       bool
	TLS        bool
}

// Server is a script and what came of it.
type Server struct {
	// Say gives the reply to a command, without its CRLF, or one of the words
	// above; "" is what a server that takes everything would say. line is the
	// whole command, session counts connections from 1. It is never called
	// twice at a time; Do changes what it looks at.
	Say  func(session int, verb, line string) string
	Ehlo []string    // keywords; nil: PIPELINING, 8BITMIME, SIZE
	TLS  *tls.Config // for STARTTLS, or for Implicit
	LMTP bool

	Implicit bool // TLS from the start

	saying sync.Mutex // never taken with mu held

	mu       sync.Mutex
	sessions int
	messages []Message
	commands []string
	faults   []string
	wg       sync.WaitGroup
}

// Messages gives what was taken so far.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Commands gives every command line so far, those of all sessions.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// Faults gives what the client did against the protocol.
func (s *Server) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.faults...)
}

// Sessions is the number of connections so far.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// Do calls f while Say is not running.
func (s *Server) Do(f func()) {
	s.saying.Lock()
	defer s.saying.Unlock()
	f()
}

func (s *Server) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// Listen serves on a free port of the loopback interface until the returned
// function is called, which waits for all sessions.
func (s *Server) Listen() (addr net.Addr, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	var conns sync.Map
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(c, true)
			s.wg.Go(func() {
				s.Serve(c)
				conns.Delete(c)
			})
		}
	}()
	return l.Addr(), func() {
		_ = l.Close() // ends Accept
		<-done
		conns.Range(func(c, _ any) bool { return c.(net.Conn).Close() == nil || true })
		s.wg.Wait()
	}, nil
}

var errEnd = errors.New("session over")

type session struct {
	s    *Server
	n    int
	raw  net.Conn
	c    net.Conn
	r    *bufio.Reader
	out  bytes.Buffer
	msg  Message
	mail bool
	tls  bool
}

// Serve has one session on a connection and closes it.
func (s *Server) Serve(raw net.Conn) {
	s.mu.Lock()
	s.sessions++
	ss := &session{s: s, n: s.sessions, raw: raw, c: raw}
	s.mu.Unlock()
	defer raw.Close()
	if s.Implicit {
		ss.c, ss.tls = tls.Server(raw, s.TLS), true
	}
	ss.r = bufio.NewReaderSize(ss.c, 1<<20)
	if ss.say(Connect, "", "220 fake.example ESMTP") != nil {
		return
	}
	for {
		if ss.r.Buffered() == 0 && ss.flush() != nil {
			return
		}
		line, err := ss.r.ReadString('\n')
		if err != nil {
			if line != "" {
				s.fault("octets after the last command: %q", line)
			}
			return
		}
		cmd, ok := strings.CutSuffix(line, "\r\n")
		if !ok || strings.ContainsAny(cmd, "\r\n") {
			s.fault("command without CRLF: %q", line)
		}
		s.mu.Lock()
		s.commands = append(s.commands, cmd)
		s.mu.Unlock()
		if ss.command(cmd) != nil {
			_ = ss.flush() // the connection is closed next
			return
		}
	}
}

func (ss *session) command(line string) error {
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	switch verb {
	case "EHLO", "LHLO":
		return ss.say(verb, line, ss.ehlo())
	case "STARTTLS":
		return ss.startTLS(line)
	case "MAIL":
		ss.msg = Message{Mail: line, From: path(line), TLS: ss.tls}
		return ss.note(ss.say(verb, line, "250 2.1.0 sender ok"), func(ok bool) { ss.mail = ok })
	case "RCPT":
		if !ss.mail {
			return ss.say(verb, line, "503 5.5.1 MAIL first")
		}
		return ss.note(ss.say(verb, line, "250 2.1.5 recipient ok"), func(ok bool) {
			if ok {
				ss.msg.To, ss.msg.Rcpt = append(ss.msg.To, path(line)), append(ss.msg.Rcpt, line)
			}
		})
	case "DATA":
		return ss.data(line)
	case "BDAT":
		return ss.bdat(line)
	case "QUIT":
		if err := ss.say(verb, line, "221 2.0.0 bye"); err != nil {
			return err
		}
		return errEnd
	case "RSET":
		ss.mail, ss.msg = false, Message{}
		return ss.say(verb, line, "250 2.0.0 ok")
	case "HELO", "NOOP":
		return ss.say(verb, line, "250 fake.example")
	}
	return ss.say(verb, line, unknown)
}

func (ss *session) ehlo() string {
	words := ss.s.Ehlo
	if words == nil {
		words = []string{"PIPELINING", "8BITMIME", "SIZE 100000000"}
	}
	words = append([]string{"fake.example"}, words...)
	if ss.s.TLS != nil && !ss.tls {
		words = append(words, "STARTTLS")
	}
	var b strings.Builder
	for i, w := range words {
		sep := "-"
		if i == len(words)-1 {
			sep = " "
		}
		fmt.Fprintf(&b, "250%s%s\r\n", sep, w)
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

func (ss *session) script(verb, line string) string {
	if ss.s.Say == nil {
		return ""
	}
	ss.s.saying.Lock()
	defer ss.s.saying.Unlock()
	return ss.s.Say(ss.n, verb, line)
}

const unknown = "500 5.5.1 unknown"

var (
	errPositive = errors.New("2xx or 3xx")
	errNegative = errors.New("not 2xx or 3xx")
)

// say writes what the script says, or what is usual. Its error is nil for
// replies of any kind; last tells which.
func (ss *session) say(verb, line, usual string) error {
	err := ss.reply(verb, line, usual)
	if errors.Is(err, errPositive) || errors.Is(err, errNegative) {
		return nil
	}
	return err
}

func (ss *session) reply(verb, line, usual string) error {
	r := ss.script(verb, line)
	if r == "" {
		if r = usual; usual == unknown {
			ss.s.fault("unknown command: %q", line)
		}
	}
	switch r {
	case Close:
		return errEnd
	case Reset:
		if t, ok := ss.raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // the RST is all that is asked of it
		}
		return errEnd
	case Silence:
		return errNegative
	case Stall:
		_ = ss.flush()                   // what was said before it fell silent
		_, _ = io.Copy(io.Discard, ss.c) // until the client has enough
		return errEnd
	case Drip, Flood:
		return ss.endless(r)
	}
	ss.out.WriteString(r + "\r\n")
	if r[0] == '2' || r[0] == '3' {
		return errPositive
	}
	return errNegative
}

// endless writes until the client has enough.
func (ss *session) endless(how string) error {
	for {
		if how == Flood {
			ss.out.WriteString("250-and more\r\n")
		} else {
			ss.out.WriteByte('2')
		}
		if err := ss.flush(); err != nil {
			return err
		}
	}
}

func (ss *session) note(err error, f func(ok bool)) error {
	if err == nil {
		last := ss.out.Bytes()
		i := bytes.LastIndexByte(last[:max(len(last)-1, 0)], '\n')
		f(len(last) > i+1 && last[i+1] == '2')
	}
	return err
}

func (ss *session) flush() error {
	if ss.out.Len() == 0 {
		return nil
	}
	_, err := ss.c.Write(ss.out.Bytes())
	ss.out.Reset()
	return err
}

func (ss *session) startTLS(line string) error {
	if err := ss.say("STARTTLS", line, "220 2.0.0 go"); err != nil {
		return err
	}
	go220 := bytes.HasPrefix(ss.out.Bytes(), []byte("220"))
	if err := ss.flush(); err != nil || !go220 {
		return err
	}
	c := tls.Server(ss.raw, ss.s.TLS)
	if err := c.Handshake(); err != nil {
		return err
	}
	ss.c, ss.tls = c, true
	ss.r = bufio.NewReaderSize(c, 1<<20)
	return nil
}

func (ss *session) data(line string) error {
	usual := "354 go on"
	if len(ss.msg.To) == 0 {
		usual = "554 5.5.1 no valid recipients"
	}
	err := ss.reply("DATA", line, usual)
	if !errors.Is(err, errPositive) {
		if errors.Is(err, errNegative) {
			return nil
		}
		return err
	}
	if !bytes.Contains(ss.out.Bytes(), []byte("354")) {
		return nil
	}
	if err := ss.flush(); err != nil {
		return err
	}
	var body bytes.Buffer
	for {
		l, err := ss.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			body.Write(l)
			continue
		}
		if err != nil {
			return err
		}
		if !bytes.HasSuffix(l, []byte("\r\n")) || bytes.IndexByte(l[:len(l)-2], '\r') >= 0 {
			ss.s.fault("bare CR or LF in DATA: %q", l)
		}
		if string(l) == ".\r\n" {
			break
		}
		if l[0] == '.' && (body.Len() == 0 || bytes.HasSuffix(body.Bytes(), []byte("\n"))) {
			if l = l[1:]; l[0] != '.' {
				ss.s.fault("unstuffed line: %q", l)
			}
		}
		body.Write(l)
	}
	ss.msg.Data = body.Bytes()
	return ss.end()
}

func (ss *session) bdat(line string) error {
	words := strings.Fields(line)
	n := -1
	if len(words) > 1 {
		n, _ = strconv.Atoi(words[1]) // -1 or 0 is a fault below
	}
	last := len(words) == 3 && strings.EqualFold(words[2], "LAST")
	if n < 0 || len(words) == 3 && !last {
		ss.s.fault("bad BDAT: %q", line)
		return ss.say("BDAT", line, "501 5.5.4 bad")
	}
	chunk := make([]byte, n)
	if _, err := io.ReadFull(ss.r, chunk); err != nil {
		return err
	}
	ss.msg.Data = append(ss.msg.Data, chunk...)
	ss.msg.BDAT = true
	if len(ss.msg.To) == 0 {
		return ss.say("BDAT", line, "503 5.5.1 no valid recipients")
	}
	if !last {
		return ss.say("BDAT", line, "250 2.0.0 chunk ok")
	}
	return ss.end()
}

// end takes the message and answers, in LMTP once for each recipient.
func (ss *session) end() error {
	n := 1
	if ss.s.LMTP {
		n = len(ss.msg.To)
	}
	taken := ss.msg
	taken.To, taken.Rcpt = nil, nil
	var end error
	for i := 0; i < n && end == nil; i++ {
		to := strings.Join(ss.msg.To, ",")
		if ss.s.LMTP {
			to = ss.msg.To[i]
		}
		switch err := ss.reply(Dot, to, "250 2.0.0 Ok: queued as X"+strconv.Itoa(i+1)); {
		case errors.Is(err, errNegative):
		case !errors.Is(err, errPositive):
			end = err
		case ss.s.LMTP:
			taken.To = append(taken.To, to)
		default:
			taken.To, taken.Rcpt = ss.msg.To, ss.msg.Rcpt
		}
	}
	if len(taken.To) > 0 {
		ss.s.mu.Lock()
		ss.s.messages = append(ss.s.messages, taken)
		ss.s.mu.Unlock()
	}
	ss.mail, ss.msg = false, Message{}
	return end
}

// path takes the address out of MAIL or RCPT.
func path(line string) string {
	_, s, _ := strings.Cut(line, "<")
	i := strings.LastIndexByte(s, '>')
	if i < 0 {
		return ""
	}
	return s[:i]
}
