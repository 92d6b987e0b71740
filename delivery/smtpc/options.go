package smtpc

import (
	"cmp"
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/stage"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
)

// Timeouts are the limits of patience, stage by stage.
type Timeouts = stage.Timeouts

// Options set up a Pool. Zero fields get defaults; Hostname is needed.
type Options struct {
	Hostname string // what EHLO says, unless the source has a name of its own
	Timeouts Timeouts
	RootCAs  *x509.CertPool // nil: the system's
	// Dial connects where the system chooses the source.
	Dial        func(ctx context.Context, network, addr string) (net.Conn, error)
	MaxMessages int           // transactions a connection is used for; 500
	MaxAge      time.Duration // how old a connection may be when it is used again; 5 min
	MaxIdle     time.Duration // how long it waits for the next message; 10 s
	IdleConns   int           // how many may wait; 500
	Metrics     *metrics.Delivery
}

func (o Options) withDefaults() Options {
	o.Timeouts = o.Timeouts.WithDefaults()
	o.MaxMessages = cmp.Or(o.MaxMessages, 500)
	o.MaxAge = cmp.Or(o.MaxAge, 5*time.Minute)
	o.MaxIdle = cmp.Or(o.MaxIdle, 10*time.Second)
	o.IdleConns = cmp.Or(o.IdleConns, 500)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New().Delivery
	}
	return o
}

// Target says with whom to speak, and how. Sessions are shared between equal
// targets.
type Target struct {
	Name     string // the host's name for TLS, lower-case A-labels; empty or an IP address where it has none
	Addr     netip.AddrPort
	Source   source.Source // where from; zero: the system chooses
	LMTP     bool
	TLS      mail.TLSMode
	Implicit bool // TLS from the start (RFC 8314)
	// User and PasswordFile are for AUTH, which is never done without TLS;
	// empty: no AUTH. The file is read when it is needed, so that a new
	// password is used by the next session.
	User, PasswordFile string
	Plain              bool // STARTTLS is left alone although TLS is opportunistic: the handshake has failed lately
	NoChunking         bool // BDAT is left alone unless the content needs it: it has failed lately
}

// needsTLS tells whether no mail may go out in the clear.
func (t *Target) needsTLS() bool {
	return t.TLS == mail.TLSRequire || t.TLS == mail.TLSVerify || t.User != ""
}

// tlsName is the name that a certificate is held against.
func (t *Target) tlsName() string {
	if t.Name == "" {
		return t.Addr.Addr().String()
	}
	return t.Name
}
