package mail

import "time"

// State is where one recipient of a queued message stands.
type State uint8

// The values are stored in spool records: never renumber them.
const (
	StateActive    State = 0 // due now, or being tried; the state of a recipient without a result
	StateDeferred  State = 1 // waits for its next attempt
	StateHeld      State = 2 // an operator keeps it
	StateDelivered State = 3 // final: the next hop took it
	StateFailed    State = 4 // final: it bounced or expired; the sender was told where it is to be told
	StateDropped   State = 5 // final: an operator dropped it without telling anyone
	// StateTrashed is that of one that an operator dropped and can still bring
	// back. In records it is StateHeld, and a mark: a program that does not
	// know it keeps such a recipient.
	StateTrashed State = 6
)

// Final tells whether nothing more will be done for a recipient in that state.
func (s State) Final() bool { return s >= StateDelivered && s != StateTrashed }

// String gives the word that the command line and the log use.
func (s State) String() string {
	switch s {
	case StateActive:
		return "active"
	case StateDeferred:
		return "deferred"
	case StateHeld:
		return "held"
	case StateDelivered:
		return "delivered"
	case StateFailed:
		return "failed"
	case StateDropped:
		return "dropped"
	case StateTrashed:
		return "trash"
	}
	return "unknown"
}

// Outcome is what one delivery attempt did to one recipient.
type Outcome struct {
	Recipient int // index into Envelope.Recipients
	// Reply is the next hop's answer, or the relay's own word when no next
	// hop was reached (Remote is empty then). Positive: delivered. Permanent:
	// bounce. Temporary: try again later.
	Reply  Reply
	Remote string // "mx.example.org[192.0.2.1]:25", empty when nobody was reached
	TLS    string // "TLSv1.3 TLS_AES_128_GCM_SHA256 verified", empty in the clear
	Source string // name of the own address that it left from; empty where the system chose
	// DSNPassed says that the next hop offered DSN (RFC 3461) and was given
	// the recipient's parameters: a success report is then its duty.
	DSNPassed bool
	// Unsure says that the final dot was sent and no answer came: the next
	// hop may have the message (RFC 1047). Reply is temporary then.
	Unsure bool
	// OfMail says that Reply answered MAIL: it is about the sender or about us,
	// whatever its words are, and not about the recipient.
	OfMail bool
	// Wait is how long to wait until the next try, where the reply is known to
	// ask for that (greylisting); 0: as for any other.
	Wait time.Duration
	At   time.Time
}

// TLSMode says how a next hop is spoken to.
type TLSMode uint8

// TLS modes of a smarthost action, weakest first.
const (
	TLSOpportunistic TLSMode = iota // STARTTLS when offered, whatever the certificate
	TLSNone                         // never
	TLSRequire                      // STARTTLS or nothing, whatever the certificate
	TLSVerify                       // STARTTLS with a certificate valid for the host's name, or nothing
)

// HopKind says how the hosts of a next hop are found and spoken to.
type HopKind uint8

// The kinds of next hop.
const (
	HopMX        HopKind = iota // the MX set of Domain (RFC 5321 5.1)
	HopSmarthost                // Hosts, in order, by A/AAAA
	HopLMTP                     // Hosts, in order, by A/AAAA, spoken to in LMTP (RFC 2033)
)

// HostPort is one named host of a smarthost action. Name is a domain name or
// an IP address without brackets.
type HostPort struct {
	Name string
	Port uint16
}

// Credentials are what the relay shows to a smarthost. They are never sent
// without TLS.
type Credentials struct {
	User         string
	PasswordFile string
}

// NextHop says where a recipient's mail goes next. Two recipients with equal
// Key share queue, connections and concurrency.
type NextHop struct {
	Key          string // "mx:example.org", "smarthost:mail.example.edu:25": stable across restarts
	Kind         HopKind
	Domain       string     // HopMX: the recipient's domain as lower-case A-labels, or an address literal
	Hosts        []HostPort // port 465 speaks TLS from the start (RFC 8314)
	TLS          TLSMode
	Auth         *Credentials
	EightBitFail bool   // bounce 8-bit content where the hop lacks 8BITMIME, instead of sending it as it is
	Route        string // the entry of the setting routes that leads here, "routes[0]"; empty: an operator's word
	Balance      bool   // Hosts are equal; false: tried in order
	Pool         string // of own addresses to send from; empty: the system chooses
}

// Verdict is what policy says about a step of a transaction: nil lets it
// pass, a Reply refuses it.
type Verdict = *Reply
