package config

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// node checks what the settings of node.yaml mean together.
func (s check) node(n *Node) {
	n.HTTPSet = s.Has("http")
	if !s.Has("hostname") {
		s.machineName(n)
	}
	if n.Hostname != "" && !strings.Contains(string(n.Hostname), ".") {
		s.Warn("hostname", "%q has no domain: other servers may refuse it; set hostname to the full name", n.Hostname)
	}
	if s.Has("smtp") && len(n.SMTP) == 0 && s.Fine("smtp") {
		s.Bad("smtp", "needs one entry at least, as in - {listen: \":25\"}")
	}
	taken := map[string]Listen{}
	for i, l := range n.SMTP {
		key := fmt.Sprintf("smtp[%d]", i)
		s.checkListener(key, l)
		s.checkAddress(key+".listen", l.Listen, taken)
	}
	s.checkSources(n.Sources)
	if n.Cluster != nil {
		s.membership(n, taken)
	}
	s.checkAddress("http", n.HTTP, taken)
	s.checkAddress("lb_agent", n.LBAgent, taken)
	if n.DataDir == "/" {
		s.Bad("data_dir", "the root folder belongs to the system: name one for the relay alone")
	}
}

func (s check) machineName(n *Node) {
	name, err := os.Hostname()
	if err == nil {
		err = n.Hostname.Parse(name)
	}
	if err != nil {
		s.Bad("hostname", "the key \"hostname\" is missing, and the machine's own name cannot be used: %v", err)
	}
}

func (s check) checkListener(key string, l Listener) {
	switch l.Mode {
	case ModeSubmission:
		s.Bad(key+".mode", "submission is not in this version yet: it needs AUTH, which does not exist; list the clients under senders and use mode: relay")
	case ModeSubmissions:
		s.Bad(key+".mode", "submissions is not in this version yet: it needs AUTH, which does not exist; for TLS from the start write mode: relay and tls: {implicit: true, cert: ..., key: ...}")
	}
	if l.TLS == nil {
		return
	}
	cert := s.readable(key+".tls.cert", l.TLS.Cert, false)
	priv := s.readable(key+".tls.key", l.TLS.Key, true)
	if cert == nil || priv == nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, priv); err != nil {
		s.Bad(key+".tls", "this pair cannot be used: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
}

// checkAddress reports an address that another listener has.
func (s check) checkAddress(key string, l Listen, taken map[string]Listen) {
	if l.IsZero() || l.Port == 0 {
		return
	}
	for other, o := range taken {
		if o.Port != l.Port || o.Addr.IsValid() && l.Addr.IsValid() && o.Addr != l.Addr {
			continue
		}
		if !s.Has(key) {
			s.Bad(other, "%v is the default of %s: choose another port, or set %s", o, key, key)
			return
		}
		s.Bad(key, "%v is taken: %s in line %d listens there", l, strict.PlainKey(other), s.Line(other))
		return
	}
	taken[key] = l
}
