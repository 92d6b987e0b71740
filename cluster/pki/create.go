package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/roles"
)

// Lifetimes where none is asked for, in days.
const (
	CADays   = 3652 // ten years
	CertDays = 730  // two years
	maxDays  = 36500
)

// backdate is how far behind ours the clock of another machine may be when it
// gets a new certificate.
const backdate = time.Hour

// maxHosts bounds the hosts of one certificate.
const maxHosts = 32

// CAOptions say what authority to make.
type CAOptions struct {
	Dir  string // is made if it is not there
	Days int    // default CADays
	Now  func() time.Time
}

// CertOptions say what certificate to make.
type CertOptions struct {
	Kind  Kind
	Dir   string   // is made if it is not there
	CADir string   // of ca.crt and ca.key; default Dir
	Name  string   // of the node or operator
	Hosts []string // DNS names and IP addresses, for programs other than this
	Days  int      // default CertDays; never longer than the authority lives
	Now   func() time.Time

	Role    roles.Role // of an operator; empty: a certificate without one, which stands for admin
	Content bool       // he may read what is written in messages; takes a Role
}

// Made is what was made.
type Made struct {
	Files []string
	Cert  Info
}

// CreateCA makes an authority: ca.crt and ca.key. Neither may be there.
func CreateCA(o CAOptions) (Made, error) {
	m, err := createCA(o)
	if err != nil {
		return Made{}, fmt.Errorf("pki: make an authority: %w", err)
	}
	return m, nil
}

func createCA(o CAOptions) (Made, error) {
	now := clock(o.Now)
	end, err := lifetime(o.Days, CADays, now)
	if err != nil {
		return Made{}, err
	}
	certPath, keyPath := filepath.Join(o.Dir, CAFile), filepath.Join(o.Dir, CAKeyFile)
	if err := absent("every certificate of the cluster is signed by it; if you do want another authority, make it in an empty folder (--dir)", certPath, keyPath); err != nil {
		return Made{}, err
	}
	key, tmpl, err := prepare(now, end)
	if err != nil {
		return Made{}, err
	}
	asAuthority(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return Made{}, err
	}
	return finish(o.Dir, der, []file{{keyPath, pemKey(key), 0o600}, {certPath, pemCert(der), 0o644}})
}

// Create makes a certificate and its key, and puts ca.crt beside them. Neither
// of the two may be there, nor the ca.crt of another authority.
func Create(o CertOptions) (Made, error) {
	m, err := create(o)
	if err != nil {
		return Made{}, fmt.Errorf("pki: make a certificate: %w", err)
	}
	return m, nil
}

func create(o CertOptions) (Made, error) {
	now := clock(o.Now)
	if o.Kind == 0 {
		o.Kind = Node
	}
	if err := ValidName(o.Name); err != nil {
		return Made{}, err
	}
	if err := o.validRole(); err != nil {
		return Made{}, err
	}
	end, err := lifetime(o.Days, CertDays, now)
	if err != nil {
		return Made{}, err
	}
	if o.CADir == "" {
		o.CADir = o.Dir
	}
	certName, keyName := names(o.Kind)
	certPath, keyPath := filepath.Join(o.Dir, certName), filepath.Join(o.Dir, keyName)
	mend := fmt.Sprintf("choose an empty folder (--dir) and name the authority's with --ca-dir %s; to replace the certificate of %s, move the new files over the old", o.CADir, o.Name)
	if err := absent(mend, certPath, keyPath); err != nil {
		return Made{}, err
	}
	ca, caKey, err := authority(o.CADir, now)
	if err != nil {
		return Made{}, err
	}
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	key, tmpl, err := prepare(now, end)
	if err != nil {
		return Made{}, err
	}
	peer := Peer{Kind: o.Kind, Name: o.Name, Role: o.Role, Content: o.Content}
	tmpl.Subject = pkix.Name{CommonName: o.Name}
	tmpl.URIs = []*url.URL{peer.uri()}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if o.Kind == Node {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if err := setHosts(tmpl, o.Hosts); err != nil {
		return Made{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return Made{}, err
	}
	files := []file{{keyPath, pemKey(key), 0o600}, {certPath, pemCert(der), 0o644}}
	if copied, err := copyCA(o, ca); err != nil {
		return Made{}, err
	} else if copied != nil {
		files = append(files, *copied)
	}
	return finish(o.Dir, der, files)
}

// validRole checks what the certificate is to allow.
func (o *CertOptions) validRole() error {
	reads := roles.Grant{Role: o.Role, Content: true}
	switch {
	case o.Role == "" && !o.Content:
		return nil
	case o.Kind != Admin:
		return fmt.Errorf("a node has no role: %w", ErrInvalid)
	case !roles.Known(string(o.Role)):
		return fmt.Errorf("%q is no role: they are %s: %w", o.Role, roles.List(), ErrInvalid)
	case o.Content && !reads.May(roles.Content):
		return fmt.Errorf("who is %s cannot read what is written in messages; that takes support, operator or admin: %w", o.Role, ErrInvalid)
	}
	return nil
}

// copyCA says whether ca.crt must be put into the folder as well.
func copyCA(o CertOptions, ca *x509.Certificate) (*file, error) {
	src, dst := filepath.Join(o.CADir, CAFile), filepath.Join(o.Dir, CAFile)
	there, err := readCerts(dst, "")
	if errors.Is(err, fs.ErrNotExist) {
		text, err := readFile(src, "")
		if err != nil {
			return nil, err
		}
		return &file{dst, text, 0o644}, nil
	}
	if err != nil {
		return nil, err
	}
	for _, c := range there {
		if c.Equal(ca) {
			return nil, nil
		}
	}
	return nil, wrong(dst, ErrExists, "it is another authority's than "+src, "choose an empty folder (--dir)")
}

// authority reads ca.crt and ca.key and finds the certificate of that key.
func authority(dir string, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	const mend = "make an authority with \"clrelay cert create-ca\", or name the folder of the one you have with --ca-dir"
	path := filepath.Join(dir, CAFile)
	certs, err := readCerts(path, mend)
	if err != nil {
		return nil, nil, err
	}
	key, err := readKey(filepath.Join(dir, CAKeyFile), mend)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range certs {
		if !belongs(c, key) {
			continue
		}
		_, err := authorities(path, []*x509.Certificate{c}, now)
		return c, key, err
	}
	return nil, nil, wrong(path, ErrWrongKey, filepath.Join(dir, CAKeyFile)+" is another authority's", "put the two that were made together there")
}

func clock(now func() time.Time) time.Time {
	if now == nil {
		now = time.Now
	}
	return now()
}

func lifetime(days, standard int, now time.Time) (time.Time, error) {
	if days == 0 {
		days = standard
	}
	if days < 1 || days > maxDays {
		return time.Time{}, fmt.Errorf("%d days: from 1 to %d: %w", days, maxDays, ErrInvalid)
	}
	return now.AddDate(0, 0, days), nil
}

// prepare makes a key and a blank certificate.
func prepare(now, end time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return key, blank(now, end), nil
}

// blank is what all certificates have in common.
func blank(now, end time.Time) *x509.Certificate {
	serial := make([]byte, 16) // positive, unique, at most 20 octets
	_, _ = rand.Read(serial)   // never fails
	serial[0] = serial[0]&0x7f | 0x40
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              end.UTC(),
		BasicConstraintsValid: true,
	}
}

func setHosts(tmpl *x509.Certificate, hosts []string) error {
	if len(hosts) > maxHosts {
		return fmt.Errorf("%d hosts, and %d are the most: %w", len(hosts), maxHosts, ErrInvalid)
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(strings.Trim(h, "[]")); err == nil && ip.Zone() == "" {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip.Unmap().AsSlice())
		} else if dnsName(h) {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		} else {
			return fmt.Errorf("%q is neither a DNS name nor an IP address (without a port): %w", h, ErrInvalid)
		}
	}
	return nil
}

func dnsName(h string) bool {
	if len(h) > 253 {
		return false
	}
	digits := true
	for label := range strings.SplitSeq(h, ".") {
		if len(label) < 1 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
		digits = strings.Trim(label, "0123456789") == ""
	}
	return !digits // 10.0.0 is a mistyped address
}

func pemCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func pemKey(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err) // a P-256 key of our own making
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// file is one to be written.
type file struct {
	path string
	text []byte
	mode fs.FileMode
}

// absent refuses to go on if one of the files is there.
func absent(mend string, paths ...string) error {
	for _, p := range paths {
		switch _, err := os.Lstat(p); {
		case err == nil:
			return wrong(p, ErrExists, "it is never overwritten", mend)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// finish writes all files or none.
func finish(dir string, der []byte, files []file) (Made, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Made{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Made{}, err
	}
	m := Made{}
	for _, f := range files {
		if err = f.write(); err != nil {
			break
		}
		m.Files = append(m.Files, f.path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		for _, p := range m.Files {
			err = errors.Join(err, os.Remove(p)) // ours: write makes files that were not there
		}
		return Made{}, err
	}
	m.Cert = describe(cert)
	m.Cert.File = files[1].path
	return m, nil
}

// write makes the file; one that is there is left alone.
func (f file) write() error {
	w, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return err
	}
	_, err = w.Write(f.text)
	if err == nil {
		err = w.Sync()
	}
	if closed := w.Close(); err == nil {
		err = closed
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.path))
	}
	return err
}

// syncDir makes new names durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}
