package metrics_test

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/metrics"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const page = "../../docs/metrics.md"

// docs/metrics.md is made from a scrape of everything.
func TestDocsAreUpToDate(t *testing.T) {
	m := metrics.New()
	all := everySource()
	for v, i := reflect.ValueOf(all), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the page knows nothing of the source %s", v.Type().Field(i).Name)
		}
	}
	m.Watch(all)
	labels := map[string]map[string][]string{} // metric -> label -> values
	label := regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
	var rows []string
	help := map[string]string{}
	text := scrape(t, m)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, about, _ := strings.Cut(rest, " ")
			help[name] = about
			continue
		}
		if strings.HasPrefix(line, "#") || !strings.HasPrefix(line, "clrelay_") {
			continue
		}
		name := regexp.MustCompile(`(_bucket|_sum|_count)?[{ ].*$`).ReplaceAllString(line, "")
		if labels[name] == nil {
			labels[name] = map[string][]string{}
		}
		for _, l := range label.FindAllStringSubmatch(line, -1) {
			if l[1] != "le" && !slices.Contains(labels[name][l[1]], l[2]) {
				labels[name][l[1]] = append(labels[name][l[1]], l[2])
			}
		}
	}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "# TYPE clrelay_")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(rest, " ")
		name = "clrelay_" + name
		var of []string
		for l, values := range labels[name] {
			of = append(of, fmt.Sprintf("`%s`: %s", l, strings.Join(values, " ")))
		}
		slices.Sort(of)
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", name, kind, strings.Join(of, "; "), help[name]))
	}
	want := "# Metrics\n\nWhat `/metrics` shows beside the figures of the Go runtime and the process. Made from the\ncollectors by `go test ./internal/metrics -update`; do not edit. The sets of label values\nare closed: `other` stands for whatever is not listed.\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n" + strings.Join(rows, "\n") + "\n"
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/metrics.md is not what the collectors say: run go test ./internal/metrics -update")
	}
}

func everySource() metrics.Sources {
	return metrics.Sources{
		QueueRecipients:    func() (int64, int64, int64) { return 3, 2, 1 },
		QueueMessages:      func() int64 { return 5 },
		QueueOldestSeconds: func() float64 { return 1.5 },
		Segments: func() []metrics.SegmentCount {
			return []metrics.SegmentCount{{Role: "owner", State: "open", N: 4}, {Role: "owner", State: "sealed", N: 1}}
		},
		Sessions:        func() int { return 2 },
		UnderReplicated: func() int64 { return 0 },
		SegmentsMoved:   func() uint64 { return 0 },
		LostSegments:    func() int64 { return 0 },
		CertificateEnds: func() (node, authority time.Time) { return time.Unix(2e9, 0), time.Unix(3e9, 0) },
		LedgerImbalance: func() int64 { return 0 },
		SpoolBytes:      func() int64 { return 64 << 20 },
		SpoolFree:       func() uint64 { return 1 << 40 },
		SpoolSize:       func() uint64 { return 1 << 41 },
		MaillogLost:     func() uint64 { return 7 },
		TracesLost:      func() uint64 { return 8 },
		TraceBytes:      func() int64 { return 9 },
		Suppressed:      func() int64 { return 10 },
		Ready:           func() bool { return true },
		Version:         "v0.1",
	}
}
