package shape_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/delivery/shape"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

// records is a shape.Store whose writes take a while, as those of Raft do.
type records struct {
	mu      sync.Mutex
	byKey   map[string]control.Record
	version uint64
	changed chan struct{}
	takes   time.Duration
	down    bool
}

func newRecords() *records {
	return &records{byKey: map[string]control.Record{}, changed: make(chan struct{}), takes: 20 * time.Millisecond}
}

func (r *records) Records(prefix string) (list []control.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, rec := range r.byKey {
		if strings.HasPrefix(k, prefix) {
			list = append(list, rec)
		}
	}
	return list
}

func (r *records) RecordsChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *records) PutRecord(ctx context.Context, c control.RecordPut) (uint64, error) {
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down || r.byKey[c.Key].Version != c.IfVersion {
		return 0, errors.New("refused")
	}
	r.version++
	if c.Delete {
		delete(r.byKey, c.Key)
	} else {
		r.byKey[c.Key] = control.Record{Key: c.Key, Value: c.Value, Version: r.version}
	}
	close(r.changed)
	r.changed = make(chan struct{})
	if c.Delete {
		return 0, nil
	}
	return r.version, nil
}

// node is a Shaper, and what it made its limiter obey.
type node struct {
	*shape.Shaper
	mu    sync.Mutex
	defs  map[string]limit.Definition
	notes []string
}

func startNode(t *testing.T, name string, r *records, rules ...shape.Rule) *node {
	n := &node{}
	n.Shaper = shape.Start(shape.Setup{
		Core: shape.Options{Node: name}, Store: r, Book: shape.NewBook(rules, []shape.Default{{Site: "b.example", Connections: 7}}),
		Leads: func() bool { return name == "node-1" },
		Obey: func(list []limit.Definition) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.defs = map[string]limit.Definition{}
			for _, d := range list {
				n.defs[d.Name] = d
			}
		},
		Tell: func(note shape.Note) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.notes = append(n.notes, note.Text)
		},
	})
	return n
}

func (n *node) def(name string) (limit.Definition, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d, ok := n.defs[name]
	return d, ok
}

var suspend = shape.Rule{Name: "r", For: time.Hour, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Site}}}

func refusal() *shape.Word {
	return &shape.Word{Site: "a.example", Stage: "greeting", Reply: *mail.NewReply(421, "4.7.0", "go away"), Open: 1}
}

// What one node is told holds there at once, at the others a moment later, and
// after a restart.
func TestAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords()
		a, b := startNode(t, "node-1", r, suspend), startNode(t, "node-2", r)
		if d, ok := b.def("site:b.example"); !ok || d.Connections != 7 {
			t.Errorf("what the book says: %+v", d)
		}
		a.Heard(refusal())
		synctest.Wait()
		const name = "shaping:a.example:r:suspend"
		if d, ok := a.def(name); !ok || !d.Suspended || d.Author != "shaping" || d.Reason != "421 4.7.0 go away (rule r)" || time.Until(d.Until) != time.Hour {
			t.Errorf("at the node itself: %+v", d)
		}
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if d, ok := b.def(name); !ok || !d.Suspended {
			t.Errorf("at the other: %+v", d)
		}
		if len(a.notes) != 1 || len(b.notes) != 0 || a.notes[0] != "suspended for 1h0m0s: 421 4.7.0 go away (rule r)" {
			t.Errorf("notes: %q and %q", a.notes, b.notes)
		}
		a.Close()
		a = startNode(t, "node-1", r, suspend)
		if _, ok := a.def(name); !ok || a.Suspended() != 1 {
			t.Error("a restart forgets it")
		}
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if _, ok := b.def(name); ok || len(r.Records("")) != 0 {
			t.Error("it does not end")
		}
		a.Close()
		b.Close()
	})
}

// Two nodes that are told at the same moment lose nothing by it.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords()
		domain := shape.Rule{Name: "d", For: time.Hour, Effects: []shape.Effect{{Kind: shape.Suspend, Scope: shape.Domain}}}
		var nodes []*node
		for i := range 5 {
			n := startNode(t, fmt.Sprintf("node-%d", i+1), r, domain)
			w := refusal()
			w.Domain = fmt.Sprintf("d%d.example", i)
			n.Heard(w)
			nodes = append(nodes, n)
		}
		time.Sleep(time.Minute)
		for _, n := range nodes {
			if got := len(n.State("a.example").Held); got != 5 {
				t.Errorf("a node knows %d of 5", got)
			}
			n.Close()
		}
	})
}

// An operator's limits hold, and those that cannot be read do no harm.
func TestOperatorsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords()
		n := startNode(t, "node-1", r)
		defer n.Close()
		d := limit.Definition{Connections: 1, Author: "jane", Reason: "asked to"}
		d.Match[limit.Site] = []string{"a.example"}
		for key, value := range map[string][]byte{"limit/slow": shape.WriteOrder(&d), "limit/bad": []byte("{")} {
			if _, err := r.PutRecord(t.Context(), control.RecordPut{Key: key, Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got, ok := n.def("slow"); !ok || got.Connections != 1 || got.Author != "jane" {
			t.Errorf("%+v", got)
		}
		rec := r.Records("limit/slow")[0]
		if _, err := r.PutRecord(t.Context(), control.RecordPut{Key: rec.Key, IfVersion: rec.Version, Delete: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := n.def("slow"); ok {
			t.Error("it holds after it was cleared")
		}
		d.Until = time.Now().Add(time.Minute)
		if _, err := r.PutRecord(t.Context(), control.RecordPut{Key: "limit/brief", Value: shape.WriteOrder(&d)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + 3*time.Second)
		if len(r.Records("limit/brief")) != 0 {
			t.Error("a limit that has ended is kept")
		}
		n.SetBook(shape.NewBook(nil, nil))
		synctest.Wait()
		if _, ok := n.def("site:b.example"); ok {
			t.Error("another book is not in force")
		}
	})
}

// What an operator sets for a site stands in the place of what is known of it, of
// the same kind, until it ends, whether the record can be deleted then or not.
func TestOperatorsLimitComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords()
		n := startNode(t, "node-2", r) // node-1 would delete it
		defer n.Close()
		d := limit.Definition{Connections: 20, Until: time.Now().Add(time.Minute)}
		d.Match[limit.Site] = []string{"b.example"}
		if _, err := r.PutRecord(t.Context(), control.RecordPut{Key: "limit/wide", Value: shape.WriteOrder(&d)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, ok := n.def("site:b.example"); ok {
			t.Errorf("%+v holds beside the operator's 20", got)
		}
		time.Sleep(time.Minute + 3*time.Second)
		if got, ok := n.def("site:b.example"); !ok || got.Connections != 7 {
			t.Errorf("after the operator's limit has ended it is %+v", got)
		}
	})
}

func TestYield(t *testing.T) {
	now := time.Unix(1e9, 0)
	def := func(change func(d *limit.Definition)) limit.Definition {
		d := limit.Definition{Name: "x", Connections: 3, Rate: limit.Rate{N: 10, Per: time.Second}, Burst: 10}
		d.Match[limit.Site] = []string{"a.example"}
		change(&d)
		return d
	}
	for name, tt := range map[string]struct {
		order, learned    func(d *limit.Definition)
		connections, rate int64
	}{
		"both":             {func(*limit.Definition) {}, func(*limit.Definition) {}, 0, 0},
		"connections":      {func(d *limit.Definition) { d.Rate = limit.Rate{} }, func(*limit.Definition) {}, 0, 10},
		"over":             {func(d *limit.Definition) { d.Until = now }, func(*limit.Definition) {}, 3, 10},
		"per site":         {func(d *limit.Definition) { d.Per = []limit.Field{limit.Site} }, func(*limit.Definition) {}, 0, 0},
		"some mail alone":  {func(d *limit.Definition) { d.Match[limit.Sender] = []string{"a@b.example"} }, func(*limit.Definition) {}, 3, 10},
		"per sender":       {func(d *limit.Definition) { d.Per = []limit.Field{limit.Sender} }, func(*limit.Definition) {}, 3, 10},
		"another site":     {func(d *limit.Definition) { d.Match[limit.Site] = []string{"b.example"} }, func(*limit.Definition) {}, 3, 10},
		"below":            {func(d *limit.Definition) { d.Match[limit.Site] = []string{"*.example"} }, func(*limit.Definition) {}, 0, 0},
		"everywhere":       {func(d *limit.Definition) { d.Match[limit.Site] = nil }, func(*limit.Definition) {}, 3, 10},
		"it is suspended":  {func(*limit.Definition) {}, func(d *limit.Definition) { d.Suspended = true }, 3, 10},
		"of another space": {func(d *limit.Definition) { d.Side = limit.Receive }, func(*limit.Definition) {}, 3, 10},
	} {
		got, ok := shape.Yield(def(tt.learned), []limit.Definition{def(tt.order)}, now)
		if int64(got.Connections) != tt.connections || got.Rate.N != tt.rate || ok != (tt.connections+tt.rate > 0) {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

// Without the store a node keeps to what it hears, and writes it later.
func TestWritesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords()
		r.down = true
		n := startNode(t, "node-1", r, suspend)
		defer n.Close()
		n.Heard(refusal())
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if _, ok := n.def("shaping:a.example:r:suspend"); !ok || len(r.Records("")) != 0 {
			t.Error("it does not hold at the node itself")
		}
		r.mu.Lock()
		r.down = false
		r.mu.Unlock()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if len(r.Records("shaping/a.example")) != 1 {
			t.Error("it is not written")
		}
	})
}
