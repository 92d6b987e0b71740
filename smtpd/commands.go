package smtpd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/guard"
	"github.com/clrelay/clrelay/smtpd/wire"
)

// HELO greets in the old way (RFC 5321 4.1.1.1): no extension is in force.
func (s *session) HELO(name string) mail.Reply {
	if r, ok := s.greet(name, false); !ok {
		return r
	}
	return plain(250, s.srv.hostname)
}

// EHLO greets and says what is on offer (RFC 5321 4.1.1.1).
func (s *session) EHLO(name string) mail.Reply {
	if r, ok := s.greet(name, true); !ok {
		return r
	}
	b := make([]byte, 0, 256)
	b = append(b, s.srv.hostname...)
	b = append(b, "\nPIPELINING\nSIZE "...)
	b = strconv.AppendInt(b, s.limits.Size, 10)
	b = append(b, "\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\nDSN"...)
	if s.lis.Binary {
		b = append(b, "\nBINARYMIME"...)
	}
	if s.client.TLS != "" {
		b = append(b, "\nREQUIRETLS"...)
	} else if s.lis.Certs != nil {
		b = append(b, "\nSTARTTLS"...)
	}
	b = s.offer().Announce(b, time.Now())
	b = append(b, "\nLIMITS RCPTMAX="...) // RFC 9422
	b = strconv.AppendInt(b, int64(s.limits.Recipients), 10)
	return plain(250, string(b))
}

// greet takes a client's name. A greeting ends an open transaction.
func (s *session) greet(name string, ehlo bool) (mail.Reply, bool) {
	if name == "" {
		return s.bad(501, 4, "A name is missing"), false
	}
	if !wire.IsHelo(name) {
		return s.bad(501, 4, "That is neither a domain name nor an address literal"), false
	}
	s.reset()
	s.greeted, s.ehlo, s.client.Helo = true, ehlo, name
	return mail.Reply{}, true
}

// MAIL begins a transaction (RFC 5321 4.1.1.2).
func (s *session) MAIL(arg string) mail.Reply {
	arg, ok := cutPrefixFold(arg, "FROM:")
	switch {
	case !ok:
		return s.bad(501, 4, "It is MAIL FROM:<address>")
	case !s.greeted:
		return s.bad(503, 1, "HELO or EHLO comes first")
	case s.env != nil:
		return s.bad(503, 1, "A transaction is open already")
	case s.wire.Interrupted():
		s.finish(endHang, "draining")
		return goingDown()
	case s.aged(time.Now()):
		return s.moveOn()
	}
	if s.srv.ready != nil {
		if r := s.srv.ready(); r != nil {
			return s.refuse(arg, "", refusal(r))
		}
	}
	env := &mail.Envelope{}
	s.declared = 0
	params, r, ok := s.path(arg, &env.From, reversePath)
	if !ok {
		return s.refuse(arg, "", r)
	}
	if r := s.mailParams(env, params); r != nil {
		return s.refuse(arg, "", *r)
	}
	if env.From.NeedsUTF8() && !env.SMTPUTF8 {
		return s.refuse(arg, "", needsUTF8())
	}
	if v := s.srv.policy.Sender(&s.client, env.From); v != nil {
		return s.refuse(arg, "", refusal(v))
	}
	if v := s.visit.Ask(guard.Mail, &guard.Question{From: env.From, Size: s.declared}); v != nil {
		return s.refuse(arg, "", refusal(v))
	}
	s.env = env
	s.begins++
	return say(250, 1, 0, "Ok")
}

const (
	minRecipients = 100 // of a transaction whatever the others hold (RFC 5321 4.5.3.1.8)
	recipientSize = 128 // octets of a recipient beside its line, which its addresses are cut from
)

// RCPT adds a recipient (RFC 5321 4.1.1.3).
func (s *session) RCPT(arg string) mail.Reply {
	arg, ok := cutPrefixFold(arg, "TO:")
	switch {
	case !ok:
		return s.bad(501, 4, "It is RCPT TO:<address>")
	case s.env == nil:
		return s.bad(503, 1, "MAIL comes first")
	case s.body != nil:
		return s.bad(503, 1, "The content has begun")
	case len(s.env.Recipients) >= s.limits.Recipients:
		return s.refuse("", arg, say(452, 5, 3, "Too many recipients"))
	case len(s.env.Recipients) >= minRecipients && s.srv.held.Load() >= s.limits.Envelopes:
		return s.refuse("", arg, say(452, 5, 3, "Too many recipients for now, send the others later"))
	}
	var to mail.Recipient
	params, r, ok := s.path(arg, &to.Addr, forwardPath)
	if !ok {
		return s.refuse("", arg, r)
	}
	if r := s.rcptParams(&to, params); r != nil {
		return s.refuse("", arg, *r)
	}
	if v := s.srv.policy.Recipient(&s.client, s.env.From, &to); v != nil {
		return s.refuse("", arg, refusal(v))
	}
	if v := s.visit.Ask(guard.Recipient, &guard.Question{From: s.env.From, To: to.Addr}); v != nil {
		return s.refuse("", arg, refusal(v))
	}
	s.idles--
	s.env.Recipients = append(s.env.Recipients, to)
	size := int64(len(arg) + recipientSize)
	s.held += size
	s.srv.held.Add(size)
	return say(250, 1, 5, "Ok")
}

// refuse tells the observer of a refused sender or recipient.
func (s *session) refuse(from, to string, r mail.Reply) mail.Reply {
	if from == "" && s.env != nil {
		from = s.env.From.String()
	}
	s.srv.observer.Rejected(&s.client, bareAddress(from), bareAddress(to), &r)
	return r
}

// bareAddress takes what a client wrote as a path out of its brackets, for
// the log.
func bareAddress(s string) string {
	s = strings.TrimLeft(s, " ")
	if inner, ok := strings.CutPrefix(s, "<"); ok {
		s, _, _ = strings.Cut(inner, ">")
	}
	return s
}

const (
	reversePath = iota
	forwardPath
)

// path reads the path of MAIL or RCPT and gives the parameters behind it.
// Space before the path and a path without brackets are against RFC 5321 3.3
// and 4.1.2; both are typed by hand, and neither can be read in two ways.
func (s *session) path(arg string, a *mail.Address, kind int) (params string, r mail.Reply, ok bool) {
	utf8 := s.ehlo && (kind == reversePath || s.env.SMTPUTF8)
	parse, detail := mail.ParseReversePath, 7
	if kind == forwardPath {
		parse, detail = mail.ParseForwardPath, 3
	}
	arg = strings.TrimLeft(arg, " ")
	if arg != "" && arg[0] != '<' {
		bare, rest, _ := strings.Cut(arg, " ")
		if !strings.ContainsAny(bare, `<>"`) {
			arg = "<" + bare + "> " + rest
		}
	}
	addr, rest, err := parse(arg, utf8)
	switch {
	case errors.Is(err, mail.ErrNeedsUTF8):
		return "", needsUTF8(), false
	case err != nil:
		return "", say(501, 1, detail, "Bad address syntax: "+publicError(err)), false
	case rest != "" && rest[0] != ' ':
		return "", s.bad(501, 4, "There is something behind the address"), false
	}
	*a = addr
	return rest, mail.Reply{}, true
}

// publicError gives the text of an error of the parsers in internal/mail,
// which name what is wrong with the client's own words and nothing else.
func publicError(err error) string {
	_, text, ok := strings.Cut(err.Error(), ": ")
	if !ok {
		return "see RFC 5321 4.1.2"
	}
	return text
}

func needsUTF8() mail.Reply { return say(553, 6, 7, "That address needs SMTPUTF8") }

// RSET forgets the transaction (RFC 5321 4.1.1.5).
func (s *session) RSET(arg string) mail.Reply {
	if arg != "" {
		return s.noArgument()
	}
	s.reset()
	return say(250, 0, 0, "Ok")
}

// QUIT ends the session (RFC 5321 4.1.1.10).
func (s *session) QUIT(arg string) mail.Reply {
	if arg != "" {
		return s.noArgument()
	}
	s.finish(endQuit, "quit")
	return say(221, 0, 0, "Bye")
}

// VRFY does not tell who is here (RFC 5321 3.5.3, 7.3).
func (s *session) VRFY(arg string) mail.Reply {
	if arg == "" {
		return s.bad(501, 4, "An address is missing")
	}
	return say(252, 5, 0, "Not verified; send some mail, I will do my best")
}

func (s *session) noArgument() mail.Reply { return s.bad(501, 4, "That takes no argument") }

// cutPrefixFold cuts an ASCII prefix in any case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
