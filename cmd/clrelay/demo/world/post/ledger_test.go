package post

import (
	"testing"
	"time"
)

// TestLedger: the books add up whatever comes first, and see a loss.
func TestLedger(t *testing.T) {
	now := time.Unix(1000, 0)
	l := NewLedger(20 * time.Second)
	l.deliveredTo(1, "a@x.test") // the inbox is quicker than the client
	l.accepted(1, []string{"a@x.test", "b@x.test"}, "ID1", now)
	l.accepted(2, []string{"c@x.test"}, "ID2", now)
	l.accepted(3, []string{"d@x.test"}, "ID3", now)
	l.deliveredTo(4, "e@x.test") // its client never saw a 250: nobody's promise
	l.deliveredTo(4, "e@x.test")
	l.bouncedFor(2, "c@x.test")
	l.bouncedFor(2, "c@x.test")
	l.Compare(map[string]bool{"ID1 b@x.test": true}, now)
	if s := l.Sum(); s != (Sums{Accepted: 4, Delivered: 1, Bounced: 1, Queued: 1, UnderWay: 1}) || s.Even() {
		t.Errorf("%+v", s)
	}
	l.Compare(nil, now.Add(19*time.Second))
	l.Compare(map[string]bool{"ID1 b@x.test": true}, now.Add(21*time.Second))
	if s := l.Sum(); s.Lost != 1 || s.Queued != 1 {
		t.Errorf("one message has been in no queue for 21 s, the other for 2: %+v", s)
	}
	if m := l.Missing(); len(m) != 1 || m[0] != "ID3 d@x.test" {
		t.Errorf("missing: %q", m)
	}
	l.deliveredTo(1, "b@x.test")
	l.deliveredTo(1, "b@x.test")
	l.deliveredTo(3, "d@x.test")
	l.Compare(nil, now.Add(22*time.Second))
	l.Close()
	if s := l.Sum(); s != (Sums{Accepted: 4, Delivered: 3, Bounced: 1, Twice: 1}) || !s.Even() {
		t.Errorf("%+v", s)
	}
}

// TestLedgerCloses: at the end what is in no queue is lost at once.
func TestLedgerCloses(t *testing.T) {
	now := time.Unix(1000, 0)
	l := NewLedger(time.Minute)
	l.accepted(1, []string{"a@x.test", "b@x.test"}, "ID1", now)
	l.Compare(map[string]bool{"ID1 b@x.test": true}, now)
	l.Close()
	if s := l.Sum(); s.Lost != 1 || s.Even() {
		t.Errorf("%+v", s)
	}
}

// TestPassedOn: mail that another node delivered is told from a node's own.
func TestPassedOn(t *testing.T) {
	now := time.Unix(1000, 0)
	l := NewLedger(time.Minute)
	by := acceptedBy([]byte("Received: from office.college.test (127.0.0.1)\r\n\tby mx1.demo.test with ESMTP id X\r\nSubject: by mx9.demo.test\r\n"))
	l.passedOn(by, nodeOf("mx1.demo.test"), now)
	l.passedOn(by, nodeOf("mx2.demo.test"), now)
	if a := l.AdoptedFrom("mx1"); a.N != 1 || a.Last != now {
		t.Errorf("%q: %+v", by, a)
	}
	if a := l.AdoptedFrom("mx2"); a.N != 0 {
		t.Errorf("%+v", a)
	}
}
