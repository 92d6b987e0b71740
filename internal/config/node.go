package config

import (
	"net"
	"strconv"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Node is node.yaml: what differs from machine to machine.
type Node struct {
	// Name of this node, unique in the cluster. It is the identity in its
	// certificate (URI SAN clrelay://node/NAME) and in the log.
	Name Name `key:"node" required:"yes" restart:"yes" example:"mx1"`
	// Name of this machine in the SMTP banner, EHLO, Received lines and
	// delivery reports. It should be the name that its address resolves to.
	Hostname Domain `key:"hostname" derived:"the machine's own name" restart:"yes" example:"mx1.example.edu"`
	// Folder of the queue and of everything else the relay keeps. It is made
	// with mode 0700 where it is missing, and used by one process at a time.
	DataDir Path `key:"data_dir" default:"/var/lib/clrelay" restart:"yes"`
	// Where mail is taken: one entry for each address, at least one.
	SMTP []Listener `key:"smtp" required:"yes" restart:"yes" example:"[{listen: \":25\"}]"`
	// Addresses of this machine that mail may leave from, by names that pools in
	// cluster.yaml use. Left out, or for mail without a pool, the system chooses.
	Sources []Source `key:"sources"`
	// Membership of a cluster. Left out, the relay runs alone.
	Cluster *Membership `key:"cluster" restart:"yes"`
	// Folder of the cluster's certificates: ca.crt, node.crt, node.key, as
	// clrelay cert makes them, or as they come for a join token. The relay renews
	// them where it may write there and a node of the cluster holds ca.key.
	// Nothing reads it without a cluster section.
	TLSDir Path `key:"tls_dir" default:"/etc/clrelay/tls" restart:"yes"`
	// Address of the HTTP server for /metrics, /livez, /readyz and /lb. It has
	// neither passwords nor TLS: keep it off public addresses. A load balancer on
	// another machine must reach it.
	HTTP Listen `key:"http" default:"127.0.0.1:7580" off:"none" restart:"yes"`
	// Address for HAProxy's agent-check, which HAProxy must reach. It tells
	// strangers how busy the relay is: keep it off public addresses, too.
	LBAgent Listen `key:"lb_agent" default:"none" off:"none" restart:"yes" example:"127.0.0.1:7581"`
	// The other file. A relay that runs alone reads it at every start and on
	// SIGHUP, where a file with errors is reported and changes nothing. A cluster
	// reads it once, when it is founded; from then on clrelay config apply
	// changes the settings of all nodes.
	ClusterConfig Path `key:"cluster_config" default:"cluster.yaml"`
	// How the log is written.
	Log Log `key:"log"`

	// HTTPSet tells that the file names an address for HTTP, so that a default
	// that is taken by another process need not stop the start.
	HTTPSet bool
	// Joining tells that the cluster is yet to give certificates and addresses.
	Joining bool
	// Warnings are what is allowed and yet likely wrong.
	Warnings strict.Errors
}

// Source is an address of this machine that mail may leave from.
type Source struct {
	// Name that pools call it by. The same name may mean other addresses on other
	// nodes.
	Name Name `key:"name" required:"yes" example:"out1"`
	// The IPv4 or IPv6 address. The machine must have it; what it lacks is left out
	// of its pools until it has it.
	Address IP `key:"address" required:"yes" example:"192.0.2.10"`
	// Name in EHLO from this address. It should be the name that the address
	// resolves to.
	Hostname Domain `key:"hostname" derived:"the hostname of the node" example:"out1.example.edu"`
}

// Membership says how a node finds the others of its cluster and is found.
type Membership struct {
	// Address and port for the other nodes and for the admin commands: what is
	// decided, copies of messages, questions. Mutual TLS.
	Listen Listen `key:"listen" required:"yes" restart:"yes" example:"10.0.0.1:7525"`
	// Address and port at which the nodes tell each other who is there. Mutual
	// TLS.
	Gossip Listen `key:"gossip" required:"yes" restart:"yes" example:"10.0.0.1:7526"`
	// Address or name at which the other nodes reach this one, without a port:
	// the ports are those of listen and gossip. It must be there when one of them
	// stands for all addresses of the machine.
	Advertise Address `key:"advertise" derived:"the addresses of listen and gossip" restart:"yes" example:"mx1.internal"`
	// Gossip addresses of some nodes of the cluster, port 7526 unless one is
	// given. One that answers is enough. The list may be the same on all nodes:
	// a node skips itself. Where it is left out, the addresses count that came
	// for a join token.
	Join []Host `key:"join" restart:"yes" example:"[10.0.0.1, 10.0.0.2, 10.0.0.3]"`
	// How many nodes found a new cluster: 1, 3 or 5, the same number on each of
	// them. They wait for each other. Left out, the node founds none and joins
	// one that is there.
	BootstrapExpect int `key:"bootstrap_expect" derived:"the node founds no cluster" restart:"yes" example:"3"`
	// What is likely to fail as a whole, such as a rack or a building. The copies
	// of a message are put into different zones where there are any.
	Zone Name `key:"zone" derived:"none" restart:"yes" example:"a"`
}

// Address is host:port at which other nodes reach Listen.
func (m *Membership) Address() string { return m.reach(m.Listen) }

// GossipAddress is host:port at which other nodes reach Gossip.
func (m *Membership) GossipAddress() string { return m.reach(m.Gossip) }

func (m *Membership) reach(l Listen) string {
	if m.Advertise == "" {
		return l.String()
	}
	return net.JoinHostPort(string(m.Advertise), strconv.Itoa(int(l.Port)))
}

// Modes of a listener.
const (
	ModeRelay       = "relay"
	ModeSubmission  = "submission"
	ModeSubmissions = "submissions"
)

// Listener is one address that takes mail.
type Listener struct {
	// Address and port: ":25" for all addresses of the machine,
	// "127.0.0.1:2525", "[::1]:25". Port 0 picks a free one.
	Listen Listen `key:"listen" required:"yes" restart:"yes" example:":25"`
	// What the listener is for: relay takes mail from other servers and from
	// senders; submission takes it from people and programs that log in, after
	// STARTTLS; submissions the same with TLS from the start. The last two are
	// errors in this version, which cannot check a login.
	Mode string `key:"mode" enum:"relay|submission|submissions" default:"relay" restart:"yes"`
	// Certificate of the listener. STARTTLS is offered where there is one.
	TLS *ListenerTLS `key:"tls" restart:"yes"`
	// Proxies that begin each connection with a PROXY protocol header, version
	// 1 or 2. From these addresses the header is required, from all others it
	// is an unknown command.
	ProxyFrom []Network `key:"proxy_from" restart:"yes" example:"[10.0.0.5]"`
	// Offer BINARYMIME (RFC 3030). A binary message bounces where the next hop
	// does not take it, so this is for closed networks.
	BinaryMIME bool `key:"binarymime" default:"false" restart:"yes"`
}

// ListenerTLS is the certificate of a listener.
type ListenerTLS struct {
	// PEM file with the certificate and those that lead to its issuer. On
	// SIGHUP the file is read again.
	Cert Path `key:"cert" required:"yes" restart:"yes" example:"smtp.crt"`
	// PEM file with the certificate's key, read again with it. Keep it readable
	// for the relay alone.
	Key Path `key:"key" required:"yes" restart:"yes" example:"smtp.key"`
	// Speak TLS from the first octet, as on port 465, instead of offering STARTTLS.
	Implicit bool `key:"implicit" default:"false" restart:"yes"`
}

// Log says how the log is written.
type Log struct {
	// Form of a line: text (key=value) or json.
	Format string `key:"format" enum:"text|json" default:"text" restart:"yes"`
	// The least important messages that are written. The lines about mail are
	// written at every level.
	Level string `key:"level" enum:"debug|info|warn|error" default:"info"`
}
