package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"time"
)

// MaxRequest bounds what a node asks a certificate with, in octets.
const MaxRequest = 8 << 10

// Request is what a node asks a certificate with: a name, hosts, and a public
// key whose private one it has shown to hold.
type Request struct {
	Name  string
	Hosts []string
	Key   string // SHA-256 of the public key, hexadecimal
	key   crypto.PublicKey
}

// NewRequest makes a key and the request for a certificate of a node, in DER.
func NewRequest(name string, hosts []string) (key crypto.Signer, der []byte, err error) {
	if err := ValidName(name); err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	var sorted x509.Certificate
	if err := setHosts(&sorted, hosts); err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{(Peer{Kind: Node, Name: name}).uri()}, DNSNames: sorted.DNSNames, IPAddresses: sorted.IPAddresses,
	}, own)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: %w", err)
	}
	return own, der, nil
}

// ParseRequest reads a request and checks that who made it has the key. What
// else it asks for is not looked at.
func ParseRequest(der []byte) (*Request, error) {
	if len(der) > MaxRequest {
		return nil, fmt.Errorf("pki: a request of %d octets, and %d are the most: %w", len(der), MaxRequest, ErrInvalid)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("pki: the request: %w: %w", ErrDamaged, err)
	}
	// Before the signature: a large key of another kind takes long to check.
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("pki: the request: its key is not one of P-256: %w", ErrInvalid)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("pki: the request: %w: %w", ErrWrongKey, err)
	}
	p, err := peerOf(&x509.Certificate{URIs: csr.URIs})
	if err == nil && p.Kind != Node {
		err = fmt.Errorf("it is of %s, not of a node: %w", p, ErrWrongName)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the request: %w", err)
	}
	hosts := describe(&x509.Certificate{DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses}).Hosts
	if err := setHosts(&x509.Certificate{}, hosts); err != nil {
		return nil, fmt.Errorf("pki: the request: %w", err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return &Request{Name: p.Name, Hosts: hosts, Key: hex.EncodeToString(sum[:]), key: key}, nil
}

// Authority is one that certificates can be signed with.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ErrNoAuthority says that a folder holds no key of an authority.
var ErrNoAuthority = errors.New("no key of the authority")

// Authorities reads those whose key a folder holds: that of ca.key, and that of
// ca-next.key while the authority is being replaced and ca.crt holds it. With
// none the error is ErrNoAuthority.
func Authorities(dir string, now time.Time) ([]*Authority, error) {
	path := filepath.Join(dir, CAFile)
	certs, err := readCerts(path, "")
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	var out []*Authority
	for _, name := range []string{CAKeyFile, NextKeyFile} {
		key, err := readKey(filepath.Join(dir, name), "")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		for _, c := range certs {
			if _, e := authorities(path, []*x509.Certificate{c}, now); e == nil && belongs(c, key) {
				out = append(out, &Authority{c, key})
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("pki: %s: %w", filepath.Join(dir, CAKeyFile), ErrNoAuthority)
	}
	return out, nil
}

// Hash is the SHA-256 of the authority's certificate, hexadecimal.
func (a *Authority) Hash() string { return describe(a.cert).SHA256 }

// Sign makes the certificate, in PEM, that a request is for, valid for so long
// but no longer than the authority. Name, hosts and life are for the caller to
// judge.
func (a *Authority) Sign(r *Request, life time.Duration, now time.Time) ([]byte, error) {
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	tmpl := blank(now, end)
	tmpl.Subject = pkix.Name{CommonName: r.Name}
	tmpl.URIs = []*url.URL{(Peer{Kind: Node, Name: r.Name}).uri()}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if err := setHosts(tmpl, r.Hosts); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, r.key, a.key)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return pemCert(der), nil
}

// parseCerts reads certificates in PEM that did not come from a file.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("what should be a certificate is none: %w", ErrDamaged)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no certificate in PEM form: %w", ErrDamaged)
	}
	return out, nil
}
