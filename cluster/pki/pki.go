// Package pki holds the certificates by which the nodes of a cluster and its
// operators know each other: it makes them, loads and checks them, and turns
// them into TLS configurations.
//
// A cluster has one certificate authority of its own (ca.crt, ca.key). Who
// somebody is stands in a URI of their certificate, clrelay://node/NAME,
// clrelay://admin/NAME, or clrelay://operator/NAME/ROLE[/content] for an operator
// with a role; DNS names and addresses in it are for other programs
// and never looked at here. Everything is TLS 1.3 and mutual.
//
// An Identity is safe for use by many goroutines, starts none, and takes new
// files by Reload without a restart: each handshake uses what was loaded last,
// connections that stand go on. What does not pass the checks changes nothing.
//
// This package says who the other end is. Whether such a node belongs to the
// cluster, or was removed from it, is for the caller to ask: a certificate is
// valid until it expires.
package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/clrelay/clrelay/internal/roles"
)

// The files of a folder of certificates.
const (
	CAFile       = "ca.crt"
	CAKeyFile    = "ca.key"
	NextKeyFile  = "ca-next.key" // of the authority that is to take the place of ca.key's
	NodeFile     = "node.crt"
	NodeKeyFile  = "node.key"
	AdminFile    = "admin.crt"
	AdminKeyFile = "admin.key"
)

const (
	scheme       = "clrelay"
	operatorHost = "operator"
	contentPath  = "/content"
)

// maxName is the length of the longest name, in octets.
const maxName = 63

// Kind tells nodes from operators.
type Kind uint8

// The kinds of certificates.
const (
	Node  Kind = iota + 1 // a machine of the cluster
	Admin                 // an operator
)

// String gives "node" or "admin".
func (k Kind) String() string {
	switch k {
	case Node:
		return "node"
	case Admin:
		return "admin"
	}
	return "nobody"
}

// Peer is who a certificate says its holder is.
type Peer struct {
	Kind Kind
	Name string
	// Role is what an operator is trusted with; empty where the certificate was
	// made without one.
	Role    roles.Role
	Content bool // may read what is written in messages
}

// String gives "node mx1".
func (p Peer) String() string { return p.Kind.String() + " " + p.Name }

// uri is the name as it stands in a certificate.
func (p Peer) uri() *url.URL {
	if p.Role != "" {
		// Programs from before there were roles do not know this form, and
		// refuse the certificate.
		u := &url.URL{Scheme: scheme, Host: operatorHost, Path: "/" + p.Name + "/" + string(p.Role)}
		if p.Content {
			u.Path += contentPath
		}
		return u
	}
	return &url.URL{Scheme: scheme, Host: p.Kind.String(), Path: "/" + p.Name}
}

// What may be wrong. Errors of this package wrap one of these, or
// fs.ErrNotExist and the like where a file cannot be read.
var (
	ErrExpired   = errors.New("expired")
	ErrNotYet    = errors.New("not yet valid")
	ErrWrongCA   = errors.New("signed by another certificate authority")
	ErrWrongKey  = errors.New("does not belong to its key")
	ErrWrongName = errors.New("wrong name")
	ErrDamaged   = errors.New("not what it should be")
	ErrExists    = errors.New("exists already")
	ErrInvalid   = errors.New("not valid") // a name, host or lifetime asked for
)

// ValidName checks the name of a node or operator: 1 to 63 letters, digits,
// dots, hyphens and underscores, a letter or digit at both ends.
func ValidName(name string) error {
	ok := len(name) >= 1 && len(name) <= maxName
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = alnum || i > 0 && i < len(name)-1 && strings.IndexByte("._-", c) >= 0
	}
	if !ok {
		return fmt.Errorf("%q is no name: 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit at both ends: %w", name, ErrInvalid)
	}
	return nil
}

// PeerOf tells who is at the other end of a connection. It only reads the
// name: that the certificate is one of the cluster's was checked by the
// handshake, if the connection was made with a configuration of an Identity.
func PeerOf(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, fmt.Errorf("pki: the other end showed no certificate: %w", ErrWrongName)
	}
	p, err := peerOf(cs.PeerCertificates[0])
	if err != nil {
		return Peer{}, fmt.Errorf("pki: the certificate of the other end: %w", err)
	}
	return p, nil
}

// peerOf reads the name. A certificate with two has none: which one counts
// must never depend on who reads it.
func peerOf(c *x509.Certificate) (Peer, error) {
	var found []Peer
	for _, u := range c.URIs {
		if !strings.EqualFold(u.Scheme, scheme) {
			continue
		}
		p := Peer{Name: strings.TrimPrefix(u.Path, "/")}
		switch u.Host {
		case "node":
			p.Kind = Node
		case "admin":
			p.Kind = Admin
		case operatorHost:
			p.Kind = Admin
			var role string
			p.Name, p.Content = strings.CutSuffix(p.Name, contentPath)
			p.Name, role, _ = strings.Cut(p.Name, "/")
			if p.Role = roles.Role(role); !roles.Known(role) {
				return Peer{}, fmt.Errorf("its name %q has no role that this version of clrelay knows: %w", u, ErrWrongName)
			}
		}
		if p.Kind == 0 || ValidName(p.Name) != nil || u.String() != p.uri().String() {
			return Peer{}, fmt.Errorf("its name %q is not of the form clrelay://node/NAME, clrelay://admin/NAME or clrelay://operator/NAME/ROLE: %w", u, ErrWrongName)
		}
		found = append(found, p)
	}
	if len(found) != 1 {
		return Peer{}, fmt.Errorf("it bears %d names of the form clrelay://node/NAME, not one: %w", len(found), ErrWrongName)
	}
	return found[0], nil
}
