package serve

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/kept"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd/policy"
)

// settings are both files, as they are in force.
type settings struct {
	node    *config.Node
	cluster *config.Cluster
}

// load reads node.yaml and the file that it names, or what the cluster has put
// in its place.
func load(path string) (*settings, error) {
	node, cluster, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if last, err := kept.Recall(node); err != nil {
		return nil, err
	} else if last != nil {
		cluster = last
	}
	return &settings{node, cluster}, nil
}

func (s *settings) warnings() config.Errors {
	return append(append(config.Errors(nil), s.node.Warnings...), s.cluster.Warnings...)
}

// postmaster is the address behind <postmaster>.
func (s *settings) postmaster() mail.Address {
	switch {
	case !s.cluster.Postmaster.IsNull():
		return s.cluster.Postmaster.Address
	case len(s.cluster.Domains) > 0:
		name := strings.TrimPrefix(string(s.cluster.Domains[0].Name), "*.")
		return mail.Address{Local: mail.Postmaster, Domain: name}
	}
	return mail.Address{Local: mail.Postmaster, Domain: string(s.node.Hostname)}
}

// mailboxes say where reports without a sender of their own go.
func (s *settings) mailboxes() queue.Mailboxes {
	return queue.Mailboxes{Postmaster: s.postmaster(), DoubleBounces: s.cluster.Queue.DoubleBounce == "postmaster"}
}

func (s *settings) policy() policy.Options {
	o := policy.Options{Postmaster: s.postmaster(), Hostname: string(s.node.Hostname)}
	for _, e := range s.cluster.Senders {
		o.Senders = append(o.Senders, policy.Sender{Name: string(e.Name), Networks: config.Prefixes(e.Networks)})
	}
	for _, d := range s.cluster.Domains {
		o.Domains = append(o.Domains, string(d.Name))
	}
	return o
}

func (s *settings) schedule() sched.Config {
	q, d := s.cluster.Queue, s.cluster.Deliver
	c := sched.Config{
		Running: d.MaxConnections,
		LaneMax: d.PerDestination,
		Expire:  time.Duration(q.Expire),
		Warn:    time.Duration(q.DelayWarning),
	}
	for _, r := range q.Retry {
		c.Retry = append(c.Retry, time.Duration(r))
	}
	return c
}

// self are the addresses on which this relay listens, so that delivery sees
// when mail would come back. The unspecified address stands for all.
func (s *settings) self() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range s.node.SMTP {
		addr := l.Listen.Addr
		if !addr.IsValid() {
			addr = netip.IPv6Unspecified()
		}
		out = append(out, netip.AddrPortFrom(addr, l.Listen.Port))
	}
	return out
}

// roots are the system's certificate authorities and those of deliver.ca_file;
// nil means the system's alone.
func (s *settings) roots() (*x509.CertPool, error) {
	file := string(s.cluster.Deliver.CAFile)
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("deliver.ca_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("deliver.ca_file: %s holds no certificate in PEM form", file)
	}
	return pool, nil
}
