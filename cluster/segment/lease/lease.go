// Package lease counts a node's beacons and knows until when it holds its
// lease: from the moment it sent a beacon whose renewal came back through
// Raft's log.
package lease

import "time"

const (
	every     = 500 * time.Millisecond // between beacons to the leader
	numerator = 8                      // a lease holds 8/10 of G
	kept      = 64                     // beacons whose time of sending is remembered
)

// Lease is a process's right to answer 250 and to deliver. Its zero value
// holds nothing.
type Lease struct {
	until  time.Duration
	number uint64 // of the last beacon
	after  uint64 // only beacons above it count
	nextAt time.Duration
	sent   [kept]time.Duration // when beacon n was sent, at n % kept
}

// Until is when it ends.
func (l *Lease) Until() time.Duration { return l.until }

// Beacon gives the number of the beacon that is to be sent now, if it is time
// for one.
func (l *Lease) Beacon(now time.Duration) (number uint64, due bool) {
	if now < l.nextAt {
		return 0, false
	}
	l.nextAt = now + every
	l.number++
	l.sent[l.number%kept] = now
	return l.number, true
}

// Renewed takes a renewal that names beacon n, with the grace period g in force
// then, and says whether the lease holds longer for it.
func (l *Lease) Renewed(n uint64, g time.Duration) bool {
	if n <= l.after || n > l.number || l.number-n >= kept {
		return false
	}
	until := l.sent[n%kept] + g/10*numerator
	if until <= l.until {
		return false
	}
	l.until = until
	return true
}

// Drop gives it up, and whatever beacons under way would bring.
func (l *Lease) Drop() { l.until, l.after, l.nextAt = 0, l.number, 0 }
