package records

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/proto/control"
)

func TestKeys(t *testing.T) {
	for key, want := range map[string]bool{
		"job/1": true, "hold-rules/jane@example.org": true, "a/b/c": true, "a/ü": true, "a/" + strings.Repeat("x", 254): true,
		"": false, "job": false, "/x": false, "job/": false, "Job/1": false, "a b/c": false, "a/\n": false, "a/\xff": false, "a/" + strings.Repeat("x", 255): false,
	} {
		if got := control.ValidRecordKey(key); got != want {
			t.Errorf("%q: %v", key, got)
		}
	}
}

// The table is bounded, and what is deleted or written shorter makes room.
func TestBounds(t *testing.T) {
	var full Table
	value := make([]byte, control.MaxRecordValue)
	if _, code := full.Put(control.RecordPut{Key: "a/0", Value: append(value, 0)}); code != control.LimitReached {
		t.Errorf("too long a value: %v", code)
	}
	n := 0
	for ; ; n++ {
		_, code := full.Put(control.RecordPut{Key: fmt.Sprintf("a/%04d", n), Value: value})
		if code == control.LimitReached {
			break
		}
		if code != control.OK || n > 1000 {
			t.Fatalf("record %d: %v", n, code)
		}
	}
	if want := control.MaxRecords / (control.MaxRecordValue + 6 + control.RecordCost); n != want {
		t.Errorf("%d records of the longest fit, not %d", n, want)
	}
	before := full.Size()
	r, _ := full.Get("a/0000")
	if _, code := full.Put(control.RecordPut{Key: r.Key, IfVersion: r.Version, Value: value[:10]}); code != control.OK {
		t.Errorf("a shorter value: %v", code)
	}
	if full.Size() != before-len(value)+10 {
		t.Errorf("%d octets became %d", before, full.Size())
	}
	if _, code := full.Put(control.RecordPut{Key: "a/new", Value: value[:1000]}); code != control.OK {
		t.Errorf("there is room, and: %v", code)
	}
	again, ok := New(full.List(""), full.Version())
	if !ok || !reflect.DeepEqual(again, full) {
		t.Error("made anew it is another one")
	}
}

func TestAListThatIsNoTables(t *testing.T) {
	for name, list := range map[string][]control.Record{
		"a version never given": {{Key: "a/1", Version: 8}},
		"no version":            {{Key: "a/1"}},
		"a key twice":           {{Key: "a/1", Version: 1}, {Key: "a/1", Version: 2}},
		"a version twice":       {{Key: "a/1", Version: 1}, {Key: "a/2", Version: 1}},
		"no key":                {{Key: "a", Version: 1}},
		"too long":              {{Key: "a/1", Version: 1, Value: make([]byte, control.MaxRecordValue+1)}},
	} {
		if _, ok := New(list, 7); ok {
			t.Errorf("%s: it is a table", name)
		}
	}
}
