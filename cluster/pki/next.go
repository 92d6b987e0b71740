package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Next is an authority that is to take the place of another one.
type Next struct {
	Cert  []byte // PEM
	Cross []byte // PEM: the same key and name, signed by the authority before it
}

// Hash is the SHA-256 of its certificate, hexadecimal; empty when it is none.
func (n *Next) Hash() string {
	certs, err := parseCerts(n.Cert)
	if err != nil {
		return ""
	}
	return describe(certs[0]).SHA256
}

// MakeNext makes an authority to follow the one whose ca.key a folder holds,
// and leaves its key there as ca-next.key. One that is there is written over:
// it was never trusted.
func MakeNext(dir string, now time.Time) (Next, error) {
	n, err := makeNext(dir, now)
	if err != nil {
		return Next{}, fmt.Errorf("pki: make the next authority: %w", err)
	}
	return n, nil
}

func makeNext(dir string, now time.Time) (Next, error) {
	ca, caKey, err := authority(dir, now)
	if err != nil {
		return Next{}, err
	}
	key, tmpl, err := prepare(now, now.AddDate(0, 0, CADays))
	if err != nil {
		return Next{}, err
	}
	asAuthority(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return Next{}, err
	}
	cross := *tmpl
	cross.NotAfter = ca.NotAfter
	crossed, err := x509.CreateCertificate(rand.Reader, &cross, ca, key.Public(), caKey)
	if err != nil {
		return Next{}, err
	}
	return Next{Cert: pemCert(der), Cross: pemCert(crossed)}, replace(filepath.Join(dir, NextKeyFile), pemKey(key))
}

// asAuthority makes a blank certificate that of an authority. The name tells
// authorities apart in messages and in openssl.
func asAuthority(tmpl *x509.Certificate) {
	tmpl.Subject = pkix.Name{CommonName: "clrelay CA " + hex.EncodeToString(tmpl.SerialNumber.Bytes()[:4])}
	tmpl.IsCA, tmpl.MaxPathLenZero = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
}

// Trust adds an authority to ca.crt of a folder, if one that stands there
// vouches for it, and tells whether it was new.
func Trust(dir string, n Next, now time.Time) (bool, error) {
	added, err := trust(dir, n, now)
	if err != nil {
		return false, fmt.Errorf("pki: trust the next authority: %w", err)
	}
	return added, nil
}

func trust(dir string, n Next, now time.Time) (bool, error) {
	path := filepath.Join(dir, CAFile)
	there, err := readCerts(path, "")
	if err != nil {
		return false, err
	}
	next, err := parseCerts(n.Cert)
	if err != nil {
		return false, err
	}
	for _, c := range there {
		if c.Equal(next[0]) {
			return false, nil
		}
	}
	cross, err := parseCerts(n.Cross)
	if err != nil {
		return false, err
	}
	if err := vouched(there, next[0], cross[0], now); err != nil {
		return false, err
	}
	return true, replace(path, pemCerts(append(there, next[0])))
}

// vouched checks that one of the authorities that are trusted has signed the
// key of the next one.
func vouched(there []*x509.Certificate, next, cross *x509.Certificate, now time.Time) error {
	if _, err := authorities("the next authority", []*x509.Certificate{next}, now); err != nil {
		return err
	}
	if err := next.CheckSignatureFrom(next); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	key, ok := next.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(cross.PublicKey) || !cross.IsCA {
		return fmt.Errorf("what vouches for it is of another key: %w", ErrWrongKey)
	}
	for _, c := range there {
		if cross.CheckSignatureFrom(c) == nil && !now.After(c.NotAfter) {
			return nil
		}
	}
	return fmt.Errorf("no authority of ca.crt has signed it: %w", ErrWrongCA)
}

// Settle leaves one authority in ca.crt of a folder, which must be there: the
// next one when it has taken the place of the one before, or that one when it
// has not. Its key becomes ca.key where the folder holds it as ca-next.key; the
// key of what is dropped is removed. It tells whether anything changed.
func Settle(dir, hash string) (bool, error) {
	changed, err := settleOn(dir, hash)
	if err != nil {
		return false, fmt.Errorf("pki: drop an authority: %w", err)
	}
	return changed, nil
}

func settleOn(dir, hash string) (bool, error) {
	path := filepath.Join(dir, CAFile)
	there, err := readCerts(path, "")
	if err != nil {
		return false, err
	}
	var keep *x509.Certificate
	for _, c := range there {
		if describe(c).SHA256 == hash {
			keep = c
		}
	}
	if keep == nil {
		return false, wrong(path, ErrWrongCA, "the authority that is to stay is not in it", "")
	}
	if err := settleKeys(dir, keep); err != nil {
		return false, err
	}
	if len(there) == 1 {
		return false, nil
	}
	return true, replace(path, pemCerts([]*x509.Certificate{keep}))
}

func settleKeys(dir string, keep *x509.Certificate) error {
	next := filepath.Join(dir, NextKeyFile)
	key, err := readKey(next, "")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case belongs(keep, key):
		if err := os.Rename(next, filepath.Join(dir, CAKeyFile)); err != nil {
			return err
		}
	default:
		if err := os.Remove(next); err != nil {
			return err
		}
	}
	own := filepath.Join(dir, CAKeyFile)
	key, err = readKey(own, "")
	if err == nil && !belongs(keep, key) {
		err = os.Remove(own)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

func pemCerts(list []*x509.Certificate) (out []byte) {
	for _, c := range list {
		out = append(out, pemCert(c.Raw)...)
	}
	return out
}
