package smtpd

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// Certs is a certificate with its key, from files that may change. Handshakes
// to come use what Reload read last.
type Certs struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
	config            *tls.Config
}

// LoadCerts reads a chain and its key from PEM files.
func LoadCerts(certFile, keyFile string) (*Certs, error) {
	c := &Certs{certFile: certFile, keyFile: keyFile}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	c.config = &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8996
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
	return c, nil
}

// Reload reads the files again. With an error nothing changes.
func (c *Certs) Reload() error {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("smtpd: certificate %s: %w", c.certFile, err)
	}
	c.current.Store(&cert)
	return nil
}
