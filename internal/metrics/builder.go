package metrics

import "github.com/prometheus/client_golang/prometheus"

// builder registers collectors as it makes them. A name that is used twice
// panics in New, which every test calls.
type builder struct{ reg *prometheus.Registry }

// label is a label with the closed set of its values; Other is added to it.
type label struct {
	name   string
	values []string
}

func (l label) all() []string { return append(l.values[:len(l.values):len(l.values)], Other) }

// secondsBuckets reach from the fdatasync of a fast disk to a stuck one.
func secondsBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
}

// longBuckets reach from a fast next hop to five days in the queue.
func longBuckets() []float64 {
	return []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 5 * 24 * 3600}
}

// byteBuckets reach from a short line to the largest mail.
func byteBuckets() []float64 { return prometheus.ExponentialBuckets(1<<10, 4, 9) }

func (b builder) counter(name, help string) Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	b.reg.MustRegister(c)
	return Counter{c}
}

func (b builder) gauge(name, help string) Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	b.reg.MustRegister(g)
	return Gauge{g}
}

func (b builder) vec(name, help, labelName string, values ...string) CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{labelName})
	b.reg.MustRegister(v)
	out := CounterVec{by: map[string]Counter{}}
	for _, value := range (label{labelName, values}).all() {
		out.by[value] = Counter{v.WithLabelValues(value)}
	}
	return out
}

func (b builder) vec2(name, help string, l1, l2 label) CounterVec2 {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{l1.name, l2.name})
	b.reg.MustRegister(v)
	out := CounterVec2{by: map[string]CounterVec{}}
	for _, x := range l1.all() {
		out.by[x] = CounterVec{by: map[string]Counter{}}
		for _, y := range l2.all() {
			out.by[x].by[y] = Counter{v.WithLabelValues(x, y)}
		}
	}
	return out
}

func (b builder) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	b.reg.MustRegister(h)
	return h
}

func (b builder) seconds(name, help string) Histogram {
	return Histogram{b.histogram(name, help, secondsBuckets())}
}

func (b builder) long(name, help string) Histogram {
	return Histogram{b.histogram(name, help, longBuckets())}
}

func (b builder) bytes(name, help string) SizeHistogram {
	return SizeHistogram{b.histogram(name, help, byteBuckets())}
}

func (b builder) secondsVec(name, help, labelName string, values ...string) HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: secondsBuckets()}, []string{labelName})
	b.reg.MustRegister(v)
	out := HistogramVec{by: map[string]Histogram{}}
	for _, value := range (label{labelName, values}).all() {
		out.by[value] = Histogram{v.WithLabelValues(value).(prometheus.Histogram)}
	}
	return out
}
