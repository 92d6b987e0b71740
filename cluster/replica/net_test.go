package replica

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority issues certificates for the nodes of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

func (a *authority) config(t testing.TB, node string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "clrelay", Host: "node", Path: "/" + node}}, DNSNames: []string{"node"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "node",
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true,
	}
}

func nodeOf(s tls.ConnectionState) (string, error) {
	for _, u := range s.PeerCertificates[0].URIs {
		if name, ok := strings.CutPrefix(u.String(), "clrelay://node/"); ok {
			return name, nil
		}
	}
	return "", errors.New("no node in the certificate")
}

func noIdentity(context.Context) (string, error) { return "", errors.New("nobody is asked") }

// host is a node of a test: a gRPC server on loopback over TLS.
type host struct {
	t      testing.TB
	r      *Replicator
	h      *recorder
	self   Peer
	config *tls.Config
	addr   string
	grpc   *grpc.Server
	served sync.WaitGroup

	mu   sync.Mutex
	conn func(net.Conn) net.Conn // wraps the TCP connections this host dials
}

type hostOptions struct {
	Options
	ca      *authority
	cert    string // node of the certificate if it is not self's
	handler Handler
}

func newHost(t testing.TB, self Peer, o hostOptions) *host {
	t.Helper()
	h := &host{t: t, self: self, h: newRecorder()}
	if o.cert == "" {
		o.cert = self.Node
	}
	h.config = o.ca.config(t, o.cert)
	o.Handler = h.h
	if o.handler != nil {
		o.Handler = o.handler
	}
	if o.Stall == 0 {
		o.Stall = time.Minute // an overloaded machine is not what these tests are about
	}
	o.Dial = h.dial
	o.Identify = func(ctx context.Context) (string, error) {
		p, ok := grpcpeer.FromContext(ctx)
		if !ok {
			return "", errors.New("no peer")
		}
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok {
			return "", errors.New("no TLS")
		}
		return nodeOf(info.State)
	}
	r, err := New(o.Options)
	if err != nil {
		t.Fatal(err)
	}
	h.r = r
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = lis.Addr().String()
	h.grpc = grpc.NewServer(append(ServerOptions(), grpc.Creds(credentials.NewTLS(h.config)))...)
	r.Register(h.grpc)
	h.served.Go(func() { _ = h.grpc.Serve(lis) }) // ends with Stop
	if self.Session > 0 {
		if err := r.Start(self); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(h.stop)
	return h
}

func (h *host) stop() {
	_ = h.r.Close() // a test may have closed it before
	h.grpc.Stop()
	h.served.Wait()
}

// wrap makes the host's next connections go through f.
func (h *host) wrap(f func(net.Conn) net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn = f
}

func (h *host) dial(ctx context.Context, node, address string) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	if h.conn != nil {
		raw = h.conn(raw)
	}
	h.mu.Unlock()
	config := h.config.Clone()
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if name, err := nodeOf(s); err != nil || name != node {
			return fmt.Errorf("certificate of %q instead of %q: %v", name, node, err)
		}
		return nil
	}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

func (h *host) peerAddr() PeerAddr { return PeerAddr{Node: h.self.Node, Address: h.addr} }

// join names the hosts to each other.
func join(hosts ...*host) {
	var all []PeerAddr
	for _, h := range hosts {
		all = append(all, h.peerAddr())
	}
	for _, h := range hosts {
		h.r.SetPeers(all)
	}
}

// event is what a recorder heard.
type event struct {
	up   bool
	peer Peer
	err  error
}

// recorder is a Handler that checks the promise: Up, Receive and Down in turn,
// one at a time for a peer, and numbered items without a gap within a stream.
type recorder struct {
	mu     sync.Mutex
	change *sync.Cond
	events []event
	up     map[string]Peer
	inside map[string]bool
	got    map[string]uint64 // by peer, the last Seq on the stream that is up
	first  map[string]bool
	total  int
	wrong  []string
	gate   chan struct{} // if not nil, Receive waits for it
}

func newRecorder() *recorder {
	r := &recorder{up: map[string]Peer{}, inside: map[string]bool{}, got: map[string]uint64{}, first: map[string]bool{}}
	r.change = sync.NewCond(&r.mu)
	return r
}

func (r *recorder) fault(format string, a ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, a...))
}

func (r *recorder) Up(p Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.up[p.Node]; ok {
		r.fault("up %v before down of %v", p, old)
	}
	r.up[p.Node] = p
	r.first[p.Node] = true
	r.events = append(r.events, event{up: true, peer: p})
	r.change.Broadcast()
}

func (r *recorder) Down(p Peer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up[p.Node] != p || r.inside[p.Node] || err == nil {
		r.fault("down %v while %v is up, inside %v, error %v", p, r.up[p.Node], r.inside[p.Node], err)
	}
	delete(r.up, p.Node)
	r.events = append(r.events, event{peer: p, err: err})
	r.change.Broadcast()
}

func (r *recorder) Receive(p Peer, b *Batch) {
	defer b.Release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside[p.Node] {
		r.fault("two receives at once")
	}
	r.inside[p.Node] = true
	if gate := r.gate; gate != nil {
		r.mu.Unlock()
		<-gate
		r.mu.Lock()
	}
	r.inside[p.Node] = false
	if r.up[p.Node] != p {
		r.fault("receive of %v while %v is up", p, r.up[p.Node])
	}
	for i := range b.Items {
		r.check(p, &b.Items[i])
	}
	r.total += len(b.Items)
	r.change.Broadcast()
}

// check looks at an item made by numbered.
func (r *recorder) check(p Peer, it *Item) {
	if !r.first[p.Node] && it.Seq != r.got[p.Node]+1 {
		r.fault("item %d after %d from %v", it.Seq, r.got[p.Node], p)
	}
	r.first[p.Node], r.got[p.Node] = false, it.Seq
	want := numbered(it.Seq, int(it.Arg))
	if it.Kind != want.Kind || it.Segment != want.Segment || it.Epoch != want.Epoch || len(it.Data) != len(want.Data) {
		r.fault("item %d is %v", it.Seq, it)
		return
	}
	for i := range it.Data {
		if string(it.Data[i]) != string(want.Data[i]) {
			r.fault("item %d: part %d differs", it.Seq, i)
		}
	}
}

// numbered makes an item whose content follows from its number and size.
func numbered(seq uint64, size int) Item {
	it := Item{Kind: uint8(seq*7 + 1), Segment: seq % 5, Epoch: ^seq, Seq: seq, Arg: uint64(size)}
	if size > 0 {
		b := make([]byte, size)
		for i := 0; i+8 <= size; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], seq*0x9e3779b97f4a7c15+uint64(i))
		}
		cut := int(seq % uint64(size))
		it.Data = [][]byte{b[:cut], nil, b[cut:]}
	}
	return it
}

// wait returns once ok holds, asked after each change; the test's own time-out
// is the limit.
func (r *recorder) wait(ok func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		r.change.Wait()
	}
}

func (r *recorder) waitUp(node string, session uint64) {
	r.wait(func() bool { return r.up[node].Session == session })
}

// waitDown returns the reason of the n-th Down (from 0) of a node.
func (r *recorder) waitDown(node string, n int) (err error) {
	r.wait(func() bool {
		seen := 0
		for _, e := range r.events {
			if e.up || e.peer.Node != node {
				continue
			}
			if seen == n {
				err = e.err
				return true
			}
			seen++
		}
		return false
	})
	return err
}

func (r *recorder) verify(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wrong {
		t.Error(w)
	}
}

// cutConn passes so many bytes in each direction and then breaks; frozen, it
// swallows what is written and delivers nothing, as a dead machine does.
type cutConn struct {
	net.Conn
	mu          sync.Mutex
	read, write int64 // bytes left, negative: no limit
	frozen      chan struct{}
	closed      chan struct{}
	once        sync.Once
}

func newCutConn(c net.Conn, read, write int64) *cutConn {
	return &cutConn{Conn: c, read: read, write: write, frozen: make(chan struct{}), closed: make(chan struct{})}
}

func (c *cutConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *cutConn) left(n int, budget *int64) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *budget < 0 {
		return n, false
	}
	if int64(n) >= *budget {
		n = int(*budget)
	}
	*budget -= int64(n)
	return n, *budget == 0
}

func (c *cutConn) Read(b []byte) (int, error) {
	select {
	case <-c.frozen:
		<-c.closed
		return 0, io.ErrClosedPipe
	default:
	}
	n, err := c.Conn.Read(b)
	select {
	case <-c.frozen:
		<-c.closed
		return 0, io.ErrClosedPipe
	default:
	}
	if n, cut := c.left(n, &c.read); cut {
		_ = c.Close()
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	select {
	case <-c.frozen:
		return len(b), nil
	default:
	}
	n, cut := c.left(len(b), &c.write)
	if cut {
		if n > 0 {
			_, _ = c.Conn.Write(b[:n]) // the cut is what matters
		}
		_ = c.Close()
		return n, io.ErrClosedPipe
	}
	return c.Conn.Write(b)
}
