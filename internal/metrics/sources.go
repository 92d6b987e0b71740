package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are figures that others keep and that are asked for at each scrape.
// A nil function is a figure that this process does not have. The functions
// are called from the scrape's goroutine, at most one scrape at a time each,
// and must not block for long.
type Sources struct {
	QueueRecipients      func() (active, deferred, held int64)
	QueueMessages        func() int64
	QueueOldestSeconds   func() float64 // age of the oldest unfinished message, 0 when there is none
	Segments             func() []SegmentCount
	SegmentsMoved        func() uint64 // given to a node with less mail
	UnderReplicated      func() int64  // segments with fewer synced copies than asked for
	LostSegments         func() int64  // segments of the cluster that no disk is left of
	LedgerImbalance      func() int64  // messages; must be 0
	Sessions             func() int    // SMTP sessions that are open
	SpoolBytes           func() int64  // octets of log files
	SpoolFree, SpoolSize func() uint64 // of the file system under data_dir
	MaillogLost          func() uint64 // lines lost to a reader that did not keep up
	TracesLost           func() uint64 // events lost to a disk that did not keep up
	TraceBytes           func() int64  // octets of the traces
	Suppressed           func() int64  // entries of the suppression list
	Ready                func() bool   // what /readyz says
	Version              string        // shown as a label of clrelay_node_info

	CertificateEnds func() (node, authority time.Time) // of this node; zero: there is none
}

// SegmentCount is how many segments of one role and state this node holds.
type SegmentCount struct {
	Role  string // owner or copy
	State string // open, sealed, ...
	N     int64
}

// Watch shows the figures of s at every scrape from now on. It is called once.
func (m *Metrics) Watch(s Sources) { m.reg.MustRegister(newWatcher(s)) }

// watcher asks the sources while a scrape runs.
type watcher struct {
	Sources
	recipients, messages, oldest, segments, moved, under, imbalance *prometheus.Desc
	lostSegments, certificate                                       *prometheus.Desc
	bytes, free, size, lost, ready, info, sessions                  *prometheus.Desc
	traces, tracesLost, suppressed                                  *prometheus.Desc
}

func newWatcher(s Sources) *watcher {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
	}
	return &watcher{
		Sources:      s,
		recipients:   desc("queue_recipients", "Recipients in the queue.", "state"),
		messages:     desc("queue_messages", "Messages in the queue."),
		oldest:       desc("queue_oldest_age_seconds", "Age of the oldest message in the queue."),
		segments:     desc("segments", "Segments that this node holds.", "role", "state"),
		moved:        desc("segments_moved_total", "Segments given to a node with less mail, with their copies made there first."),
		under:        desc("under_replicated_segments", "Segments with fewer copies than asked for."),
		lostSegments: desc("lost_segments", "Segments of the cluster with no copy on any disk that it counts on. Every node shows the same: do not add them up."),
		certificate:  desc("certificate_end_timestamp_seconds", "Unix time at which the node's certificate for the cluster ends, and the authority that signed it.", "of"),
		imbalance:    desc("ledger_imbalance_messages", "Taken over, recovered and accepted messages that are neither settled, handed over nor queued, since the process started. It must be 0."),
		bytes:        desc("spool_bytes", "Octets of the spool's log files."),
		free:         desc("spool_free_bytes", "Free octets of the file system under data_dir."),
		size:         desc("spool_size_bytes", "Octets of the file system under data_dir."),
		lost:         desc("maillog_lost_lines_total", "Lines of the mail log that were lost because its reader did not keep up."),
		traces:       desc("trace_bytes", "Octets of the traces of messages."),
		tracesLost:   desc("trace_lost_events_total", "Events that the traces of messages lack because the disk did not keep up."),
		suppressed:   desc("suppressed_recipients", "Entries of the suppression list. In a cluster every node shows the same: do not add them up."),
		ready:        desc("node_ready", "1 when the node would take mail now."),
		sessions:     desc("smtp_sessions", "SMTP sessions that are open."),
		info:         desc("node_info", "1, with facts about the node as labels.", "version"),
	}
}

// Describe implements prometheus.Collector.
func (w *watcher) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{w.recipients, w.messages, w.oldest, w.segments, w.moved, w.under, w.lostSegments, w.certificate, w.imbalance, w.bytes, w.free, w.size, w.lost, w.traces, w.tracesLost, w.suppressed, w.ready, w.info, w.sessions} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w *watcher) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if w.QueueRecipients != nil {
		active, deferred, held := w.QueueRecipients()
		gauge(w.recipients, float64(active), "active")
		gauge(w.recipients, float64(deferred), "deferred")
		gauge(w.recipients, float64(held), "held")
	}
	if w.Segments != nil {
		for _, s := range w.Segments() {
			gauge(w.segments, float64(s.N), s.Role, s.State)
		}
	}
	if w.CertificateEnds != nil {
		if node, authority := w.CertificateEnds(); !node.IsZero() {
			gauge(w.certificate, float64(node.Unix()), "node")
			gauge(w.certificate, float64(authority.Unix()), "authority")
		}
	}
	if w.Sessions != nil {
		gauge(w.sessions, float64(w.Sessions()))
	}
	if w.QueueOldestSeconds != nil {
		gauge(w.oldest, w.QueueOldestSeconds())
	}
	for d, f := range map[*prometheus.Desc]func() int64{
		w.messages: w.QueueMessages, w.under: w.UnderReplicated, w.lostSegments: w.LostSegments, w.imbalance: w.LedgerImbalance, w.bytes: w.SpoolBytes, w.traces: w.TraceBytes, w.suppressed: w.Suppressed,
	} {
		if f != nil {
			gauge(d, float64(f()))
		}
	}
	for d, f := range map[*prometheus.Desc]func() uint64{w.free: w.SpoolFree, w.size: w.SpoolSize} {
		if f != nil {
			gauge(d, float64(f()))
		}
	}
	for d, f := range map[*prometheus.Desc]func() uint64{w.lost: w.MaillogLost, w.tracesLost: w.TracesLost, w.moved: w.SegmentsMoved} {
		if f != nil {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(f()))
		}
	}
	if w.Ready != nil {
		ready := 0.0
		if w.Ready() {
			ready = 1
		}
		gauge(w.ready, ready)
	}
	if w.Version != "" {
		gauge(w.info, 1, w.Version)
	}
}
