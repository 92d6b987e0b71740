package lease

import (
	"testing"
	"time"
)

const g = 5 * time.Second

// beacons sends one each half second from a time on.
func beacons(t *testing.T, l *Lease, from time.Duration, n int) (last uint64) {
	t.Helper()
	for i := range n {
		number, due := l.Beacon(from + time.Duration(i)*every)
		if !due {
			t.Fatalf("beacon %d is not due", i)
		}
		last = number
	}
	return last
}

// The lease runs from when the beacon was sent, however late its renewal.
func TestFromSending(t *testing.T) {
	var l Lease
	n := beacons(t, &l, 10*time.Second, 1)
	if _, due := l.Beacon(10*time.Second + every - 1); due {
		t.Error("a beacon too early")
	}
	if l.Until() != 0 {
		t.Error("it holds before any renewal")
	}
	if !l.Renewed(n, g) || l.Until() != 14*time.Second {
		t.Errorf("it holds until %v", l.Until())
	}
	if l.Renewed(n, g) {
		t.Error("the same renewal again is news")
	}
}

// A renewal that comes late or out of order never shortens it, and one of a
// beacon that was not sent, or long ago, does nothing.
func TestOtherRenewals(t *testing.T) {
	var l Lease
	n := beacons(t, &l, 0, 3)
	if !l.Renewed(n, g) || l.Renewed(n-1, g) || l.Until() != time.Second+4*time.Second {
		t.Errorf("it holds until %v", l.Until())
	}
	if l.Renewed(n+1, g) || l.Renewed(0, g) {
		t.Error("a beacon that was never sent")
	}
	beacons(t, &l, 2*time.Second, kept)
	if l.Renewed(n+1, 100*g) != true {
		t.Error("the oldest that is remembered")
	}
	beacons(t, &l, time.Hour, 1)
	if l.Renewed(n+1, 1000*g) {
		t.Error("one whose time was forgotten")
	}
}

// After a jump of the clocks nothing counts that was sent before it.
func TestDrop(t *testing.T) {
	var l Lease
	n := beacons(t, &l, 0, 2)
	l.Renewed(n, g)
	l.Drop()
	if l.Until() != 0 || l.Renewed(n, g) {
		t.Error("a dropped lease came back")
	}
	next, due := l.Beacon(time.Second)
	if !due || !l.Renewed(next, g) || l.Until() != 5*time.Second {
		t.Errorf("a new one holds until %v", l.Until())
	}
}
