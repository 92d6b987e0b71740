package relayproc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ClusterOptions say how a cluster is set up.
type ClusterOptions struct {
	Binary string
	Dir    string
	Nodes  int // that bootstrap it: 1, 3 or 5
	// Cluster is the text of cluster.yaml.
	Cluster string
	// Node is put behind the generated part of every node.yaml.
	Node string
	// Listener is as in Options.
	Listener string
	// Data gives the data_dir of a node; nil: in its folder.
	Data func(name string) string
	// Zone gives the zone of a node; nil: none.
	Zone func(name string) string
	// Host gives the address of the node by its number from 1; nil: all on
	// loopback, told apart by their ports.
	Host func(i int) string
	// Wrap gives the command that a node is started under; nil: none.
	Wrap func(i int) []string
}

// Cluster is several relays' processes that form a cluster on loopback.
type Cluster struct {
	Nodes []*Relay
	// TLS holds ca.crt, admin.crt and admin.key.
	TLS string

	o     ClusterOptions
	seeds []string          // gossip addresses
	addrs map[*Relay]string // of the port between nodes
}

// NewCluster makes the certificates and the configuration; nothing runs yet.
func NewCluster(o ClusterOptions) (*Cluster, error) {
	c := &Cluster{o: o, TLS: filepath.Join(o.Dir, "tls"), addrs: map[*Relay]string{}}
	if err := os.MkdirAll(c.TLS, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"create-ca", "--dir", c.TLS}, {"create-admin", "--dir", c.TLS, "--name", "test"}} {
		if err := c.cert(args...); err != nil {
			return nil, err
		}
	}
	for i := range o.Nodes {
		c.seeds = append(c.seeds, addrOn(c.host(i+1), gossipPort))
	}
	for i := range o.Nodes {
		if _, err := c.Add(c.seeds[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) host(i int) string {
	if c.o.Host == nil {
		return ""
	}
	return c.o.Host(i)
}

func (c *Cluster) cert(args ...string) error {
	out, err := exec.Command(c.o.Binary, append([]string{"cert"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("clrelay cert %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// certify makes a node's certificate.
func (c *Cluster) certify(dir, name, host string) error {
	return c.cert("create-node", "--dir", dir, "--ca-dir", c.TLS, "--name", name, "--host", cmp.Or(host, "127.0.0.1"))
}

// Recertify gives a node a new key and certificate, which it takes at a reload.
func (c *Cluster) Recertify(r *Relay) error {
	dir := filepath.Join(r.Dir, "tls")
	for _, name := range []string{"node.crt", "node.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return c.certify(dir, r.o.Name, r.o.Host)
}

// Add sets up one more node, which is not started; an empty gossip address
// picks a free one.
func (c *Cluster) Add(gossip string) (*Relay, error) {
	i := len(c.Nodes) + 1
	name, host := fmt.Sprintf("mx%d", i), c.host(i)
	if gossip == "" {
		gossip = addrOn(host, gossipPort)
	}
	dir, err := filepath.Abs(filepath.Join(c.o.Dir, name))
	if err != nil {
		return nil, err
	}
	tls := filepath.Join(dir, "tls")
	if err := os.MkdirAll(tls, 0o755); err != nil {
		return nil, err
	}
	if err := c.certify(tls, name, host); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(c.TLS, "ca.crt"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tls, "ca.crt"), text, 0o644); err != nil {
		return nil, err
	}
	addr := addrOn(host, nodePort)
	more := ""
	if len(c.Nodes) < c.o.Nodes { // a founder; others join what is there
		more = fmt.Sprintf(", bootstrap_expect: %d", c.o.Nodes)
	}
	if c.o.Zone != nil {
		more += ", zone: " + c.o.Zone(name)
	}
	o := Options{
		Binary: c.o.Binary, Dir: dir, Name: name, Cluster: c.o.Cluster, Listener: c.o.Listener, Host: host,
		Node: fmt.Sprintf("cluster: {listen: %q, gossip: %q, join: [\"%s\"]%s}\ntls_dir: %s\n%s",
			addr, gossip, strings.Join(c.seeds, `", "`), more, tls, c.o.Node),
	}
	if c.o.Wrap != nil {
		o.Wrap = c.o.Wrap(i)
	}
	if c.o.Data != nil {
		o.Data = c.o.Data(name)
	}
	r, err := New(o)
	if err != nil {
		return nil, err
	}
	c.Nodes = append(c.Nodes, r)
	c.addrs[r] = addr
	return r, nil
}

// AddByToken sets up one more node, which is not started: it has neither
// certificates nor addresses of the others, and gets them for the token in
// joinFile.
func (c *Cluster) AddByToken(name, joinFile string) (*Relay, error) {
	dir, err := filepath.Abs(filepath.Join(c.o.Dir, name))
	if err != nil {
		return nil, err
	}
	addr := addrOn("", nodePort)
	r, err := New(Options{
		Binary: c.o.Binary, Dir: dir, Name: name, Cluster: c.o.Cluster, Listener: c.o.Listener, Args: []string{"--join-file", joinFile},
		Node: fmt.Sprintf("cluster: {listen: %q, gossip: %q}\ntls_dir: %s\n%s", addr, addrOn("", gossipPort), filepath.Join(dir, "tls"), c.o.Node),
	})
	if err != nil {
		return nil, err
	}
	c.Nodes = append(c.Nodes, r)
	c.addrs[r] = addr
	return r, nil
}

// Start runs all nodes and waits until each says that it is ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, r := range c.Nodes {
		if err := r.Launch(); err != nil {
			return err
		}
	}
	for _, r := range c.Nodes {
		if err := r.AwaitReady(ctx); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(r.Dir), err)
		}
	}
	return nil
}

// Stop asks all nodes to end.
func (c *Cluster) Stop() error {
	var errs []error
	for _, r := range c.Nodes {
		errs = append(errs, r.Stop())
	}
	return errors.Join(errs...)
}

// Addr is where a node answers the other nodes and administrators.
func (c *Cluster) Addr(r *Relay) string { return c.addrs[r] }

// Admin runs an admin command against any node by TLS.
func (c *Cluster) Admin(args ...string) (stdout, stderr string, code int) {
	var addrs []string
	for _, r := range c.Nodes {
		addrs = append(addrs, c.addrs[r])
	}
	cmd := exec.Command(c.o.Binary, args...)
	cmd.Env = append(os.Environ(), "CLRELAY_ADDR="+strings.Join(addrs, ","), "CLRELAY_TLS_DIR="+c.TLS)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
