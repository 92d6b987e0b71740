package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

// signed has an authority sign a request of a new key.
func signed(t *testing.T, ca, name string) pki.Pair {
	t.Helper()
	key, der, err := pki.NewRequest(name, []string{"10.0.0.9", "mx9.example.edu"})
	if err != nil {
		t.Fatal(err)
	}
	req, err := pki.ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pki.Authorities(ca, at())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := list[0].Sign(req, 90*24*time.Hour, at())
	if err != nil {
		t.Fatal(err)
	}
	return pki.Pair{Key: key, Cert: cert, Name: name}
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A certificate that was signed for a request is a node's like any other.
func TestSignAndInstall(t *testing.T) {
	ca := authority(t)
	p, dir := signed(t, ca, "mx9"), filepath.Join(t.TempDir(), "tls")
	p.CA = read(t, ca, pki.CAFile)
	if err := pki.Install(dir, p, at()); err != nil {
		t.Fatal(err)
	}
	mx9, mx1 := open(t, dir, pki.Node), node(t, ca, "mx1")
	if _, s, c := shake(t, mx9.Server("x"), mx1.Client("mx9", "x")); s != nil || c != nil {
		t.Errorf("as server: %v, %v", s, c)
	}
	if _, s, c := shake(t, mx1.Server("x"), mx9.Client("mx1", "x")); s != nil || c != nil {
		t.Errorf("as client: %v, %v", s, c)
	}
	st := mx9.Standing()
	if !slices.Equal(st.Cert.Hosts, []string{"mx9.example.edu", "10.0.0.9"}) || st.Cert.Life() != 90*24*time.Hour || len(st.Trusts) != 1 || st.Issuer.SHA256 != st.Trusts[0].SHA256 {
		t.Errorf("standing: %+v", st)
	}
	for _, name := range []string{pki.NodeFile, pki.NodeKeyFile, pki.CAFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 3 {
		t.Errorf("the folder holds %v", list)
	}
}

func TestInstallRefuses(t *testing.T) {
	ca := authority(t)
	good, other := signed(t, ca, "mx9"), signed(t, ca, "mx8")
	for what, c := range map[string]struct {
		p    pki.Pair
		want error
	}{
		"another key":       {pki.Pair{Key: other.Key, Cert: good.Cert, Name: "mx9"}, pki.ErrWrongKey},
		"another name":      {pki.Pair{Key: good.Key, Cert: good.Cert, Name: "mx8"}, pki.ErrWrongName},
		"another authority": {signed(t, authority(t), "mx9"), pki.ErrWrongCA},
		"no certificate":    {pki.Pair{Key: good.Key, Cert: []byte("hello"), Name: "mx9"}, pki.ErrDamaged},
	} {
		c.p.CA = read(t, ca, pki.CAFile)
		dir := filepath.Join(t.TempDir(), "tls")
		if err := pki.Install(dir, c.p, at()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", what)
		}
	}
}

// Whatever a crash leaves of an Install is the old pair or the new one, and the
// next Install does not lose the key that counts.
func TestInstallOverACrash(t *testing.T) {
	ca := authority(t)
	next := signed(t, ca, "mx1")
	for _, crash := range []string{"before the certificate", "after it", "after it, on a new machine"} {
		dir := create(t, pki.CertOptions{CADir: ca, Name: "mx1"})
		was := read(t, dir, pki.NodeKeyFile)
		done := create(t, pki.CertOptions{CADir: ca, Name: "mx1"})
		if err := pki.Install(done, next, at()); err != nil {
			t.Fatal(err)
		}
		write := func(name string, text []byte) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(pki.NodeKeyFile+".new", read(t, done, pki.NodeKeyFile))
		if strings.HasPrefix(crash, "after") {
			write(pki.NodeFile, next.Cert)
		}
		if strings.HasSuffix(crash, "machine") {
			if err := os.Remove(filepath.Join(dir, pki.NodeKeyFile)); err != nil {
				t.Fatal(err)
			}
		}
		open(t, dir, pki.Node) // fails where the pair is torn
		again := signed(t, ca, "mx1")
		again.Name = "mx2" // is refused, and changes nothing
		if err := pki.Install(dir, again, at()); err == nil {
			t.Fatal("another name was taken")
		}
		open(t, dir, pki.Node)
		again.Name = "mx1"
		if err := pki.Install(dir, again, at()); err != nil {
			t.Fatal(err)
		}
		open(t, dir, pki.Node)
		if string(read(t, dir, pki.NodeKeyFile)) == string(was) {
			t.Errorf("%s: the key is the first one", crash)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri := func(text string) []*url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	mx1 := uri("clrelay://node/mx1")
	many := make([]string, 33)
	for i := range many {
		many[i] = "a.example"
	}
	for _, c := range []struct {
		what string
		key  any
		csr  x509.CertificateRequest
		want error
	}{
		{"an operator", key, x509.CertificateRequest{URIs: uri("clrelay://admin/jane")}, pki.ErrWrongName},
		{"an operator with a role", key, x509.CertificateRequest{URIs: uri("clrelay://operator/jane/admin")}, pki.ErrWrongName},
		{"no name", key, x509.CertificateRequest{}, pki.ErrWrongName},
		{"two names", key, x509.CertificateRequest{URIs: append(uri("clrelay://node/mx2"), mx1...)}, pki.ErrWrongName},
		{"a path", key, x509.CertificateRequest{URIs: uri("clrelay://node/../mx1")}, pki.ErrWrongName},
		{"RSA", large, x509.CertificateRequest{URIs: mx1}, pki.ErrInvalid},
		{"another curve", p384, x509.CertificateRequest{URIs: mx1}, pki.ErrInvalid},
		{"a wildcard", key, x509.CertificateRequest{URIs: mx1, DNSNames: []string{"*.example.edu"}}, pki.ErrInvalid},
		{"many hosts", key, x509.CertificateRequest{URIs: mx1, DNSNames: many}, pki.ErrInvalid},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &c.csr, c.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseRequest(der); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	_, der, err := pki.NewRequest("mx1", nil)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := slices.Clone(der)
	spoiled[len(spoiled)-1] ^= 1
	if _, err := pki.ParseRequest(spoiled); err == nil {
		t.Error("a request with a wrong signature passed")
	}
	if _, err := pki.ParseRequest(append(der, make([]byte, pki.MaxRequest)...)); !errors.Is(err, pki.ErrInvalid) {
		t.Errorf("a huge one: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	_, der, err := pki.NewRequest("mx1", []string{"10.0.0.1", "mx1.example.edu"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := pki.ParseRequest(der)
		if err == nil && (pki.ValidName(r.Name) != nil || len(r.Key) != 2*sha256.Size) {
			t.Errorf("passed: %+v", r)
		}
	})
}

// The door lets in who has no certificate, and to that protocol alone.
func TestDoor(t *testing.T) {
	ca := authority(t)
	mx1, mx2 := node(t, ca, "mx1"), node(t, ca, "mx2")
	hash := sha256.Sum256(pemBytes(t, read(t, ca, pki.CAFile)))
	door := mx1.Door("h2", "x")
	foreign := node(t, authority(t), "mx1").Door("h2")
	stranger := func(protocols ...string) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
	}
	for _, c := range []struct {
		what           string
		server, client *tls.Config
		protocol       string // empty: it is refused
	}{
		{"who knows the authority", door, pki.Pinned(hash, at), pki.ProtocolJoin},
		{"a node as ever", door, mx2.Client("mx1", "h2"), "h2"},
		{"a stranger who says what he wants", door, stranger(pki.ProtocolJoin), pki.ProtocolJoin},
		{"a stranger who offers more", door, stranger("h2", "x", pki.ProtocolJoin), pki.ProtocolJoin},
		{"a stranger to gRPC", door, stranger("h2"), ""},
		{"a stranger to nothing", door, stranger(), ""},
		{"another authority", foreign, pki.Pinned(hash, at), ""},
		{"another pin", door, pki.Pinned([32]byte{1}, at), ""},
		{"a node without a door", mx1.Server("h2"), pki.Pinned(hash, at), ""},
	} {
		s, sErr, cErr := shake(t, c.server, c.client)
		if refused := sErr != nil || cErr != nil; refused != (c.protocol == "") {
			t.Errorf("%s: server %v, client %v", c.what, sErr, cErr)
		} else if !refused && s.NegotiatedProtocol != c.protocol {
			t.Errorf("%s: speaks %q, want %q", c.what, s.NegotiatedProtocol, c.protocol)
		}
	}
}

// Who holds the pinned authority's certificate, which is public, and not its
// key is not taken for a node of it.
func TestPinOfTheRightCertificate(t *testing.T) {
	ca := authority(t)
	real := pemBytes(t, read(t, ca, pki.CAFile))
	liar := create(t, pki.CertOptions{CADir: authority(t), Name: "mx1"})
	pair, err := tls.LoadX509KeyPair(filepath.Join(liar, pki.NodeFile), filepath.Join(liar, pki.NodeKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, real)
	server := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{pki.ProtocolJoin}}
	if _, _, err := shake(t, server, pki.Pinned(sha256.Sum256(real), at)); !errors.Is(err, pki.ErrWrongCA) {
		t.Errorf("a liar with the right authority in its chain: %v", err)
	}
	ops := create(t, pki.CertOptions{Kind: pki.Admin, CADir: ca, Name: "ops"})
	if pair, err = tls.LoadX509KeyPair(filepath.Join(ops, pki.AdminFile), filepath.Join(ops, pki.AdminKeyFile)); err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, real)
	server.Certificates[0] = pair
	if _, _, err := shake(t, server, pki.Pinned(sha256.Sum256(real), at)); err == nil {
		t.Error("an operator passed for a node")
	}
}

// The authority is replaced where one that is trusted vouches for the next, and
// nowhere else.
func TestNextAuthority(t *testing.T) {
	ca := authority(t)
	mx1 := create(t, pki.CertOptions{CADir: ca, Name: "mx1"})
	id := open(t, mx1, pki.Node)
	old := id.Standing().Issuer.SHA256
	next, err := pki.MakeNext(ca, at())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := pki.MakeNext(authority(t), at())
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]pki.Next{
		"of another cluster":         forged,
		"with another one's cross":   {Cert: forged.Cert, Cross: next.Cross},
		"vouched for by itself":      {Cert: next.Cert, Cross: next.Cert},
		"vouched for by nobody":      {Cert: next.Cert},
		"a node's certificate":       {Cert: read(t, mx1, pki.NodeFile), Cross: next.Cross},
		"vouched for by a node":      {Cert: forged.Cert, Cross: read(t, mx1, pki.NodeFile)},
		"the cross in the own place": {Cert: next.Cross, Cross: next.Cross},
	} {
		if added, err := pki.Trust(mx1, n, at()); err == nil || added {
			t.Errorf("%s: it is trusted", what)
		}
	}
	for _, want := range []bool{true, false} {
		if added, err := pki.Trust(mx1, next, at()); err != nil || added != want {
			t.Fatalf("trust: %v, %v", added, err)
		}
		if _, err := pki.Trust(ca, next, at()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := pki.Authorities(ca, at())
	if err != nil || len(list) != 2 || list[0].Hash() != old || list[1].Hash() != next.Hash() {
		t.Fatalf("authorities: %v, %v", list, err)
	}
	key, der, err := pki.NewRequest("mx1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := pki.ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := list[1].Sign(req, time.Hour, at())
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.Install(mx1, pki.Pair{Key: key, Cert: cert, Name: "mx1"}, at()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{mx1, ca} {
		if changed, err := pki.Settle(dir, next.Hash()); err != nil || !changed {
			t.Fatalf("settle: %v, %v", changed, err)
		}
	}
	if err := id.Reload(); err != nil {
		t.Fatal(err)
	}
	if st := id.Standing(); len(st.Trusts) != 1 || st.Issuer.SHA256 != next.Hash() {
		t.Errorf("standing: %+v", st)
	}
	if list, err := pki.Authorities(ca, at()); err != nil || len(list) != 1 || list[0].Hash() != next.Hash() {
		t.Errorf("authorities after: %v, %v", list, err)
	}
	if left, _ := os.ReadDir(ca); len(left) != 2 {
		t.Errorf("the folder of the authority holds %v", left)
	}
	if _, err := pki.Settle(mx1, old); !errors.Is(err, pki.ErrWrongCA) {
		t.Errorf("settling on one that is gone: %v", err)
	}
}
