package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// Info describes a certificate.
type Info struct {
	File   string
	Kind   string // ca, node, admin; empty if it is none of them
	Name   string // of the node or operator, or the authority
	Hosts  []string
	Issuer string
	Serial string // hexadecimal

	NotBefore, NotAfter time.Time // UTC

	SHA256 string // of the whole certificate, hexadecimal

	Role    string // of an operator; empty: none stands there, which is admin
	Content bool   // the operator may read what is written in messages
}

// Describe reads the certificates in a file, ours or not. It checks nothing.
func Describe(path string) ([]Info, error) {
	certs, err := readCerts(path, "")
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	var out []Info
	for _, c := range certs {
		i := describe(c)
		i.File = path
		out = append(out, i)
	}
	return out, nil
}

func describe(c *x509.Certificate) Info {
	sum := sha256.Sum256(c.Raw)
	i := Info{
		Name: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Serial: c.SerialNumber.Text(16), Hosts: []string{},
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), SHA256: hex.EncodeToString(sum[:]),
	}
	if c.IsCA {
		i.Kind = "ca"
	} else if p, err := peerOf(c); err == nil {
		i.Kind, i.Name, i.Role, i.Content = p.Kind.String(), p.Name, string(p.Role), p.Content
	}
	i.Hosts = append(i.Hosts, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		i.Hosts = append(i.Hosts, ip.String())
	}
	return i
}

// Describes tells what a certificate that a peer has shown says.
func Describes(c *x509.Certificate) (Info, error) {
	if _, err := peerOf(c); err != nil {
		return Info{}, fmt.Errorf("pki: %w", err)
	}
	return describe(c), nil
}

// Life is for how long the certificate was made.
func (i *Info) Life() time.Duration { return i.NotAfter.Sub(i.NotBefore) - backdate }
