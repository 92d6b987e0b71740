package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// fixtures makes a folder with the files that the cases name.
func fixtures(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := keyPair(t)
	_, other := keyPair(t)
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"smtp.crt":       {cert, 0o644},
		"smtp.key":       {key, 0o600},
		"open.key":       {key, 0o644},
		"other.key":      {other, 0o600},
		"ca.pem":         {cert, 0o644},
		"garbage.pem":    {"garbage\n", 0o644},
		"smarthost.pass": {"secret\n", 0o600},
		"returns.key":    {"0123456789abcdef0123456789abcdef\n", 0o600},
		"open.pass":      {"secret\n", 0o644},
		"empty.pass":     {"\nsecret\n", 0o600},
		"tls/ca.crt":     {cert, 0o644},
		"tls/node.crt":   {cert, 0o644},
		"tls/node.key":   {key, 0o600},
		"bad/ca.crt":     {"garbage\n", 0o644},
		"bad/node.crt":   {cert, 0o644},
		"bad/node.key":   {other, 0o644},
		"some/ca.crt":    {cert, 0o644},
		"huge.pass":      {strings.Repeat("x", strict.MaxFileSize+1), 0o600},
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	return dir
}

func keyPair(t testing.TB) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx1.example.edu"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), DNSNames: []string{"mx1.example.edu"},
		URIs: []*url.URL{{Scheme: "clrelay", Host: "node", Path: "/mx1"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	enc := func(typ string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}))
	}
	return enc("CERTIFICATE", der), enc("PRIVATE KEY", kd)
}
