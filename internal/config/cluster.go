package config

import (
	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/config/ramp"
	"github.com/clrelay/clrelay/internal/config/shaping"
	"github.com/clrelay/clrelay/internal/config/strict"
)

// Cluster is cluster.yaml: what all machines share.
type Cluster struct {
	// Who may send to any recipient, by network. Empty, as it is by default,
	// nobody may.
	Senders []Sender `key:"senders"`
	// Our own domains: mail for them is taken from anybody. Mail for all other
	// domains is taken from senders alone.
	Domains []LocalDomain `key:"domains"`
	// Where mail for <postmaster> goes. It is always taken, from anybody.
	Postmaster Mailbox `key:"postmaster" derived:"postmaster at the first name of domains, else at the hostname" example:"postmaster@example.edu"`
	// Limits of what is taken.
	Receive Receive `key:"receive"`
	// Where mail goes. The first route that matches the recipient's domain is
	// taken; a recipient that none matches bounces.
	Routes []Route `key:"routes" default:"[{match: {}, action: {mx: true}}]"`
	// Groups of addresses that mail leaves from, for routes and senders. Each node
	// uses those that its node.yaml has under sources.
	Pools []Pool `key:"pools"`
	// The store of accepted mail.
	Spool Spool `key:"spool"`
	// How long a cluster waits before it acts on the loss of a node.
	Failover Failover `key:"failover"`
	// When delivery is tried again, and when it is given up.
	Queue Queue `key:"queue"`
	// How mail is handed on.
	Deliver Deliver `key:"deliver"`
	// What operators may do, by the names in their certificates. It wins over the
	// role in the certificate; who is not listed keeps that one, which is admin in
	// a certificate without a role. On the machine itself root and the user of the
	// relay may do everything.
	Access []AccessRule `key:"access"`
	// Return paths of our own for mail that goes out: what comes back to them is
	// counted for the message that it is about. docs/bounces.md says how.
	Returns *Returns `key:"returns"`
	// What is remembered of messages: clrelay trace.
	Trace Trace `key:"trace"`
	// How much may be sent or taken: rates, connections at a time and budgets, for
	// all nodes together. All limits that match must allow it.
	Limits []limits.Limit `key:"limits"`
	// What is done about what mail hosts say: rules that slow a destination down
	// for a while, at all nodes.
	Shaping shaping.Shaping `key:"shaping"`
	// Addresses that mail is not sent to: clrelay suppress.
	Suppression Suppression `key:"suppression"`
	// Name resolution.
	DNS DNS `key:"dns"`

	// Text is what this was read from; nil where there was no file.
	Text []byte
	// Warnings are what is allowed and yet likely wrong.
	Warnings strict.Errors
}

// Sender is a group of clients that may relay.
type Sender struct {
	// Name of the group, as the log shows it.
	Name Name `key:"name" required:"yes" example:"campus"`
	// Addresses of the group: networks with the number of their fixed bits, or
	// single addresses. Quote IPv6.
	Networks []Network `key:"networks" required:"yes" example:"[10.0.0.0/8, \"2001:db8::/32\"]"`
	// How urgent their mail is. Transactional mail is delivered before normal and
	// that before bulk, without one of them starving; where the relay is
	// overloaded bulk is the first to be told to come back later.
	Class string `key:"class" enum:"transactional|normal|bulk" default:"normal"`
	// Pool that the group's mail leaves from, where its route has none.
	Pool Name `key:"pool" derived:"the system chooses the address" example:"bulk"`
}

// Classes of senders.
const (
	ClassTransactional = "transactional"
	ClassNormal        = "normal"
	ClassBulk          = "bulk"
)

// AccessRule says what one operator may do.
type AccessRule struct {
	// Name of the operator, as "clrelay cert create-admin --name" was given it.
	Name Name `key:"name" required:"yes" example:"jane"`
	// What he may do: viewer looks, with addresses masked; support looks, with
	// all addresses; operator also changes the queue and drains and resumes nodes;
	// admin does everything; auditor reads the audit log alone; none locks him out.
	Role string `key:"role" enum:"viewer|support|operator|admin|auditor|none" required:"yes" example:"support"`
	// Whether he may read what is written in messages, giving a reason each time.
	// It takes support, operator or admin.
	Content bool `key:"content" default:"false"`
}

// LocalDomain is a domain that is ours.
type LocalDomain struct {
	// The domain. Each one is listed: patterns are for routes.
	Name Domain `key:"name" required:"yes" example:"example.edu"`
	// Which of its recipients are taken; others are refused at RCPT (550 5.1.1), so
	// that no bounce goes to a forged sender. any, all of them; list, those that
	// stand in a file; verify, those that the next hop takes when it is asked.
	// Postmaster is always taken.
	Recipients string `key:"recipients" enum:"any|list|verify" default:"any"`
	// File with the recipients, for list. Each node reads its own: keep it the same
	// on all of them. A line is an address, or a local part, which is one in each
	// domain that names the file; "*" stands for all recipients, "@example.edu" for
	// all of that domain; # begins a comment. A change is taken over within 10
	// seconds and at a reload. A file that is damaged, empty or gone changes nothing;
	// while none was read yet, mail for the domain is put off (451).
	List Path `key:"list" example:"users.txt"`
	// What begins the detail of an address, for list: with "+" mail for jane+news
	// is taken where jane is.
	Subaddress Text `key:"subaddress" derived:"nothing does" example:"+"`
	// How the next hop is asked, for verify.
	Verify Verify `key:"verify"`
}

// Verify says how a next hop is asked whether it takes a recipient: MAIL
// FROM:<> and RCPT TO, and no message. What it says is remembered by each node.
type Verify struct {
	// What becomes of a recipient when the next hop does not answer, or says
	// something else than yes or no: accept takes the mail, defer puts it off (450).
	OnError string `key:"on_error" enum:"accept|defer" default:"accept"`
	// How long it is remembered that a recipient is taken.
	Known Duration `key:"known" default:"24h" min:"1m" max:"30d"`
	// How long it is remembered that a recipient is unknown.
	Unknown Duration `key:"unknown" default:"10m" min:"10s" max:"1d"`
	// How long a client waits for the answer at most.
	Timeout Duration `key:"timeout" default:"10s" min:"1s" max:"1m"`
	// Questions at a time, for the domain, of each node.
	Probes int `key:"probes" default:"5" min:"1" max:"100"`
}

// Receive limits what is taken.
type Receive struct {
	// Largest message, as EHLO announces it.
	MaxSize Size `key:"max_size" default:"50MiB" min:"1KiB" max:"2GiB"`
	// Most recipients of one message. RFC 5321 4.5.3.1.8 asks for 100 at least;
	// the store takes no more than 65535.
	MaxRecipients int `key:"max_recipients" default:"1000" min:"1" max:"65535"`
	// Most connections at a time, all clients together.
	MaxConnections int `key:"max_connections" default:"5000" min:"1" max:"1000000"`
	// Most connections of one client at a time. All addresses of an IPv6 /64
	// are one client.
	PerClientConnections int `key:"per_client_connections" default:"200" min:"1" max:"1000000"`
	// Most Received lines of a message before it counts as caught in a loop
	// (RFC 5321 6.3: 100 at least).
	MaxHops int `key:"max_hops" default:"100" min:"5" max:"1000"`
	// Most header fields of a message.
	MaxHeaders int `key:"max_headers" default:"5000" min:"50" max:"100000"`
	// Commands with an error before a session is closed.
	MaxErrors int `key:"max_errors" default:"20" min:"1" max:"10000"`
	// Commands without a message between them before a session is closed.
	MaxCommands int `key:"max_commands" default:"1000" min:"10" max:"1000000"`
	// Least octets a second, on average, at which a message must come in after
	// its first minute.
	MinRate Size `key:"min_rate" default:"256" min:"1" max:"1GB"`
	// Messages of one connection, taken or refused, after which its client is
	// told to connect anew (421 4.3.2), so that long-lived connections spread over
	// the nodes again. A transaction is never cut.
	MaxMessagesPerConnection int `key:"max_messages_per_connection" default:"1000" off:"unlimited" min:"1" max:"1000000000"`
	// Age at which a connection is ended in the same way, after the transaction
	// it is in. Up to a fifth of it is taken off at random, so that clients that
	// came together do not leave together.
	MaxConnectionAge Duration `key:"max_connection_age" default:"10m" off:"unlimited" min:"1s" max:"7d"`
	// For how long clients that may relay (senders) may have a message held before
	// it is first tried: FUTURERELEASE (RFC 4865). Off: it is not offered. What is
	// held already stays held. (DELIVERBY, RFC 2852, is offered to them in any case.)
	FutureRelease Duration `key:"future_release" default:"off" off:"off" min:"1m" max:"90d"`
	// How long a silent client is waited for.
	Timeouts Timeouts `key:"timeouts"`
	// What is done about clients that misbehave, seen over all nodes.
	Abuse Abuse `key:"abuse"`
	// When mail is sent away for later because the relay has too much to do.
	Overload Overload `key:"overload"`
}

// Abuse says what is done about clients that misbehave. A client is an IPv4
// address or an IPv6 /64. One that reaches a threshold is kept waiting for
// replies, one that reaches it three times over is locked out. Clients that may
// relay (senders) are never counted.
type Abuse struct {
	// Whether anything is counted.
	Enabled bool `key:"enabled" default:"true"`
	// Time in which counts fade: to a third.
	Window Duration `key:"window" default:"10m" min:"10s" max:"7d"`
	// Connections that brought no message. Health checks of load balancers count,
	// too.
	Connections int `key:"connections" default:"3000" off:"off" min:"1" max:"1000000000"`
	// Commands that were refused for good: recipients that are not here, relaying,
	// mistakes in form.
	RefusedCommands int `key:"refused_commands" default:"100" off:"off" min:"1" max:"1000000000"`
	// Recipients of our domains that there are not.
	UnknownRecipients int `key:"unknown_recipients" default:"50" off:"off" min:"1" max:"1000000000"`
	// Logins that failed. Nothing counts them in this version, which has no logins.
	FailedLogins int `key:"failed_logins" default:"10" off:"off" min:"1" max:"1000000000"`
	// By how much replies to refused commands are held back from a threshold on. At
	// most 500 sessions are held at a time.
	Tarpit Duration `key:"tarpit" default:"5s" off:"off" min:"1s" max:"30s"`
	// For how long a client is locked out: it is told 421 with the time that is
	// left, whichever node it asks.
	Lockout Duration `key:"lockout" default:"10m" off:"off" min:"1s" max:"7d"`
	// Networks that are never counted, besides senders.
	Exempt []Network `key:"exempt" default:"[127.0.0.0/8, \"::1/128\"]"`
}

// Overload says when mail is sent away for later (451 4.3.2): bulk mail first,
// then normal mail, transactional mail last, by the class of the entry of
// senders; mail of others is normal.
type Overload struct {
	// How long storing a message may take, on average. Mail is also sent away when
	// nearly max_connections are open, and when the disk comes near spool.reserve.
	// Off: none is.
	Target Duration `key:"target" default:"2s" off:"off" min:"1s" max:"10m"`
}

// Timeouts of a session, by its stages.
type Timeouts struct {
	// For the TLS handshake.
	Handshake Duration `key:"handshake" default:"30s" min:"1s" max:"1h"`
	// For the next command (RFC 5321 4.5.3.2.7: 5 minutes at least).
	Command Duration `key:"command" default:"5m" min:"1s" max:"1h"`
	// For the next octets of a message.
	Data Duration `key:"data" default:"3m" min:"1s" max:"1h"`
	// For the client to take a reply.
	Write Duration `key:"write" default:"1m" min:"1s" max:"1h"`
}

// Route says where the mail for some domains goes.
type Route struct {
	// What limits and operators call the route.
	Name Name `key:"name" derived:"routes[i], by its place" example:"campus"`
	// Which mail the route is for. An empty one, match: {}, is for all of it.
	Match Match `key:"match" required:"yes"`
	// What is done with it: either mx or smarthost.
	Action Action `key:"action" required:"yes"`
}

// Match says which mail a route is for.
type Match struct {
	// Domains of recipients: "example.edu" that one, "*.example.edu" all below it.
	Domains []Pattern `key:"domains" example:"[example.edu, \"*.example.edu\"]"`
}

// TLS modes of an action.
const (
	TLSNone          = "none"
	TLSOpportunistic = "opportunistic"
	TLSRequire       = "require"
	TLSVerify        = "verify"
)

// Action says what is done with the mail of a route.
type Action struct {
	// Deliver to the MX hosts of the recipient's domain.
	MX bool `key:"mx" default:"false"`
	// Deliver to these hosts, tried in order. A host has no port (25; 24 with
	// lmtp) or one, "mail.example.edu:587"; IPv6 addresses stand in brackets.
	// Names are looked up by A and AAAA. Port 465 speaks TLS from the start.
	Smarthost []Host `key:"smarthost" example:"[\"mail.example.edu:25\"]"`
	// TLS towards the hosts: none, never; opportunistic, where it is offered;
	// require, or the mail waits; verify, require with a certificate that is
	// valid for the host's name. Towards MX hosts it is none or opportunistic.
	TLS string `key:"tls" enum:"none|opportunistic|require|verify" default:"opportunistic"`
	// Log in at the smarthost. It needs tls: require or verify.
	Auth *Auth `key:"auth"`
	// What is done with 8-bit content that the next hop does not offer to take:
	// pass sends it unchanged, bounce returns it.
	EightBit string `key:"eightbit" enum:"pass|bounce" default:"pass"`
	// Speak LMTP (RFC 2033) to the smarthost.
	LMTP bool `key:"lmtp" default:"false"`
	// The smarthosts are equal: mail goes to any of them, and most of it to those
	// that answer fast and accept. Left out, they are tried in order.
	Balance bool `key:"balance" default:"false"`
	// Pool that the mail leaves from, whoever sends it.
	Pool Name `key:"pool" derived:"that of the sender, or the system chooses the address" example:"bulk"`
}

// Pool is a group of addresses that mail leaves from.
type Pool struct {
	// Name of the pool.
	Name Name `key:"name" required:"yes" example:"bulk"`
	// Its members, by the names that node.yaml gives them.
	Sources []PoolSource `key:"sources" required:"yes" example:"[{name: out1, weight: 3}, {name: out2}]"`
	// What is the same for mail that leaves from the same address: domain, all mail
	// for a domain, which sees one address; message, each message with all its
	// attempts, so that every domain sees all addresses. Mail to a smarthost is
	// spread by message.
	Spread string `key:"spread" enum:"domain|message" default:"domain"`
	// What a node does that has none of the sources: default, the system chooses
	// the address; wait, the mail waits, until the node has one or another node
	// delivers it.
	OnMissing string `key:"on_missing" enum:"default|wait" default:"default"`
}

// PoolSource is a member of a pool.
type PoolSource struct {
	// Its name in node.yaml.
	Name Name `key:"name" required:"yes" example:"out1"`
	// Its part of the mail, compared with the other members.
	Weight int `key:"weight" default:"1" min:"1" max:"1000"`
	// Little mail on the first days of a new address, which nobody knows yet. What
	// is too much leaves from the other sources of the pool, or waits.
	WarmUp *WarmUp `key:"warm_up"`
}

// WarmUp says how much may leave from a new address day by day. It counts for
// all nodes that have the source together. Days begin at midnight UTC.
type WarmUp struct {
	// The first day. Nothing leaves from the address before it.
	Since ramp.Date `key:"since" required:"yes" example:"2026-11-01"`
	// Messages a day, from the first day on. After the last one there is no limit.
	Ramp []ramp.PerDay `key:"ramp" derived:"that of the preset" example:"[50/d, 100/d, 200/d, 500/d]"`
	// A ramp that is made already: gentle, 28 days from 50 messages a day on;
	// normal, 14 days from 100 on. Both end at some 50000.
	Preset string `key:"preset" enum:"gentle|normal" derived:"normal, where there is no ramp"`
	// Whether a ramp counts for each site that receives the mail, or for all of
	// them together.
	Per string `key:"per" enum:"site|all" default:"site"`
}

// Auth is a login at a smarthost.
type Auth struct {
	// User name.
	User Text `key:"user" required:"yes" example:"relay"`
	// File whose first line is the password. It is read at every login, so a
	// new password needs no reload. Keep it readable for the relay alone.
	PasswordFile Path `key:"password_file" required:"yes" example:"smarthost.pass"`
}

// Spool is the store of accepted mail.
type Spool struct {
	// On how many machines a message is stored before it is answered 250. More
	// than 1 needs the cluster section in node.yaml. A change is for new messages
	// at once; those in the queue are copied.
	Copies int `key:"copies" derived:"1, or 2 with a cluster section in node.yaml" min:"1" max:"7" example:"2"`
	// Disk space that stays free: below it no mail is taken (452).
	Reserve Size `key:"reserve" derived:"2 % of the disk, at most 1GiB" restart:"yes" example:"1GiB"`
}

// Failover says how long a cluster waits before it acts on the loss of a node.
// A relay that runs alone has no use for it.
type Failover struct {
	// How long a node must be silent before another takes over what it had to
	// deliver. A node that does not hear from the cluster for four fifths of it
	// stops taking and delivering mail. Shorter means sooner, and more false
	// alarms: an election of the cluster's leader must fit in.
	Lease Duration `key:"lease" default:"5s" min:"2s" max:"1m"`
	// How long a node must be gone before the copies it held are made anew on
	// other nodes. A lost disk, or clrelay node remove, does not wait.
	RereplicateAfter Duration `key:"rereplicate_after" default:"1m" off:"never" min:"2s" max:"7d"`
	// How long a node must be gone before its mail is delivered from a copy that
	// may not know of the last deliveries, where no other copy is in reach.
	// Nothing is lost by it, but mail may arrive twice, which is counted.
	UncleanAfter Duration `key:"unclean_after" default:"10m" off:"never" min:"2s" max:"90d"`
}

// Queue says when delivery is tried again, and when it is given up.
type Queue struct {
	// Waiting times between attempts. The last repeats until expire. Each is
	// made up to 10 % longer at random.
	Retry []Duration `key:"retry" default:"[1m, 5m, 15m, 30m, 1h, 2h, 4h]" min:"1s" max:"7d"`
	// Age at which mail that could not be delivered bounces.
	Expire Duration `key:"expire" default:"5d" min:"1s" max:"90d"`
	// How long mail that an operator drops is kept and can be brought back with
	// queue undrop. 0: not at all.
	Trash Duration `key:"trash" default:"24h" off:"0" min:"1m" max:"30d"`
	// Age at which the sender is told that mail is still waiting.
	DelayWarning Duration `key:"delay_warning" default:"off" off:"off" min:"1s" max:"90d" example:"4h"`
	// What becomes of a bounce that cannot be delivered itself: drop counts and
	// logs it, postmaster sends it to the postmaster as well.
	DoubleBounce string `key:"double_bounce" enum:"drop|postmaster" default:"drop" restart:"yes"`
}

// Deliver says how mail is handed on.
type Deliver struct {
	// Most connections at a time, all destinations together.
	MaxConnections int `key:"max_connections" default:"1000" min:"1" max:"100000"`
	// Most connections to one destination at a time. Fewer are used as long as
	// it is new or slow.
	PerDestination int `key:"per_destination" default:"100" min:"1" max:"10000"`
	// Port of MX hosts. It is 25 on the internet; others are for tests.
	MXPort uint16 `key:"mx_port" default:"25" min:"1" max:"65535" restart:"yes"`
	// PEM file with certificates that are trusted for tls: verify besides the
	// system's.
	CAFile Path `key:"ca_file" restart:"yes" derived:"the system's alone" example:"ca.pem"`
}

// Trace says what each node remembers of the mail that went through it.
type Trace struct {
	// How long the events of a message are kept after its end.
	Keep Duration `key:"keep" default:"7d" min:"1h" max:"365d"`
	// Disk space that they may take in data_dir; the oldest go first.
	MaxSize Size `key:"max_size" default:"2GiB" min:"16MiB" max:"1TiB"`
}

// Suppression says how addresses come onto the suppression list by themselves.
// What operators put there with clrelay suppress counts whatever stands here.
type Suppression struct {
	// Put an address on the list when a next hop, or a bounce to one of our return
	// paths, says that there is no such mailbox or domain: off, never; per_sender,
	// for the envelope sender alone that the mail was from; global, for everybody
	// who relays through us. Recipients in domains are never put there.
	Automatic string `key:"automatic" enum:"off|per_sender|global" default:"off"`
	// After so many bounces, counted by each node.
	After int `key:"after" default:"1" min:"1" max:"100"`
	// Within this time.
	Within Duration `key:"within" default:"7d" min:"1m" max:"365d"`
	// How long such an entry stays.
	Expire Duration `key:"expire" default:"90d" off:"never" min:"1h" max:"3650d"`
	// Put an address on the list for so long when a complaint about mail to it
	// comes to one of our return paths (a feedback loop), after the first. It is
	// for the envelope sender of that mail alone, unless automatic is global, and
	// needs no automatic.
	Complaints Duration `key:"complaints" default:"off" off:"off" min:"1h" max:"3650d" example:"365d"`
}

// DNS says how names are resolved.
type DNS struct {
	// Resolvers, an address each with a port if it is not 53.
	Servers []Server `key:"servers" restart:"yes" derived:"the system's, from /etc/resolv.conf" example:"[\"127.0.0.1:53\"]"`
}
