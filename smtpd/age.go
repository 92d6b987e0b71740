package smtpd

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Connections that live long keep a client on the node it met first, whatever
// the load balancer would choose today. So they end after a number of
// transactions or at an age, always between two transactions: the client is
// told 421 (RFC 5321 3.8) at its next MAIL, or while it is idle. It still has
// what it was about to send, and connects anew.

// ageGrace is how long a client at the end of its connection's life is waited
// for after a transaction, so that QUIT is answered as such.
const ageGrace = 2 * time.Second

// aged tells whether the connection has lived long enough.
func (s *session) aged(now time.Time) bool {
	return s.limits.Messages > 0 && s.begins >= s.limits.Messages || !s.expires.IsZero() && !now.Before(s.expires)
}

// patience is until when the next command is waited for.
func (s *session) patience(now time.Time) time.Time {
	until := now.Add(s.limits.Command)
	if s.env != nil {
		return until
	}
	end := s.expires
	if s.aged(now) {
		end = now.Add(ageGrace)
	}
	if !end.IsZero() && end.Before(until) {
		return end
	}
	return until
}

// moveOn ends an aged connection.
func (s *session) moveOn() mail.Reply {
	s.finish(endHang, "aged")
	return say(421, 3, 2, "This connection has lived long enough, please connect again")
}
