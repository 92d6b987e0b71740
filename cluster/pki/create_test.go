package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

func pemBytes(t *testing.T, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func TestCreate(t *testing.T) {
	ca := authority(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	m, err := pki.Create(pki.CertOptions{Kind: pki.Node, Dir: dir, CADir: ca, Name: "mx1", Hosts: []string{"10.0.0.1", "mx1.example.edu", "2001:db8::1", "[2001:db8::2]"}, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	if i := m.Cert; i.Kind != "node" || i.Name != "mx1" || !slices.Equal(i.Hosts, []string{"mx1.example.edu", "10.0.0.1", "2001:db8::1", "2001:db8::2"}) ||
		!i.NotAfter.Equal(at().AddDate(0, 0, 730)) || !strings.HasPrefix(i.Issuer, "clrelay CA ") || i.File != filepath.Join(dir, "node.crt") {
		t.Errorf("made %+v", i)
	}
	for name, mode := range map[string]fs.FileMode{
		dir + "/node.crt": 0o644, dir + "/node.key": 0o600, dir + "/ca.crt": 0o644, ca + "/ca.crt": 0o644, ca + "/ca.key": 0o600, dir: 0o700 | fs.ModeDir,
	} {
		if info, err := os.Stat(name); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 3 {
		t.Errorf("the folder holds %v", list)
	}
	text, err := os.ReadFile(dir + "/node.crt")
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(pemBytes(t, text))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.URIs) != 1 || c.URIs[0].String() != "clrelay://node/mx1" || c.IsCA || c.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P256() {
		t.Errorf("certificate: %v, CA %v", c.URIs, c.IsCA)
	}
	got, err := pki.Describe(dir + "/node.crt")
	if err != nil || len(got) != 1 || got[0].SHA256 != m.Cert.SHA256 {
		t.Errorf("described as %+v, %v", got, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	ca, other := authority(t), authority(t)
	mx1 := create(t, pki.CertOptions{CADir: ca, Name: "mx1"})
	keep, err := os.ReadFile(mx1 + "/node.key")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		o     pki.CertOptions
		want  error
		names string
	}{
		{"again", pki.CertOptions{Dir: mx1, CADir: ca, Name: "mx1"}, pki.ErrExists, mx1 + "/node.crt"},
		{"another authority beside", pki.CertOptions{Kind: pki.Admin, Dir: mx1, CADir: other, Name: "ops"}, pki.ErrExists, "ca.crt"},
		{"no authority", pki.CertOptions{Dir: t.TempDir(), Name: "mx1"}, fs.ErrNotExist, "--ca-dir"},
		{"authority without key", pki.CertOptions{Dir: t.TempDir(), CADir: mx1, Name: "mx1"}, fs.ErrNotExist, "ca.key"},
		{"no name", pki.CertOptions{CADir: ca}, pki.ErrInvalid, "name"},
		{"path as name", pki.CertOptions{CADir: ca, Name: "../mx1"}, pki.ErrInvalid, "name"},
		{"long name", pki.CertOptions{CADir: ca, Name: strings.Repeat("x", 64)}, pki.ErrInvalid, "name"},
		{"port", pki.CertOptions{CADir: ca, Name: "mx1", Hosts: []string{"10.0.0.1:25"}}, pki.ErrInvalid, "port"},
		{"half an address", pki.CertOptions{CADir: ca, Name: "mx1", Hosts: []string{"10.0.0"}}, pki.ErrInvalid, "10.0.0"},
		{"wildcard", pki.CertOptions{CADir: ca, Name: "mx1", Hosts: []string{"*.example.edu"}}, pki.ErrInvalid, "*"},
		{"empty host", pki.CertOptions{CADir: ca, Name: "mx1", Hosts: []string{""}}, pki.ErrInvalid, "DNS name"},
		{"many hosts", pki.CertOptions{CADir: ca, Name: "mx1", Hosts: make([]string, 33)}, pki.ErrInvalid, "33"},
		{"unknown role", pki.CertOptions{Kind: pki.Admin, CADir: ca, Name: "jane", Role: "root"}, pki.ErrInvalid, "viewer, support"},
		{"node with a role", pki.CertOptions{CADir: ca, Name: "mx1", Role: "viewer"}, pki.ErrInvalid, "node"},
		{"content without a role", pki.CertOptions{Kind: pki.Admin, CADir: ca, Name: "jane", Content: true}, pki.ErrInvalid, "role"},
		{"content for a viewer", pki.CertOptions{Kind: pki.Admin, CADir: ca, Name: "jane", Role: "viewer", Content: true}, pki.ErrInvalid, "viewer"},
		{"negative days", pki.CertOptions{CADir: ca, Name: "mx1", Days: -1}, pki.ErrInvalid, "days"},
		{"many days", pki.CertOptions{CADir: ca, Name: "mx1", Days: 1 << 40}, pki.ErrInvalid, "days"},
		{"authority expired", pki.CertOptions{CADir: ca, Name: "mx1", Now: func() time.Time { return at().AddDate(11, 0, 0) }}, pki.ErrExpired, "ca.crt"},
	} {
		if c.o.Dir == "" {
			c.o.Dir = filepath.Join(t.TempDir(), "new")
		}
		if c.o.Now == nil {
			c.o.Now = at
		}
		_, err := pki.Create(c.o)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %v, want %v that says %q", c.what, err, c.want, c.names)
		}
		t.Logf("%s: %v", c.what, err)
		if list, _ := os.ReadDir(c.o.Dir); c.o.Dir != mx1 && len(list) > 0 {
			t.Errorf("%s: left %v behind", c.what, list)
		}
	}
	if _, err := pki.CreateCA(pki.CAOptions{Dir: ca, Now: at}); !errors.Is(err, pki.ErrExists) {
		t.Errorf("a second authority: %v", err)
	}
	if now, err := os.ReadFile(mx1 + "/node.key"); err != nil || string(now) != string(keep) {
		t.Errorf("a refused creation touched the key: %v", err)
	}
}

// A certificate never outlives its authority.
func TestEndOfTheAuthority(t *testing.T) {
	dir := t.TempDir()
	if _, err := pki.CreateCA(pki.CAOptions{Dir: dir, Days: 10, Now: at}); err != nil {
		t.Fatal(err)
	}
	m, err := pki.Create(pki.CertOptions{Dir: dir, Name: "mx1", Now: at})
	if err != nil || !m.Cert.NotAfter.Equal(at().AddDate(0, 0, 10)) {
		t.Errorf("ends %v, %v", m.Cert.NotAfter, err)
	}
}

// Certificates that our authority signed and that name nobody, or two, are
// nobody's.
func TestNames(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uris []string
		want string
	}{
		{[]string{"clrelay://node/mx1"}, "node mx1"},
		{[]string{"https://example.edu/", "clrelay://admin/ops.x"}, "admin ops.x"},
		{[]string{"clrelay://operator/jane/support"}, "admin jane"},
		{[]string{"clrelay://operator/jane/support/content"}, "admin jane"},
		{[]string{"clrelay://operator/jane"}, ""},
		{[]string{"clrelay://operator/jane/"}, ""},
		{[]string{"clrelay://operator/jane/root"}, ""},
		{[]string{"clrelay://operator/jane/none"}, ""},
		{[]string{"clrelay://operator/jane/support/content/content"}, ""},
		{[]string{"clrelay://operator/jane/support/x"}, ""},
		{[]string{"clrelay://operator/jane/content"}, ""},
		{[]string{"clrelay://operator//support"}, ""},
		{[]string{"clrelay://admin/jane/support"}, ""},
		{[]string{"clrelay://node/mx1/admin"}, ""},
		{[]string{"clrelay://operator/jane/support", "clrelay://admin/jane"}, ""},
		{nil, ""},
		{[]string{"https://example.edu/node/mx1"}, ""},
		{[]string{"clrelay://node/mx1", "clrelay://node/mx2"}, ""},
		{[]string{"clrelay://node/mx1", "clrelay://node/mx1"}, ""},
		{[]string{"clrelay://node/mx1", "clrelay://root/mx1"}, ""},
		{[]string{"clrelay://node/"}, ""},
		{[]string{"clrelay://node/mx1/"}, ""},
		{[]string{"clrelay://node/mx1/mx2"}, ""},
		{[]string{"clrelay://node//mx1"}, ""},
		{[]string{"clrelay://node/mx1?x"}, ""},
		{[]string{"clrelay://node/mx1#x"}, ""},
		{[]string{"clrelay://u@node/mx1"}, ""},
		{[]string{"clrelay://node:1/mx1"}, ""},
		{[]string{"clrelay://node/mx%31"}, ""},
		{[]string{"CLRELAY://NODE/mx1"}, ""},
		{[]string{"clrelay:node/mx1"}, ""},
	} {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: at(), NotAfter: at().AddDate(1, 0, 0)}
		for _, text := range c.uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			tmpl.URIs = append(tmpl.URIs, u)
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			if c.want != "" {
				t.Errorf("%q: %v", c.uris, err)
			}
			continue
		}
		p, err := pki.PeerOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}})
		if (err == nil) != (c.want != "") || err == nil && p.String() != c.want {
			t.Errorf("%q: %v, %v; want %q", c.uris, p, err, c.want)
		}
		if err != nil && !errors.Is(err, pki.ErrWrongName) {
			t.Errorf("%q: %v is not ErrWrongName", c.uris, err)
		}
	}
	if _, err := pki.PeerOf(tls.ConnectionState{}); !errors.Is(err, pki.ErrWrongName) {
		t.Errorf("no certificate: %v", err)
	}
}
