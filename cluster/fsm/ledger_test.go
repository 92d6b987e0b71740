package fsm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/clrelay/clrelay/proto/control"
)

// A record is changed as it was seen, and its version is never given twice.
func TestRecords(t *testing.T) {
	w := newWorld(t, "a")
	put := RecordPut{Key: "job/1", Value: []byte("one")}
	w.refused(put, LevelTooLow)
	w.at(OperatorLevel)
	if r := w.must(put); r.Version != 1 || !r.Records {
		t.Errorf("the first record: %+v", r)
	}
	w.refused(put, WrongVersion) // it is there
	w.refused(RecordPut{Key: "job/1", IfVersion: 2}, WrongVersion)
	w.refused(RecordPut{Key: "job/2", Delete: true}, WrongVersion)
	w.refused(RecordPut{Key: "nospace"}, Malformed)
	if r := w.apply(put); r.Version != 1 {
		t.Errorf("who is refused is told version %d", r.Version)
	}
	w.must(RecordPut{Key: "job/1", Value: []byte("two"), IfVersion: 1})
	w.must(RecordPut{Key: "hold/x", Value: []byte("x")})
	w.must(RecordPut{Key: "job/1", IfVersion: 2, Delete: true})
	if _, ok := w.s.Record("job/1"); ok {
		t.Error("it is still there")
	}
	if r := w.must(put); r.Version != 5 {
		t.Errorf("made again it has version %d", r.Version)
	}
	if l := w.s.Records(""); len(l) != 2 || l[0].Key != "hold/x" || len(w.s.Records("job/")) != 1 {
		t.Errorf("the records are %+v", l)
	}
	w.again()
}

// again wants a State that is restored to be the same.
func (w *world) again() {
	w.t.Helper()
	s := New()
	if err := s.Restore(w.s.Snapshot()); err != nil || !bytes.Equal(s.Snapshot(), w.s.Snapshot()) {
		w.t.Errorf("a snapshot does not know it: %v", err)
	}
}

func TestAudit(t *testing.T) {
	w := newWorld(t, "a")
	entry := AuditAppend{Entry: AuditEntry{Kind: control.AuditRequest, Who: "jane"}}
	w.refused(entry, LevelTooLow)
	w.at(OperatorLevel)
	w.refused(AuditAppend{}, Malformed)
	w.refused(AuditAppend{Entry: AuditEntry{Kind: control.AuditRequest, Who: string(make([]byte, 300))}}, LimitReached)
	one, two := w.must(entry), w.must(entry)
	if one.Audit.Sequence != 1 || two.Audit.Sequence != 2 || w.s.Audit() != two.Audit {
		t.Errorf("the entries are %v and %v, the head %v", one.Audit, two.Audit, w.s.Audit())
	}
	if l := w.s.AuditsAfter(1); len(l) != 1 || !bytes.Contains(l[0].Text, fmt.Appendf(nil, "%x", one.Audit.Hash)) {
		t.Errorf("after the first: %+v", l)
	}
	w.again()
	w.must(GenerationBump{Generation: 2})
	if w.s.Audit() != two.Audit {
		t.Error("a new generation begins another chain")
	}
}

// What a snapshot says of records and of the chain is checked.
func TestALedgerThatIsNone(t *testing.T) {
	w := newWorld(t, "a").at(OperatorLevel)
	w.must(RecordPut{Key: "job/1", Value: []byte("one")})
	w.must(AuditAppend{Entry: AuditEntry{Kind: control.AuditRequest, Who: "jane"}})
	w.must(AuditAppend{Entry: AuditEntry{Kind: control.AuditRequest, Who: "john"}})
	body := w.s.Snapshot()[snapshotHeader:]
	if err := New().Restore(sealed(body)); err != nil {
		t.Fatal(err)
	}
	for was, is := range map[string]string{"job/1": "job_1", "jane": "june", "john": "joan"} {
		if err := New().Restore(sealed(bytes.Replace(body, []byte(was), []byte(is), 1))); err == nil {
			t.Errorf("%s became %s, and nobody noticed", was, is)
		}
	}
}

// Limits are divided from their level on, through snapshots and generations.
func TestLimits(t *testing.T) {
	w := newWorld(t, "a", "b")
	claim := ShareOps{Claim: true}
	w.refused(claim, LevelTooLow)
	w.refused(BudgetOps{AtMS: 1}, LevelTooLow)
	w.at(LimitLevel)
	if r := w.must(claim); r.Version != 1 || !r.Roster {
		t.Fatalf("the claim: %+v", r)
	}
	w.refused(claim, WrongVersion)
	w.must(ShareOps{Reign: 1, Roster: &Roster{Founded: true, Seats: []Seat{{Node: "a", State: Seated}, {Node: "b", State: Seated}}}})
	r := w.must(ShareOps{Reign: 1, Ops: []ShareOp{{Key: "k", Kind: 1, Of: 10, Parts: []Part{{Node: "a", Units: 7}, {Node: "b", Units: 3}}}}})
	if len(r.Limits) != 1 || r.Limits[0] != "k" {
		t.Errorf("touched: %+v", r)
	}
	w.must(BudgetOps{AtMS: 7_200_000, Grants: []BudgetGrant{{Key: "day", PerS: 86400, Amount: 20, Node: "a", Session: w.session("a"), N: 5}}})
	w.again()
	w.must(GenerationBump{Generation: 2})
	d, ok := w.s.Division("k")
	b, given := w.s.Budget("day")
	if !ok || d.Units("a") != 7 || !given || b.Granted != 5 || w.s.Reign() != 1 || len(w.s.Roster().Seats) != 2 {
		t.Errorf("what is known of limits: %+v", w.s.Limits())
	}
}
