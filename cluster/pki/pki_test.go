package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

// at is when the certificates of these tests are made.
func at() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

func authority(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := pki.CreateCA(pki.CAOptions{Dir: dir, Now: at}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func create(t *testing.T, o pki.CertOptions) string {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), o.Name)
	}
	if o.Now == nil {
		o.Now = at
	}
	if _, err := pki.Create(o); err != nil {
		t.Fatal(err)
	}
	return o.Dir
}

func open(t *testing.T, dir string, kind pki.Kind) *pki.Identity {
	t.Helper()
	id, err := pki.Open(pki.Options{Dir: dir, Kind: kind, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func node(t *testing.T, ca, name string) *pki.Identity {
	t.Helper()
	return open(t, create(t, pki.CertOptions{Kind: pki.Node, CADir: ca, Name: name, Hosts: []string{"127.0.0.1", name + ".example.edu"}}), pki.Node)
}

// shake does a handshake and says what each end made of it, and what the
// server knows of the client.
func shake(t *testing.T, server, client *tls.Config) (s tls.ConnectionState, sErr, cErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	srv, cli := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := srv.HandshakeContext(t.Context())
		if err == nil {
			_, err = srv.Write([]byte{1})
		}
		if err != nil {
			_ = a.Close()
		}
		done <- err
	}()
	cErr = cli.HandshakeContext(t.Context())
	if cErr == nil {
		// In TLS 1.3 a client hears only when it reads that it was refused.
		_, cErr = cli.Read(make([]byte, 1))
	}
	_ = b.Close()
	sErr = <-done
	return srv.ConnectionState(), sErr, cErr
}

func TestHandshake(t *testing.T) {
	ca := authority(t)
	mx1, mx2 := node(t, ca, "mx1"), node(t, ca, "mx2")
	ops := open(t, create(t, pki.CertOptions{Kind: pki.Admin, CADir: ca, Name: "ops"}), pki.Admin)
	foreign := node(t, authority(t), "mx1")

	for _, c := range []struct {
		what           string
		server, client *tls.Config
		serverSees     pki.Peer
		wrong          error // at the client
		refused        bool  // by either end
	}{
		{what: "node to node", server: mx2.Server("x"), client: mx1.Client("mx2", "x"), serverSees: pki.Peer{Kind: pki.Node, Name: "mx1"}},
		{what: "any node", server: mx2.Server(), client: mx1.Client(""), serverSees: pki.Peer{Kind: pki.Node, Name: "mx1"}},
		{what: "operator to node", server: mx2.Server("h2", "x"), client: ops.Client("", "h2"), serverSees: pki.Peer{Kind: pki.Admin, Name: "ops"}},
		{what: "another node", server: mx2.Server(), client: mx1.Client("mx3"), wrong: pki.ErrWrongName, refused: true},
		{what: "an operator as server", server: ops.Server(), client: mx1.Client(""), refused: true},
		{what: "a foreign server", server: foreign.Server(), client: mx2.Client("mx1"), wrong: pki.ErrWrongCA, refused: true},
		{what: "a foreign client", server: mx2.Server(), client: foreign.Client(""), refused: true},
		{what: "other protocols", server: mx2.Server("x"), client: mx1.Client("mx2", "y"), refused: true},
		{what: "no protocol at the server", server: mx2.Server(), client: mx1.Client("mx2", "y"), wrong: pki.ErrInvalid, refused: true},
		{what: "no protocol at the client", server: mx2.Server("x"), client: mx1.Client("mx2"), refused: true},
		{what: "no certificate", server: mx2.Server(), client: &tls.Config{InsecureSkipVerify: true}, refused: true},
		{what: "old TLS", server: mx2.Server(), client: func() *tls.Config {
			c := mx1.Client("mx2")
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), refused: true},
	} {
		s, sErr, cErr := shake(t, c.server, c.client)
		if refused := sErr != nil || cErr != nil; refused != c.refused {
			t.Errorf("%s: server %v, client %v; refused: want %v", c.what, sErr, cErr, c.refused)
			continue
		}
		if c.wrong != nil && !errors.Is(cErr, c.wrong) {
			t.Errorf("%s: the client says %v, want %v", c.what, cErr, c.wrong)
		}
		if c.refused {
			continue
		}
		if p, err := pki.PeerOf(s); err != nil || p != c.serverSees {
			t.Errorf("%s: the server sees %v, %v; want %v", c.what, p, err, c.serverSees)
		}
	}
}

// A client that offers the trusted name from a foreign authority together
// with the real authority's certificate gains nothing by it.
func TestChainOfStrangers(t *testing.T) {
	ca := authority(t)
	mx2 := node(t, ca, "mx2")
	real, err := os.ReadFile(filepath.Join(ca, pki.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	foreign := create(t, pki.CertOptions{CADir: authority(t), Name: "mx1"})
	pair, err := tls.LoadX509KeyPair(filepath.Join(foreign, pki.NodeFile), filepath.Join(foreign, pki.NodeKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(real)
	other, err := os.ReadFile(filepath.Join(foreign, pki.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	pair.Certificate = append(pair.Certificate, pemBytes(t, other), pemBytes(t, real))
	_, sErr, _ := shake(t, mx2.Server(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	if sErr == nil {
		t.Error("a certificate of a foreign authority passed")
	}
}

func TestExpiryOfPeers(t *testing.T) {
	ca := authority(t)
	now := at()
	clock := func() time.Time { return now }
	dir := create(t, pki.CertOptions{CADir: ca, Name: "mx1", Days: 1})
	short, err := pki.Open(pki.Options{Dir: dir, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	long, err := pki.Open(pki.Options{Dir: create(t, pki.CertOptions{CADir: ca, Name: "mx2"}), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if got := short.Expiry(); !got.Cert.Equal(at().AddDate(0, 0, 1)) || !got.CA.Equal(at().AddDate(0, 0, pki.CADays)) {
		t.Errorf("expiry %v", got)
	}
	if _, s, c := shake(t, long.Server(), short.Client("mx2")); s != nil || c != nil {
		t.Fatal(s, c)
	}
	now = at().Add(25 * time.Hour)
	if _, s, _ := shake(t, long.Server(), short.Client("mx2")); s == nil {
		t.Error("an expired client passed")
	}
	if _, _, c := shake(t, short.Server(), long.Client("mx1")); !errors.Is(c, pki.ErrExpired) {
		t.Errorf("an expired server: %v", c)
	}
	if err := short.Reload(); !errors.Is(err, pki.ErrExpired) || !strings.Contains(err.Error(), "node.crt") {
		t.Errorf("reloading an expired one: %v", err)
	}
}

// Certificates and authorities are replaced without a restart, and a wrong
// file changes nothing.
func TestRotation(t *testing.T) {
	oldCA, newCA := authority(t), authority(t)
	dir := create(t, pki.CertOptions{CADir: oldCA, Name: "mx1"})
	mx1, mx2 := open(t, dir, pki.Node), node(t, oldCA, "mx2")
	server, client := mx1.Server("x"), mx1.Client("", "x")
	fresh := create(t, pki.CertOptions{CADir: newCA, Name: "mx1"})
	other := node(t, newCA, "mx2")

	if _, s, c := shake(t, server, other.Client("mx1", "x")); s == nil && c == nil {
		t.Fatal("the new authority is trusted before it is known")
	}
	move := func(from, name string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	move(fresh, pki.NodeFile)
	if err := mx1.Reload(); !errors.Is(err, pki.ErrWrongKey) {
		t.Errorf("half a pair: %v", err)
	}
	move(fresh, pki.NodeKeyFile)
	if err := mx1.Reload(); !errors.Is(err, pki.ErrWrongCA) {
		t.Errorf("signed by an authority that is not in ca.crt: %v", err)
	}
	if _, s, c := shake(t, server, mx2.Client("mx1", "x")); s != nil || c != nil {
		t.Errorf("a failed reload changed something: %v, %v", s, c)
	}
	both := ""
	for _, d := range []string{oldCA, newCA} {
		text, err := os.ReadFile(filepath.Join(d, pki.CAFile))
		if err != nil {
			t.Fatal(err)
		}
		both += string(text)
	}
	if err := os.WriteFile(filepath.Join(dir, pki.CAFile), []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := mx1.Reload(); err != nil {
		t.Fatal(err)
	}
	// Configurations made before the reload use it, in both roles.
	if _, s, c := shake(t, server, other.Client("mx1", "x")); s != nil || c != nil {
		t.Errorf("as server after the reload: %v, %v", s, c)
	}
	if _, s, c := shake(t, other.Server("x"), client); s != nil || c != nil {
		t.Errorf("as client after the reload: %v, %v", s, c)
	}
	if _, s, c := shake(t, mx2.Server("x"), client); s == nil && c == nil {
		t.Error("a node that trusts the old authority alone took the new certificate")
	}
	stranger := create(t, pki.CertOptions{CADir: newCA, Name: "mx9"})
	move(stranger, pki.NodeFile)
	move(stranger, pki.NodeKeyFile)
	if err := mx1.Reload(); !errors.Is(err, pki.ErrWrongName) {
		t.Errorf("another name: %v", err)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	ca := authority(t)
	for _, c := range []struct {
		what  string
		spoil func(dir string) error
		now   time.Time
		kind  pki.Kind
		want  error
		names []string // what the message must hold
	}{
		{what: "all right"},
		{what: "no folder", spoil: os.RemoveAll, want: fs.ErrNotExist, names: []string{"ca.crt", "create-ca"}},
		{what: "no certificate", spoil: func(d string) error { return os.Remove(d + "/node.crt") }, want: fs.ErrNotExist, names: []string{"node.crt", "create-node"}},
		{what: "no key", spoil: func(d string) error { return os.Remove(d + "/node.key") }, want: fs.ErrNotExist, names: []string{"node.key"}},
		{what: "empty", spoil: func(d string) error { return os.WriteFile(d+"/node.crt", nil, 0o600) }, want: pki.ErrDamaged, names: []string{"node.crt"}},
		{what: "garbage", spoil: func(d string) error { return os.WriteFile(d+"/ca.crt", []byte("hello"), 0o600) }, want: pki.ErrDamaged, names: []string{"ca.crt"}},
		{what: "key as certificate", spoil: func(d string) error { return os.Rename(d+"/node.key", d+"/node.crt") }, want: pki.ErrDamaged, names: []string{"node.crt", "PRIVATE KEY"}},
		{what: "certificate as key", spoil: func(d string) error { return os.Rename(d+"/node.crt", d+"/node.key") }, want: fs.ErrNotExist, names: []string{"node.crt"}},
		{what: "leaf as authority", spoil: func(d string) error { return os.Rename(d+"/node.crt", d+"/ca.crt") }, want: pki.ErrDamaged, names: []string{"ca.crt", "no authority"}},
		{what: "expired", now: at().AddDate(0, 0, pki.CertDays).Add(time.Second), want: pki.ErrExpired, names: []string{"node.crt", "2028-11-23"}},
		{what: "authority expired", now: at().AddDate(0, 0, pki.CADays).Add(time.Second), want: pki.ErrExpired, names: []string{"ca.crt", "create-ca"}},
		{what: "not yet", now: at().Add(-2 * time.Hour), want: pki.ErrNotYet, names: []string{"clock"}},
		{what: "a folder", spoil: func(d string) error { return errors.Join(os.Remove(d+"/node.key"), os.Mkdir(d+"/node.key", 0o700)) }, want: pki.ErrDamaged, names: []string{"node.key"}},
		{what: "operator wanted", kind: pki.Admin, want: fs.ErrNotExist, names: []string{"admin.crt", "create-admin"}},
		{what: "a node's as operator's", kind: pki.Admin, spoil: func(d string) error {
			return errors.Join(os.Rename(d+"/node.crt", d+"/admin.crt"), os.Rename(d+"/node.key", d+"/admin.key"))
		}, want: pki.ErrWrongName, names: []string{"admin.crt", "node mx1"}},
	} {
		dir := create(t, pki.CertOptions{CADir: ca, Name: "mx1"})
		if c.spoil != nil {
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
		}
		now := c.now
		if now.IsZero() {
			now = at()
		}
		_, err := pki.Open(pki.Options{Dir: dir, Kind: c.kind, Now: func() time.Time { return now }})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
			continue
		}
		for _, n := range c.names {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%s: %q does not say %q", c.what, err, n)
			}
		}
		if c.want != nil {
			t.Logf("%s: %v", c.what, err)
		}
	}
	id := node(t, ca, "mx1")
	if err := id.Check("mx1"); err != nil {
		t.Error(err)
	}
	if err := id.Check("mx2"); !errors.Is(err, pki.ErrWrongName) || !strings.Contains(err.Error(), "node.crt") {
		t.Errorf("wrong node: %v", err)
	}
}
