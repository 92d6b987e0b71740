// Package records is the table of the operators' records: keys with values and
// versions, bounded, changed by compare-and-swap alone. It knows no time and
// no disk: who holds a Table guards it.
package records

import (
	"cmp"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/proto/control"
)

// Table holds records. The zero value is an empty one.
type Table struct {
	byKey   map[string]control.Record
	size    int    // octets, as MaxRecords counts
	version uint64 // of the last change
}

// New makes a table of the records of another one, whose last change had that
// version; ok is false if they are none of a table.
func New(list []control.Record, version uint64) (t Table, ok bool) {
	t.byKey = make(map[string]control.Record, len(list))
	seen := make(map[uint64]bool, len(list))
	for _, r := range list {
		if _, twice := t.byKey[r.Key]; twice || seen[r.Version] || !control.ValidRecordKey(r.Key) || len(r.Value) > control.MaxRecordValue ||
			r.Version == 0 || r.Version > version {
			return Table{}, false
		}
		seen[r.Version] = true
		t.byKey[r.Key] = r
		t.size += cost(r.Key, r.Value)
	}
	t.version = version
	return t, t.size <= control.MaxRecords
}

// Put does a RecordPut and gives the version that the record has now, also
// when it refuses with WrongVersion; 0: there is no such record.
func (t *Table) Put(c control.RecordPut) (uint64, control.Code) {
	now, there := t.byKey[c.Key]
	size := t.size
	if there {
		size -= cost(now.Key, now.Value)
	}
	if !c.Delete {
		size += cost(c.Key, c.Value)
	}
	switch {
	case !control.ValidRecordKey(c.Key):
		return 0, control.Malformed
	case now.Version != c.IfVersion:
		return now.Version, control.WrongVersion
	case c.Delete && !there:
		return 0, control.WrongVersion
	case !c.Delete && (len(c.Value) > control.MaxRecordValue || size > control.MaxRecords):
		return now.Version, control.LimitReached
	}
	t.version++
	t.size = size
	if c.Delete {
		delete(t.byKey, c.Key)
		return 0, control.OK
	}
	if t.byKey == nil {
		t.byKey = map[string]control.Record{}
	}
	t.byKey[c.Key] = control.Record{Key: c.Key, Value: c.Value, Version: t.version}
	return t.version, control.OK
}

func cost(key string, value []byte) int { return len(key) + len(value) + control.RecordCost }

// Get returns a record.
func (t *Table) Get(key string) (control.Record, bool) {
	r, ok := t.byKey[key]
	return r, ok
}

// List returns the records whose keys begin with prefix, sorted.
func (t *Table) List(prefix string) []control.Record {
	var out []control.Record
	for key, r := range t.byKey {
		if strings.HasPrefix(key, prefix) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b control.Record) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Version is that of the last change.
func (t *Table) Version() uint64 { return t.version }

// Size is what the records take, as MaxRecords counts.
func (t *Table) Size() int { return t.size }
