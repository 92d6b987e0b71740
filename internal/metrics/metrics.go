// Package metrics holds the figures that the relay shows at /metrics: one
// struct of collectors per consumer, gathered in Metrics.
//
// It is the only package that knows the Prometheus library: what it hands out
// are own types with one or two methods. A change of a figure costs some ten
// nanoseconds, takes no lock and never fails, so the hot path may count what
// it likes. Figures that somebody keeps anyway, such as the length of the
// queue, are not counted here but asked for at each scrape (Sources).
//
// Every label has a closed set of values, fixed in this package: no address,
// no host and no text of a peer ever becomes a label. All methods may be
// called from any goroutine. cmd makes the one Metrics and passes its parts
// on; a test makes its own with New.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/clrelay/clrelay/internal/bounce"
)

// namespace is the prefix of every figure of ours.
const namespace = "clrelay"

// Metrics are all figures of one process. The parts are embedded, so
// m.Accepted and m.Spool.Accepted are the same counter.
type Metrics struct {
	*SMTP
	*Spool
	*Queue
	*Delivery
	*DNS
	*Node
	*Shaping
	Door *Door

	reg *prometheus.Registry
}

// New makes a set of figures, all zero, with a registry of its own.
func New() *Metrics {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	b := builder{reg}
	return &Metrics{
		SMTP:     newSMTP(b),
		Spool:    newSpool(b),
		Queue:    newQueue(b),
		Delivery: newDelivery(b),
		DNS:      newDNS(b),
		Node:     newNode(b),
		Shaping:  newShaping(b),
		Door:     newDoor(b),
		reg:      reg,
	}
}

// Handler serves the figures in the Prometheus text format, or OpenMetrics
// where the scraper asks for it.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{Registry: m.reg, Timeout: 10 * time.Second})
}

// SMTP are the figures of the server side.
type SMTP struct {
	AcceptDuration Histogram     // from the end of the content to the 250
	MessageSize    SizeHistogram // of accepted messages
	SessionsTotal  Counter       // sessions that ended
	Commands       Counter       // that were read
	CommandErrors  Counter       // refused for their form or order
	Suppressed     CounterVec    // recipients on the suppression list that mail was not sent to, by stage: rcpt delivery
	Unknown        Counter       // recipients refused because our own domain does not know them
	Rejected       CounterVec    // refused steps of a transaction, by reason: relay sender recipient size limit space syntax line_end loop timeout unavailable
}

func newSMTP(b builder) *SMTP {
	return &SMTP{
		AcceptDuration: b.seconds("accept_duration_seconds", "Time from the end of the content to the 250 reply."),
		MessageSize:    b.bytes("message_size_bytes", "Size of accepted messages."),
		SessionsTotal:  b.counter("smtp_sessions_total", "SMTP sessions that ended."),
		Commands:       b.counter("smtp_commands_total", "SMTP commands that were read, counted at the end of the session."),
		CommandErrors:  b.counter("smtp_command_errors_total", "SMTP commands that were refused for their form or order, counted at the end of the session."),
		Suppressed:     b.vec("suppressed_total", "Recipients that mail was not sent to because they are on the suppression list: refused at RCPT, or failed at delivery.", "stage", "rcpt", "delivery"),
		Unknown:        b.counter("unknown_recipients_total", "Recipients that were refused at RCPT because a domain of ours does not know them."),
		Rejected: b.vec("rejected_total", "Connections and steps of SMTP transactions that were refused.", "reason",
			"relay", "sender", "recipient", "size", "limit", "space", "syntax", "line_end", "loop", "timeout", "unavailable"),
	}
}

// Door are the figures of what holds clients to measure.
type Door struct {
	Denied   CounterVec2 // by a limit: by side and kind
	Shed     CounterVec  // sent away because of too much to do, by class
	Held     Counter     // replies that were held back
	Lockouts Counter
}

func newDoor(b builder) *Door {
	return &Door{
		Denied: b.vec2("limit_denied_total", "What limits denied, by whether it is received or delivered and by the part of the limit.",
			label{"side", []string{"receiving", "delivery"}}, label{"kind", []string{"rate", "connections", "budget", "suspended"}}),
		Shed: b.vec("shed_total", "Messages that were sent away for later because there was too much to do, by class.", "class",
			"bulk", "normal", "transactional"),
		Held:     b.counter("replies_held_total", "Replies to clients that misbehave that were held back."),
		Lockouts: b.counter("client_lockouts_total", "Times that a client was locked out for its behaviour at this node."),
	}
}

// Spool are the figures of the store.
type Spool struct {
	Accepted           Counter   // messages that are on stable storage on every copy
	FsyncDuration      Histogram // one fdatasync of the log
	PossibleDuplicates Counter   // recipients that may get a message twice: no answer to the content, or counted at recovery and takeover
	Takeovers          Counter   // segments taken over from another node
	Recovered          Counter   // messages found unfinished at the start
	Damaged            Counter   // records lost to damage of the medium
}

func newSpool(b builder) *Spool {
	return &Spool{
		Accepted:           b.counter("messages_accepted_total", "Messages on stable storage on every copy: those that were answered 250 and the relay's own."),
		FsyncDuration:      b.seconds("fsync_duration_seconds", "Duration of one fdatasync of the log."),
		PossibleDuplicates: b.counter("possible_duplicates_total", "Recipients that may get a message twice: counted when a next hop gave no answer to the content, at recovery and at takeover."),
		Takeovers:          b.counter("takeovers_total", "Segments taken over from another node."),
		Recovered:          b.counter("messages_recovered_total", "Unfinished messages found at the start."),
		Damaged:            b.counter("spool_damaged_records_total", "Records of the log lost to damage of the medium."),
	}
}

// Queue are the figures of the scheduler.
type Queue struct {
	Delivered       Counter    // recipients taken by a next hop
	Bounced         Counter    // recipients that failed for good; expired ones are among them
	Expired         Counter    // recipients whose time ran out
	Dropped         Counter    // recipients dropped by an operator
	Attempts        CounterVec // recipients tried, by result: delivered deferred bounced
	DeliveryLatency Histogram  // from 250 to the next hop's 250
	DSNs            CounterVec // reports written, by kind: failure delay success relayed
	DoubleBounces   Counter    // reports that could not be delivered
	Bounces         CounterVec // as Bounced, by the class of the last reply
	Returns         CounterVec // messages to a return path, by kind: bounce delayed success complaint auto_reply unknown
}

func newQueue(b builder) *Queue {
	return &Queue{
		Delivered:       b.counter("recipients_delivered_total", "Recipients whose message a next hop took."),
		Bounced:         b.counter("recipients_bounced_total", "Recipients that failed for good, expired ones among them."),
		Expired:         b.counter("recipients_expired_total", "Recipients whose time in the queue ran out."),
		Dropped:         b.counter("recipients_dropped_total", "Recipients that an operator dropped."),
		Attempts:        b.vec("delivery_attempts_total", "Delivery attempts, counted by recipient.", "result", "delivered", "deferred", "bounced"),
		DeliveryLatency: b.long("delivery_latency_seconds", "Time from the 250 to the client to the 250 of the next hop, by recipient."),
		DSNs:            b.vec("dsn_sent_total", "Delivery status notifications written.", "kind", "failure", "delay", "success", "relayed"),
		DoubleBounces:   b.counter("double_bounces_total", "Delivery status notifications that could not be delivered."),
		Bounces:         b.vec("bounces_total", "Recipients that failed for good, by the class of the last reply.", "class", bounce.Names()[:bounce.Other]...),
		Returns:         b.vec("returns_total", "Messages that came back to a return path.", "kind", "bounce", "delayed", "success", "complaint", "auto_reply", "unknown"),
	}
}

// Delivery are the figures of the client side.
type Delivery struct {
	AttemptDuration HistogramVec // one step of an attempt, by phase: dns connect tls mail data
	Outbound        Gauge        // connections to next hops that are open
	OutboundTotal   CounterVec   // connections made, by tls: none opportunistic verified
	ConnectErrors   CounterVec   // connections not made, by reason: refused timeout tls greeting auth other
	Reused          Counter      // transactions on a connection that was open already
	QuitTimeouts    Counter      // connections whose host did not close them after QUIT
	Limited         CounterVec   // attempts that a limit put off, by kind: rate connections budget suspended partition
}

func newDelivery(b builder) *Delivery {
	return &Delivery{
		AttemptDuration: b.secondsVec("attempt_duration_seconds", "Duration of one step of a delivery attempt.", "phase", "dns", "connect", "tls", "mail", "data"),
		Outbound:        b.gauge("outbound_connections", "Connections to next hops that are open."),
		OutboundTotal:   b.vec("outbound_connections_total", "Connections made to next hops.", "tls", "none", "opportunistic", "verified"),
		ConnectErrors:   b.vec("outbound_connect_errors_total", "Connections to next hops that were not made.", "reason", "refused", "timeout", "tls", "greeting", "auth"),
		Reused:          b.counter("outbound_reused_total", "Transactions on a connection that was open already."),
		QuitTimeouts:    b.counter("outbound_quit_timeouts_total", "Connections that a next hop did not close within 2 s of QUIT: they count as closed."),
		Limited:         b.vec("limited_total", "Attempts to deliver that a limit put off. Nothing of them is counted as a failure.", "kind", "rate", "connections", "budget", "suspended", "partition"),
	}
}

// DNS are the figures of the resolver.
type DNS struct {
	Lookups        CounterVec2 // by type and result
	LookupDuration Histogram   // of lookups that went to a server
	CacheHits      Counter
}

func newDNS(b builder) *DNS {
	return &DNS{
		Lookups: b.vec2("dns_lookups_total", "DNS lookups that went to a server.",
			label{"type", []string{"A", "AAAA", "MX", "TXT", "TLSA", "PTR"}},
			label{"result", []string{"found", "nodata", "nxdomain", "temporary", "canceled", "badname"}}),
		LookupDuration: b.seconds("dns_duration_seconds", "Duration of DNS lookups that went to a server."),
		CacheHits:      b.counter("dns_cache_hits_total", "DNS lookups answered from the cache."),
	}
}

// Node are the figures of the process as a whole.
type Node struct {
	Reloads       CounterVec // configuration and certificates read again, by result: ok failed
	AdminRequests CounterVec // requests to the admin API, by result: ok denied failed
}

func newNode(b builder) *Node {
	return &Node{
		Reloads:       b.vec("reloads_total", "Reloads of configuration and certificates.", "result", "ok", "failed"),
		AdminRequests: b.vec("admin_requests_total", "Requests to the admin API.", "result", "ok", "denied", "failed"),
	}
}

// Shaping are the figures of what is learned about destinations.
type Shaping struct {
	Learned   CounterVec // changes that a reply to this node led to, by action: suspend connections rate messages_per_connection
	Suspended Gauge      // destinations that nothing goes to, as all nodes know it
	Limited   Gauge      // limits in force that were learned
}

func newShaping(b builder) *Shaping {
	return &Shaping{
		Learned:   b.vec("shaping_actions_total", "Changes that what a mail host said to this node led to.", "action", "suspend", "connections", "rate", "messages_per_connection"),
		Suspended: b.gauge("suspended_sites", "Destinations that nothing goes to because of what they said. All nodes show the same."),
		Limited:   b.gauge("shaping_limits", "Limits in force that were learned from what destinations said. All nodes show the same."),
	}
}
