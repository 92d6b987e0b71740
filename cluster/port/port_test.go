package port

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a throw-away CA.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{t, cert, key, pool}
}

func (a *authority) issue(node string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		URIs:        []*url.URL{{Scheme: "clrelay", Host: "node", Path: "/" + node}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) server(node string, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.issue(node)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool, NextProtos: protocols,
	}
}

func (a *authority) dialer(node string) Dialer {
	cert := a.issue(node)
	return Dialer{TLS: func(to, protocol string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol},
			InsecureSkipVerify: true, // the name is in the URI, not in the host: checked below
			VerifyConnection: func(s tls.ConnectionState) error {
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: a.pool})
				if err == nil && nameOf(s) != to {
					err = fmt.Errorf("the certificate is that of %q", nameOf(s))
				}
				return err
			},
		}
	}}
}

func nameOf(s tls.ConnectionState) string {
	for _, u := range s.PeerCertificates[0].URIs {
		return strings.TrimPrefix(u.Path, "/")
	}
	return ""
}

func startPort(t *testing.T, o Options) (*Port, string) {
	t.Helper()
	lower, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Log = slog.New(slog.DiscardHandler)
	p, err := New(lower, o)
	if err != nil {
		t.Fatal(err)
	}
	return p, lower.Addr().String()
}

func serve(t *testing.T, p *Port) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.Serve() }()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// echo answers one line on each connection with who is there.
func echo(l net.Listener, say string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		state, _ := State(c)
		_, _ = fmt.Fprintf(c, "%s to %s", say, nameOf(state)) // the reader notices
		_ = c.Close()
	}
}

func read(t *testing.T, c net.Conn) string {
	t.Helper()
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestConnectionsGoWhereTheirProtocolIsSpoken(t *testing.T) {
	ca := newAuthority(t)
	p, addr := startPort(t, Options{TLS: ca.server("n1", "one/1", "two/1", "lonely/1"), Allow: func(protocol string, s tls.ConnectionState) error {
		if protocol == "two/1" && nameOf(s) == "guest" {
			return errors.New("not for guests")
		}
		return nil
	}})
	go echo(p.Listener("one/1"), "one")
	go echo(p.Listener("two/1"), "two")
	serve(t, p)
	for _, name := range []string{"one", "two"} {
		c, err := ca.dialer("n2").Dial(t.Context(), "n1", addr, name+"/1")
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, c); got != name+" to n2" {
			t.Errorf("%s: %q", name, got)
		}
	}
	for what, dial := range map[string]func() (net.Conn, error){
		"another node's name":    func() (net.Conn, error) { return ca.dialer("n2").Dial(t.Context(), "n9", addr, "one/1") },
		"another CA":             func() (net.Conn, error) { return newAuthority(t).dialer("n2").Dial(t.Context(), "n1", addr, "one/1") },
		"a protocol of nobody":   func() (net.Conn, error) { return ca.dialer("n2").Dial(t.Context(), "n1", addr, "three/1") },
		"nobody at that address": func() (net.Conn, error) { return ca.dialer("n2").Dial(t.Context(), "n1", "127.0.0.1:1", "one/1") },
	} {
		if c, err := dial(); err == nil {
			_ = c.Close() // it should not be there
			t.Errorf("%s: connected", what)
		}
	}
	// In TLS 1.3 the client learns of these only when it reads.
	for what, refused := range map[string]func() (net.Conn, error){
		"refused by Allow":    func() (net.Conn, error) { return ca.dialer("guest").Dial(t.Context(), "n1", addr, "two/1") },
		"a protocol unserved": func() (net.Conn, error) { return ca.dialer("n2").Dial(t.Context(), "n1", addr, "lonely/1") },
	} {
		c, err := refused()
		if err != nil {
			continue
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: %d octets", what, n)
		}
		_ = c.Close() // nothing was said on it
	}
}

// Stalled clients take all slots; a node gets in all the same, at the cost of
// the oldest of them.
func TestStalledClientsGiveWay(t *testing.T) {
	ca := newAuthority(t)
	p, addr := startPort(t, Options{TLS: ca.server("n1", "one/1"), maxHandshakes: 4})
	go echo(p.Listener("one/1"), "one")
	serve(t, p)
	var stalled []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		stalled = append(stalled, c)
	}
	c, err := ca.dialer("n2").Dial(t.Context(), "n1", addr, "one/1")
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, c); got != "one to n2" {
		t.Errorf("%q", got)
	}
	// The first one was shown the door, long before its time was up.
	if err := stalled[0].SetReadDeadline(time.Now().Add(HandshakeTimeout - time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := stalled[0].Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the oldest was kept: %v", err)
	}
	// Garbage is refused and does no harm.
	if _, err := stalled[3].Write([]byte("EHLO example.org\r\n")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stalled[3]) // until it is closed
}

func TestCloseEndsWhatNobodyAccepted(t *testing.T) {
	ca := newAuthority(t)
	p, addr := startPort(t, Options{TLS: ca.server("n1", "one/1")})
	l := p.Listener("one/1")
	done := make(chan error, 1)
	go func() { done <- p.Serve() }()
	stalled, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	c, err := ca.dialer("n2").Dial(t.Context(), "n1", addr, "one/1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, c := range []net.Conn{stalled, c} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the end: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestGRPCSeesTheCertificate(t *testing.T) {
	ca := newAuthority(t)
	p, addr := startPort(t, Options{TLS: ca.server("n1", "h2", "one/1")})
	seen := make(chan string, 1)
	s := grpc.NewServer(grpc.Creds(Credentials()), grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if from, ok := peer.FromContext(ctx); ok {
			info, _ := from.AuthInfo.(credentials.TLSInfo)
			seen <- nameOf(info.State)
		}
		return h(ctx, req)
	}))
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	l := p.Listener("h2")
	go func() { _ = s.Serve(l) }() // ends with the port
	serve(t, p)
	defer s.Stop()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(ca.dialer("n2").TLS("n1", "h2"))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "n2" {
		t.Errorf("the interceptor saw %q", got)
	}
	if _, _, err := Credentials().ClientHandshake(t.Context(), "", nil); err == nil {
		t.Error("of use to a client")
	}
}
