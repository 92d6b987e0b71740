package pki

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// maxFile bounds the files read, in octets.
const maxFile = 1 << 20

// loaded is what one reading of the files gave.
type loaded struct {
	file   string // of the certificate
	cert   tls.Certificate
	roots  *x509.CertPool
	peer   Peer
	expiry Expiry
	issuer *x509.Certificate   // the authority that signed it
	trusts []*x509.Certificate // of ca.crt, those that are valid now
}

// FileError is something wrong with one file.
type FileError struct {
	File string
	Err  error  // one of the errors above, or what the system said
	What string // more about it, may be empty
	Mend string // what to do, may be empty
}

// Error says what is wrong with which file and how that is mended.
func (e *FileError) Error() string {
	text := e.File + ": " + e.Err.Error()
	if e.What != "" {
		text += ": " + e.What
	}
	if e.Mend != "" {
		text += "; " + e.Mend
	}
	return text
}

// Unwrap gives Err.
func (e *FileError) Unwrap() error { return e.Err }

func wrong(file string, err error, what, mend string) *FileError {
	return &FileError{File: file, Err: err, What: what, Mend: mend}
}

func names(k Kind) (cert, key string) {
	if k == Admin {
		return AdminFile, AdminKeyFile
	}
	return NodeFile, NodeKeyFile
}

// load reads the three files and checks them against each other.
func load(o Options) (*loaded, error) {
	now := o.Now()
	caPath := filepath.Join(o.Dir, CAFile)
	ca, err := readCerts(caPath, "copy it from the folder in which \"clrelay cert create-ca\" made it")
	if err != nil {
		return nil, err
	}
	roots, err := authorities(caPath, ca, now)
	if err != nil {
		return nil, err
	}
	certName, keyName := names(o.Kind)
	certPath, keyPath := filepath.Join(o.Dir, certName), filepath.Join(o.Dir, keyName)
	mend := fmt.Sprintf("make it with \"clrelay cert create-%s\"", o.Kind)
	chain, err := readCerts(certPath, mend)
	if err != nil {
		return nil, err
	}
	key, err := nodeKey(chain[0], keyPath, mend)
	if err != nil {
		return nil, err
	}
	if !belongs(chain[0], key) {
		return nil, wrong(certPath, ErrWrongKey, keyPath+" is another certificate's", "put the two that were made together here")
	}
	usage := x509.ExtKeyUsageClientAuth
	if o.Kind == Node {
		usage = x509.ExtKeyUsageServerAuth
	}
	if err := verify(chain, roots, now, usage); err != nil {
		return nil, wrong(certPath, err, "", renew(o.Kind, err, caPath))
	}
	peer, err := peerOf(chain[0])
	if err == nil && peer.Kind != o.Kind {
		err = fmt.Errorf("it is the certificate of %s, not of a%s: %w", peer, map[Kind]string{Node: " node", Admin: "n operator"}[o.Kind], ErrWrongName)
	}
	if err != nil {
		return nil, wrong(certPath, err, "", mend)
	}
	l := &loaded{file: certPath, roots: roots, peer: peer, cert: tls.Certificate{PrivateKey: key, Leaf: chain[0]}}
	for _, c := range chain {
		l.cert.Certificate = append(l.cert.Certificate, c.Raw)
	}
	for _, c := range ca {
		if !now.Before(c.NotBefore) && !now.After(c.NotAfter) {
			l.trusts = append(l.trusts, c)
		}
	}
	l.issuer = signer(chain, roots, now, usage)
	l.expiry = Expiry{Cert: chain[0].NotAfter, CA: l.issuer.NotAfter}
	return l, nil
}

func renew(k Kind, err error, ca string) string {
	switch {
	case errors.Is(err, ErrWrongCA):
		return fmt.Sprintf("%s must be that of the authority which signed it: copy the right one, or make a new certificate with \"clrelay cert create-%s\"", ca, k)
	case errors.Is(err, ErrNotYet):
		return "check this machine's clock"
	}
	return fmt.Sprintf("make a new one with \"clrelay cert create-%s\" in an empty folder and move it here", k)
}

// signer is the authority that vouches for a chain that was verified, of
// several the one that ends last.
func signer(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, usage x509.ExtKeyUsage) *x509.Certificate {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	last := &x509.Certificate{}
	// An error leaves found empty.
	found, _ := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	for _, c := range found {
		if ca := c[len(c)-1]; ca.NotAfter.After(last.NotAfter) {
			last = ca
		}
	}
	return last
}

// authorities makes a pool of what ca.crt holds: one certificate, or two
// while the authority is being replaced.
func authorities(path string, certs []*x509.Certificate, now time.Time) (*x509.CertPool, error) {
	pool, valid := x509.NewCertPool(), 0
	var last error
	for _, c := range certs {
		switch {
		case !c.IsCA || !c.BasicConstraintsValid:
			return nil, wrong(path, ErrDamaged, "it holds a certificate that is no authority's", "copy the ca.crt that \"clrelay cert create-ca\" made")
		case now.Before(c.NotBefore):
			last = wrong(path, ErrNotYet, "its time begins on "+day(c.NotBefore), "check this machine's clock")
		case now.After(c.NotAfter):
			last = wrong(path, ErrExpired, "its time ended on "+day(c.NotAfter), "make a new authority with \"clrelay cert create-ca\" and new certificates for all nodes")
		default:
			pool.AddCert(c)
			valid++
		}
	}
	if valid == 0 {
		return nil, last
	}
	return pool, nil
}

// reason turns what x509 says into one of our errors.
func reason(c *x509.Certificate, now time.Time, err error) error {
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%w on %s", ErrExpired, day(c.NotAfter))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: its time begins on %s, and it is %s here", ErrNotYet, day(c.NotBefore), day(now))
	case errors.As(err, &authority):
		return fmt.Errorf("%w (%s)", ErrWrongCA, c.Issuer.CommonName)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("%w: it may not be used for this end of a connection", ErrDamaged)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func readFile(path, mend string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		return nil, wrong(path, ErrDamaged, "no file of a certificate or key", mend)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err == nil {
		return text, nil
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // without its name, which stands in front already
	}
	if errors.Is(err, fs.ErrPermission) {
		mend = "it must be readable by the user that runs this"
	}
	return nil, wrong(path, err, "", mend)
}

// readCerts reads all certificates of a file; it gives at least one.
func readCerts(path, mend string) ([]*x509.Certificate, error) {
	text, err := readFile(path, mend)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, wrong(path, ErrDamaged, fmt.Sprintf("it holds a %q, not certificates", block.Type), mend)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, wrong(path, ErrDamaged, err.Error(), mend)
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(bytes.TrimSpace(text)) > 0 {
		return nil, wrong(path, ErrDamaged, "it must hold certificates in PEM form and nothing else", mend)
	}
	return out, nil
}

// readKey reads a private key.
func readKey(path, mend string) (crypto.Signer, error) {
	text, err := readFile(path, mend)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, wrong(path, ErrDamaged, "it must hold a private key in PEM form", mend)
	}
	var key any
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, wrong(path, ErrDamaged, fmt.Sprintf("it holds a %q, not a private key that needs no password", block.Type), mend)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, wrong(path, ErrDamaged, "its private key cannot be read", mend)
	}
	return signer, nil
}

// belongs tells whether the key is the certificate's.
func belongs(c *x509.Certificate, key crypto.Signer) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}
