package smtpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

// secure starts TLS where the target wants it and the host offers it
// (RFC 3207).
func (c *Conn) secure() *Failure {
	t := &c.target
	if c.tls != "" {
		return nil
	}
	if t.TLS == mail.TLSNone || t.Plain && !t.needsTLS() {
		if t.User != "" {
			return failure(StageTLS, "4.7.4", "authentication needs TLS", ErrNoTLS)
		}
		return nil
	}
	if !c.ext.StartTLS {
		if t.needsTLS() {
			return failure(StageTLS, "4.7.4", "TLS is required and the next hop does not offer it", ErrNoTLS)
		}
		return nil
	}
	rep, f := c.cmd(StageTLS, "STARTTLS")
	if f != nil {
		f.Reply.Cause = fmt.Errorf("%w: %w", ErrHandshake, f.Reply.Cause)
		return f
	}
	if !rep.Positive() {
		switch {
		case !rep.Negative():
			return unexpected(StageTLS, rep)
		case t.needsTLS() || rep.Code == 421:
			return startRefused(rep)
		}
		return nil // RFC 3207 4.1: the session goes on in the clear
	}
	// What came behind the 220 came in the clear and may be anybody's: it must
	// not be taken for what the host says under TLS.
	if c.w.Buffered() > 0 {
		return broken(StageTLS, errStray)
	}
	if f := c.handshake(); f != nil {
		return f
	}
	c.ext = wire.Extensions{} // RFC 3207 4.2
	return c.hello()
}

// startRefused is temporary whatever the host said: it offers STARTTLS.
func startRefused(rep *wire.Reply) *Failure {
	f := refusal(StageTLS, rep, ErrNoTLS)
	if !f.Lost {
		f.Reply = *mail.NewReply(454, "4.7.4", "the next hop refuses TLS: "+f.Reply.Line()).WithCause(ErrNoTLS)
	}
	return f
}

// handshake puts TLS over the connection. The certificate is looked at in
// every mode, because what was found is recorded, and decides in one.
func (c *Conn) handshake() *Failure {
	start := time.Now()
	deadline := start.Add(c.pool.o.Timeouts.TLS)
	var invalid error
	conn := tls.Client(c.w.Raw(), &tls.Config{
		ServerName:                  c.target.tlsName(),
		MinVersion:                  tls.VersionTLS12,
		ClientSessionCache:          c.pool.sessions,
		DynamicRecordSizingDisabled: true, // small first records would only cost more writes
		InsecureSkipVerify:          true, // VerifyConnection does it, by the target's mode
		VerifyConnection: func(cs tls.ConnectionState) error {
			invalid = c.pool.verify(&cs, c.target.tlsName())
			if invalid != nil && c.target.TLS == mail.TLSVerify {
				return invalid
			}
			return nil
		},
	})
	if err := c.w.Raw().SetDeadline(deadline); err != nil {
		return broken(StageTLS, err)
	}
	if err := conn.Handshake(); err != nil {
		c.w.Broken = true
		if invalid != nil && errors.Is(err, invalid) {
			return failure(StageTLS, "4.7.5", "the certificate of the next hop is not valid for "+c.target.tlsName(),
				fmt.Errorf("%w: %w", ErrCertificate, err))
		}
		return failure(StageTLS, "4.7.5", "TLS handshake failed", fmt.Errorf("%w: %w", ErrHandshake, err))
	}
	c.pool.o.Metrics.AttemptDuration.Observe("tls", time.Since(start))
	cs := conn.ConnectionState()
	c.verified = invalid == nil
	c.tls = strings.Replace(tls.VersionName(cs.Version), " ", "v", 1) + " " + tls.CipherSuiteName(cs.CipherSuite)
	if c.verified {
		c.tls += " verified"
	}
	c.w.Upgrade(conn)
	c.said.Note("TLS: " + c.tls)
	return nil
}

// verify holds the host's certificate against its name (RFC 6125).
func (p *Pool) verify(cs *tls.ConnectionState, name string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	opts := x509.VerifyOptions{Roots: p.o.RootCAs, DNSName: name, Intermediates: x509.NewCertPool()}
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}

// tlsKind is the label of the metric of connections made.
func (c *Conn) tlsKind() string {
	switch {
	case c.tls == "":
		return "none"
	case c.verified:
		return "verified"
	}
	return "opportunistic"
}
