// Package stage names the steps of a client session, and how long each may
// take.
package stage

import (
	"cmp"
	"time"
)

// Stage is a step of a session, in words that fit into "the reply to ...".
type Stage string

// The stages of a session, in order.
const (
	Connect  Stage = "connect"
	Greeting Stage = "greeting"
	Hello    Stage = "EHLO"
	TLS      Stage = "STARTTLS"
	Auth     Stage = "AUTH"
	Reset    Stage = "RSET"
	Mail     Stage = "MAIL"
	Rcpt     Stage = "RCPT"
	Data     Stage = "DATA"
	Content  Stage = "content"
	Done     Stage = "end of content"
)

// Timeouts are the limits of patience, stage by stage (RFC 5321 4.5.3.2). A
// zero field gets its default.
type Timeouts struct {
	Connect  time.Duration // 30 s
	TLS      time.Duration // 1 min, the handshake
	Greeting time.Duration // 5 min
	Hello    time.Duration // 5 min, also STARTTLS, AUTH and RSET
	Mail     time.Duration // 5 min
	Rcpt     time.Duration // 5 min
	Data     time.Duration // 2 min, from DATA to its 354
	Block    time.Duration // 3 min, for each write of content
	Done     time.Duration // 10 min, from the final dot to its reply
	Quit     time.Duration // 2 s
}

// WithDefaults fills in the zero fields.
func (t Timeouts) WithDefaults() Timeouts {
	return Timeouts{
		Connect:  cmp.Or(t.Connect, 30*time.Second),
		TLS:      cmp.Or(t.TLS, time.Minute),
		Greeting: cmp.Or(t.Greeting, 5*time.Minute),
		Hello:    cmp.Or(t.Hello, 5*time.Minute),
		Mail:     cmp.Or(t.Mail, 5*time.Minute),
		Rcpt:     cmp.Or(t.Rcpt, 5*time.Minute),
		Data:     cmp.Or(t.Data, 2*time.Minute),
		Block:    cmp.Or(t.Block, 3*time.Minute),
		Done:     cmp.Or(t.Done, 10*time.Minute),
		Quit:     cmp.Or(t.Quit, 2*time.Second),
	}
}

// Of is the patience with the reply that ends a stage.
func (t *Timeouts) Of(s Stage) time.Duration {
	switch s {
	case Greeting:
		return t.Greeting
	case Mail:
		return t.Mail
	case Rcpt:
		return t.Rcpt
	case Data:
		return t.Data
	case Content:
		return t.Block
	case Done:
		return t.Done
	}
	return t.Hello
}
