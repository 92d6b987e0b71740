package limits

import (
	"reflect"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/config/strict"
	"github.com/clrelay/clrelay/internal/limit"
)

// TestDefinitions: what is written is what is limited, and package limit takes
// all of it.
func TestDefinitions(t *testing.T) {
	f := strict.Parse("cluster.yaml", t.TempDir(), []byte(`
limits:
  - {name: a, match: {domains: ["*.Example.org"], senders: ["<>", A@B.example], groups: [Campus], clients: [192.0.2.0/24]}, rate: 60/s}
  - {name: b, on: receiving, per: [client, sender], count: recipients, rate: 1000/m, burst: 5, on_partition: full}
  - {name: c, per: [site], count: octets, budget: 50GB/d, connections: 9, on_partition: stop, rate: 5000/h}
  - {name: d, rate: 7/h, match: {routes: [big], sources: [Out1], sites: [google.com], sender_domains: [x.example]}}
`))
	var c struct {
		Limits []Limit `key:"limits"`
	}
	f.Fill(&c, strict.Doc{Name: "cluster.yaml", Type: reflect.TypeOf(c)})
	Check(f, c.Limits, Names{Groups: []string{"Campus"}, Routes: []string{"big"}, Sources: []string{"Out1"}})
	if errs := f.Errors(); len(errs) > 0 {
		t.Fatal(errs)
	}
	want := []limit.Definition{
		{Name: "a", Rate: limit.Rate{N: 60, Per: time.Second}, Burst: 60, Match: [limit.Fields][]string{
			limit.RecipientDomain: {"*.example.org"}, limit.Sender: {"<>", "a@b.example"}, limit.Group: {"Campus"}, limit.Client: {"192.0.2.0/24"},
		}},
		{Name: "b", Side: limit.Receive, Per: []limit.Field{limit.Client, limit.Sender}, Count: limit.Recipients,
			Rate: limit.Rate{N: 1000, Per: time.Minute}, Burst: 5, OnPartition: limit.Full},
		{Name: "c", Per: []limit.Field{limit.Site}, Count: limit.Octets, Budget: limit.Rate{N: 50e9, Per: 24 * time.Hour}, Connections: 9,
			OnPartition: limit.Stop, Rate: limit.Rate{N: 5000, Per: time.Hour}, Burst: 10},
		{Name: "d", Rate: limit.Rate{N: 7, Per: time.Hour}, Burst: 7, Match: [limit.Fields][]string{
			limit.Route: {"big"}, limit.Source: {"Out1"}, limit.Site: {"google.com"}, limit.SenderDomain: {"x.example"},
		}},
	}
	got := Definitions(c.Limits)
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
		if err := got[i].Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestDerivedBurst(t *testing.T) {
	for text, want := range map[string]int64{"60/s": 60, "1000/m": 17, "5000/h": 10, "5/h": 5, "1/d": 1, "10MiB/s": 10 << 20} {
		var r Rate
		if err := r.Parse(text); err != nil {
			t.Fatal(err)
		}
		if got := (&Limit{Rate: r}).burst(); got != want {
			t.Errorf("the burst of %s is %d, want %d", text, got, want)
		}
	}
}
