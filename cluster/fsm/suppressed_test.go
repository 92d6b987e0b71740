package fsm

import (
	"bytes"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

func TestSuppressOps(t *testing.T) {
	w := newWorld(t, "a")
	add := SuppressOps{AtMS: 10, Add: []control.Suppression{{
		SuppressKey: control.SuppressKey{Address: "jane@example.org"}, Reason: control.SuppressOperator, Text: "asked for it", ExpiresMS: 50,
	}}}
	w.refused(add, LevelTooLow)
	w.at(LimitLevel)
	list := w.s.Suppressed()
	if r := w.must(add); len(r.Ops) != 1 || r.Ops[0].Code != OK {
		t.Errorf("the first: %+v", r)
	}
	if r := w.apply(add); r.Ops[0].Code != Unchanged {
		t.Errorf("the same again: %+v", r)
	}
	q := suppressed.Query{To: mail.Address{Local: "Jane", Domain: "Example.ORG"}, Group: "campus", NowMS: 49}
	if s, ok := list.Find(&q); !ok || s.Text != "asked for it" {
		t.Errorf("it is not found: %+v", s)
	}
	w.again()
	image := w.s.Snapshot()
	w.must(SuppressOps{AtMS: 50})
	if list.Len() != 0 {
		t.Error("it has expired, and is there")
	}
	if err := w.s.Restore(image); err != nil || list.Len() != 1 || w.s.Suppressed() != list {
		t.Errorf("after a restore the list has %d entries: %v", list.Len(), err)
	}
	w.must(SuppressOps{AtMS: 20, Remove: []control.SuppressKey{{Address: "jane@example.org"}}})
	if _, ok := list.Find(&q); ok {
		t.Error("it is removed, and found")
	}
}

// What a snapshot says of the list is checked.
func TestASuppressionListThatIsNone(t *testing.T) {
	w := newWorld(t, "a").at(LimitLevel)
	for _, name := range []string{"anna@example.org", "jane@example.org"} {
		w.must(SuppressOps{AtMS: 1, Add: []control.Suppression{{SuppressKey: control.SuppressKey{Address: name}, Reason: control.SuppressImport}}})
	}
	body := w.s.Snapshot()[snapshotHeader:]
	if err := New().Restore(sealed(body)); err != nil {
		t.Fatal(err)
	}
	for was, is := range map[string]string{"anna": "zoey", "jane@": "jane.", "jane": "anna", "example.org": "example\x01org"} {
		if err := New().Restore(sealed(bytes.ReplaceAll(body, []byte(was), []byte(is)))); err == nil {
			t.Errorf("%s became %s, and nobody noticed", was, is)
		}
	}
}
