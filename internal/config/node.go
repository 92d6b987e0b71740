package config

import "github.com/clrelay/clrelay/internal/config/strict"

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
	// Membership of a cluster.
	Cluster strict.Later `key:"cluster" later:"this version runs on one machine and keeps one copy of each message, on its disk; leave the section out"`
	// Folder of the cluster's certificates: ca.crt, node.crt, node.key.
	// Nothing reads it as long as there is no cluster section.
	TLSDir Path `key:"tls_dir" default:"/etc/clrelay/tls" restart:"yes"`
	// Address of the HTTP server for /metrics, /livez, /readyz and /lb. It has
	// neither passwords nor TLS: keep it off public addresses.
	HTTP Listen `key:"http" default:"127.0.0.1:7580" off:"none" restart:"yes"`
	// Address for HAProxy's agent-check.
	LBAgent Listen `key:"lb_agent" default:"none" off:"none" restart:"yes" example:"127.0.0.1:7581"`
	// The other file. It is read at every start and on SIGHUP, where a file
	// with errors is reported and changes nothing.
	ClusterConfig Path `key:"cluster_config" default:"cluster.yaml"`
	// How the log is written.
	Log Log `key:"log"`

	// HTTPSet tells that the file names an address for HTTP, so that a default
	// that is taken by another process need not stop the start.
	HTTPSet bool
	// Warnings are what is allowed and yet likely wrong.
	Warnings strict.Errors
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
