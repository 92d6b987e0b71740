package metrics_test

import (
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/metrics"
)

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != 200 {
		t.Fatalf("scrape: status %d: %s", rec.Code, rec.Body)
	}
	text, err := io.ReadAll(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestContractNames(t *testing.T) {
	m := metrics.New()
	m.Watch(everySource())
	m.Accepted.Add(2)
	m.Delivered.Inc()
	m.Attempts.Inc("delivered")
	m.AcceptDuration.Observe(3 * time.Millisecond)
	text := scrape(t, m)
	for _, want := range []string{
		"clrelay_messages_accepted_total 2",
		"clrelay_recipients_delivered_total 1",
		"clrelay_recipients_bounced_total 0",
		`clrelay_delivery_attempts_total{result="delivered"} 1`,
		`clrelay_delivery_attempts_total{result="deferred"} 0`,
		`clrelay_delivery_attempts_total{result="bounced"} 0`,
		`clrelay_queue_recipients{state="active"} 3`,
		`clrelay_queue_recipients{state="deferred"} 2`,
		`clrelay_queue_recipients{state="held"} 1`,
		`clrelay_accept_duration_seconds_bucket{le="0.0025"} 0`,
		`clrelay_accept_duration_seconds_bucket{le="0.005"} 1`,
		"clrelay_possible_duplicates_total 0",
		`clrelay_segments{role="owner",state="open"} 4`,
		"clrelay_under_replicated_segments 0",
		"clrelay_ledger_imbalance_messages 0",
		"clrelay_takeovers_total 0",
		"clrelay_fsync_duration_seconds_count 0",
		"clrelay_spool_free_bytes 1.099511627776e+12",
		"clrelay_maillog_lost_lines_total 7",
		"clrelay_node_ready 1",
		`clrelay_node_info{version="v0.1"} 1`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the scrape has no line %q", want)
		}
	}
}

func TestNamesFollowTheHouse(t *testing.T) {
	good := regexp.MustCompile(`^(clrelay|go|process|promhttp)_[a-z0-9_]+$`)
	for line := range strings.Lines(scrape(t, metrics.New())) {
		name, ok := strings.CutPrefix(line, "# TYPE ")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(strings.TrimSpace(name), " ")
		if !good.MatchString(name) {
			t.Errorf("%s: not of the form clrelay_name", name)
		}
		if strings.HasPrefix(name, "clrelay_") && (kind == "counter") != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s: counters, and they alone, end in _total", name, kind)
		}
		if kind == "histogram" && !strings.HasSuffix(name, "_seconds") && !strings.HasSuffix(name, "_bytes") {
			t.Errorf("%s: a histogram's name ends in its unit", name)
		}
	}
}

// Label values of a peer's making must not grow the set of series.
func TestLabelsStayBounded(t *testing.T) {
	m := metrics.New()
	before := strings.Count(scrape(t, m), "\nclrelay_")
	for _, verb := range []string{"XYZZY", "\x00", "EHLO\n", strings.Repeat("A", 1000)} {
		m.Lookups.Inc(verb, verb)
		m.Rejected.Inc(verb)
		m.AttemptDuration.Observe(verb, time.Second)
	}
	text := scrape(t, m)
	if after := strings.Count(text, "\nclrelay_"); after != before {
		t.Errorf("%d series became %d", before, after)
	}
	for _, want := range []string{`clrelay_dns_lookups_total{result="other",type="other"} 4`, `clrelay_rejected_total{reason="other"} 4`} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the scrape has no line %q", want)
		}
	}
}

func TestValuesCanBeRead(t *testing.T) {
	m := metrics.New()
	m.Accepted.Inc()
	m.Accepted.Add(2)
	m.Attempts.Add("bounced", 4)
	m.Outbound.Inc()
	m.Outbound.Inc()
	m.Outbound.Dec()
	m.FsyncDuration.Observe(time.Millisecond)
	m.MessageSize.Observe(2000)
	if got := m.Accepted.Value(); got != 3 {
		t.Errorf("Accepted = %v, want 3", got)
	}
	if got := m.Attempts.With("bounced").Value(); got != 4 {
		t.Errorf("Attempts bounced = %v, want 4", got)
	}
	if got := m.Outbound.Value(); got != 1 {
		t.Errorf("Outbound = %v, want 1", got)
	}
	if m.FsyncDuration.Count() != 1 || m.MessageSize.Count() != 1 {
		t.Errorf("histograms counted %d and %d, want 1 and 1", m.FsyncDuration.Count(), m.MessageSize.Count())
	}
}

func BenchmarkCounter(b *testing.B) {
	m := metrics.New()
	for b.Loop() {
		m.Accepted.Inc()
	}
}

func BenchmarkCounterVec(b *testing.B) {
	m := metrics.New()
	for b.Loop() {
		m.Attempts.Inc("deferred")
	}
}

func BenchmarkCounterVec2(b *testing.B) {
	m := metrics.New()
	for b.Loop() {
		m.Lookups.Inc("MX", "found")
	}
}

func BenchmarkHistogram(b *testing.B) {
	m := metrics.New()
	for b.Loop() {
		m.AcceptDuration.Observe(3 * time.Millisecond)
	}
}

func TestQuantile(t *testing.T) {
	m := metrics.New().Spool
	if got := m.FsyncDuration.Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for range 90 {
		m.FsyncDuration.Observe(time.Millisecond)
	}
	for range 10 {
		m.FsyncDuration.Observe(time.Second)
	}
	if got := m.FsyncDuration.Quantile(0.5); got <= 0 || got > 3*time.Millisecond {
		t.Errorf("p50 is %v", got)
	}
	if got := m.FsyncDuration.Quantile(0.99); got < 300*time.Millisecond || got > 3*time.Second {
		t.Errorf("p99 is %v", got)
	}
}
