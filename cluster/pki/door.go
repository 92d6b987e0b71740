package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// ProtocolJoin is spoken, as named in ALPN, by machines that have no
// certificate yet.
const ProtocolJoin = "clrelay-join/1"

// Door makes the configuration of Server and lets in whoever offers
// ProtocolJoin, certificate or not: that protocol is then the one negotiated,
// whatever else was offered. Such a client is shown the authority as well.
func (id *Identity) Door(alpn ...string) *tls.Config {
	outer := id.Server(alpn...)
	inner := outer.GetConfigForClient
	open := id.config([]string{ProtocolJoin})
	open.VerifyConnection = func(cs tls.ConnectionState) error { return negotiated(cs, open.NextProtos) }
	outer.NextProtos = append(outer.NextProtos, ProtocolJoin)
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(hello.SupportedProtos, ProtocolJoin) {
			return inner(hello)
		}
		l, c := id.cur.Load(), open.Clone()
		cert := l.cert
		cert.Certificate = append(slices.Clone(cert.Certificate), l.issuer.Raw)
		c.Certificates = []tls.Certificate{cert}
		return c, nil
	}
	return outer
}

// Pinned makes the configuration of a client without a certificate that trusts
// one authority, by the SHA-256 of its certificate: the other end must be a
// node of it. PinnedCA gives that authority's certificate.
func Pinned(hash [sha256.Size]byte, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ProtocolJoin}, SessionTicketsDisabled: true, Time: now,
		InsecureSkipVerify: true, // ours, below, is stricter
		VerifyConnection: func(cs tls.ConnectionState) error {
			ca, err := pinned(cs, hash)
			if err != nil {
				return err
			}
			roots, err := authorities("the cluster's authority", []*x509.Certificate{ca}, now())
			if err != nil {
				return fmt.Errorf("pki: %w", err)
			}
			if err := verify(cs.PeerCertificates, roots, now(), x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("pki: the certificate of the other end: %w", err)
			}
			if p, err := PeerOf(cs); err != nil || p.Kind != Node {
				return fmt.Errorf("pki: the other end is no node of the cluster: %w", ErrWrongName)
			}
			return negotiated(cs, []string{ProtocolJoin})
		},
	}
}

// PinnedCA gives the certificate, in PEM, of the authority that a connection
// made with Pinned has met.
func PinnedCA(cs tls.ConnectionState, hash [sha256.Size]byte) ([]byte, error) {
	ca, err := pinned(cs, hash)
	if err != nil {
		return nil, err
	}
	return pemCert(ca.Raw), nil
}

func pinned(cs tls.ConnectionState, hash [sha256.Size]byte) (*x509.Certificate, error) {
	for _, c := range cs.PeerCertificates {
		if sha256.Sum256(c.Raw) == hash {
			return c, nil
		}
	}
	return nil, fmt.Errorf("pki: the other end does not show the authority that is pinned (sha256 %x...): %w", hash[:4], ErrWrongCA)
}

// Standing is what an Identity has in use.
type Standing struct {
	Cert   Info
	Issuer Info   // the authority that signed it
	Trusts []Info // all authorities that it takes certificates of
}

// Standing tells what is in use now.
func (id *Identity) Standing() Standing {
	l := id.cur.Load()
	s := Standing{Cert: describe(l.cert.Leaf), Issuer: describe(l.issuer)}
	for _, c := range l.trusts {
		s.Trusts = append(s.Trusts, describe(c))
	}
	return s
}

// Vouches tells whether a certificate is one that a peer could show now.
func (id *Identity) Vouches(c *x509.Certificate) error {
	err := verify([]*x509.Certificate{c}, id.cur.Load().roots, id.opts.Now(), x509.ExtKeyUsageClientAuth)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	return nil
}

// ParseHash reads a SHA-256 in hexadecimal.
func ParseHash(text string) (h [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("pki: %q is no SHA-256: %w", text, ErrInvalid)
	}
	return [sha256.Size]byte(b), nil
}
