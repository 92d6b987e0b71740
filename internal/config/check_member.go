package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// portGossip is the port of an entry of join that gives none.
const portGossip = 7526

// membership checks the cluster section and what it needs.
func (s check) membership(n *Node, taken map[string]Listen) {
	m := n.Cluster
	if !s.clusters {
		s.Bad("cluster", "not in this version yet: it runs on one machine and keeps one copy of each message, on its disk; leave the section out")
		return
	}
	s.memberAddress("cluster.listen", m.Listen, m.Advertise)
	s.memberAddress("cluster.gossip", m.Gossip, m.Advertise)
	s.checkAddress("cluster.listen", m.Listen, taken)
	s.checkAddress("cluster.gossip", m.Gossip, taken)
	if len(m.Join) == 0 && !s.Has("cluster.bootstrap_expect") {
		m.Join = keptJoin(string(n.TLSDir))
	}
	for i := range m.Join {
		if m.Join[i].Port == 0 {
			m.Join[i].Port = portGossip
		}
	}
	const expect = "cluster.bootstrap_expect"
	switch {
	case s.Has(expect) && s.Fine(expect) && !slices.Contains([]int{1, 3, 5}, m.BootstrapExpect):
		s.Bad(expect, "%d is not 1, 3 or 5: these are the nodes that vote, and an even number bears no more losses than one less; further nodes join later", m.BootstrapExpect)
	case !s.Fine("cluster.join"), n.Joining:
	case !s.Has(expect) && len(m.Join) == 0:
		s.Bad("cluster", "the node neither founds a cluster nor joins one: give bootstrap_expect, or join with addresses of nodes that are there, or start it with --join TOKEN@HOST:PORT")
	case m.BootstrapExpect > 1 && len(m.Join) == 0:
		s.Warn("cluster", "join is empty: the node waits until others name it in theirs")
	}
	if !n.Joining {
		s.certificates(n)
	}
}

// JoinFile is where, in tls_dir, a machine that joined by a token keeps the
// gossip addresses that the cluster gave it, one a line. They count where
// node.yaml names none.
const JoinFile = "join.addresses"

func keptJoin(dir string) (out []Host) {
	text, err := os.ReadFile(filepath.Join(dir, JoinFile))
	if err != nil {
		return nil // most nodes have none
	}
	for line := range strings.Lines(string(text)) {
		var h Host
		if h.Parse(strings.TrimSpace(line)) == nil {
			out = append(out, h)
		}
	}
	return out
}

// memberAddress checks an address that other nodes are told.
func (s check) memberAddress(key string, l Listen, advertise Address) {
	switch {
	case l.IsZero():
	case l.Port == 0:
		s.Bad(key, "port 0 picks a free one, and the other nodes have to know it: write one, such as 7525 for listen and 7526 for gossip")
	case (!l.Addr.IsValid() || l.Addr.IsUnspecified()) && advertise == "" && s.Fine("cluster.advertise"):
		s.Bad(key, "%v stands for all addresses of the machine: write the one that the other nodes reach, or add advertise", l)
	}
}

// certificates checks what the folder tls_dir holds.
func (s check) certificates(n *Node) {
	const key = "tls_dir"
	if !s.Fine(key) {
		return
	}
	if fi, err := os.Stat(string(n.TLSDir)); errors.Is(err, os.ErrNotExist) {
		s.Bad(key, "there is no folder %s: clrelay cert create-ca and create-node make the certificates of a cluster", n.TLSDir)
		return
	} else if err == nil && !fi.IsDir() {
		s.Bad(key, "%s is no folder", n.TLSDir)
		return
	}
	file := func(name string) Path { return Path(filepath.Join(string(n.TLSDir), name)) }
	ca := s.read(key, file("ca.crt"), false)
	cert := s.read(key, file("node.crt"), false)
	priv := s.read(key, file("node.key"), true)
	roots := x509.NewCertPool()
	if ca != nil && !roots.AppendCertsFromPEM(ca) {
		s.Bad(key, "%s holds no certificate in PEM form", file("ca.crt"))
	}
	if cert == nil || priv == nil {
		return
	}
	pair, err := tls.X509KeyPair(cert, priv)
	if err != nil {
		s.Bad(key, "node.crt and node.key cannot be used: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return
	}
	want := "clrelay://node/" + string(n.Name)
	var names []string
	for _, u := range pair.Leaf.URIs {
		names = append(names, u.String())
	}
	if n.Name != "" && !slices.Contains(names, want) {
		s.Bad(key, "node.crt is not for this node: it names %q, and %q is wanted", names, want)
	}
}
