package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"time"
)

// Options say what to load.
type Options struct {
	Dir  string           // of ca.crt and node.crt, node.key or admin.crt, admin.key
	Kind Kind             // whose certificate it is; default Node
	Now  func() time.Time // default time.Now
}

// Identity is a certificate with its key, and the authorities it trusts.
type Identity struct {
	opts Options
	cur  atomic.Pointer[loaded]
}

// Load reads and checks the certificate of a node: ca.crt, node.crt and
// node.key in the folder dir.
func Load(dir string) (*Identity, error) { return Open(Options{Dir: dir}) }

// LoadAdmin reads and checks the certificate of an operator: ca.crt,
// admin.crt and admin.key in the folder dir.
func LoadAdmin(dir string) (*Identity, error) { return Open(Options{Dir: dir, Kind: Admin}) }

// Open reads and checks what o names. An error says which file is wrong, why,
// and how that is mended.
func Open(o Options) (*Identity, error) {
	if o.Kind == 0 {
		o.Kind = Node
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	id := &Identity{opts: o}
	l, err := load(o)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	id.cur.Store(l)
	return id, nil
}

// Reload reads the files anew; handshakes from now on use them. With an error
// everything stays as it was. The name must stay the same.
func (id *Identity) Reload() error {
	l, err := load(id.opts)
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if was := id.Peer(); l.peer.Kind != was.Kind || l.peer.Name != was.Name {
		return fmt.Errorf("pki: %w", wrong(l.file, ErrWrongName, fmt.Sprintf("it names %s, and this is %s", l.peer, was),
			"put back the certificate of "+was.String()+", or restart under the new name"))
	}
	id.cur.Store(l)
	return nil
}

// Peer is who this is.
func (id *Identity) Peer() Peer { return id.cur.Load().peer }

// Check tells whether this is the node called name, with an error that says
// what to do if not.
func (id *Identity) Check(name string) error {
	l := id.cur.Load()
	if want := (Peer{Kind: id.opts.Kind, Name: name}); l.peer.Kind != want.Kind || l.peer.Name != want.Name {
		return fmt.Errorf("pki: %w", wrong(l.file, ErrWrongName, fmt.Sprintf("it names %s, and this is %s", l.peer, want),
			fmt.Sprintf("make the right one with \"clrelay cert create-%s --name %s\"", want.Kind, name)))
	}
	return nil
}

// Expiry says until when handshakes can succeed.
type Expiry struct {
	Cert time.Time // end of the certificate
	CA   time.Time // end of the authority that signed it
}

// Expiry is that of what is in use now.
func (id *Identity) Expiry() Expiry { return id.cur.Load().expiry }

// Server makes the configuration of a listener: TLS 1.3, and the other end
// must show a certificate of this cluster, a node's or an operator's: ask
// PeerOf which. If protocols are named, one of them must be negotiated (ALPN);
// for gRPC that is "h2".
func (id *Identity) Server(alpn ...string) *tls.Config {
	base := id.config(alpn)
	base.ClientAuth = tls.RequireAndVerifyClientCert
	base.VerifyConnection = func(cs tls.ConnectionState) error {
		if _, err := PeerOf(cs); err != nil {
			return err
		}
		return negotiated(cs, alpn)
	}
	outer := base.Clone()
	// GetConfigForClient is always asked. Were it not, an empty pool lets nobody
	// pass, where none at all would mean the system's authorities.
	outer.ClientCAs = x509.NewCertPool()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		l, c := id.cur.Load(), base.Clone()
		c.Certificates = []tls.Certificate{l.cert}
		c.ClientCAs = l.roots
		return c, nil
	}
	return outer
}

// Client makes the configuration of a connection to the node called peer, or
// to any node of this cluster if peer is empty. The other end must be that
// node by its certificate, whatever its address. If protocols are named, one
// of them must be negotiated (ALPN).
func (id *Identity) Client(peer string, alpn ...string) *tls.Config {
	c := id.config(alpn)
	// The standard check wants a DNS name or address. Ours, below, wants the
	// same chain of signatures and a name of another form.
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		l := id.cur.Load()
		return &l.cert, nil
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("pki: the other end showed no certificate: %w", ErrWrongCA)
		}
		l := id.cur.Load()
		if err := verify(cs.PeerCertificates, l.roots, id.opts.Now(), x509.ExtKeyUsageServerAuth); err != nil {
			return fmt.Errorf("pki: the certificate of the other end: %w", err)
		}
		p, err := PeerOf(cs)
		if err != nil {
			return err
		}
		if p.Kind != Node || peer != "" && p.Name != peer {
			want := "a node"
			if peer != "" {
				want = "node " + peer
			}
			return fmt.Errorf("pki: the other end is %s, not %s: %w", p, want, ErrWrongName)
		}
		return negotiated(cs, alpn)
	}
	return c
}

// config is what both ends have in common. Sessions are not resumed: each
// handshake checks certificates as they are now.
func (id *Identity) config(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             append([]string(nil), alpn...),
		SessionTicketsDisabled: true,
		Time:                   id.opts.Now,
	}
}

func negotiated(cs tls.ConnectionState, alpn []string) error {
	if len(alpn) > 0 && cs.NegotiatedProtocol == "" {
		return fmt.Errorf("pki: the other end speaks none of %q: %w", alpn, ErrInvalid)
	}
	return nil
}

// verify checks the signatures and the time of a chain.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, usage x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return nil
	}
	return reason(chain[0], now, err)
}
