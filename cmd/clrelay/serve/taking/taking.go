// Package taking gives the settings about mail that comes in to the server that
// takes it.
package taking

import (
	"time"

	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/smtpd"
)

// Limits are those of sessions.
func Limits(c *config.Cluster) smtpd.Limits {
	r := c.Receive
	return smtpd.Limits{
		Size:         int64(r.MaxSize),
		Recipients:   r.MaxRecipients,
		Connections:  r.MaxConnections,
		PerClient:    r.PerClientConnections,
		Errors:       r.MaxErrors,
		Commands:     r.MaxCommands,
		Hops:         r.MaxHops,
		HeaderFields: r.MaxHeaders,
		MinRate:      int64(r.MinRate),
		Messages:     r.MaxMessagesPerConnection,
		Age:          time.Duration(r.MaxConnectionAge),
		Command:      time.Duration(r.Timeouts.Command),
		Data:         time.Duration(r.Timeouts.Data),
		Write:        time.Duration(r.Timeouts.Write),
		Handshake:    time.Duration(r.Timeouts.Handshake),
	}
}

// Listener gives what package smtpd needs to know of a listener.
func Listener(l *config.Listener) (smtpd.Listener, error) {
	out := smtpd.Listener{ProxyFrom: config.Prefixes(l.ProxyFrom), Binary: l.BinaryMIME}
	if l.TLS == nil {
		return out, nil
	}
	certs, err := smtpd.LoadCerts(string(l.TLS.Cert), string(l.TLS.Key))
	if err != nil {
		return out, err
	}
	out.Certs, out.Implicit = certs, l.TLS.Implicit
	return out, nil
}
