package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Other is the label value that stands for every value outside a closed set.
const Other = "other"

// Counter only rises.
type Counter struct{ c prometheus.Counter }

// Inc adds one.
func (c Counter) Inc() { c.c.Inc() }

// Add adds v, which must not be negative.
func (c Counter) Add(v float64) { c.c.Add(v) }

// Value tells what was counted so far. It is meant for tests and the demo.
func (c Counter) Value() float64 {
	var m dto.Metric
	if c.c.Write(&m) != nil {
		return 0 // a counter never fails to write itself
	}
	return m.GetCounter().GetValue()
}

// CounterVec is a counter for each value of a label, from a closed set.
type CounterVec struct{ by map[string]Counter }

// Inc adds one to the counter of that label value; a value outside the set
// counts as Other.
func (v CounterVec) Inc(value string) { v.With(value).Inc() }

// Add adds n to the counter of that label value.
func (v CounterVec) Add(value string, n float64) { v.With(value).Add(n) }

// With gives the counter of a label value, or that of Other. A caller in a
// hurry keeps it.
func (v CounterVec) With(value string) Counter {
	if c, ok := v.by[value]; ok {
		return c
	}
	return v.by[Other]
}

// CounterVec2 is a counter for each pair of values of two labels, each from a
// closed set.
type CounterVec2 struct{ by map[string]CounterVec }

// Inc adds one to the counter of the pair; a value outside its set counts as
// Other.
func (v CounterVec2) Inc(a, b string) { v.With(a, b).Inc() }

// With gives the counter of a pair.
func (v CounterVec2) With(a, b string) Counter {
	inner, ok := v.by[a]
	if !ok {
		inner = v.by[Other]
	}
	return inner.With(b)
}

// Gauge rises and falls.
type Gauge struct{ g prometheus.Gauge }

// Inc adds one.
func (g Gauge) Inc() { g.g.Inc() }

// Dec takes one off.
func (g Gauge) Dec() { g.g.Dec() }

// Set sets it.
func (g Gauge) Set(v float64) { g.g.Set(v) }

// Value tells where it stands. It is meant for tests.
func (g Gauge) Value() float64 {
	var m dto.Metric
	if g.g.Write(&m) != nil {
		return 0 // a gauge never fails to write itself
	}
	return m.GetGauge().GetValue()
}

// Histogram sorts durations into buckets.
type Histogram struct{ h prometheus.Histogram }

// Observe takes one duration.
func (h Histogram) Observe(d time.Duration) { h.h.Observe(d.Seconds()) }

// Count tells how many were taken. It is meant for tests.
func (h Histogram) Count() uint64 { return count(h.h) }

// Quantile gives a duration that the share q of all was not above, as well as
// the buckets let one tell; 0 when none was taken.
func (h Histogram) Quantile(q float64) time.Duration {
	var m dto.Metric
	if h.h.Write(&m) != nil {
		return 0 // a histogram never fails to write itself
	}
	all := m.GetHistogram().GetSampleCount()
	if all == 0 {
		return 0
	}
	want, below, from := q*float64(all), 0.0, 0.0
	for _, b := range m.GetHistogram().GetBucket() {
		n, to := float64(b.GetCumulativeCount()), b.GetUpperBound()
		if n >= want && n > below {
			return time.Duration((from + (to-from)*(want-below)/(n-below)) * float64(time.Second))
		}
		below, from = n, to
	}
	return time.Duration(from * float64(time.Second)) // above the last bucket
}

// HistogramVec is a histogram for each value of a label, from a closed set.
type HistogramVec struct{ by map[string]Histogram }

// Observe takes one duration for a label value; a value outside the set
// counts as Other.
func (v HistogramVec) Observe(value string, d time.Duration) {
	h, ok := v.by[value]
	if !ok {
		h = v.by[Other]
	}
	h.Observe(d)
}

// SizeHistogram sorts sizes in octets into buckets.
type SizeHistogram struct{ h prometheus.Histogram }

// Observe takes one size.
func (h SizeHistogram) Observe(octets int64) { h.h.Observe(float64(octets)) }

// Count tells how many were taken. It is meant for tests.
func (h SizeHistogram) Count() uint64 { return count(h.h) }

func count(h prometheus.Histogram) uint64 {
	var m dto.Metric
	if h.Write(&m) != nil {
		return 0 // a histogram never fails to write itself
	}
	return m.GetHistogram().GetSampleCount()
}
