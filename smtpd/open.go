package smtpd

import (
	"crypto/tls"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// open brings a connection to the point where the client may speak: who it
// is, TLS when the listener begins with it, whether it is welcome, the
// greeting. It tells whether there is a session to run.
func (s *session) open() bool {
	addr, err := s.wire.Identify(s.lis.ProxyFrom, s.limits.Proxy)
	if err != nil {
		s.log.Warn("connection of a proxy without a sound PROXY header", "remote", s.remote, "error", err)
		return false
	}
	s.client.Addr = addr
	if s.said = s.srv.tap.Server(addr); s.said != nil {
		s.said.Note("connected from " + s.remote)
	}
	n := network(addr)
	if n.IsValid() && !s.srv.enter(s, n) {
		// It has not spoken, so its answer is safe without patience for it,
		// and a crowd of such connections must not stay.
		return s.turnAway(tooMany(), 0)
	}
	visit, r := s.srv.guard.Enter(&s.client, s.wire.Interrupt)
	if r != nil {
		return s.turnAway(refusal(r), 0)
	}
	s.visit = visit
	if s.lis.Implicit {
		if err := s.startTLS(); err != nil {
			s.log.Debug("TLS handshake", "remote", addr, "error", err)
			return false
		}
	}
	if v := s.srv.policy.Connect(&s.client); v != nil {
		return s.turnAway(refusal(v), s.limits.Discard)
	}
	early, err := s.wire.SpokeEarly(s.limits.GreetDelay)
	if err != nil {
		return false
	}
	if early {
		return s.turnAway(say(554, 5, 1, "You spoke before the greeting"), s.limits.Discard)
	}
	hello := plain(220, s.srv.hostname+" ESMTP clrelay")
	s.write(&hello)
	return true
}

// turnAway refuses a connection, with patience for what it is still sending.
// It gives false.
func (s *session) turnAway(r mail.Reply, patience time.Duration) bool {
	s.rejected("", &r)
	if s.lis.Implicit && s.client.TLS == "" {
		return false // it could not read it
	}
	s.write(&r)
	s.wire.HangUp(patience)
	s.wire.Release()
	s.said.End("turned away")
	return false
}

// STARTTLS goes over to TLS (RFC 3207).
func (s *session) STARTTLS(arg string) mail.Reply {
	switch {
	case arg != "":
		return s.noArgument()
	case s.client.TLS != "":
		return s.bad(503, 1, "TLS is in force already")
	case s.lis.Certs == nil:
		return s.bad(502, 1, "STARTTLS is not on offer")
	case !s.ehlo:
		return s.bad(503, 1, "EHLO comes first")
	case s.env != nil:
		return s.bad(503, 1, "A transaction is open")
	case len(s.wire.Buffered()) > 0:
		// What came in the clear must not count under TLS (RFC 3207 6).
		s.finish(endHang, "starttls injection")
		return say(554, 5, 1, "Nothing may follow STARTTLS before the handshake")
	}
	ready := say(220, 0, 0, "Ready to start TLS")
	s.write(&ready)
	if err := s.wire.Flush(); err != nil {
		s.lost(err)
		return nothing()
	}
	if err := s.startTLS(); err != nil {
		s.log.Debug("TLS handshake", "remote", s.client.Addr, "error", err)
		s.finish(endDrop, "handshake")
		return nothing()
	}
	// All that the client said before is forgotten (RFC 3207 4.2).
	s.reset()
	s.greeted, s.ehlo, s.client.Helo = false, false, ""
	return nothing()
}

// startTLS does the handshake.
func (s *session) startTLS() error {
	st, err := s.wire.StartTLS(s.lis.Certs.config, s.limits.Handshake)
	if err != nil {
		return err
	}
	version := strings.Replace(tls.VersionName(st.Version), "TLS ", "TLSv", 1) // as mail servers write it
	s.client.TLS = version + " " + tls.CipherSuiteName(st.CipherSuite)
	if s.said != nil {
		s.said.Note("TLS: " + s.client.TLS)
	}
	return nil
}
