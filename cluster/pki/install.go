package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// newSuffix is behind the name of a file that is to take another one's place.
// A key of that name counts when the certificate is its own: the process ended
// between the two.
const newSuffix = ".new"

// Pair is a new certificate of a node with its key.
type Pair struct {
	Key  crypto.Signer
	Cert []byte // PEM
	CA   []byte // PEM; nil: ca.crt stays as it is
	Name string // of the node
}

// Install puts a pair into a folder in the place of the one before, once it is
// checked. A crash leaves the old pair or the new one.
func Install(dir string, p Pair, now time.Time) error {
	if err := install(dir, p, now); err != nil {
		return fmt.Errorf("pki: put a certificate in place: %w", err)
	}
	return nil
}

func install(dir string, p Pair, now time.Time) error {
	ca := p.CA
	if ca == nil {
		var err error
		if ca, err = readFile(filepath.Join(dir, CAFile), ""); err != nil {
			return err
		}
	}
	if err := p.check(ca, now); err != nil {
		return err
	}
	key, ok := p.Key.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("a key that is not one of P-256: %w", ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := settle(dir); err != nil {
		return err
	}
	keyPath := filepath.Join(dir, NodeKeyFile)
	if err := put(keyPath+newSuffix, pemKey(key)); err != nil {
		return err
	}
	if p.CA != nil {
		if err := replace(filepath.Join(dir, CAFile), p.CA); err != nil {
			return err
		}
	}
	// From the next line on the new pair counts.
	if err := replace(filepath.Join(dir, NodeFile), p.Cert); err != nil {
		return err
	}
	if err := os.Rename(keyPath+newSuffix, keyPath); err != nil {
		return err
	}
	return syncDir(dir)
}

// check holds a pair against its name and the authorities.
func (p *Pair) check(ca []byte, now time.Time) error {
	chain, err := parseCerts(p.Cert)
	if err != nil {
		return err
	}
	certs, err := parseCerts(ca)
	if err != nil {
		return err
	}
	roots, err := authorities(CAFile, certs, now)
	if err != nil {
		return err
	}
	if !belongs(chain[0], p.Key) {
		return fmt.Errorf("the certificate is not of the key that was made: %w", ErrWrongKey)
	}
	if err := verify(chain, roots, now, x509.ExtKeyUsageServerAuth); err != nil {
		return err
	}
	who, err := peerOf(chain[0])
	if err == nil && (who.Kind != Node || who.Name != p.Name) {
		err = fmt.Errorf("the certificate is of %s, not of node %s: %w", who, p.Name, ErrWrongName)
	}
	return err
}

// Finish ends an Install that a crash has cut off between the certificate and
// its key.
func Finish(dir string) error {
	if err := settle(dir); err != nil {
		return fmt.Errorf("pki: put a key in place: %w", err)
	}
	return nil
}

// settle ends what a crash may have left half done.
func settle(dir string) error {
	path := filepath.Join(dir, NodeKeyFile)
	next, err := readKey(path+newSuffix, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	chain, certErr := readCerts(filepath.Join(dir, NodeFile), "")
	if err != nil || certErr != nil || !belongs(chain[0], next) {
		return nil // it never counted, and is written over
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// nodeKey reads the key of a certificate.
func nodeKey(c *x509.Certificate, path, mend string) (crypto.Signer, error) {
	key, err := readKey(path, mend)
	if err == nil && belongs(c, key) {
		return key, nil
	}
	if next, e := readKey(path+newSuffix, ""); e == nil && belongs(c, next) {
		return next, nil
	}
	return key, err
}

// put writes a file that only its owner reads, in the place of what is there.
func put(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = f.Chmod(0o600)
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// replace puts a file in the place of another one.
func replace(path string, text []byte) error {
	if err := put(path+newSuffix, text); err != nil {
		return err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
