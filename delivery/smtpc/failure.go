package smtpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/clrelay/clrelay/delivery/smtpc/stage"
	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
)

// Stage is a step of a session.
type Stage = stage.Stage

// The stages of a session, in order.
const (
	StageConnect  = stage.Connect
	StageGreeting = stage.Greeting
	StageHello    = stage.Hello
	StageTLS      = stage.TLS
	StageAuth     = stage.Auth
	StageReset    = stage.Reset
	StageMail     = stage.Mail
	StageRcpt     = stage.Rcpt
	StageData     = stage.Data
	StageContent  = stage.Content
	StageDone     = stage.Done
)

// Causes of a Failure that a caller may act on.
var (
	ErrNoTLS       = errors.New("the host offers no TLS")
	ErrHandshake   = errors.New("TLS handshake failed")
	ErrCertificate = errors.New("certificate not valid for the host")
	ErrNoChunking  = errors.New("the host offers CHUNKING and does not know BDAT")
	ErrAuth        = errors.New("authentication failed")
)

// What a host may not do.
var (
	errStray      = errors.New("octets that nothing had asked for")
	errUnexpected = errors.New("unexpected reply code")
)

// Failure says why a session could not go on. It is not final for anybody:
// another host, or the same one later, may do.
type Failure struct {
	Stage Stage
	Reply mail.Reply // what the host said, or the relay's own word
	// Lost says that the session is gone or out of step, or that the host said
	// 421: where it was kept from before, a fresh one may do.
	Lost bool
}

// Error shows the failure for the log.
func (f *Failure) Error() string { return fmt.Sprintf("smtpc: %s: %v", f.Stage, &f.Reply) }

// Unwrap gives the reply.
func (f *Failure) Unwrap() error { return &f.Reply }

// Connected tells whether anybody was reached.
func (f *Failure) Connected() bool { return f.Stage != StageConnect }

// failure builds a Failure in the relay's own, temporary words.
func failure(s Stage, enhanced, text string, cause error) *Failure {
	return &Failure{Stage: s, Reply: *mail.NewReply(451, enhanced, text).WithCause(cause)}
}

// refusal builds a Failure from what the host said instead of going on.
func refusal(s Stage, rep *wire.Reply, cause error) *Failure {
	r := rep.Mail()
	r.Cause = cause
	return &Failure{Stage: s, Reply: r, Lost: rep.Code == 421}
}

// unexpected is a reply with a code that has no meaning where it came.
func unexpected(s Stage, rep *wire.Reply) *Failure {
	f := failure(s, "4.5.0", fmt.Sprintf("unexpected reply %d to %s", rep.Code, s), errUnexpected)
	f.Lost = true
	return f
}

// broken makes a Failure of an error of the connection.
func broken(s Stage, err error) *Failure {
	f := failure(s, "4.4.2", "connection lost at "+string(s), err)
	f.Lost = true
	switch {
	case errors.Is(err, wire.ErrLine), errors.Is(err, wire.ErrLines), errors.Is(err, wire.ErrForm),
		errors.Is(err, wire.ErrMixed), errors.Is(err, errStray):
		f.Reply = *mail.NewReply(451, "4.5.0", "the next hop does not speak SMTP: "+err.Error()).WithCause(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure(s, "4.4.2", "the next hop was silent for too long at "+string(s), err)
	}
	return f
}

// unreachable makes a Failure of an error of the dialer.
func unreachable(t *Target, err error) *Failure {
	why := "no connection"
	var errno syscall.Errno
	switch {
	case errors.Is(err, source.ErrAddress):
		return failure(StageConnect, "4.3.5", fmt.Sprintf("this node has lost the address %s of the source %s", t.Source.Addr, t.Source.Name), err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		why = "connection timed out"
	case errors.As(err, &errno):
		why = errno.Error()
	}
	return failure(StageConnect, "4.4.1", "connect to "+t.Label()+": "+why, err)
}

func interrupted(s Stage, err error) *Failure {
	return failure(s, "4.3.2", "delivery was interrupted", err)
}

// reason is the label of the metric of connections that were not made.
func (f *Failure) reason() string {
	switch {
	case errors.Is(&f.Reply, os.ErrDeadlineExceeded), errors.Is(&f.Reply, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(&f.Reply, syscall.ECONNREFUSED):
		return "refused"
	case f.Stage == StageTLS:
		return "tls"
	case f.Stage == StageGreeting, f.Stage == StageHello:
		return "greeting"
	case f.Stage == StageAuth:
		return "auth"
	}
	return metrics.Other
}

// Label names the host in logs and reports: "mx.example.org[192.0.2.1]:25".
func (t *Target) Label() string {
	ip := t.Addr.Addr().String()
	name := t.Name
	if name == "" {
		name = ip
	}
	return fmt.Sprintf("%s[%s]:%d", name, ip, t.Addr.Port())
}
