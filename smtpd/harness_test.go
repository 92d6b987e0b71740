package smtpd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/guard"
	"github.com/clrelay/clrelay/smtpd/later"
	"github.com/clrelay/clrelay/smtpd/policy"
)

// message is what an inbox got.
type message struct {
	env  mail.Envelope
	data []byte // with our Received line
}

// content is the message without our Received line.
func (m message) content() []byte { return cutTrace(m.data) }

func cutTrace(data []byte) []byte {
	for {
		i := bytes.Index(data, []byte("\r\n"))
		if i < 0 {
			return nil
		}
		data = data[i+2:]
		if len(data) == 0 || data[0] != '\t' {
			return data
		}
	}
}

// inbox is an Acceptor that keeps what it is given.
type inbox struct {
	mu   sync.Mutex
	got  []message
	fail func(env *mail.Envelope, body io.Reader) error // asked before the content is read
	buf  int                                            // size of its reads; 0: io.ReadAll's
}

func (in *inbox) Accept(_ context.Context, env *mail.Envelope, body io.Reader) error {
	if in.fail != nil {
		if err := in.fail(env, body); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	var err error
	if in.buf > 0 {
		_, err = io.CopyBuffer(struct{ io.Writer }{&out}, body, make([]byte, in.buf))
	} else {
		_, err = out.ReadFrom(body)
	}
	if err != nil {
		return fmt.Errorf("reading the content: %w", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.got = append(in.got, message{*env, out.Bytes()})
	return nil
}

func (in *inbox) messages() []message {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]message(nil), in.got...)
}

// world is a server with an inbox, and how to reach it.
type world struct {
	t      testing.TB
	server *smtpd.Server
	inbox  *inbox
	addr   string
}

// setup is what a test may choose.
type setup struct {
	limits   smtpd.Limits
	listener smtpd.Listener
	fail     func(env *mail.Envelope, body io.Reader) error
	buf      int
	ready    func() *mail.Reply
	observer smtpd.Observer
	policy   smtpd.Policy
	guard    guard.Guard
	later    later.Offer  // for everybody
	on       net.Listener // default: a loopback port
}

const localDomain = "example.edu"

func start(t testing.TB, o setup) *world {
	t.Helper()
	w := &world{t: t, inbox: &inbox{fail: o.fail, buf: o.buf}}
	if o.policy == nil {
		chain, err := policy.New(policy.Options{
			Hostname: "mx.test", Domains: []string{localDomain, "testserver"},
			Postmaster: mail.Address{Local: "root", Domain: localDomain},
		})
		if err != nil {
			t.Fatal(err)
		}
		o.policy = chain
	}
	if o.limits.Discard == 0 {
		o.limits.Discard = 300 * time.Millisecond
	}
	srv, err := smtpd.New(smtpd.Options{
		Hostname: "mx.test", Limits: o.limits, Acceptor: w.inbox, Policy: o.policy,
		Ready: o.ready, Observer: o.observer, Guard: o.guard, Later: func(*mail.Client) later.Offer { return o.later },
	})
	if err != nil {
		t.Fatal(err)
	}
	l := o.on
	if l == nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		w.addr = l.Addr().String()
	}
	w.server = srv
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l, o.listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

// peer is a client at the level of octets.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
}

func (w *world) dial() *peer {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return newPeer(w.t, conn)
}

// greeted gives a peer behind EHLO.
func (w *world) greeted() *peer {
	w.t.Helper()
	p := w.dial()
	p.expect("220 ")
	p.do("EHLO client.test", "250 ")
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.t.Fatalf("sending %.60q: %v", s, err)
	}
}

// reply reads one reply and gives its lines without CRLF.
func (p *peer) reply() ([]string, error) {
	var lines []string
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return lines, err
		}
		if !strings.HasSuffix(line, "\r\n") || len(line) < 6 {
			return lines, fmt.Errorf("reply line %q", line)
		}
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
		switch line[3] {
		case ' ':
			return lines, nil
		case '-':
		default:
			return lines, fmt.Errorf("reply line %q", line)
		}
	}
}

// expect reads a reply whose last line begins with want.
func (p *peer) expect(want string) []string {
	p.t.Helper()
	lines, err := p.reply()
	if err != nil {
		p.t.Fatalf("wanted %q: %v (have %q)", want, err, lines)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, want) {
		p.t.Fatalf("reply %q, want %q", last, want)
	}
	return lines
}

func (p *peer) do(line, want string) []string {
	p.t.Helper()
	p.send(line + "\r\n")
	return p.expect(want)
}

// closed reads to the end of the connection and fails when a reply comes.
func (p *peer) closed() {
	p.t.Helper()
	lines, err := p.reply()
	if err == nil {
		p.t.Fatalf("reply %q, want the connection closed", lines)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		p.t.Fatal("the connection was not closed")
	}
}

// envelope begins a transaction.
func (p *peer) envelope() {
	p.t.Helper()
	p.do("MAIL FROM:<a@client.test>", "250 ")
	p.do("RCPT TO:<b@"+localDomain+">", "250 ")
}

// identity is a certificate for mx.test and who trusts it.
type identity struct {
	certs    *smtpd.Certs
	certFile string
	keyFile  string
	trust    *tls.Config
}

func newIdentity(t testing.TB) *identity {
	t.Helper()
	dir := t.TempDir()
	id := &identity{certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	id.renew(t)
	certs, err := smtpd.LoadCerts(id.certFile, id.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	id.certs = certs
	return id
}

// renew writes a new certificate.
func (id *identity) renew(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "mx.test"},
		DNSNames: []string{"mx.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{id.certFile: {Type: "CERTIFICATE", Bytes: der}, id.keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	id.trust = &tls.Config{RootCAs: pool, ServerName: "mx.test"}
}

// startTLS upgrades a greeted peer.
func (p *peer) startTLS(id *identity) *peer {
	p.t.Helper()
	p.do("STARTTLS", "220 ")
	conn := tls.Client(p.conn, id.trust)
	if err := conn.Handshake(); err != nil {
		p.t.Fatalf("handshake: %v", err)
	}
	return newPeer(p.t, conn)
}

// tlsClient does the handshake on a connection.
func tlsClient(conn net.Conn, id *identity) net.Conn { return tls.Client(conn, id.trust) }

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// pipes is a listener whose connections are net.Pipe: what one side writes in
// one piece the other reads in one piece, if its buffer is large enough.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipes) dial(t testing.TB) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	select {
	case l.conns <- server:
	case <-l.closed:
		t.Fatal("dialling a closed listener")
	}
	t.Cleanup(func() { client.Close() })
	return client
}
